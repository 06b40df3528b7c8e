"""Commands to look at readings: explore."""

from __future__ import annotations

import socket
import sys
import webbrowser
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from inversionview.core.errors import SettingError, WeightsError
from inversionview.core.interruption import INTERRUPTED
from inversionview.studies.arguments import source_named
from inversionview.studies.naming import check_model_name, check_study, is_study
from inversionview.terminal.app import app, device_named, err, out
from inversionview.terminal.options import DeviceOpt, TextsOptions

if TYPE_CHECKING:
    from inversionview.corpora.natural import TextSource
    from inversionview.explorer.allowed_files import AllowedFiles
    from inversionview.studies.study import Study


@app.command(
    epilog="Examples: `inversionview explore`; with a run of your own: `inversionview explore runs/mine --port 8000`; "
    "a model and natural text: `inversionview explore --model gpt2 --texts corpus.txt`"
)
def explore(
    *,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]…", help="Studies or runs; the shipped studies are there anyway.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8642,
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than 127.0.0.1 open it to the network.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A name by which a proxy calls it; may be given several times."),
    ] = None,
    allow_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--allow-file",
            metavar="PATH",
            help="A file or folder that sites named in the page may be read through; on 127.0.0.1 all files do.",
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the browser.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="With one RUN: another checkpoint for it; alone: any causal LM besides.")
    ] = None,
    texts: TextsOptions,
    device: DeviceOpt = "cpu",
) -> None:
    """Look at readings in the browser: click a token and a site, see what the activation encodes. Ctrl-C ends it."""
    check_installed()
    others = allowed(allow_host or [])
    openers, last = studies_to_serve(runs or [], model, device, source_named(texts))
    listening = bound(host, port)
    files = files_for(listening, others, allow_file or [])
    address = shown(host, listening) + ("" if last is None else f"#{urlencode({'study': last})}")
    out.print(f"The explorer is at {address} (Ctrl-C ends it).", soft_wrap=True)
    if model is not None and _on_the_hub(model):
        err.print(f"There is no directory {model}: it is looked for on the hub when it is first opened.", soft_wrap=True)
    serve(openers, listening, host, others, files, None if no_browser else partial(webbrowser.open, address))


def check_installed() -> None:
    """Raise ``SettingError`` unless the packages of the server are installed."""
    for name in ("fastapi", "uvicorn"):
        if find_spec(name) is None:
            raise SettingError(f"{name} is not installed: pip install 'inversionview[explore]'.")


def allowed(names: list[str]) -> list[str]:
    """Return names of hosts as requests hold them.

    Raises:
        SettingError: one is no name of a single host.
    """
    from inversionview.explorer.guard import host_name

    found = [host_name(name) for name in names]
    if None in found:
        raise SettingError(
            f"--allow-host {names[found.index(None)]!r} is no name of one host: give that alone, as in hub.example.org, "
            "without https://, port, path or *."
        )
    return [name for name in found if name is not None]


def studies_to_serve(
    runs: list[str], model: str | None, device: str, texts: TextSource | None = None
) -> tuple[dict[str, Callable[[], Study]], str | None]:
    """Return what opens each study, by the name that addresses call it, and the name of the one that was named last.

    They are the shipped ones, runs, each once however often it is named, and a model, with natural text or alone.

    Raises:
        UnknownStudyError: there is no such run.
        SettingError: a model is given with several runs, or a study in its place; texts without a model, or with runs.
        WeightsError: there is no such model.
    """
    if texts is not None and (model is None or runs):
        raise SettingError("--texts are read with a model alone: give --model, and no RUN.")
    named = [(_place(run), run) for run in runs]
    if model is not None:
        check_model_name(model)
        _on_the_hub(model)
    from inversionview.studies.load import load
    from inversionview.studies.registry import definitions

    if model is not None and len(dict(named)) > 1:
        raise SettingError("--model is another checkpoint for one run, or a model alone: give at most one run with it.")
    opener = partial(load, device=device_named(device))
    openers: dict[str, Callable[[], Study]] = {
        each.name: partial(opener, each.name) for each in definitions() if each.ships_model
    }
    taken = {*openers, *(place for place, _ in named if isinstance(place, str))}
    called = {place: place if isinstance(place, str) else _name(place, taken) for place in dict(named)}
    for place, run in named:
        openers[called[place]] = partial(opener, str(Path(run).expanduser()), model=model)
    last = called[named[-1][0]] if named else None
    if model is not None and not named:
        last = _name(Path(model).expanduser().resolve(), taken)
        openers[last] = partial(opener, None, model=model, texts=texts)
    return openers, last


def _place(run: str) -> str | Path:
    """Return a study's name or the folder of a run, if there is one that can be read."""
    from inversionview.studies.spec import read_spec

    if is_study(run):
        return run
    check_study(run)
    folder = Path(run).expanduser()
    read_spec(folder)
    return folder.resolve()


def _on_the_hub(model: str) -> bool:
    """Return whether a model is yet to be looked for on the hub.

    Raises:
        WeightsError: it is, and the hub is not to be asked.
    """
    if Path(model).expanduser().exists():
        return False
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(model, "config.json"), str):
        return False
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"There is no directory {model}, it was not downloaded before, and the hub is not to be asked (HF_HUB_OFFLINE): "
            "give a Hugging Face directory or a .gguf file."
        )
    return True


def _name(path: Path, taken: set[str]) -> str:
    """Return what addresses call a run, and take it: the last part of its path, made to differ from others."""
    name, number = path.name or "run", 2
    unique = name
    while unique in taken:
        unique, number = f"{name}-{number}", number + 1
    taken.add(unique)
    return unique


def files_for(listening: socket.socket, proxies: list[str], paths: list[Path]) -> AllowedFiles:
    """Return which files pages may have the server read: all where nobody but this machine can reach it.

    Raises:
        SettingError: one is not there.
    """
    from inversionview.explorer.allowed_files import AllowedFiles

    if lost := next((path for path in paths if not path.expanduser().exists()), None):
        raise SettingError(f"--allow-file {lost} is not there: give a file or a folder.")
    alone = ip_address(listening.getsockname()[0]).is_loopback and not proxies
    return AllowedFiles(alone, paths)


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens there.

    Raises:
        SettingError: the port is in use, or there is no such address.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        why = "in use" if "in use" in str(error) else f"not to be had ({error.strerror or error})"
        raise SettingError(f"Port {port} of {host} is {why}: choose another with --port, or --port 0 for any.") from error
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # handed on to connections: small events leave at once
    return listening


def shown(host: str, listening: socket.socket) -> str:
    """Return the address of the page as a browser is told it."""
    number, port = listening.getsockname()[:2]
    if ip_address(number).is_unspecified:  # it listens everywhere, here too
        host = "::1" if ":" in number else "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(
    openers: dict[str, Callable[[], Study]],
    listening: socket.socket,
    host: str,
    proxies: list[str],
    files: AllowedFiles,
    ready: Callable[[], Any] | None,
) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGHUP, then exit with 130; ``ready`` is called once requests are answered."""
    from inversionview.explorer.app import create_app
    from inversionview.explorer.connections import Server, settings

    def foreign(name: str) -> None:
        err.print(f"Turned away a request for {name}: if that is your proxy, start with --allow-host {name}.", soft_wrap=True)

    application = create_app(openers, hosts=[host, listening.getsockname()[0]], proxies=proxies, files=files, foreign=foreign)
    server = Server(settings(application), application.state.queue, ready)
    try:
        server.run([listening])
    except KeyboardInterrupt:  # uvicorn ends first and then raises the signal again
        server.signalled = True
    if server.signalled:  # which it cannot raise again where whoever began this had it ignored
        err.print("The explorer has ended.")
        sys.exit(INTERRUPTED)

"""Ctrl-C and SIGTERM: one sentence and exit code 130 from every command, whatever it is at; a second one ends it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import inversionview as iv
from inversionview.cli import main
from inversionview.decoder import evaluation, training
from inversionview.explorer import app as explorer
from inversionview.markov.run import Walk
from inversionview.model.probed import ProbedModel
from inversionview.runs import train as runs
from inversionview.runs import train_probed as probing
from inversionview.studies import load as loading
from inversionview.terminal.app import app

COUNT = "vvzccvczvvvzvcvc|v:8"
WALKS = ("--source", "walk", "--seconds", "300", "--at", ":", "--site", "a1.0")
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("addition", "--steps", "9", "--sites", "x0.pre", "--width", "16", "--batch", "16", "--out", "{tmp}/run"),
    "train-probed": ("counting", "--inputs", "1024", "--out", "{tmp}/model"),
    "bank": ("counting", "--inputs", "300", "--out", "{tmp}/run"),
    "evaluate": ("counting",),
    "read": ("counting", COUNT),
    "walk": ("counting", COUNT, "--seconds", "300"),
    "search": ("counting", COUNT),
    "recover": ("counting", "--text", COUNT),
    "inform": ("counting",),
    "truth": ("counting",),
    "bits": ("counting",),
    "complete": ("addition",),
    "calibrate": ("counting",),
    "threshold": ("addition", "615+861=1476"),
    "latents": ("counting", COUNT, "--site", "x0.post|sae:counting"),
    "agree": ("counting", COUNT),
    "patch": ("counting", "--at", "query:a0.0"),
    "ablate": ("counting", "--at", "::a1.0"),
    "flow": ("counting",),
    "dla": ("counting", COUNT),
    "heads": ("ioi",),
    "recall": (),
    "interpret": ("counting", "--no-llm"),
    "judge": (str(Path(__file__).parent / "statements.jsonl"), "--study", "addition"),
    "export": ("counting", COUNT, "--out", "{tmp}/page.html"),
    "explore": ("--no-browser", "--port", "0"),
}
"""Every command that may take long, with what it is given."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHORT = {"sites", "path", "demo"}
RESUMED = {"train", "bank", "calibrate"}
KEPT = "Interrupted: what was checkpointed stands, and the same command goes on from there."


def interrupted(command: str, arguments: tuple[str, ...], tmp_path: Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([command, *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments)])
    return int(ended.value.code or 0)


def at_first(raised: signal.Signals, real: Callable[..., Any], nth: int = 1) -> Callable[..., Any]:
    """What sends a signal to this process at its n-th call, and then does what the real thing does."""
    calls = []

    def now(*given: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == nth:
            signal.raise_signal(raised)
        return real(*given, **options)

    return now


def test_no_command_is_forgotten() -> None:
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    assert names == set(COMMANDS) | SHORT


@pytest.mark.parametrize("raised", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_while_loading(
    command: str, raised: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name in ((loading, "load"), (runs, "load"), (probing, "shipped_inputs"), (explorer, "create_app")):
        monkeypatch.setattr(module, name, at_first(raised, lambda *_, **__: None))
    before = {number: signal.getsignal(number) for number in SIGNALS}
    assert interrupted(command, COMMANDS[command], tmp_path) == 130
    out, err = capsys.readouterr()
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert lines == [KEPT if command in RESUMED else "Interrupted."]
    assert not any(tmp_path.iterdir())
    assert out == "" or command == "explore"
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("command", ["train", "bank", "evaluate"])
def test_an_interrupt_in_the_middle_leaves_nothing_half_written(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("inversionview.decoder.training.step", at_first(signal.SIGTERM, training.step))
    monkeypatch.setattr(ProbedModel, "harvest_compact", at_first(signal.SIGTERM, ProbedModel.harvest_compact))
    monkeypatch.setattr("inversionview.decoder.evaluation.sample", at_first(signal.SIGTERM, evaluation.sample))
    assert interrupted(command, COMMANDS[command], tmp_path) == 130
    said = KEPT if command in RESUMED else "Interrupted."
    assert capsys.readouterr().err.strip().splitlines()[-1] == said
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert left == {"train": ["run/study.json"], "bank": ["run/bank/manifest.json"]}.get(command, [])


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("search", ("counting", COUNT), KEPT),  # which builds a bank, and goes on with that
        ("bank", ("counting", "--inputs", "300", "--out", "{tmp}/run"), KEPT),
        ("bank", ("counting", "--out", "{tmp}/run", "--check"), "Interrupted."),
        ("search", ("counting", COUNT, "--bank", "{tmp}/run"), "Interrupted."),
        ("interpret", ("counting", "--bank", "{tmp}/run", "--llm", "x", "--base-url", "http://127.0.0.1:9"), KEPT),
        ("interpret", ("counting", "--bank", "{tmp}/run", "--no-llm"), "Interrupted."),
    ],
)
def test_only_what_goes_on_is_said_to(
    command: str, arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if says != KEPT or command == "interpret":
        main(["bank", "counting", "--inputs", "300", "--out", str(tmp_path / "run")])
    for owner, name in ((ProbedModel, "harvest_compact"), (iv, "interpret"), (iv, "search"), (iv, "check_bank")):
        monkeypatch.setattr(owner, name, at_first(signal.SIGTERM, getattr(owner, name)))
    capsys.readouterr()
    assert interrupted(command, arguments, tmp_path) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == says


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("read", (COUNT, *WALKS)),
        ("walk", (COUNT, *WALKS[2:])),
        ("export", (COUNT, *WALKS[:-2], "--site", "a1.0", "--site", "x0.post", "--out", "{tmp}/page.html")),
        ("agree", (COUNT, *WALKS[2:])),
    ],
)
def test_a_walk_that_is_interrupted_shows_what_it_found_but_is_no_success(
    command: str, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(Walk, "_take", at_first(signal.SIGINT, Walk._take, nth=5))
    assert interrupted(command, ("counting", *arguments), tmp_path) == 130
    out, err = capsys.readouterr()
    told = {"agree": "Interrupted.", "export": "Interrupted: the page shows what was found until then."}
    assert err.strip().splitlines()[-1].startswith(told.get(command, "Interrupted"))
    if command == "export":
        assert "a1.0" in out
        assert "x0.post" not in out, "the second walk must not begin"
        assert "a1.0" in (tmp_path / "page.html").read_text()
    else:
        assert bool(out) == (command != "agree"), "a part of a walk can be shown, but not compared"


STUBBORN = """
import signal, sys, time
from inversionview import cli

def work(**_):
    try:
        signal.raise_signal(getattr(signal, sys.argv[1]))
    finally:
        signal.raise_signal(getattr(signal, sys.argv[2]))
        print("went on", flush=True)

cli.app = work
cli.main([])
"""


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("SIGINT", "SIGINT", ("", "")),
        ("SIGTERM", "SIGTERM", ("", "")),
        ("SIGINT", "SIGTERM", ("went on\n", "Interrupted.")),  # a launcher's own word after Ctrl-C
        ("SIGHUP", "SIGHUP", ("went on\n", "Interrupted.")),  # of the terminal and of the shell in it
    ],
)
def test_a_second_interrupt_ends_at_once(first: str, second: str, says: tuple[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUBBORN, first, second], capture_output=True, text=True, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stdout == says[0]
    assert done.stderr.startswith(says[1])
    assert bool(done.stderr) == bool(says[1])


@pytest.mark.parametrize("raised", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupt_that_a_shell_or_nohup_ignores_stays_ignored(raised: signal.Signals) -> None:
    code = f"""
import signal
from inversionview import cli
cli.app = lambda **_: signal.raise_signal({int(raised)})
cli.main([])
"""
    ignoring = subprocess.run(
        [sys.executable, "-c", code], check=False, preexec_fn=lambda: signal.signal(raised, signal.SIG_IGN),
        env={**os.environ},
    )  # fmt: skip
    assert ignoring.returncode == 0


BEGINNING = """
import runpy, signal, sys
number, module, way = int(sys.argv[1]), sys.argv[2], sys.argv[3]

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            signal.raise_signal(number)

sys.meta_path.insert(0, Finder())
if way == "module":
    sys.argv[1:] = ["sites", "counting"]
    runpy.run_module("inversionview.cli", run_name="__main__", alter_sys=True)
elif way == "script":
    sys.argv = ["/usr/local/bin/inversionview", "sites", "counting"]
    from inversionview.cli import main
    main()
else:
    from inversionview.cli import main
    main(["sites", "counting"])
"""


def begun(code: str, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in SIGNALS],
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("raised", "module", "way"),
    [
        (signal.SIGINT, "typer", "module"),
        (signal.SIGTERM, "typer", "script"),
        (signal.SIGHUP, "inversionview.sources.export_command", "text"),
        (signal.SIGINT, "inversionview.core.printable", "script"),
        (signal.SIGINT, "inversionview.studies.study", "module"),
        (signal.SIGTERM, "torch", "text"),
    ],
)
def test_an_interrupt_while_importing(raised: signal.Signals, module: str, way: str) -> None:
    assert begun(BEGINNING, str(int(raised)), module, way) == (130, "", "Interrupted.\n")


def work(body: str) -> str:
    """Return a program whose command does this."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"import signal, sys\nfrom inversionview import cli\ndef work(**_):\n{lines}cli.app = work\ncli.main([])"


@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM"])
def test_an_interrupt_within_an_exec_ends_with_130_and_not_by_the_signal(kind: str) -> None:
    """As every dataclass has one: Python would then end by SIGINT."""
    assert begun(work(f"exec('signal.raise_signal(signal.{kind})')")) == (130, "", "Interrupted.\n")


def test_an_interrupt_of_which_a_library_makes_another_error() -> None:
    body = "try:\n    signal.raise_signal(signal.SIGINT)\nexcept BaseException:\n    raise RuntimeError('no') from None"
    assert begun(work(body)) == (130, "", "Interrupted.\n")


def test_an_interrupt_at_the_end() -> None:
    """The command is done, and the interpreter about to end."""
    code = "import atexit, signal, sys\nsys.argv[0] = 'inversionview'\nfrom inversionview import cli\n"
    code += "atexit.register(lambda: signal.raise_signal(signal.SIGINT))\ncli.app = lambda **_: print('done')\ncli.main()"
    assert begun(code) == (130, "done\n", "Interrupted.\n")


def test_who_only_imports_the_command_line_keeps_what_it_does_at_a_signal() -> None:
    code = "import signal, sys\nsys.argv[0] = 'mine.py'\nnow = lambda: [signal.getsignal(n) for n in (1, 2, 15)]\n"
    code += "before = now()\nfrom inversionview import cli\nassert now() == before\ncli.app = lambda **_: None\n"
    assert begun(code + "cli.main([])\nassert now() == before") == (0, "", "")

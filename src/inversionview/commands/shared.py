"""What the commands share: the application, loading, progress and what is printed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from inversionview.commands.checked import CheckedTyper, unused
from inversionview.commands.options import InputOptions, ModelOptions
from inversionview.commands.terminal import SafeConsole
from inversionview.errors import InversionViewError, SettingError
from inversionview.interruption import resumable
from inversionview.naming import check_model_name, check_study, is_study
from inversionview.printable import json_line, shown

if TYPE_CHECKING:
    import torch

    from inversionview.bank.store import ActivationBank
    from inversionview.preimage.core import Query
    from inversionview.study import Study


app = CheckedTyper(
    help="Read what a neural activation encodes: sample its ε-preimage, verify every sample in the model, show it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
out = SafeConsole(highlight=False, markup=False)
err = SafeConsole(stderr=True, highlight=False, markup=False)


def device_named(name: str) -> str:
    """Return the device of a name, ``auto`` being a GPU where there is one.

    Raises:
        SettingError: there is no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"There is no device {name!r} here: choose cpu, cuda, cuda:1, … or auto.") from error
    return name


def precision_named(name: str) -> torch.dtype:
    """Return the type of weights of a name.

    Raises:
        SettingError: there is none of that name.
    """
    from inversionview.probed import PRECISIONS

    found = next((dtype for known, dtype in PRECISIONS.items() if known == name), None)
    if found is None:
        raise SettingError(f"There is no precision {name!r}: choose {', '.join(PRECISIONS)}.")
    return found


def loaded_study(study: str | None, on: ModelOptions, sites: Iterable[str | None] = ()) -> Study:
    """Return a shipped study, a run or a model alone; mistakes in their names and in sites are told before it is loaded."""
    if study is not None:
        check_study(study)
    if on.model is not None:
        check_model_name(on.model)
    from inversionview.study import load

    check_sites_of(study, on.model, sites)
    return load(study, model=on.model, device=device_named(on.device))


def study_and_text(what: InputOptions, on: ModelOptions, sites: Iterable[str | None] = ()) -> tuple[Study, str]:
    """Return what to read from ``STUDY TEXT``, or from ``--model MODEL TEXT``."""
    if what.text is not None:
        return loaded_study(what.study or "", on, sites), what.text
    if what.study is None or on.model is None or is_study(what.study):
        raise SettingError('Give a study and a text, as in: addition "615+861=1476", or --model and a text.')
    return loaded_study(None, on, sites), what.study


def check_sites_of(study: str | None, model: str | None, sites: Iterable[str | None]) -> None:
    """Raise ``UnknownSiteError`` where the files of the model that will be loaded tell that it has no such site."""
    named = [name for given in sites if given for name in re.split(r",(?![^{]*\})", given)]
    if not named:
        return
    from inversionview.header import check_sites
    from inversionview.studies.registry import defined, stated

    spec = None if study is None else stated(study)[0]
    path = model or (spec.model if spec else "")
    if not path and spec is not None and defined(spec.inputs).any_model:
        path = str(defined(spec.inputs).default_model())
    if path:
        check_sites(path, [name.strip() for name in named])


def print_json(value: Any) -> None:
    """Print a line of JSON on stdout; what its encoding lacks is escaped as JSON escapes."""
    line = json_line(value)
    try:
        line.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        line = json.dumps(value)
    sys.stdout.write(line + "\n")


def print_line(value: object) -> None:
    """Print a line on stdout, as it is but for what would steer a terminal."""
    sys.stdout.write(shown(str(value)) + "\n")


def listed(names: str | None) -> list[str] | None:
    """Return what is between the commas.

    Raises:
        SettingError: nothing is.
    """
    found = None if names is None else [name.strip() for name in names.split(",") if name.strip()]
    if found == []:
        raise SettingError(f"{names!r} names nothing: write names with commas between.")
    return found


def numbers(text: str) -> list[float]:
    """Return the numbers between the commas.

    Raises:
        SettingError: one is no number.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SettingError(f"{text!r} is not a list of numbers: write for instance 0.05,0.1,0.2.") from None


def check_source(source: str | None) -> None:
    """Raise ``SettingError`` unless it is a source, or none is named."""
    if source not in (None, "decoder", "corpus", "walk"):
        raise SettingError(f"There is no source {source!r}: choose decoder, corpus or walk.")


def not_of_source(context: typer.Context, source: str) -> None:
    """Refuse options that were given but belong to another source than this one."""
    said = {"decoder": "the decoder is sampled", "corpus": "the corpus is searched", "walk": "a walk is made"}
    of = {"decoder": ("temperature", "noise", "candidates"), "walk": ("seconds",)}
    unused(context, said[source], *(name for other, names in of.items() if other != source for name in names))


def first_source(study: Study, query: Query, fixed: str | None, drawn: bool = False) -> str:
    """Return what reads a query where no source is named, as in the explorer: the exact one where it takes seconds."""
    from inversionview.explorer import service

    return service.first_source(study, query, fixed, drawn)


def bank_to_search(study: Study, folder: Path | None) -> ActivationBank:
    """Return the bank to search; where there is none yet, build one with a progress bar, and say so."""
    with resumable(), bar("harvesting", 1000) as advance:

        def begin(path: Path, rows: int) -> None:
            err.print(f"No bank yet: building one of {rows:,} inputs, once, in {path}", soft_wrap=True)

        return study.bank(folder, report=lambda share, _: advance(int(1000 * share), ""), begin=begin)


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def bar(what: str, total: int, quiet: bool = False, logged: bool = False) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on stderr with ETA; yields a function to set how far it is, and a note.

    Args:
        what: is going on.
        total: how far it goes.
        quiet: show nothing.
        logged: where stderr is no terminal, and so shows no bar, say in lines, ever more rarely, how far it is.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    progress = Progress(*columns, console=err, disable=quiet)
    task, due = progress.add_task(what, total=total, note=""), 1.0

    def advance(done: int, note: str) -> None:
        nonlocal due
        progress.update(task, completed=done, note=note)
        if not logged or err.is_terminal:
            progress.start()  # only now: a mistake found before must leave nothing but its sentence on stderr
        elif not quiet and (elapsed := progress.tasks[task].elapsed or 0.0) >= due:
            err.print(f"{what}: {100 * done / total:.0f} %, {note}, {elapsed:.0f} s", markup=False, soft_wrap=True)
            due = elapsed + max(1.0, min(60.0, elapsed))

    try:
        yield advance
    except InversionViewError:
        progress.live.transient = True  # so must one that is found only now
        raise
    finally:
        if progress.live.is_started:
            progress.stop()

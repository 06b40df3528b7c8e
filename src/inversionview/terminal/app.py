"""What the commands share: the application, loading, progress and what is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from typer.models import CommandInfo

from inversionview.core.errors import InversionViewError, SettingError
from inversionview.core.printable import json_line, shown
from inversionview.terminal.checked import CheckedTyper
from inversionview.terminal.output import SafeConsole

if TYPE_CHECKING:
    import torch


app = CheckedTyper(
    help="Read what a neural activation encodes: sample its ε-preimage, verify every sample in the model, show it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
out = SafeConsole(highlight=False, markup=False)
err = SafeConsole(stderr=True, highlight=False, markup=False)


def list_as(order: Sequence[str]) -> None:
    """Have ``--help`` list the commands in this order, those that it does not name last."""
    places = {name: place for place, name in enumerate(order)}

    def place(info: CommandInfo) -> int:
        name = info.name or getattr(info.callback, "__name__", "")
        return places.get(str(name), len(places))

    app.registered_commands.sort(key=place)


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
    from inversionview.model.probed import PRECISIONS

    found = next((dtype for known, dtype in PRECISIONS.items() if known == name), None)
    if found is None:
        raise SettingError(f"There is no precision {name!r}: choose {', '.join(PRECISIONS)}.")
    return found


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

"""Groups of options: the command line sees the fields of a command's dataclasses, the command the dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer

from inversionview.core.errors import SettingError
from inversionview.terminal.checked import CheckedTyper, unused
from inversionview.terminal.groups import grouped


@dataclass(frozen=True)
class Wide:
    word: Annotated[str, typer.Argument(help="A word.")]
    wide: Annotated[bool, typer.Option("--wide")] = False


@dataclass(frozen=True)
class Wider(Wide):
    number: Annotated[int, typer.Option("--number", "-n", min=1)] = 3


@dataclass(frozen=True)
class Last:
    words: Annotated[list[str] | None, typer.Option()] = None


@dataclass(frozen=True)
class Clash:
    wide: Annotated[int, typer.Option()] = 0


def told(*arguments: str) -> Any:
    """What a command of two groups and an option between them is run with."""
    app = CheckedTyper()

    @app.command()
    def first(
        context: typer.Context, *, wider: Wider, between: Annotated[float, typer.Option()] = 0.5, last: Last, end: bool = False
    ) -> Any:
        """Say what it was told."""
        unused(context, "it is tested", "number")
        return wider, between, last, end

    return app(list(arguments), standalone_mode=False)


def test_fields_stand_where_their_group_does() -> None:
    def command(context: typer.Context, *, wider: Wider, between: int = 0, last: Last) -> None:
        """Nothing."""

    app = CheckedTyper()
    app.command()(command)
    names = [parameter.name for parameter in typer.main.get_command(app).params]
    assert names[:5] == ["word", "wide", "number", "between", "words"]
    assert grouped(command).__doc__ == "Nothing."


def test_a_command_is_run_with_its_groups() -> None:
    assert told("a") == (Wider("a", False, 3), 0.5, Last(None), False)
    given = told("a", "--wide", "--between", "2", "--words", "b", "--words", "c", "--end")
    assert given == (Wider("a", True, 3), 2.0, Last(["b", "c"]), True)


def test_what_every_command_refuses_is_refused_of_fields() -> None:
    with pytest.raises(SettingError, match="--number does nothing where it is tested"):
        told("a", "-n", "4")
    with pytest.raises(SettingError, match="--words is empty"):
        told("a", "--words", "")


def test_no_two_fields_have_one_name() -> None:
    def command(*, wide: Wide, clash: Clash) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'wide'"):
        grouped(command)

"""What every command refuses before it runs: empty options, numbers without end, options that would do nothing."""

from __future__ import annotations

import math
from typing import Any

import typer
from typer.core import TyperCommand

from inversionview.core.errors import SettingError
from inversionview.core.ranges import LARGEST
from inversionview.terminal.groups import grouped
from inversionview.terminal.naming_sites import with_anyway


class Checked(TyperCommand):
    """A command that refuses empty values and numbers that are not finite, or too large to count with, of all its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and check what was given.

        Raises:
            SettingError: a value is empty, or a number is not finite or beyond ± 2⁶³.
        """
        written, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.params:
            if "" in _several(written.get(parameter.name or "")):
                raise SettingError(f"{_called(parameter)} is empty: give it a value, or leave it out.")
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            for value in _several(ctx.params.get(parameter.name or "")):
                _check_number(_called(parameter), value)
        return rest


class CheckedTyper(typer.Typer):
    """An application all of whose commands are ``Checked`` and may take ``grouped`` options."""

    def command(self, *arguments: Any, **options: Any) -> Any:
        """See ``typer.Typer.command``."""
        register = super().command(*arguments, **{"cls": Checked, **options})
        return lambda command: register(with_anyway(grouped(command)))


def unused(context: typer.Context, why: str, *names: str) -> None:
    """Refuse options that were given but would do nothing.

    Args:
        context: of the command.
        why: ends the sentence: ``"a decoder is sampled"``.
        names: of the command's parameters.

    Raises:
        SettingError: some were given.
    """
    given = [_called(p) for p in context.command.params if p.name in names and _was_given(context, p.name)]
    if given:
        do, them = ("does", "it") if len(given) == 1 else ("do", "them")
        raise SettingError(f"{' and '.join(given)} {do} nothing where {why}: leave {them} out.")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _called(parameter: Any) -> str:
    """Return what a user calls an option or argument."""
    if parameter.param_type_name == "option":
        return str(parameter.opts[0])
    return str(parameter.metavar or parameter.name.upper()).strip("[]…")


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"{name} must be a finite number, but is {value:g}.")
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise SettingError(f"{name} must be at most {LARGEST:,}, but is {value:,}.")

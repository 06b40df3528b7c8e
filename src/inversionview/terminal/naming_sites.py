"""Options that name sites: a command with one takes ``--anyway``, too, which reads dictionaries where they do not belong."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_args

import typer

from inversionview.core.errors import SettingError
from inversionview.model.sites.through import all_the_same


class NamesSites:
    """Marks an option, in its annotation, as one whose values name sites."""


NAMES_SITES = NamesSites()
AnywayOpt = Annotated[
    bool,
    typer.Option("--anyway", help="Read dictionaries (|sae:) whose files say that they belong to another model or site."),
]


def with_anyway(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that takes ``--anyway`` where an option of its own is marked by ``NAMES_SITES``, and reads names by it.

    Raises:
        SettingError: when it is run: it is given, but no dictionary is named.
    """
    signature = inspect.signature(command)
    marked = [name for name, each in signature.parameters.items() if NAMES_SITES in get_args(each.annotation)]
    if not marked:
        return command

    @wraps(command)
    def run(anyway: bool, **values: Any) -> Any:
        if not anyway:
            return command(**values)
        meant = {name: _meant(values[name]) for name in marked}
        if all(meant[name] == values[name] for name in marked):
            raise SettingError("--anyway does nothing where no dictionary is named, as in x5.post|sae:FOLDER: leave it out.")
        return command(**{**values, **meant})

    added = inspect.Parameter("anyway", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AnywayOpt)
    extended: Any = run
    extended.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])
    extended.__annotations__ = {**command.__annotations__, "anyway": AnywayOpt}
    return extended


def _meant(value: str | list[str] | None) -> str | list[str] | None:
    if isinstance(value, list):
        return [all_the_same(each) for each in value]
    return None if value is None else all_the_same(value)

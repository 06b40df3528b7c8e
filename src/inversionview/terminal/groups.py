"""Groups of options: a command takes a dataclass, and typer sees its fields among the command's own parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that is run with the fields of its groups, each in the place of its group, and puts these together.

    A field is annotated as a parameter is, with ``typer.Option`` or ``typer.Argument``, and bears the parameter's name; no
    two fields of a command have one name. Parameters that follow a ``*`` may stand in any order, with a default or without.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {name: p.annotation for name, p in signature.parameters.items() if is_dataclass(p.annotation)}
    flat = [each for parameter in signature.parameters.values() for each in _flattened(parameter)]

    @wraps(command)
    def run(**values: Any) -> Any:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)}) for name, group in groups.items()
        }
        return command(**values, **made)

    flattened: Any = run
    flattened.__signature__ = signature.replace(parameters=flat)
    flattened.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return flattened


def _flattened(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Yield the fields of a group as parameters of its kind, or a parameter that is no group."""
    group = parameter.annotation
    if not is_dataclass(group):
        yield parameter
        return
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield parameter.replace(name=field.name, annotation=hints[field.name], default=default)

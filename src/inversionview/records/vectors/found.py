"""What a reader of one form finds, and what all readers share: to choose among names, and to take a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from inversionview.core.errors import InputError, did_you_mean
from inversionview.core.integrity import reason

T = TypeVar("T")
_SHOWN = 12
"""So many names are listed in an error."""
_HOOKS = ("hook_name", "hookName", "hook_point", "hook")
_MODELS = ("model_name", "modelId", "model_id", "model")


@dataclass(frozen=True, eq=False)
class Found:
    """An array of a file, of any shape yet, and what the file tells of it."""

    values: npt.NDArray[Any]
    key: str | None = None
    hook: str | None = None
    model: str | None = None
    told: tuple[Mapping[str, Any], ...] = ()


def chosen(path: Path, kind: str, names: Mapping[str, T], key: str | None) -> tuple[str, T]:
    """Return what a key names, or the only thing there is.

    Args:
        path: of the file.
        kind: what the names are of, in the singular: ``"tensor"``.
        names: what there is.
        key: ``None`` where none was given.

    Raises:
        InputError: there is nothing of that name, or nothing at all, or a name is needed.
    """
    if not names:
        raise InputError(f"{path} holds no {kind}: give another file.")
    some = ", ".join(list(names)[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    if key is None and len(names) > 1:
        first, _, rest = kind.partition(" ")
        kinds = f"{first}s {rest}".strip()
        raise InputError(f"{path} holds several {kinds} ({some}): name one, as in {path}:{next(iter(names))}.")
    key = next(iter(names)) if key is None else key
    if key not in names:
        raise InputError(f"{path} has no {kind} {key!r}, only {some}.{did_you_mean(key, names)}")
    return key, names[key]


def place(count: int, row: int, what: str) -> int:
    """Return a row's number from 0, where it may be given from the end.

    Raises:
        InputError: there is none.
    """
    if not -count <= row < count:
        have = f"has rows 0 to {count - 1}, not {row}: choose one of them" if count else "has no rows: give another"
        raise InputError(f"{what} {have}.")
    return row % count


def taken(values: Any, row: int | None, what: str) -> Any:
    """Return one row of an array or a tensor, or all of it.

    Raises:
        InputError: there is no such row, or it has none.
    """
    if row is None:
        return values
    if values.ndim < 2:
        raise InputError(f"{what} is of the shape {list(values.shape)}, one vector and no rows: leave out [{row}].")
    return values[place(len(values), row, what)]


def named_hook(told: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the place that all rows name alike, if they do."""
    return _alike(told, _HOOKS)


def named_model(told: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the model that all rows name alike, if they do."""
    return _alike(told, _MODELS)


def _alike(told: Iterable[Mapping[str, Any]], names: tuple[str, ...]) -> str | None:
    found = {next((row[name] for name in names if isinstance(row.get(name), str) and row[name]), None) for row in told}
    return found.pop() if len(found) == 1 else None


def damaged(path: Path, error: Exception, form: str) -> InputError:
    """Return the error of a file that is not of the form that its name tells."""
    said = reason(error).rstrip(":")
    return InputError(f"{path} cannot be read as {form} ({said}): it is truncated, damaged or no such file; write it again.")

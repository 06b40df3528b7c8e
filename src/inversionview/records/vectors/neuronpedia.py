"""Vectors in JSON: as Neuronpedia's pages and Python library give and take them, or bare lists of numbers.

Neuronpedia calls the numbers ``vector`` (of a feature, and of what is uploaded) or ``values`` (of what it answers to that, and
in its Python library), and says where they belong by ``hookName``, or by ``layerNumber`` and ``hookType``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inversionview.core.errors import InputError
from inversionview.records.vectors.found import Found, chosen, damaged, named_hook, named_model, taken

_NUMBERS = ("vector", "values")
_LISTS = ("vectors", "vector")
"""What stands around a vector, or several."""
_TOLD = (
    "modelId", "model_id", "layer", "source", "index", "vectorLabel", "label", "vectorDefaultSteerStrength",
    "defaultSteerStrength", "default_steer_strength", "hookName", "hook_name", "layerNumber", "hookType", "url",
)  # fmt: skip


def read_json(path: Path, key: str | None, row: int | None) -> Found:
    """Return the vectors of a JSON file; of bare arrays in an object one by its key.

    Raises:
        InputError: it is no JSON, holds no vector, or there is no such key or row.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error, "JSON") from error
    records = _records(value)
    if records is None:
        return _bare(path, value, key, row)
    if key is not None:
        raise InputError(f"{path} holds vectors of Neuronpedia, which have no names: leave out :{key}, or take one by [i].")
    rows = [_array(next(each[name] for name in _NUMBERS if name in each), f"{path}[{n}]") for n, each in enumerate(records)]
    told = tuple({name: each[name] for name in _TOLD if name in each} for each in records)
    if not all(len(each) for each in rows):
        raise InputError(
            f"{path} is a feature of Neuronpedia that holds no vector of its own (hasVector is false): give its dictionary's "
            "latent, or a vector."
        )
    if row is None and len({each.shape for each in rows}) > 1:
        raise InputError(f"The vectors of {path} differ in length: take one by [i], as in {path}[0].")
    if len(rows) == 1:
        values = taken(rows[0], row, str(path))
    else:
        kept = range(len(rows)) if row is None else [taken(np.arange(len(rows))[:, None], row, str(path))[0]]
        values, told = np.stack([rows[n] for n in kept]), tuple(told[n] for n in kept)
    return Found(values, None, _hook(told), named_model(told), told)


def _records(value: Any) -> list[dict[str, Any]] | None:
    """Return Neuronpedia's vectors in a JSON value; ``None`` where there are none."""
    for name in _LISTS:
        if isinstance(value, dict) and (
            isinstance(value.get(name), dict) or (isinstance(value.get(name), list) and _records(value[name]) is not None)
        ):
            value = value[name]
            break
    found = value if isinstance(value, list) else [value]
    return found if found and all(isinstance(each, dict) and _is_vector(each) for each in found) else None


def _is_vector(value: Mapping[str, Any]) -> bool:
    numbers = any(isinstance(value.get(name), list) for name in _NUMBERS)
    return numbers and any(name in value for name in _TOLD)


def _hook(told: tuple[Mapping[str, Any], ...]) -> str | None:
    made = [
        {"hook": f"blocks.{int(each['layerNumber'])}.{each['hookType']}"}
        for each in told
        if isinstance(each.get("layerNumber"), int) and isinstance(each.get("hookType"), str)
    ]
    return named_hook(told) or (named_hook(made) if len(made) == len(told) else None)


def _bare(path: Path, value: Any, key: str | None, row: int | None) -> Found:
    if isinstance(value, dict):
        arrays = {name: each for name, each in value.items() if isinstance(each, list)}
        key, value = chosen(path, "array", arrays, key)
    elif key is not None:
        raise InputError(f"{path} holds no object with names: leave out :{key}, or take a row by [i].")
    what = str(path) if key is None else f"{path}:{key}"
    return Found(taken(_array(value, what), row, what), key)


def _array(value: Any, what: str) -> np.ndarray[Any, Any]:
    try:
        array = np.array(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{what} holds lists of different lengths: give numbers of one width.") from error
    if array.size and array.dtype.kind not in "iuf":
        raise InputError(f"{what} holds {_called(value)} in place of numbers: give a list of numbers.")
    return array


def _called(value: Any) -> str:
    while isinstance(value, list) and value:
        value = next((each for each in value if not isinstance(each, int | float)), value[0])
    return {type(None): "null", str: "text", dict: "an object", int: "a number beyond 64 bits"}.get(type(value), "no number")

"""Vectors that a spec names, ``probe.safetensors:w[3]``, read, checked and made orthonormal.

Which form a file has is told by its name; the readers of the forms lie beside this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from inversionview.core.errors import InputError
from inversionview.records.reading import located
from inversionview.records.vectors.arrays import read_npy, read_npz, read_safetensors
from inversionview.records.vectors.columns import read_columns
from inversionview.records.vectors.control import read_control
from inversionview.records.vectors.found import Found
from inversionview.records.vectors.neuronpedia import read_json

_READERS: dict[str, Callable[[Path, str | None, int | None], Found]] = {
    ".safetensors": read_safetensors, ".npy": read_npy, ".npz": read_npz, ".parquet": read_columns, ".arrow": read_columns,
    ".feather": read_columns, ".gguf": read_control, ".json": read_json,
}  # fmt: skip
FORMS = tuple(_READERS)
"""What the names of files with vectors end in."""
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".joblib", ".ckpt"}
_ROW = re.compile(r"(?P<rest>.+)\[(?P<row>-?\d{1,18})\]")
_FILE = re.compile(rf"(?P<path>.*?(?:{'|'.join(map(re.escape, FORMS))}))(?::(?P<key>.+))?", re.IGNORECASE | re.DOTALL)
_DEPENDENT = 1e-5
"""A row of length 1 that sticks out of the span of others by less is held to lie in it: float32 is no more precise."""


class Spec(NamedTuple):
    """What ``PATH[:key][[i]]`` names."""

    path: Path
    key: str | None
    row: int | None


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of one file, all of one width, finite, none of them zero."""

    values: Float32[np.ndarray, "k width"]
    source: str
    """The spec that named them."""
    key: str | None
    """Which array, tensor, column or layer of the file they are; ``None`` where it has no names."""
    hook: str | None
    """Where they belong, in TransformerLens' notation, ``blocks.15.hook_resid_post``; ``None`` where the file does not say."""
    model: str | None
    """Whose they are, as the file calls it."""
    told: tuple[Mapping[str, Any], ...]
    """What the file tells besides, for each vector: a row's other columns, a label; empty where nothing."""

    @property
    def width(self) -> int:
        """How many numbers each has."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.values)


def read_vectors(spec: str | Path) -> Vectors:
    """Return the vectors that a spec names.

    Args:
        spec: ``PATH[:key][[i]]``. The path ends in ``.safetensors``, ``.npy``, ``.npz``, ``.parquet``, ``.arrow``,
            ``.feather`` (a column of lists, by default ``activation_vector``), ``.gguf`` (control vectors as repeng writes
            them; the key is the layer) or ``.json`` (Neuronpedia's, or bare lists of numbers). The key names an array where
            there are several. ``[i]`` takes one row of it, from 0, from the end where negative; without it all rows are
            taken.

    Raises:
        InputError: there is no such file, key or row; the file is empty, damaged or a pickle; what is named has no vectors'
            shape; or a vector holds NaN or infinite numbers, or is zero.
        SettingError: it needs more memory than can be had.
    """
    path, key, row = parsed(spec)
    suffix = path.suffix.lower()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise InputError(f"{path} {what}: give a file with vectors, as {', '.join(FORMS)}, and :key or [i] after it.")
    if suffix in _PICKLES:
        raise InputError(
            f"{path} is a pickle, which could run code: save the vector as .safetensors (safetensors.torch.save_file) or .npy."
        )
    if suffix not in _READERS:
        raise InputError(f"{path} is of no form with vectors that is known here: give {', '.join(FORMS)}.")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: write or copy it again.")
    found = _READERS[suffix](path, key, row)
    return Vectors(
        values=_checked(found, str(spec)), source=str(spec), key=found.key, hook=found.hook, model=found.model, told=found.told
    )


def parsed(spec: str | Path) -> Spec:
    """Return the file, the key and the row that a spec names; a file that is called as all of it is that file."""
    whole = located(spec)
    if isinstance(spec, Path) or whole.exists():
        return Spec(whole, None, None)
    match = _ROW.fullmatch(spec)
    rest, row = (spec, None) if match is None else (match["rest"], int(match["row"]))
    for head, key in _cuts(rest):
        if located(head).is_file():
            return Spec(located(head), key, row)
    named = _FILE.fullmatch(rest)
    return Spec(whole, None, None) if named is None else Spec(located(named["path"]), named["key"], row)


def _cuts(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield what may be a path and what may be a key, the longest path first: either may hold colons."""
    yield text, None
    for colon in reversed([place for place, mark in enumerate(text) if mark == ":"]):
        yield text[:colon], text[colon + 1 :] or None


def orthonormal(rows: Float32[np.ndarray, "k width"]) -> Float32[np.ndarray, "k width"]:
    """Return an orthonormal basis of the space that rows span, by Gram and Schmidt: the first j rows span what they did.

    The first row keeps its direction; in exact arithmetic so does every row of a set that is orthogonal already.

    Raises:
        InputError: a row lies in the span of those before it.
    """
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    basis, r = np.linalg.qr(unit.T)  # [width, min(k, width)], upper triangular
    apart = np.abs(np.diagonal(r))
    dependent = next((j for j in range(len(rows)) if j >= len(apart) or apart[j] < _DEPENDENT), None)
    if dependent is not None:
        raise InputError(
            f"Row {dependent} lies in the span of the rows before it, so that {len(rows)} rows span fewer than {len(rows)} "
            f"dimensions of {rows.shape[1]}: leave it out."
        )
    signs = np.sign(np.diagonal(r))
    return np.ascontiguousarray((basis * signs).T, dtype=np.float32)


def _checked(found: Found, spec: str) -> Float32[np.ndarray, "k width"]:
    """Return the values of what was found as rows of float32.

    Raises:
        InputError: they are no vectors.
    """
    values = found.values
    if values.dtype.kind not in "iuf":
        raise InputError(f"{spec} holds {values.dtype}, not real numbers: give a vector of floating-point numbers.")
    if values.ndim not in (1, 2):
        way = "add [i] to take one of the first axis" if values.ndim > 2 else "give an array of numbers"
        raise InputError(f"{spec} is of the shape {list(values.shape)}, a vector is [width], several are [k, width]: {way}.")
    if not values.size:
        raise InputError(f"{spec} is of the shape {list(values.shape)}: it holds no number; give another.")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(np.atleast_2d(values), dtype=np.float32)
    odd, zero = np.flatnonzero(~np.isfinite(rows).all(1)), np.flatnonzero(~rows.any(1))
    if len(odd):
        which = f"Row {odd[0]} of {spec}" if values.ndim == 2 else spec
        raise InputError(f"{which} holds NaN, infinite numbers or numbers beyond float32: give a vector of finite numbers.")
    if len(zero):
        which = f"Row {zero[0]} of {spec}" if values.ndim == 2 else spec
        raise InputError(f"{which} is zero in all {rows.shape[1]} numbers and has no direction: give another.")
    return rows

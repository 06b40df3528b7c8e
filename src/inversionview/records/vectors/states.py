"""States of all positions of a text, from a file: ``[pos, numbers]``, as ``.safetensors``, ``.npy`` or ``.npz``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from inversionview.core.errors import InputError
from inversionview.records.vectors.arrays import read_npy, read_npz, read_safetensors
from inversionview.records.vectors.vectors import parsed

_READERS = {".safetensors": read_safetensors, ".npy": read_npy, ".npz": read_npz}


def read_states(spec: str | Path) -> Float32[np.ndarray, "*shape"]:
    """Return the states that ``PATH[:key]`` names; types of less precision are widened, which changes no number.

    Raises:
        InputError: there is no such file or key; it is empty, damaged, of another form, or holds no real numbers.
        SettingError: it needs more memory than can be had.
    """
    path, key, row = parsed(spec)
    suffix = path.suffix.lower()
    if row is not None:
        raise InputError(f"{spec} names one row, but states of all positions are needed: leave out [{row}].")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise InputError(f"{path} {what}: give a file with states, as {', '.join(_READERS)}, and :key after it.")
    if suffix not in _READERS:
        raise InputError(f"{path} is of no form with states that is known here: give {', '.join(_READERS)}.")
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: write or copy it again.")
    values: Any = _READERS[suffix](path, key, None).values
    if values.dtype.kind not in "iuf":
        raise InputError(f"{spec} holds {values.dtype}, not real numbers: give states of floating-point numbers.")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)

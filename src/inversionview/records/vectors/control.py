"""Control vectors in GGUF files, as repeng writes them: a tensor ``direction.N`` for each layer.

``direction.N`` is a direction of the output of block N, from 0: repeng finds it there, and llama.cpp adds it there. (What
llama.cpp's own generator calls so it finds one block earlier; the file does not tell who wrote it.)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from inversionview.core.errors import InputError
from inversionview.records.vectors.found import Found, chosen, damaged

_DIRECTION = re.compile(r"direction\.(\d{1,6})")
_PLAIN = {"F32", "F64", "F16"}


def read_control(path: Path, key: str | None, row: int | None) -> Found:
    """Return the direction of a layer; the key is its number, or ``direction.N``.

    Raises:
        InputError: the file is damaged or no control vector, the layer is missing, a row was given, or the package that
            reads GGUF files is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise InputError(f"{path} is a GGUF file: pip install gguf.") from error
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError("it does not begin with GGUF")
        reader = gguf.GGUFReader(path)
        layers = {found[1]: t for t in reader.tensors if (found := _DIRECTION.fullmatch(t.name)) is not None}
        hint = reader.get_field("controlvector.model_hint")
        model = None if hint is None else str(hint.contents())
    except Exception as error:  # the reader's errors share no base
        raise damaged(path, error, "GGUF") from error
    if not layers:
        raise InputError(f"{path} holds no control vectors (tensors direction.0, direction.1, …): give a file of repeng.")
    layers = dict(sorted(layers.items(), key=lambda each: int(each[0])))
    key, tensor = chosen(path, "layer", layers, None if key is None else key.removeprefix("direction."))
    if row is not None:
        raise InputError(f"The layer {key} of {path} is one vector and has no rows: leave out [{row}].")
    told = {"layer": int(key)} | ({} if model is None else {"model_hint": model})
    return Found(_values(tensor), key, f"blocks.{int(key)}.hook_resid_post", None, (told,))


def _values(tensor: Any) -> np.ndarray[Any, Any]:
    from gguf import dequantize

    data = tensor.data if tensor.tensor_type.name in _PLAIN else dequantize(tensor.data, tensor.tensor_type)
    return np.array(data)

"""Reading GGUF files through transformers without doing the same work again and again.

transformers has the ``gguf`` package parse the metadata three times, each of 10⁵ strings as numpy arrays, and build the table
of tensor names once for every module, which takes most of the time. Here both happen once, and what is read is the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import RLock
from typing import Any

import numpy as np

_ROWS = 256
"""How many rows of a quantised tensor are unpacked at once: as many as stay in the cache."""
_LOCK = RLock()  # if two threads replaced the same functions, they could not put them back


@contextmanager
def quick_gguf() -> Iterator[None]:
    """Put quick functions in the place of the ``gguf`` package's own; on leaving, its own are back.

    Where the package is missing, or has not these functions, nothing is replaced and loading is only slower.
    """
    with _LOCK, ExitStack() as stack:
        for module, name, quick in _replacements():
            stack.callback(setattr, module, name, getattr(module, name))  # run on leaving
            setattr(module, name, quick)
        yield


def _replacements() -> list[tuple[Any, str, Any]]:
    try:
        import gguf

        replacements = [
            (gguf, "GGUFReader", cache(_quick(gguf.GGUFReader, gguf.GGUFValueType))),
            (gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
            (gguf.quants, "_apply_over_grouped_rows", _unpack),
        ]
    except (ImportError, AttributeError):
        return []
    return [each for each in replacements if hasattr(each[0], each[1])]


def _quick(plain: Any, types: Any) -> Any:
    """Return a subclass of ``GGUFReader`` that takes the elements of an array without a numpy call for each."""
    overridden = plain._get_field_parts

    class Quick(plain):
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
            """Return the number of bytes of a field, its parts, which of these are the elements, and its types."""
            start = int(orig_offs)
            blob = memoryview(self.data)
            kind, count = struct.unpack_from("=IQ", blob, start) if raw_type == types.ARRAY else (None, 0)
            if self.byte_order != "I" or (kind != types.STRING and kind not in self.gguf_scalar_to_np):
                return overridden(self, orig_offs, raw_type)
            end = start + 12
            parts: list[Any] = [blob[start : start + 4].cast("I"), blob[start + 4 : end].cast("Q")]
            if kind == types.STRING:
                for _ in range(count):
                    (length,) = struct.unpack_from("=Q", blob, end)
                    parts += blob[end : end + 8], blob[end + 8 : end + 8 + length]
                    end += 8 + length
            else:
                numbers = self._get(end, self.gguf_scalar_to_np[kind], count)
                parts += list(numbers.reshape(count, 1))  # which fails if the file ends before
                end += numbers.nbytes
            step = 2 if kind == types.STRING else 1
            return end - start, parts, list(range(1 + step, len(parts), step)), [types.ARRAY, types(kind)][: 1 + min(count, 1)]

    return Quick


def _unpack(func: Any, arr: Any, otype: Any, oshape: tuple[int, ...]) -> Any:
    """Apply ``func`` to some rows of ``arr`` at a time."""
    rows = arr.reshape(-1, arr.shape[-1])
    out = np.empty((len(rows), oshape[-1]), otype)
    for i in range(0, len(rows), _ROWS):
        out[i : i + _ROWS] = func(rows[i : i + _ROWS])
    return out.reshape(oshape)

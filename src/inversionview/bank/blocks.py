"""Checksums of a shard's files, block by block, and of single vectors: a search checks what it reads, and nothing else.

Blocks are cut from the whole file, the header of an array belongs to the first; a block is checked once. Of the vectors of a
slice a search reads few, here and there: these have a number each, so that not all that lies between must be read too.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from inversionview.core.mixing import mix

BLOCK = 2**16
"""Bytes."""
SUM = 8
"""Bytes of a block's checksum."""
_AT_ONCE = 64 * BLOCK


def checksums(path: Path) -> bytes:
    """Return the checksums of a file's blocks, one after the other.

    Raises:
        OSError: it cannot be read.
    """
    found = []
    with path.open("rb") as file:
        while part := file.read(_AT_ONCE):
            found += [xxhash.xxh3_64_digest(part[start : start + BLOCK]) for start in range(0, len(part), BLOCK)]
    return b"".join(found)


def sums_of(x: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Return a checksum of each row of numbers, ``[rows, width]``: 32 bits, which no change of a single byte leaves alone.

    A sum of words times odd numbers, modulo 2³².
    """
    whole = x.shape[1] * x.itemsize % 4 == 0
    words = np.ascontiguousarray(x).view(np.uint32 if whole else np.uint16).astype(np.uint32, copy=False)
    found: npt.NDArray[np.uint32] = np.einsum("rw,w->r", words, _factors(words.shape[1]))
    return found


@lru_cache
def _factors(count: int) -> npt.NDArray[np.uint32]:
    return (mix(np.arange(count, dtype=np.uint64)) | np.uint64(1)).astype(np.uint32)


class Blocks:
    """The blocks of one file, and which of them are known to be sound."""

    def __init__(self, stated: bytes) -> None:
        self.stated = stated
        self.known = np.zeros(len(stated) // SUM, dtype=np.bool_)

    def check(self, data: npt.NDArray[np.uint8], start: int, stop: int) -> None:
        """Check the blocks that hold the bytes from ``start`` to ``stop`` of the file, whose content is ``data``.

        Raises:
            ValueError: one is damaged.
        """
        first, last = start // BLOCK, -(-stop // BLOCK)
        if not self.known[first:last].all():
            self._check(data, first + np.flatnonzero(~self.known[first:last]))

    def _check(self, data: npt.NDArray[np.uint8], which: npt.NDArray[np.int64]) -> None:
        view = data.data
        for block in which.tolist():
            found = xxhash.xxh3_64_digest(view[block * BLOCK : (block + 1) * BLOCK])
            if found != self.stated[block * SUM : (block + 1) * SUM]:
                raise ValueError(f"its checksum is another from byte {block * BLOCK:,} on")
            self.known[block] = True

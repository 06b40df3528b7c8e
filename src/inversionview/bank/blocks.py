"""Checksums of a shard's files, block by block: a search checks what it reads, once, and nothing else.

A block is as long as what the kernel maps around a byte that is read, so checking brings next to nothing into memory that the
search would not have brought there itself. Blocks are cut from the whole file, the header of an array belongs to the first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

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

    def check_rows(self, data: npt.NDArray[np.uint8], start: int, width: int, count: int, rows: npt.NDArray[np.int64]) -> None:
        """Check the blocks that hold some ``rows`` of the ``count`` rows, ``width`` bytes each, that begin at ``start``.

        Raises:
            ValueError: one is damaged.
        """
        if self.known[start // BLOCK : -(-(start + count * width) // BLOCK)].all():
            return
        begins = start + rows * width
        first, last = begins // BLOCK, (begins + (width - 1)) // BLOCK
        wanted = np.zeros_like(self.known)
        for step in range(-(-width // BLOCK)):
            wanted[np.minimum(first + step, last)] = True
        wanted[last] = True
        self._check(data, np.flatnonzero(wanted & ~self.known))

    def _check(self, data: npt.NDArray[np.uint8], which: npt.NDArray[np.int64]) -> None:
        view = data.data
        for block in which.tolist():
            found = xxhash.xxh3_64_digest(view[block * BLOCK : (block + 1) * BLOCK])
            if found != self.stated[block * SUM : (block + 1) * SUM]:
                raise ValueError(f"its checksum is another from byte {block * BLOCK:,} on")
            self.known[block] = True

"""One shard of a bank: its arrays, memory-mapped when first used, and checked where they are read.

All that reads a bank gets its numbers from ``Shard``, which compares each block with its checksum before it hands it out for
the first time: a byte that has changed since the shard was written is told, whatever was asked.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.bank.blocks import BLOCK, Blocks, checksums, sums_of
from inversionview.bank.index import Index, planes_of
from inversionview.bank.manifest import Manifest
from inversionview.core.errors import BankError
from inversionview.core.integrity import read_sealed, sealed
from inversionview.core.storage import write_json

CHECKSUMS = "checksums.json"
_MAGIC = b"\x93NUMPY\x01"
"""How an ``.npy`` file of the first version begins; two bytes at 8 tell how long the rest of its header is."""
_FEW = 1 / 8
"""Where more rows of a slice than this share were asked for, all of it is checked at once."""


class Shard:
    """One shard; what it returns is memory-mapped unless it says otherwise.

    Attributes:
        folder: where it lies.
        rows: which rows of the bank it holds.
        manifest: of the bank.
    """

    def __init__(self, folder: Path, rows: range, manifest: Manifest) -> None:
        self.folder, self.rows, self.manifest = folder, rows, manifest
        self._layout = manifest.layout(len(rows))
        self._maps: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[Any], int]] = {}
        self._blocks: dict[str, Blocks] = {}
        self._gathered: Counter[tuple[int, int]] = Counter()
        self._touched: dict[str, npt.NDArray[np.bool_]] = {}
        self._fresh = 0

    def vectors(self, site: int, position: int, stop: int | None = None) -> npt.NDArray[Any]:
        """Return one slice, ``[row, width]``, or its first ``stop`` rows.

        Raises:
            BankError: it is damaged, as of all methods.
        """
        name, number = self.manifest.slots[site]
        return self._part(name, (number, position), slice(stop))

    def gathered(self, site: int, position: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return some rows of a slice, ``[len(rows), width]``, in memory; the others are not read as long as these are few."""
        self._gathered[site, position] += len(rows)
        if self._gathered[site, position] > len(self.rows) * _FEW:
            all_of_it: npt.NDArray[Any] = self.vectors(site, position)
            return all_of_it.take(rows, axis=0)
        name, number = self.manifest.slots[site]
        _, array, offset = self._file(name)
        part = array[number, position]
        self._touch(name, (offset + (number * array.shape[1] + position) * part.nbytes + rows * part.strides[0]) // BLOCK)
        found: npt.NDArray[Any] = part.take(rows, axis=0)
        if (sums_of(found) != self._file("sums")[1][site, position][rows]).any():
            self._part("sums", (site, position))  # one of the two is damaged
            raise self._damaged(name, "the checksum of a vector is another")
        return found

    def index(self, site: int, position: int) -> Index:
        """Return the index of one slice; of its codes and their order what a query looks at is checked then."""
        name, number = self.manifest.slots[site]
        scale, present = self._part("scales", (site, position))
        edges = self._part("edges", (site, position))
        where = {
            "codes": (self.manifest.vectors[name] + "codes", (number, position)),
            "order": ("order", (site, position)),
        }
        codes, order = (self._file(each)[1][at] for each, at in where.values())
        basis = self._part(self.manifest.vectors[name] + "basis", (number, position))

        def check(part: str, start: int, stop: int) -> None:
            self._part(*where[part], slice(start, stop))

        planes = planes_of(self.manifest.widths[site])
        return Index(codes, edges, order, basis, float(scale), int(present), planes, check)

    def places(self, position: int) -> npt.NDArray[np.int32]:
        """Return the index of a named position in each row's tokens, ``[row]``; −1 where a row lacks it."""
        return self._part("places", (position,))

    def hashes(self) -> npt.NDArray[np.uint64]:
        """Return the hash of each row's tokens, ``[row]``."""
        return self._part("hashes", ())

    def mapped(self) -> int:
        """Return how many bytes were read through maps since this was asked last, none twice while it stays mapped."""
        fresh, self._fresh = self._fresh * BLOCK, 0
        return fresh

    def release(self, names: Collection[str] | None = None) -> int:
        """Unmap some arrays, or all; what was checked is not checked again. Return how many bytes stay mapped.

        Another thread may read them meanwhile: what it holds stays mapped until it lets go.
        """
        for name in list(self._maps) if names is None else names:
            self._maps.pop(name, None)
            self._touched.pop(name, None)
        return BLOCK * sum(int(np.count_nonzero(touched)) for touched in list(self._touched.values()))

    def check(self) -> None:
        """Raise ``BankError`` unless all files are there, as long as they should be, and this shard's."""
        for name in self._layout:
            self._file(name)

    def damaged(self) -> list[str]:
        """Read the whole shard; return which of its files are missing or damaged."""
        try:
            self._blocks = self._stated()
        except BankError:
            return [f"{self.folder.name}/{CHECKSUMS}"]
        wrong = [name for name in self._layout if not self._whole(name)]
        self.release()
        return [f"{self.folder.name}/{name}.npy" for name in wrong]

    def _whole(self, name: str) -> bool:
        try:
            self._file(name)
            return checksums(self._path(name)) == self._blocks[name].stated
        except (OSError, BankError):
            return False

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _damaged(self, name: str, why: object) -> BankError:
        return _damaged(self._path(name), why)

    def _part(self, name: str, where: tuple[int, ...], rows: slice = slice(None)) -> npt.NDArray[Any]:
        """Return a part of an array by its first indices, or some items of that, one after the other."""
        data, array, offset = self._file(name)
        part = array[where][rows]
        start = offset + sum(i * stride for i, stride in zip((*where, rows.start or 0), array.strides, strict=False))
        self._touch(name, slice(start // BLOCK, -(-(start + part.nbytes) // BLOCK)))
        try:
            self._blocks[name].check(data, start, start + part.nbytes)
        except ValueError as error:
            raise self._damaged(name, error) from error
        return part

    def _touch(self, name: str, blocks: slice | npt.NDArray[np.int64]) -> None:
        """Note that these blocks of a file are mapped, or about to be: the kernel maps about so much around what is read."""
        touched = self._touched.get(name)
        if touched is None:
            touched = self._touched[name] = np.zeros(len(self._blocks[name].known), dtype=np.bool_)
        own = blocks if isinstance(blocks, slice) else np.unique(blocks)
        self._fresh += int(np.count_nonzero(~touched[own]))
        touched[own] = True

    def _file(self, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any], int]:
        """Return an array's file, the array in it, and where that begins; the header is checked, the array is not."""
        found = self._maps.get(name)
        if found is None:
            if not self._blocks:
                self._blocks = self._stated()
            shape, kind = self._layout[name]
            try:
                with self._path(name).open("rb") as file:
                    data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=np.uint8)
                if -(-len(data) // BLOCK) != len(self._blocks[name].known):
                    raise ValueError(f"it has {len(data):,} bytes")
                self._blocks[name].check(data, 0, 1)
                offset = 10 + int.from_bytes(data[8:10].tobytes(), "little")
                count = int(np.prod(shape, dtype=np.int64))
                if data[:7].tobytes() != _MAGIC or len(data) != offset + count * np.dtype(kind).itemsize:
                    raise ValueError(f"it is no array of {kind} {shape}")
            except (OSError, ValueError) as error:
                raise self._damaged(name, error) from error
            found = self._maps[name] = data, np.frombuffer(data, kind, count, offset).reshape(shape), offset
        return found

    def _stated(self) -> dict[str, Blocks]:
        """Return the blocks of every file, none of them checked yet."""
        path = self.folder / CHECKSUMS
        try:
            stated = read_sealed(path)
            if (stated["bank"], stated["first"]) != (self.manifest.mark, self.rows.start):
                raise ValueError("it is of another bank, or of another part of it")
            sums = {name: bytes.fromhex(stated["files"][name]) for name in self._layout}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, error) from error
        return {name: Blocks(each) for name, each in sums.items()}


def write_checksums(folder: Path, rows: range, manifest: Manifest) -> None:
    """Write the checksums of a shard whose arrays lie in ``folder``.

    Raises:
        OSError, StorageError: there is no room.
    """
    files = {name: checksums(folder / f"{name}.npy").hex() for name in manifest.layout(len(rows))}
    write_json(folder / CHECKSUMS, sealed({"bank": manifest.mark, "first": rows.start, "files": files}))


def _damaged(path: Path, why: object) -> BankError:
    return BankError(
        f"{path} is damaged ({why}): delete the folder {path.parent} and give the command that made the bank again, it "
        "rebuilds only what lacks."
    )

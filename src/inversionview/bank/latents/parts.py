"""One part of the codes of a bank: those of some of its rows at one position, latent by latent, as plain ``.npy`` arrays.

starts.npy   [2 · latents + 1]  where entries begin: of each latent those that fire for sure, then those that may
codes.npy    [entry] fp32, ascending within each of these
rows.npy     [entry] counted from the part's first row; r stands as −1 − r where it is off on the vector as it is stored
moved.npy    [row] by how much what is encoded of each row may be off, for the rounding of stored vectors; −1 where it has none
checksums.json   of every block of these files, see ``bank/blocks.py``; checked as they are read
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from inversionview.bank.blocks import Blocks, checksums
from inversionview.bank.hits import Rows
from inversionview.core.errors import BankError
from inversionview.core.integrity import CHECKSUMS, read_sealed, sealed
from inversionview.core.storage import replacing, write_json
from inversionview.model.dictionaries.firing import Firing

KINDS = {"starts": "<i8", "codes": "<f4", "rows": "<i4", "moved": "<f4"}
"""The arrays of a part, and their types."""


class Entries(NamedTuple):
    """Codes of one latent that are not 0, or may not be."""

    rows: Rows
    """Of the bank."""
    codes: npt.NDArray[np.float32]
    on: npt.NDArray[np.bool_]
    """It fires on the vector as it is stored."""
    sure: npt.NDArray[np.bool_]
    """It fires, and rounding did not decide that."""
    moved: npt.NDArray[np.float32]
    """By how much what is encoded of the row may be off."""


class CodesPart:
    """One part, memory-mapped when it is first used.

    Attributes:
        folder: where it lies.
        rows: which rows of the bank it is of.
        position: at which of the bank's positions, by its number.
    """

    def __init__(self, folder: Path, rows: range, position: int, mark: str) -> None:
        self.folder, self.rows, self.position, self._mark = folder, rows, position, mark
        self._maps: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[Any], int]] = {}
        self._blocks: dict[str, Blocks] = {}

    def write(self, found: list[Firing], moved: npt.NDArray[np.float32], latents: int) -> None:
        """Write it whole.

        Args:
            found: what fires, in batches; rows are counted from the part's first.
            moved: of each row.
            latents: how many the dictionary has.

        Raises:
            StorageError: there is no room.
        """
        which, rows, codes = (
            np.concatenate([getattr(each, name).numpy().astype(kind) for each in found])
            for name, kind in (("latents", "<i8"), ("rows", "<i4"), ("codes", "<f4"))
        )
        on, sure = (np.concatenate([getattr(each, name).numpy() for each in found]) for name in ("on", "sure"))
        key = 2 * which + ~sure
        starts = np.concatenate([[0], np.bincount(key, minlength=2 * latents).cumsum()])
        order = np.argsort((key << 32) | _ascending(codes))
        arrays = {"starts": starts, "codes": codes[order], "rows": np.where(on, rows, -1 - rows)[order], "moved": moved}
        with replacing(self.folder) as folder:
            folder.mkdir()
            for name, kind in KINDS.items():
                np.save(folder / f"{name}.npy", arrays[name].astype(kind, copy=False))
            sums = {name: checksums(folder / f"{name}.npy").hex() for name in KINDS}
            write_json(folder / CHECKSUMS, sealed({"mark": self._mark, "first": self.rows.start, "files": sums}))

    def whole(self) -> bool:
        """Return whether it is there, and all its files are as long as they should be."""
        try:
            for name in KINDS:
                self._file(name)
        except BankError:
            return False
        return True

    def entries(self, latent: int) -> Entries:
        """Return what is kept of a latent.

        Raises:
            BankError: the part is damaged.
        """
        first, middle, last = self._read("starts", 2 * latent, 2 * latent + 3).tolist()
        codes, rows = self._read("codes", first, last), self._read("rows", first, last)
        on = rows >= 0
        own = np.where(on, rows, -1 - rows).astype(np.int64)
        if len(own) and int(own.max()) >= len(self.rows):
            raise self._damaged("rows", "it names rows that are not there")
        moved = self._read("moved", 0, len(self.rows))[own] if len(own) else np.empty(0, np.float32)
        return Entries(self.rows.start + own, codes, on, np.arange(last - first) < middle - first, moved)

    def fired(self, first: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return which of some latents next to one another fire on stored vectors, each as often as it does, and the codes."""
        starts = self._read("starts", 2 * first, 2 * stop + 1)
        which = np.repeat(np.arange(first, stop), np.diff(starts[::2]))
        begin, end = int(starts[0]), int(starts[-1])
        on = self._read("rows", begin, end) >= 0
        return which[on], self._read("codes", begin, end)[on]

    @property
    def size(self) -> int:
        """How many entries it has."""
        return len(self._file("codes")[1])

    @property
    def present(self) -> int:
        """How many of its rows have a vector."""
        return int(np.count_nonzero(self._read("moved", 0, len(self.rows)) >= 0))

    def release(self) -> None:
        """Unmap its files; what was checked is not checked again."""
        self._maps.clear()

    @property
    def open(self) -> bool:
        """Whether any of its files is mapped."""
        return bool(self._maps)

    def _read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        data, array, offset = self._file(name)
        if not 0 <= start <= stop <= len(array):
            raise self._damaged("starts", "it names entries that are not there")
        try:
            self._blocks[name].check(data, offset + start * array.itemsize, offset + stop * array.itemsize)
        except ValueError as error:
            raise self._damaged(name, error) from error
        return array[start:stop]

    def _file(self, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any], int]:
        found = self._maps.get(name)
        if found is None:
            path = self.folder / f"{name}.npy"
            try:
                if not self._blocks:
                    stated = read_sealed(self.folder / CHECKSUMS)
                    if (stated["mark"], stated["first"]) != (self._mark, self.rows.start):
                        raise ValueError("it is of other codes")
                    self._blocks = {each: Blocks(bytes.fromhex(stated["files"][each])) for each in KINDS}
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                data, offset = np.memmap(path, np.uint8, "r"), int(array.offset)
                if array.ndim != 1 or array.dtype != KINDS[name] or len(data) != offset + array.nbytes:
                    raise ValueError(f"it is no list of {KINDS[name]}")
                if name == "moved" and len(array) != len(self.rows):
                    raise ValueError(f"it has {len(array):,} rows")
                self._blocks[name].check(data, 0, offset)
            except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
                raise self._damaged(name, error) from error
            # plain arrays: slices of a memmap cost more than they read
            found = self._maps[name] = np.asarray(data), np.asarray(array), offset
        return found

    def _damaged(self, name: str, why: object) -> BankError:
        return BankError(
            f"{self.folder / name}.npy is damaged ({why}): delete the folder {self.folder}, the next search of a latent makes "
            "it anew."
        )


def _ascending(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return numbers below 2³² that are ordered as these are."""
    bits = values.view("<u4").astype(np.int64)
    return np.where(bits >> 31, 0xFFFFFFFF - bits, bits + 0x80000000)

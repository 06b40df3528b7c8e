"""What is told of every latent over a whole bank: how often it fires, and how far its codes are spread."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inversionview.bank.latents.parts import CodesPart
from inversionview.core.storage import replacing

FILE = "summary.npz"
_TOGETHER = 512
"""Latents that are told of together, at most, and so many codes of each part, about."""
_CODES = 2**22


@dataclass(frozen=True, eq=False)
class LatentSummary:
    """Of each latent."""

    counts: npt.NDArray[np.int64]
    """How often it fires, on vectors as they are stored."""
    spreads: npt.NDArray[np.float32]
    """See ``Statistics.spread``, over all rows of the bank; 0 where it never fires."""
    rows: int
    """How many vectors were encoded: those that are there."""


def read_summary(folder: Path, mark: str, parts: Sequence[CodesPart], latents: int) -> LatentSummary:
    """Return what is kept, or told anew where that is missing or damaged."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as file:
            if str(file["mark"]) != mark or len(file["counts"]) != latents:
                raise ValueError("it is of other codes")
            return LatentSummary(file["counts"], file["spreads"], int(file["rows"]))
    except (OSError, ValueError, KeyError, EOFError, TypeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return summarised(folder, mark, parts, latents)


def summarised(folder: Path, mark: str, parts: Sequence[CodesPart], latents: int) -> LatentSummary:
    """Tell of every latent, and keep that.

    Raises:
        BankError: a part is damaged.
        StorageError: it cannot be written.
    """
    counts, spreads = np.zeros(latents, np.int64), np.zeros(latents, np.float32)
    rows = sum(part.present for part in parts)
    entries = sum(part.size for part in parts)
    step = int(min(_TOGETHER, max(1, _CODES * latents // max(1, entries))))
    for first in range(0, latents, step):
        stop = min(first + step, latents)
        found = [part.fired(first, stop) for part in parts]
        for part in parts:
            part.release()
        which, codes = (np.concatenate(column) for column in zip(*found, strict=True))
        counts[first:stop] = np.bincount(which - first, minlength=stop - first)
        spreads[first:stop] = _spreads(which - first, codes, counts[first:stop], rows)
    with replacing(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, mark=mark, counts=counts, spreads=spreads, rows=rows)
    return LatentSummary(counts, spreads, rows)


def _spreads(
    which: npt.NDArray[np.int64], codes: npt.NDArray[np.float32], counts: npt.NDArray[np.int64], rows: int
) -> npt.NDArray[np.float64]:
    """Return the spread of each latent's codes, as ``spread_of`` tells it of numbers that are 0 where it is off."""
    values = codes[np.lexsort((codes, which))].astype(np.float64)
    begins = counts.cumsum() - counts
    fires = counts > 0

    def ranked(share: float) -> npt.NDArray[np.float64]:
        place = share * (counts[fires] - 1)
        low = place.astype(np.int64)
        high = np.minimum(low + 1, counts[fires] - 1)
        lower, upper = values[begins[fires] + low], values[begins[fires] + high]
        return lower + (upper - lower) * (place - low)

    low, high, least, most = ranked(0.25), ranked(0.75), ranked(0.0), ranked(1.0)
    off = counts[fires] < rows
    whole = np.where(off, most.clip(min=0), most) - np.where(off, least.clip(max=0), least)
    out = np.zeros(len(counts))
    out[fires] = np.where(most == least, np.abs(least), np.where(high > low, high - low, whole))
    return out

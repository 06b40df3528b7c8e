"""Hits in natural text: which are one, how much they mean, and which of them are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from inversionview.bank.hits import Hits
from inversionview.bank.store import ActivationBank
from inversionview.core.information import Bits, clustered_bits
from inversionview.corpora.windows import WindowInputs
from inversionview.preimage.preimage import INSIDE_SHARE, Extent

Rows = npt.NDArray[np.int64]
_BEFORE = 8
"""Tokens up to an occurrence by which hits differ."""
_COMPARED = 2000
"""Hits inside ε among which those that differ are looked for, at most: the nearest."""


@dataclass(frozen=True, eq=False)
class TextHits:
    """What is told of occurrences in natural text."""

    bank: ActivationBank
    windows: WindowInputs
    own: Rows
    """The query's own occurrences: those with its prefix."""

    @property
    def extent(self) -> Extent:
        """How much was searched."""
        return Extent(
            texts=self.windows.about.texts,
            windows=self._count,
            occurrences=len(self.bank),
            context=self.windows.about.context,
            source=self.windows.about.source,
        )

    @property
    def _count(self) -> int:
        """How many windows the bank holds, the last one perhaps in part."""
        return int(self.bank.places.inputs_of(np.array([len(self.bank) - 1]))[0]) + 1

    def bits(self, inside: Hits) -> Bits:
        """Return what hits inside ε mean, those of one window hanging together."""
        of = self.bank.places.inputs_of
        return clustered_bits(np.bincount(of(inside.rows), minlength=len(self._sizes)), self._sizes)

    @cached_property
    def _sizes(self) -> Rows:
        """How many occurrences each window has, the query's own left out."""
        sizes = self.windows.occurrences(np.arange(self._count))
        sizes[-1] -= sizes.sum() - len(self.bank)  # the bank may end within a window
        return sizes - np.bincount(self.bank.places.inputs_of(self.own), minlength=len(sizes))

    def distinct(self, inside: Hits) -> int:
        """Return how many different prefixes hits have."""
        return len(np.unique(self.bank.marks(inside.rows)))

    def shown(self, hits: Hits, per_window: int | None) -> tuple[Hits, Mapping[int, int]]:
        """Return hits to show, and by their rows for how many occurrences each stands.

        Of those with one prefix the first is shown, and of one window at most so many, the nearest.
        """
        _, first, counts = np.unique(self.bank.marks(hits.rows), return_index=True, return_counts=True)
        times = dict(zip(hits.rows[first].tolist(), counts.tolist(), strict=True))
        hits = hits.part(np.sort(first))
        if per_window is not None:
            hits = hits.part(_numbered(self.bank.places.inputs_of(hits.rows)) < per_window)
        return hits, times

    def diverse(self, hits: Hits, epsilon: float, count: int) -> Hits:
        """Return hits of which those inside ε differ most in their last tokens, and the nearest outside.

        The nearest is taken first, then always the one that shares fewest (token, distance from the position) with any that
        was taken before.
        """
        inside = len(hits.within(epsilon))
        outside = len(hits) - inside
        wanted = min(inside, max(round(INSIDE_SHARE * count), count - outside))
        ends = self._ends(hits.rows[: min(inside, _COMPARED)])
        shared, taken = np.zeros(len(ends)), []
        for _ in range(min(wanted, len(ends))):
            chosen = int(np.argmin(shared))
            taken.append(chosen)
            shared = np.maximum(shared, (ends == ends[chosen]).mean(1))
            shared[chosen] = np.inf
        rest = np.arange(inside, inside + count - len(taken))
        return hits.part(np.concatenate([np.sort(np.array(taken, dtype=np.int64)), rest]))

    def _ends(self, rows: Rows) -> Rows:
        """Return the last tokens up to each occurrence, ``[row, token]``; −1 before the first."""
        tokens, at = self.bank.located(rows, self.bank.manifest.positions)
        cells = at - np.arange(_BEFORE)
        return np.where(cells >= 0, np.take_along_axis(tokens, cells.clip(min=0), axis=1), -1)


def _numbered(groups: Rows) -> Rows:
    """Return of each member which of its group it is, counted from 0 in their order."""
    order = np.argsort(groups, kind="stable")
    _, starts, counts = np.unique(groups[order], return_index=True, return_counts=True)
    out = np.empty_like(groups)
    out[order] = np.arange(len(groups)) - np.repeat(starts, counts)
    return out

"""What a search finds: rows of a bank by their distance to one query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Distances = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Hits:
    """Rows of a bank by their distance to one query."""

    rows: Rows
    distances: Distances
    """Ascending."""
    positions: Rows
    """Where each distance is reached: index into the bank's positions."""
    searched: int
    """How many rows were searched: the bank's first so many."""

    def __len__(self) -> int:
        return len(self.rows)

    def within(self, epsilon: float) -> Hits:
        """Return the hits with D ≤ ε."""
        return self.part(slice(int(np.searchsorted(self.distances, np.float32(epsilon), side="right"))))

    def part(self, which: slice | npt.NDArray[Any]) -> Hits:
        """Return some of the hits, by index or mask."""
        return Hits(self.rows[which], self.distances[which], self.positions[which], self.searched)


def once(hits: Hits, seen: npt.NDArray[np.int32]) -> Hits:
    """Return each row once, at its nearest position: the first, as they are sorted by distance. ``seen`` is scratch space."""
    numbers = np.arange(len(hits), dtype=np.int32)
    seen[hits.rows[::-1]] = numbers[::-1]
    first = seen[hits.rows] == numbers
    return hits if first.all() else hits.part(first)

"""How often each move is made: more, what carries a chain further; learnt in the warm-up, then frozen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.markov.kernel import Trial

_FLOOR = 0.3
"""Share of all steps that is spread evenly over the moves, so that none is ever left out."""
_FAR = 4
"""More tokens that change count as so many: where one is put in, all behind it move."""


class Mix:
    """The probabilities of the moves of one level.

    A move's weight is the mean over its tries of √(tokens that changed), 0 where it was refused: the expected jump (Pasarica
    and Gelman 2010), by its root, so that large jumps to and fro do not crowd out the rest; divided by its cost.

    Args:
        moves: how many there are.
        only: the one that is made, in place of all.
        costs: of each.
        joint: the last is made by all chains at once, or by none.
    """

    def __init__(self, moves: int, only: int | None = None, costs: Sequence[float] | None = None, joint: bool = False) -> None:
        self.weights: npt.NDArray[np.float64] = np.full(moves, 1 / moves)
        if only is not None:
            self.weights = np.eye(moves)[only]
        self._only, self._costs, self._joint = only, np.ones(moves) if costs is None else np.array(costs), joint
        self._tried, self._jumped = np.full(moves, 20.0), np.full(moves, 10.0)

    def draw(self, count: int, rng: np.random.Generator) -> Ids:
        """Draw a move for each of ``count`` chains."""
        edges = self.weights.cumsum()[:-1]
        if self._joint:
            last = len(self.weights) - 1
            if rng.random() >= edges[-1]:
                return np.full(count, last, dtype=np.int64)
            edges = edges[:-1] / edges[-1]
        return np.searchsorted(edges, rng.random(count), side="right").astype(np.int64)

    def learn(self, which: Ids, trial: Trial, before: Ids) -> None:
        """Take what a step did into account."""
        if self._only is not None:
            return
        changed = np.sqrt((trial.tokens != before).sum(1).clip(max=_FAR)) * trial.accepted
        self._tried += np.bincount(which, minlength=len(self.weights))
        self._jumped += np.bincount(which, weights=changed, minlength=len(self.weights))
        gain = self._jumped / self._tried / self._costs
        self.weights = _FLOOR / len(gain) + (1 - _FLOOR) * gain / gain.sum()

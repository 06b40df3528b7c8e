"""What a walk has found: every distinct input inside ε, and the nearest of those outside."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.markov.kernel import Trial, keys_of


class Pool:
    """Distinct inputs, measured.

    Args:
        epsilon: what is inside.
        leave_out: an input that does not count, the query.
        nearest: how many of those outside are kept.
    """

    def __init__(self, epsilon: float, leave_out: Ids, nearest: int = 200) -> None:
        self.epsilon, self._nearest = epsilon, nearest
        self._query = set(keys_of(leave_out).tolist())
        self._known = set(self._query)
        self._members: list[Ids] = []
        self.members = 0
        self.measured = 0
        self._taken: set[int] = set()
        self._refused = leave_out[:0], np.empty(0)

    def add(self, trial: Trial) -> tuple[Ids, npt.NDArray[np.float64], Ids]:
        """Take in what was measured; return the new members, their distances and where these are reached."""
        seen = np.flatnonzero(~np.isnan(trial.distance))
        self.measured += len(seen)
        inside = seen[trial.distance[seen] <= self.epsilon]
        self._taken.update(keys_of(trial.tokens[inside[trial.accepted[inside]]]).tolist())
        fresh = [i for i, key in zip(inside, keys_of(trial.tokens[inside]).tolist(), strict=True) if self._new(key)]
        self._members.append(trial.tokens[fresh].astype(np.int32))
        self.members += len(fresh)
        self._keep_nearest(trial, seen[trial.distance[seen] > self.epsilon])
        return trial.tokens[fresh], trial.distance[fresh], trial.position[fresh]

    @property
    def taken(self) -> int:
        """How many distinct members a chain has stood at."""
        return len(self._taken - self._query)

    def _new(self, key: int) -> bool:
        if key in self._known:
            return False
        self._known.add(key)
        return True

    def _keep_nearest(self, trial: Trial, outside: Ids) -> None:
        tokens, distance = self._refused
        worst = distance[-1] if len(distance) == self._nearest else np.inf
        closer = outside[trial.distance[outside] < worst]
        if not len(closer):
            return
        tokens, first = np.unique(np.concatenate([tokens, trial.tokens[closer]]), axis=0, return_index=True)
        distance = np.concatenate([distance, trial.distance[closer]])[first]
        order = np.argsort(distance, kind="stable")[: self._nearest]
        self._refused = tokens[order], distance[order]

    @property
    def inside(self) -> Ids:
        """All members, in the order in which they were found."""
        return np.concatenate([self._refused[0][:0], *self._members]).astype(np.int64)

    @property
    def outside(self) -> Ids:
        """The nearest inputs that are no members, nearest first."""
        return self._refused[0]

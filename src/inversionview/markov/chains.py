"""Replica exchange: columns of chains, one at each ε of a ladder, several at the innermost; neighbours change places.

A column's states at neighbouring thresholds are exchanged whenever the outer one's lies inside the inner one's ε, which leaves
every chain's target as it is. Fresh draws of the outermost, where everything is inside, so come down to the innermost and reach
every piece of the preimage. Columns are independent of one another: what they disagree by is the error of what they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int

from inversionview.core.arrays import Ids
from inversionview.markov.kernel import Kernel, States, Trial
from inversionview.markov.mix import Mix

KEPT_STEPS = 400
"""Steps whose states are kept, at most."""


@dataclass
class Tally:
    """How often each thing was tried and how often it was done."""

    tried: npt.NDArray[np.int64]
    done: npt.NDArray[np.int64]

    @classmethod
    def of(cls, size: int) -> Tally:
        """Return an empty one."""
        return cls(np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64))

    def add(self, which: Ids, done: Bool[np.ndarray, " n"]) -> None:
        """Count."""
        self.tried += np.bincount(which, minlength=len(self.tried))
        self.done += np.bincount(which[done], minlength=len(self.done))

    def rates(self) -> list[float | None]:
        """Return done / tried of each; ``None`` where nothing was tried."""
        return [d / t if t else None for d, t in zip(self.done.tolist(), self.tried.tolist(), strict=True)]


@dataclass
class History:
    """What was seen at every step that was kept."""

    step: list[int] = field(default_factory=list)
    inner: list[Int[np.ndarray, "inner pos"]] = field(default_factory=list)
    """States of the chains at the innermost ε."""
    closer: list[Int[np.ndarray, "rung column"]] = field(default_factory=list)
    """In how many of the steps up to this one, from the one kept before, the outer rungs lay inside the next smaller ε."""
    every: int = 1
    """Steps between two that are kept."""

    def keep(self, step: int, inner: Ids, closer: Bool[np.ndarray, "rung column"], most: int) -> None:
        """Keep a step if it is its turn; of more than ``most`` every other one goes, and fewer are kept from there on."""
        if step % self.every == 1 or self.every == 1:
            self.closer.append(closer.astype(np.int64))
        else:
            self.closer[-1] += closer
        if step % self.every:
            return
        self.step.append(step)
        self.inner.append(inner)
        if len(self.step) == most and most % 2 == 0:
            del self.step[::2], self.inner[::2]
            self.closer = [a + b for a, b in zip(self.closer[::2], self.closer[1::2], strict=True)]
            self.every *= 2


class Chains:
    """The chains of a walk.

    Args:
        kernel: makes their steps.
        epsilons: the ladder, innermost first.
        start: where they start, in the order of ``places``.
        columns: how many columns.
        replicas: chains of a column at the innermost ε.
        rng: what draws.
    """

    def __init__(
        self,
        kernel: Kernel,
        epsilons: Float[np.ndarray, " rung"],
        start: States,
        columns: int,
        replicas: int,
        rng: np.random.Generator,
    ) -> None:
        self.kernel, self.epsilons, self.states, self.rng = kernel, epsilons, start, rng
        self.columns, self.replicas = columns, replicas
        self.rung, self.column = places(columns, replicas, len(epsilons))
        self.place = np.arange(len(self.rung))
        """Place of each state."""
        self.state = np.arange(len(self.rung))
        """State at each place."""
        top = len(epsilons) - 1 if np.isinf(epsilons[-1]) else None
        every, local = len(kernel.moves), kernel.local
        first = Mix(every, kernel.redraw if top == 0 else None, kernel.costs, joint=local < every)
        outer = [Mix(local, kernel.redraw if k == top else None, kernel.costs) for k in range(1, len(epsilons))]
        self.mixes = [first, *outer]
        self.learning = True
        self.moved, self.exchanged = Tally.of(len(kernel.moves)), Tally.of(max(0, len(epsilons) - 1))
        self.steps = 0
        self.record = History()

    def step(self, most: int = KEPT_STEPS) -> Trial:
        """Make one step of every chain and one round of exchanges; return what was tried."""
        rung = self.rung[self.place]
        which = np.empty(len(rung), dtype=np.int64)
        for k, mix in enumerate(self.mixes):
            here = rung == k
            which[here] = mix.draw(int(here.sum()), self.rng)
        if self.kernel.costs is not None:
            which[:] = which[self.state[0]]
        before = self.states.tokens.copy() if self.learning else None
        trial = self.kernel.step(self.states, self.epsilons[rung], which, self.rng)
        if before is not None:
            for k, mix in enumerate(self.mixes):
                here = rung == k
                mix.learn(which[here], Trial(*(part[here] for part in trial)), before[here])
        inner = trial.real & (rung == 0)
        self.moved.add(which[inner], trial.accepted[inner])
        self._exchange()
        self.steps += 1
        closer = self._closer()
        self.record.keep(self.steps, self.states.tokens[self.state[: self.columns * self.replicas]].copy(), closer, most)
        return trial

    def _closer(self) -> Bool[np.ndarray, "rung column"]:
        outer = self.states.distance[self.state[self.columns * self.replicas :]].reshape(-1, self.columns)
        return outer <= self.epsilons[:-1, None]

    def _exchange(self) -> None:
        """Let neighbours change places: even pairs, then odd pairs, which carries states straight up and down."""
        rungs, each = len(self.epsilons), np.arange(self.columns)
        for k in (*range(0, rungs - 1, 2), *range(1, rungs - 1, 2)):
            inner = each * self.replicas + self.rng.integers(self.replicas, size=self.columns) if k == 0 else self._at(k)
            outer = self._at(k + 1)
            done = self.states.distance[self.state[outer]] <= self.epsilons[k]
            self.exchanged.add(np.full(self.columns, k), done)
            a, b = inner[done], outer[done]
            self.state[a], self.state[b] = self.state[b], self.state[a]
            self.place[self.state[a]], self.place[self.state[b]] = a, b

    def _at(self, rung: int) -> Ids:
        """Return the places of an outer rung, one a column."""
        return self.columns * (self.replicas + rung - 1) + np.arange(self.columns)


def places(columns: int, replicas: int, rungs: int) -> tuple[Ids, Ids]:
    """Return the rung and the column of every place: first all of the innermost rung, column by column, then rung by rung."""
    rung = np.concatenate([np.zeros(columns * replicas, dtype=np.int64), np.repeat(np.arange(1, rungs), columns)])
    column = np.concatenate([np.repeat(np.arange(columns), replicas), np.tile(np.arange(columns), rungs - 1)])
    return rung, column


def started(
    columns: int, replicas: int, rungs: Sequence[States], query: States, rng: np.random.Generator, others: int
) -> States:
    """Return where chains start: all of the first columns at the query, the last ``others`` at states of each rung.

    Args:
        columns: how many columns.
        replicas: chains of a column at the innermost ε.
        rungs: for each rung states to draw from.
        query: one state.
        rng: what draws.
        others: columns that do not start at the query.
    """
    rung, column = places(columns, replicas, len(rungs))
    out = query.part(np.zeros(len(rung), dtype=np.int64))
    for k, states in enumerate(rungs):
        here = np.flatnonzero((rung == k) & (column >= columns - others))
        if len(here):
            out.copy_from(states, here, rng.integers(len(states.distance), size=len(here)))
    return out

"""The kernel of a study with one move more: to an input that something else, a decoder, wrote, whose log q of any is known.

What is written ahead is measured, and of it a chain is offered only what lies within its own ε: draws from q(x) · 1[D ≤ ε],
whose constant cancels. The chain goes there by Metropolis and Hastings' independence sampler (Tierney 1994). Any q leaves π as
it is. A poor one is seldom followed, and what it hardly writes only the other moves leave.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from inversionview.core.arrays import Ids
from inversionview.corpora.inputs import Inputs
from inversionview.markov.kernel import Measure, States, StudyKernel, Trial, joined, keys_of

MOVE = "decoder"
"""What the move is called."""
_TRIED = 8
"""So many are written for each chain at most: where fewer lie within ε, some chains are offered nothing."""
_FEWEST, _MOST = 128, 2048
"""Inputs that are written at once: at first, and when many are needed."""


class Writer(Protocol):
    """Writes inputs from a distribution of its own, whatever the chains' states are."""

    def draw(self, count: int, rng: np.random.Generator) -> Ids:
        """Return independent draws, ``[count, pos]``."""
        ...

    def score(self, tokens: Ids) -> Float[np.ndarray, " row"]:
        """Return log q of each row, up to a constant; −∞ for what it cannot write."""
        ...


class IndependentKernel(StudyKernel):
    """See the module's text.

    Args:
        inputs: the study's.
        measure: see ``StudyKernel``.
        writer: what writes.
        remember: log q of so many inputs is kept, as D is.
    """

    def __init__(self, inputs: Inputs, measure: Measure, writer: Writer, remember: int = 1_000_000) -> None:
        super().__init__(inputs, measure, remember)
        self._writer = writer
        self.moves = (*self.moves, MOVE)
        self._ahead = self.begin(np.empty((0, inputs.max_length), dtype=np.int64))
        self._at_once = _FEWEST
        self._scores: dict[int, float] = {}

    def step(
        self, states: States, epsilon: Float[np.ndarray, " chain"], which: Int[np.ndarray, " chain"], rng: np.random.Generator
    ) -> Trial:
        """See ``Kernel.step``."""
        self.aside = None
        trial = super().step(states, epsilon, which, rng)
        chains = np.flatnonzero(which == self.local)
        if len(chains):
            self._offer(states, chains, epsilon, trial, rng)
        return trial

    def elsewhere(self, count: int, epsilon: float, rng: np.random.Generator) -> States | None:
        """See ``Kernel.elsewhere``: of what was written, resampled by π / q."""
        self.aside = None
        found = self._within(count, epsilon, rng)
        if not len(found.distance):
            return None
        weight = found.log_prior - self._log_q(found.tokens)
        weight = np.exp(weight - weight.max())
        return found.part(rng.choice(len(weight), size=count, p=weight / weight.sum()))

    def _offer(
        self, states: States, chains: Ids, epsilon: npt.NDArray[np.float64], trial: Trial, rng: np.random.Generator
    ) -> None:
        """Offer inputs to some chains and let them go there; both are told in ``states`` and ``trial``."""
        mine: list[Ids] = []
        offers: list[States] = []
        for limit in np.unique(epsilon[chains]):
            here = chains[epsilon[chains] == limit]
            offers.append(self._within(len(here), limit, rng))
            mine.append(here[: len(offers[-1].distance)])
        chain, offer = np.concatenate(mine), joined(offers)
        if not len(chain):
            return
        log_q = self._log_q(np.concatenate([states.tokens[chain], offer.tokens]))
        own, other = states.log_prior[chain] - log_q[: len(chain)], offer.log_prior - log_q[len(chain) :]
        taken = -rng.exponential(size=len(chain)) < other - own  # where q of its own is 0 it stays
        real = (offer.tokens != states.tokens[chain]).any(1)
        trial.tokens[chain], trial.distance[chain], trial.position[chain] = offer.tokens, offer.distance, offer.position
        trial.distance[chain[~real]] = np.nan
        trial.real[chain], trial.accepted[chain] = real, real & taken
        states.copy_from(offer, chain[real & taken], real & taken)

    def _within(self, count: int, epsilon: float, rng: np.random.Generator) -> States:
        """Take what was written from where it was left off, up to the ``count``-th within ε; return these, or fewer."""
        found, left = [self._ahead.part(slice(0))], _TRIED * count
        while count and left > 0:
            if not len(self._ahead.distance):
                left -= self._write(left, rng)
            ahead = self._ahead
            inside = np.flatnonzero(ahead.distance[: max(left, 0)] <= epsilon)[:count]
            end = int(inside[-1]) + 1 if len(inside) == count else min(max(left, 0), len(ahead.distance))
            found.append(ahead.part(inside))
            self._ahead, left, count = ahead.part(slice(end, None)), left - end, count - len(inside)
        return joined(found)

    def _write(self, wanted: int, rng: np.random.Generator) -> int:
        """Write more ahead; return how much of it is no input, and left out."""
        drawn = self._writer.draw(self._at_once, rng)
        self._ahead = self.begin(drawn[np.isfinite(self.inputs.log_prior(drawn))])
        nothing = np.zeros(len(self._ahead.distance), dtype=bool)
        told = Trial(self._ahead.tokens, self._ahead.distance, self._ahead.position, ~nothing, nothing)
        self.aside = told if self.aside is None else Trial(*(np.concatenate(p) for p in zip(self.aside, told, strict=True)))
        self._at_once = min(_MOST, max(2 * self._at_once, wanted))
        return len(drawn) - len(self._ahead.distance)

    def _log_q(self, tokens: Ids) -> npt.NDArray[np.float64]:
        """Return log q of each row; what is known is looked up."""
        if len(self._scores) > self._remember:
            self._scores.clear()
        keys = keys_of(tokens).tolist()
        new = {key: row for row, key in enumerate(keys) if key not in self._scores}
        if new:
            scores = self._writer.score(tokens[list(new.values())])
            self._scores.update(zip(new, scores.tolist(), strict=True))
        return np.array([self._scores[key] for key in keys])

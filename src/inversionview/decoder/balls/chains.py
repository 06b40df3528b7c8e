"""One Markov chain for each of many activations: it starts at the input that the activation is of and never leaves its ball.

They step as those of a walk do, ``markov/kernel.py``, but each has an activation of its own. What they visit are draws from
p(x) · 1[D(z_q, x) ≤ ε], with p the distribution of the inputs. Where a decoder is at hand, they leap to what it writes, by
Metropolis and Hastings' independence sampler: so they forget their beginning, and of the decoder nothing is believed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.scope import Distance
from inversionview.corpora.inputs import Inputs
from inversionview.decoder.balls.guide import Guide
from inversionview.markov.kernel import proposed
from inversionview.model.measure import distance_to
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site


class BallChains:
    """Chains that walk at once.

    Args:
        model: the probed model.
        inputs: whose moves they make; they declare some.
        sites: where activations are read.
        epsilons: for each site.
        distance: by which all are measured.
        tokens: where the chains start, ``[chain, pos]``.
        z: for each the activation it stays near, ``[chain, d_model]``.
        site: for each the number of its site.
        rng: what draws.
        guide: what they leap to is written by it.
    """

    def __init__(
        self,
        model: ProbedModel,
        inputs: Inputs,
        sites: Sequence[Site],
        epsilons: Sequence[float],
        distance: Distance,
        tokens: Ids,
        z: Float[Tensor, "chain d_model"],
        site: Int[np.ndarray, " chain"],
        rng: np.random.Generator,
        guide: Guide | None = None,
    ) -> None:
        self.model, self.inputs, self.sites, self.distance, self.rng = model, inputs, sites, distance, rng
        self.tokens, self.z, self.site = tokens.copy(), z, site
        self.limit = np.asarray(epsilons)[site]
        self.log_prior = inputs.log_prior(tokens)
        self.guide, self._log_q = guide, np.full(len(tokens), np.nan)

    def step(self) -> None:
        """Make a step of every chain: propose, and take what the prior does not refuse and the model has inside."""
        which = self.rng.integers(len(self.inputs.moves), size=len(self.tokens))
        made = proposed(self.inputs, self.tokens, self.log_prior, which, self.rng)
        taken = self._inside(made.tokens, made.passed)
        self._move(taken, made.tokens, made.log_prior, np.nan)

    def leap(self) -> None:
        """Let every chain go to what the guide writes for its activation, or stay."""
        assert self.guide is not None
        new = self.guide.draw(self.z, self.site, self.rng)
        log_prior, log_q = self.inputs.log_prior(new), np.full(len(new), np.nan)
        inside = self._inside(new, np.isfinite(log_prior))
        for rows, tokens, known in ((inside & np.isnan(self._log_q), self.tokens, self._log_q), (inside, new, log_q)):
            known[rows] = self.guide.score(tokens[rows], self.z[torch.from_numpy(rows)], self.site[rows])
        better = (log_prior - log_q) - (self.log_prior - self._log_q)  # where its own cannot be written it stays
        self._move(inside & (-self.rng.exponential(size=len(new)) < better), new, log_prior, log_q)

    def _move(
        self,
        taken: npt.NDArray[np.bool_],
        tokens: Ids,
        log_prior: npt.NDArray[np.float64],
        log_q: npt.NDArray[np.float64] | float,
    ) -> None:
        """Go to some of the proposals."""
        self.tokens[taken], self.log_prior[taken] = tokens[taken], log_prior[taken]
        self._log_q[taken] = np.broadcast_to(log_q, len(taken))[taken]

    def _inside(self, new: Ids, passed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which of the proposals that ``passed`` lie inside the balls of their chains."""
        inside = np.zeros(len(new), dtype=bool)
        for number in np.unique(self.site[passed]):
            rows = np.flatnonzero(passed & (self.site == number))
            z = self.z[torch.from_numpy(rows)]
            _, nearest, _ = distance_to(self.model, torch.from_numpy(new[rows]), z, self.sites[number], self.distance)
            inside[rows] = nearest.numpy() <= self.limit[rows]
        return inside

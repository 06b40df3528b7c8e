"""One Markov chain for each of many activations: it starts at the input that the activation is of and never leaves its ball.

They step as those of a walk do, ``markov/kernel.py``, but each has an activation of its own. What they visit are draws from
p(x) · 1[D(z_q, x) ≤ ε], with p the distribution of the inputs.
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
    ) -> None:
        self.model, self.inputs, self.sites, self.distance, self.rng = model, inputs, sites, distance, rng
        self.tokens, self.z, self.site = tokens.copy(), z, site
        self.limit = np.asarray(epsilons)[site]
        self.log_prior = inputs.log_prior(tokens)

    def step(self) -> None:
        """Make a step of every chain: propose, and take what the prior does not refuse and the model has inside."""
        which = self.rng.integers(len(self.inputs.moves), size=len(self.tokens))
        made = proposed(self.inputs, self.tokens, self.log_prior, which, self.rng)
        taken = self._inside(made.tokens, made.passed)
        self.tokens[taken], self.log_prior[taken] = made.tokens[taken], made.log_prior[taken]

    def _inside(self, new: Ids, passed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which of the proposals that ``passed`` lie inside the balls of their chains."""
        inside = np.zeros(len(new), dtype=bool)
        for number in np.unique(self.site[passed]):
            rows = np.flatnonzero(passed & (self.site == number))
            z = self.z[torch.from_numpy(rows)]
            _, nearest, _ = distance_to(self.model, torch.from_numpy(new[rows]), z, self.sites[number], self.distance)
            inside[rows] = nearest.numpy() <= self.limit[rows]
        return inside

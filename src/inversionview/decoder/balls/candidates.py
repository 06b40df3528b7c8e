"""Random inputs with their activations wherever D may be reached, among which the members of many balls are looked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.corpora.inputs import Inputs
from inversionview.model.distances.metric import Metric
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

if TYPE_CHECKING:
    from inversionview.bank.store import ActivationBank

_ROWS = 4096
"""Inputs that are run together."""
_SITES = 4
"""Sites that share a forward pass."""
_PLACES = 2**14
"""Places that are compared together: what stays in a processor's cache runs fastest."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Inputs in random order, and at every site a vector for each of their places.

    Vectors are kept in half precision, as in a bank: D is off by 5e-4 at most.
    """

    tokens: Int[np.ndarray, "row pos"]
    starts: Int[np.ndarray, " row+1"]
    """The places of row r are ``starts[r]`` to ``starts[r + 1]``."""
    owner: Int[np.ndarray, " place"]
    """The row of each place."""
    vectors: tuple[Float[Tensor, "place width"] | None, ...]
    """Of each site, as they are compared; ``None`` of those that were not asked for."""

    def __len__(self) -> int:
        return len(self.tokens)

    def inside(
        self, site: int, points: Float[Tensor, "query width"], limits: Float[Tensor, " query"], rows: slice
    ) -> tuple[Ids, Ids]:
        """Return pairs (query, row) of one site's queries and the rows inside their balls, by query, each pair once.

        Args:
            site: its number.
            points: the queries as they are compared.
            limits: from which inner product with a place, less half of the place's square, that place is inside.
            rows: which rows to look through.
        """
        held = self.vectors[site]
        assert held is not None
        found = []
        for start in range(self.starts[rows.start], self.starts[rows.stop], _PLACES):
            z = held[start : min(start + _PLACES, int(self.starts[rows.stop]))].float()
            score = torch.addmm(z.square().sum(1)[None] / -2, points, z.T)
            near, place = (score >= limits[:, None]).numpy().nonzero()
            found.append(near * len(self) + self.owner[start + place])
        query, row = np.divmod(np.unique(np.concatenate([*found, np.empty(0, dtype=np.int64)])), len(self))
        return query, row


@dataclass(frozen=True, eq=False)
class Ball:
    """How vectors of one site are compared with a query's: D ≤ ε is a bound on an inner product.

    Euclidean: ‖z − z_q‖ ≤ ε ‖z_q‖ ⇔ z_q·z − ‖z‖²/2 ≥ (1 − ε²) ‖z_q‖²/2. The cosine is the same of unit vectors, within √(2ε).
    """

    metric: Metric
    epsilon: float
    size: int
    """Numbers of a vector as it is kept."""
    frame: Float[Tensor, "width d_model"] | None = None
    """Of heads: vectors are kept in fewer numbers."""

    @property
    def width(self) -> int:
        """How many numbers a vector has as it is compared."""
        return self.size if self.metric.matrix is None else self.metric.matrix.size(1)

    def vectors(self, z: Float[Tensor, "place width"]) -> Float[Tensor, "place out"]:
        """Return vectors as they are compared; those of heads may have d_model or d_head numbers."""
        z = z.float()
        if self.frame is not None and z.size(-1) == self.frame.size(1) != self.frame.size(0):
            z = z @ self.frame.T
        z = self.metric.mapped(z[..., : self.size])
        return torch.nn.functional.normalize(z, dim=-1, eps=1e-30) if self.metric.cosine else z

    def limits(self, points: Float[Tensor, "query out"]) -> Float[Tensor, " query"]:
        """Return the bound for each query."""
        half = points.square().sum(1) / 2
        if self.metric.cosine:
            return half - self.epsilon
        return half - (self.epsilon * self.metric.lengths(points)).square() / 2


def drawn_candidates(
    model: ProbedModel,
    inputs: Inputs,
    sites: Sequence[Site],
    balls: Sequence[Ball],
    rows: int,
    seed: Sequence[int],
    asked: npt.NDArray[np.bool_],
) -> Candidates:
    """Draw inputs of the train split and run them through the model: their places are all positions where D may be reached.

    Of inputs that have an end none is drawn twice: where there are no more than ``rows``, these are all.
    """
    if inputs.redrawn:
        tokens = inputs.draw(rows, split="train", seed=seed, fresh=True)
    else:
        tokens = inputs.tokens(np.random.default_rng(list(seed)).permutation(inputs.split("train"))[:rows])
    there = model.candidates(torch.from_numpy(tokens))
    every = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    found: list[Tensor | None] = [None] * len(sites)
    numbers = [number for number, wanted in enumerate(asked) if wanted]
    for some in (numbers[i : i + _SITES] for i in range(0, len(numbers), _SITES)):
        parts: dict[int, list[Tensor]] = {number: [] for number in some}
        for start in range(0, len(tokens), _ROWS):
            part = slice(start, start + _ROWS)
            z = model.harvest_compact(tokens[part], [sites[number] for number in some], np.ascontiguousarray(every[part]))
            for number, one in zip(some, z, strict=True):
                parts[number].append(balls[number].vectors(one[there[part]].cpu()).half())
        for number in some:
            found[number] = torch.cat(parts[number])
    return _candidates(tokens, there.numpy(), found)


def banked_candidates(
    bank: ActivationBank,
    sites: Sequence[Site],
    balls: Sequence[Ball],
    rows: npt.NDArray[np.int64],
    asked: npt.NDArray[np.bool_],
) -> Candidates:
    """Return rows of a bank: their places are the bank's named positions, where they have them."""
    tokens, names = bank.tokens(rows), bank.manifest.positions
    named = bank.inputs.named_positions(tokens)
    there = np.stack([named[name] for name in names], axis=1) >= 0
    found: list[Tensor | None] = [None] * len(sites)
    for number, (site, ball) in enumerate(zip(sites, balls, strict=True)):
        if asked[number]:
            z = torch.stack([bank.activations(site, name, rows) for name in names], dim=1)
            found[number] = ball.vectors(z[torch.from_numpy(there)]).half()
    return _candidates(tokens, there, found)


def _candidates(tokens: Ids, there: npt.NDArray[np.bool_], vectors: Sequence[Tensor | None]) -> Candidates:
    starts = np.concatenate([[0], there.sum(1).cumsum()])
    return Candidates(tokens, starts, np.repeat(np.arange(len(tokens)), there.sum(1)), tuple(vectors))

"""Distances of stored vectors from queries, and how hits are sorted: what a search does once most is ruled out."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.model.distances.metric import Metric

AT_ONCE = 2**18
"""Numbers of vectors measured together: more would not stay in a processor's cache."""
_NEAR = 2.0**-6
"""A cosine distance below this is taken from the difference of the unit vectors, one above it from their product."""


class Ruler:
    """Measures rows against queries; as ``model/distances`` defines it, with fewer numbers written.

    Attributes:
        metric: the distance.
        points: the queries as they are compared: mapped, and of the cosine their directions.
        mapped: the queries, mapped.
        lengths: of these.
    """

    def __init__(self, metric: Metric, queries: Float[Tensor, "query width"]) -> None:
        self.metric, self.mapped = metric, metric.mapped(queries)
        self.lengths = metric.lengths(self.mapped)
        self.points = torch.nn.functional.normalize(self.mapped, dim=-1, eps=1e-30) if metric.cosine else self.mapped

    def of_one(self, query: int, x: npt.NDArray[np.floating]) -> Float[Tensor, " row"]:
        """Return the distance of each row, as it is stored, from one query.

        Of vectors in fp16 the cosine is a product where it is far from 1: that is off by some 1e-7, rounding to fp16 by 1e-4.
        """
        z = self._mapped(x)
        if not self.metric.cosine or x.dtype != np.float16:
            return self._between(z, self.points[query], self.lengths[query])
        lengths = torch.linalg.vector_norm(z, dim=1).clamp_(min=1e-30)
        own = float(self.points[query].any()) / 2  # half the squared length of the query's unit vector, which may be 0
        found = (z @ self.points[query]).div_(lengths).neg_().add_(0.5 + own)
        found[lengths <= 1e-30] = own
        near = (found < _NEAR).nonzero()[:, 0]
        if len(near):
            found[near] = self._between(z[near], self.points[query], self.lengths[query])
        return found

    def of_pairs(self, which: npt.NDArray[np.int64], x: npt.NDArray[np.floating]) -> Float[Tensor, " row"]:
        """Return the distance of each row, as it is stored, from its query."""
        own = torch.from_numpy(which)
        return self._between(self._mapped(x), self.points[own], self.lengths[own])

    def blur(self, which: npt.NDArray[np.int64], x: npt.NDArray[np.floating], epsilon: float) -> Float[Tensor, " row"]:
        """Return by how much the distance of each row from its query may be off near ε for the rounding of stored vectors."""
        z = torch.from_numpy(x).float()
        off = self.metric.moved(z, rounding(x.dtype))
        if self.metric.cosine:
            return blurred(off / self.metric.mapped(z).norm(dim=-1).clamp(min=1e-30), epsilon)
        return off / self.lengths[torch.from_numpy(which)].clamp(min=1e-30)

    def _mapped(self, x: npt.NDArray[np.floating]) -> Float[Tensor, "row width"]:
        return self.metric.mapped(torch.from_numpy(x).float())

    def _between(self, z: Tensor, points: Tensor, lengths: Tensor) -> Float[Tensor, " row"]:
        if self.metric.cosine:
            z = z.div(torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_(min=1e-30))
            return torch.linalg.vector_norm(z.sub_(points), dim=1).square_().div_(2)
        gap = torch.linalg.vector_norm(z - points, dim=1)
        return torch.where(gap == 0, gap, gap / lengths)


def rounding(kind: npt.DTypeLike) -> float:
    """Return by what share of itself a stored number is off; in fp32 what is left is the order of sums in the forward pass."""
    return 2.0**-11 if np.dtype(kind) == np.float16 else 1e-5


Off = TypeVar("Off", float, Tensor)


def blurred(off: Off, epsilon: float) -> Off:
    """Return by how much a cosine distance near ε moves where a vector moves by this share of its length.

    Its unit vector moves by twice that at most, u, which moves ½‖ẑ − ẑ_q‖² by u·√(2ε) + ½u².
    """
    return 2 * off * (2 * epsilon) ** 0.5 + 2 * off**2


def by_distance(distances: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the order of distances, equal ones as they come: none is below 0, so that their bits rise as they do."""
    if len(distances) < 1000:
        return np.argsort(distances, kind="stable")
    keys = (distances + 0.0).view(np.uint32).astype(np.uint64) << np.uint64(32)  # + 0: −0 is 0
    keys |= np.arange(len(distances), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(2**32 - 1)).astype(np.int64)

"""Distances of stored vectors from queries, and how hits are sorted: what a search does once most is ruled out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.core.scope import Distance, check_distance

AT_ONCE = 2**18
"""Numbers of vectors measured together: more would not stay in a processor's cache."""
_NEAR = 2.0**-6
"""A cosine distance below this is taken from the difference of the unit vectors, one above it from their product."""


class Ruler:
    """Measures rows against queries; as ``model/distances.py`` defines it, with fewer numbers written."""

    def __init__(self, distance: Distance, queries: Float[Tensor, "query width"]) -> None:
        self.cosine = check_distance(distance) == "cosine"
        self.lengths = queries.norm(dim=-1)
        self.points = torch.nn.functional.normalize(queries, dim=-1, eps=1e-30) if self.cosine else queries

    def of_one(self, query: int, x: npt.NDArray[np.floating]) -> Float[Tensor, " row"]:
        """Return the distance of each row, as it is stored, from one query.

        Of vectors in fp16 the cosine is a product where it is far from 1: that is off by some 1e-7, rounding to fp16 by 1e-4.
        """
        z = torch.from_numpy(x).float()
        if not self.cosine or x.dtype != np.float16:
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
        return self._between(torch.from_numpy(x).float(), self.points[own], self.lengths[own])

    def _between(self, z: Tensor, points: Tensor, lengths: Tensor) -> Float[Tensor, " row"]:
        if self.cosine:
            z = z.div(torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_(min=1e-30))
            return torch.linalg.vector_norm(z.sub_(points), dim=1).square_().div_(2)
        gap = torch.linalg.vector_norm(z - points, dim=1)
        return torch.where(gap == 0, gap, gap / lengths)


def by_distance(distances: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the order of distances, equal ones as they come: none is below 0, so that their bits rise as they do."""
    if len(distances) < 1000:
        return np.argsort(distances, kind="stable")
    keys = (distances + 0.0).view(np.uint32).astype(np.uint64) << np.uint64(32)  # + 0: −0 is 0
    keys |= np.arange(len(distances), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(2**32 - 1)).astype(np.int64)

"""Counting: how many occurrences lie inside ε of each query at each site, and how many of them share a feature's value with it.

Hits are a bit for each (site, query, occurrence), and so is what agrees, for each (feature, query, occurrence); their common
bits are counted, so a site with half of all occurrences inside costs no more than one with ten.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.corpora.places import Marks
from inversionview.model.distances.metric import Metric

Codes = Int[np.ndarray, "feature occurrence"]
Words = npt.NDArray[np.uint64]


class HitCounts:
    """The counts of a census; blocks of occurrences are added to it in any order.

    Attributes:
        inside: how many occurrences lie inside ε, ``[site, query]``; after the sites come the features, taken for sites whose
            preimage is all that has the query's value.
        agreeing: how many of these have the query's value, ``[site, query, feature]``.
        allowed: how many occurrences each query was compared with: all but its own and those with the same prefix, ``[query]``.
    """

    def __init__(
        self,
        z: Sequence[Float[Tensor, "query width"]],
        codes: Int[np.ndarray, "feature query"],
        marks: Marks,
        epsilon: float,
        metrics: Sequence[Metric],
    ) -> None:
        """Begin a census.

        Args:
            z: the queries' activations at each site.
            codes: their values.
            marks: of their prefixes, by which they know themselves.
            epsilon: what is inside.
            metrics: the distance at each site.
        """
        self.metrics = metrics
        self.z = [self._mapped(site, each) for site, each in enumerate(z)]
        half = [each.square().sum(1) / 2 for each in self.z]
        self.bars = [
            h - epsilon if metric.cosine else h - (epsilon * metric.lengths(x)).square() / 2
            for h, metric, x in zip(half, metrics, self.z, strict=True)
        ]
        self.marks, self.codes = marks, codes
        features, queries = codes.shape
        self.inside = np.zeros((len(z) + features, queries), dtype=np.int64)
        self.agreeing = np.zeros((len(z) + features, queries, features), dtype=np.int64)
        self.allowed = np.zeros(queries, dtype=np.int64)

    def _mapped(self, site: int, z: Tensor) -> Tensor:
        """Return vectors as they are compared; of the cosine their directions."""
        metric = self.metrics[site]
        x = metric.mapped(z)
        return torch.nn.functional.normalize(x, dim=-1, eps=1e-30) if metric.cosine else x

    def add(self, z: Sequence[Float[Tensor, "occurrence width"]], marks: Marks, codes: Codes) -> None:
        """Count a block of occurrences: their activations at each site, marks and values."""
        allowed = packed(self.marks[:, None] != marks)
        agree = packed(self.codes.T[:, :, None] == codes)  # [query, feature, word]
        hits = np.stack([*(packed(self.near(i, each)) for i, each in enumerate(z)), *agree.swapaxes(0, 1)])
        hits &= allowed
        self.inside += np.bitwise_count(hits).sum(-1, dtype=np.int64)
        self.allowed += np.bitwise_count(allowed).sum(-1, dtype=np.int64)
        for query, own in enumerate(agree):
            both = hits[:, query, None] & own
            self.agreeing[:, query] += np.bitwise_count(both).sum(-1, dtype=np.int64)

    def near(self, site: int, z: Float[Tensor, "occurrence width"]) -> Bool[np.ndarray, "query occurrence"]:
        """Return which occurrences lie inside ε of which queries.

        ½‖z − z_q‖² ≤ b is z·z_q − ½‖z‖² ≥ ½‖z_q‖² − b: of unit vectors with b = ε, which is the cosine distance, else with
        b = ½ε²‖z_q‖². So one product of matrices decides.
        """
        x = self._mapped(site, z)
        score = torch.addmm(x.square().sum(1)[None], self.z[site], x.T, beta=-0.5)
        found: Bool[np.ndarray, "query occurrence"] = (score >= self.bars[site][:, None]).numpy()
        return found


def packed(bits: npt.NDArray[np.bool_]) -> Words:
    """Return bits along the last axis as words of 64, the last one filled up with zeros."""
    room = -bits.shape[-1] % 64
    words = np.packbits(bits, axis=-1)
    whole = np.zeros((*bits.shape[:-1], (bits.shape[-1] + room) // 8), dtype=np.uint8)
    whole[..., : words.shape[-1]] = words
    return whole.view(np.uint64)

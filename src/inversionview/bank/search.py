"""Exact search of a bank: all rows within a radius of a query activation, and the k nearest, for many queries in one pass.

The index rules out most rows; the others are measured on the stored vectors. A row so near ε that the rounding of the stored
vectors could decide is run through the probed model again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview import distances
from inversionview.bank.index import survivors
from inversionview.bank.store import ActivationBank, Shard
from inversionview.errors import BankError
from inversionview.sites import Site

_PAIRS = 2**16
"""(query, row) pairs measured together."""
_HITS = 4_000_000
"""Hits of one batch of queries, by estimate."""


@dataclass(frozen=True, eq=False)
class Hits:
    """Rows of a bank by their distance to one query."""

    rows: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float32]
    """Ascending."""
    positions: npt.NDArray[np.int64]
    """Where each distance is reached: index into the bank's positions."""

    def __len__(self) -> int:
        return len(self.rows)

    def within(self, epsilon: float) -> Hits:
        """Return the hits with D ≤ ε."""
        return self.part(slice(int(np.searchsorted(self.distances, np.float32(epsilon), side="right"))))

    def part(self, which: slice | npt.NDArray[Any]) -> Hits:
        """Return some of the hits, by index or mask."""
        return Hits(self.rows[which], self.distances[which], self.positions[which])


def search(
    bank: ActivationBank,
    site: str | Site,
    z: Float[Tensor, "query d_model"],
    *,
    epsilon: float,
    distance: distances.Distance = "euclidean",
    at: str | Sequence[str] | None = None,
    k: int = 0,
) -> Iterator[Hits]:
    """Yield for each query activation all rows with D ≤ ε and, if these are fewer than ``k``, the ``k`` nearest.

    Args:
        bank: what to search.
        site: the site of the queries.
        z: query activations.
        epsilon: threshold.
        distance: which distance.
        at: named positions at which rows are compared; D is the minimum over them. ``None``: over all of the bank's.
        k: how many rows each query gets at least.

    Raises:
        SettingError: ε or the distance is none.
        UnknownSiteError, UnknownPositionError: the bank does not hold them.
        BankError: a shard is damaged.
    """
    distances.check_epsilon(epsilon)
    scope = _Scope(bank, bank.site_number(site), bank.position_numbers(at), distance)
    queries, inverse = torch.unique(z.float().cpu(), dim=0, return_inverse=True)
    found: dict[int, Hits] = {}
    last_use = {int(u): i for i, u in enumerate(inverse)}
    for i, u in enumerate(inverse.tolist()):
        if u not in found:
            wanted = list(dict.fromkeys(v for v in inverse[i:].tolist() if v not in found))
            batch = scope.batch(queries[wanted], epsilon, k)
            found |= zip(wanted, scope.resolve(queries[wanted[:batch]], epsilon, k), strict=False)
        yield found[u]
        if last_use[u] == i:
            del found[u]


class _Scope:
    """What is searched: a site of a bank at some of its positions, by one distance."""

    def __init__(self, bank: ActivationBank, site: int, positions: list[int], distance: distances.Distance) -> None:
        self.bank, self.site, self.positions, self.distance = bank, site, positions, distance
        distances.between(distance, torch.ones(1, 1), torch.ones(1, 1))  # raises if there is no such distance
        self.indexed = bank.manifest.distance == distance

    def batch(self, queries: Tensor, epsilon: float, k: int) -> int:
        """Return how many of the queries to search together, by a sample's estimate of their hits."""
        share = (self._sample(queries[:2048], rows=512) <= epsilon).float().mean(1)
        expected = (share * len(self.bank) + max(k, 1000)).cumsum(0)
        return max(1, int((expected <= _HITS).sum()))

    def resolve(self, queries: Tensor, epsilon: float, k: int) -> list[Hits]:
        """Return all rows within ε and the k nearest, what is near ε decided by the model itself."""
        tolerance = self.tolerance(epsilon)
        radius = torch.full((len(queries),), epsilon + tolerance)
        k = min(k, len(self.bank))
        if k:
            radius = torch.maximum(radius, self._reach(queries, k))
        hits = self.within(queries, radius)
        short = [i for i, h in enumerate(hits) if len(h) < k]
        while short:
            radius[short] = torch.where(radius[short] > 1e3, torch.inf, radius[short] * 2)
            for i, more in zip(short, self.within(queries[short], radius[short]), strict=True):
                hits[i] = more
            short = [i for i in short if len(hits[i]) < k and radius[i] < torch.inf]
        return [_cut(h, epsilon, k) for h in self._verified(queries, hits, epsilon, tolerance)]

    def tolerance(self, epsilon: float) -> float:
        """Return by how much D near ε may be off for the rounding of stored vectors.

        A vector rounded to relative u lies within u·‖z‖ of itself, and ‖z‖ ≤ (1 + ε)·‖z_q‖ there; a unit vector within 2u,
        which moves ½‖ẑ − ẑ_q‖² by 2u·√(2ε) + 2u². In fp32 what is left is the order of sums in the forward pass.
        """
        u = 2.0**-11 if self.bank.manifest.precision == "float16" else 1e-5
        return u * (1 + epsilon) * 1.01 if self.distance == "euclidean" else 2 * u * (2 * epsilon) ** 0.5 + 2 * u**2

    def within(self, queries: Tensor, radius: Float[Tensor, " query"]) -> list[Hits]:
        """Return for each query the rows with a stored distance up to its radius."""
        parts = [
            (which, rows + shard.rows.start, near, np.full(len(rows), p))
            for shard in self.bank.shards
            for p in self.positions
            for which, rows, near in self._slice(shard, p, queries, radius)
        ]
        if not parts:
            return [Hits(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
        which, rows, near, place = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((near, which))
        which, found = which[order], Hits(rows[order], near[order], place[order])
        cuts = np.searchsorted(which, np.arange(len(queries) + 1))
        return [_once(found.part(slice(*cut))) for cut in pairwise(cuts)]

    def _slice(
        self, shard: Shard, position: int, queries: Tensor, radius: Tensor
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Yield (query, row of the shard, distance) of one slice."""
        vectors, touched = shard.array("activations")[self.site, position], 0
        for which, rows in self._pairs(shard, position, queries, radius):
            touched += 2**16 * len(rows)  # the kernel maps so much around each row that is read
            for start in range(0, len(which), _PAIRS):
                w, r = which[start : start + _PAIRS], rows[start : start + _PAIRS]
                x = torch.from_numpy(vectors[r]).float()
                d = distances.between(self.distance, queries[w], x).numpy()
                if np.isnan(d).any():
                    raise BankError(f"{shard.folder} holds NaN activations: delete that folder and build the bank again.")
                near = d <= radius[w].numpy()
                yield w[near], r[near], d[near]
        self.bank.visit(min(touched, vectors.nbytes) + 20 * len(vectors))

    def _pairs(
        self, shard: Shard, position: int, queries: Tensor, radius: Tensor
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        if self.indexed:
            unit, reach = queries, radius * queries.norm(dim=-1)
            if self.distance == "cosine":
                unit, reach = torch.nn.functional.normalize(queries, dim=-1, eps=1e-30), (2 * radius).sqrt()
            yield from survivors(shard.index(self.site, position), unit, reach.nan_to_num(0.0, posinf=torch.inf))
            return
        present = np.flatnonzero(shard.array("places")[position] >= 0)
        for query in range(len(queries)):
            yield np.full(len(present), query), present

    def _sample(self, queries: Tensor, rows: int = 4096) -> Float[Tensor, "query row"]:
        """Return distances to the first rows of the bank, roughly: a random sample, the corpus being in random order."""
        nearest = torch.full((len(queries), 1), torch.inf)
        shard, scale = self.bank.shards[0], queries.norm(dim=-1, keepdim=True)
        for p in self.positions:
            there = torch.from_numpy(shard.array("places")[p, :rows] >= 0)
            x = torch.from_numpy(shard.array("activations")[self.site, p, :rows]).float()
            if self.distance == "euclidean":
                d = torch.cdist(queries, x) / scale
            else:
                d = 1 - torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(x).T
            nearest = torch.minimum(nearest, d.nan_to_num(0.0).masked_fill(~there, torch.inf))
        return nearest

    def _reach(self, queries: Tensor, k: int) -> Float[Tensor, " query"]:
        """Return a radius in which about twice ``k`` rows lie, by a sample."""
        sample = self._sample(queries)
        rank = min(sample.size(1), 2 * k * sample.size(1) // len(self.bank) + 2)
        return sample.kthvalue(rank, dim=1).values

    def _verified(self, queries: Tensor, hits: list[Hits], epsilon: float, tolerance: float) -> list[Hits]:
        """Measure again, in the model, every hit so near ε that rounding could decide."""
        unsure = [np.abs(h.distances - epsilon) <= tolerance for h in hits]
        rows, inverse = np.unique(np.concatenate([h.rows[u] for h, u in zip(hits, unsure, strict=True)]), return_inverse=True)
        if not len(rows):
            return hits
        which = np.repeat(np.arange(len(hits)), [int(u.sum()) for u in unsure])
        exact, place = self._measure(queries[which], rows, inverse)
        out, start = [], 0
        for h, u in zip(hits, unsure, strict=True):
            stop = start + int(u.sum())
            d, p = h.distances.copy(), h.positions.copy()
            d[u], p[u] = exact[start:stop], place[start:stop]
            out.append(Hits(h.rows, d, p).part(np.argsort(d, kind="stable")))
            start = stop
        return out

    def _measure(
        self, queries: Tensor, rows: npt.NDArray[np.int64], inverse: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Run ``rows`` through the model; return D of pairs (query, ``rows[inverse]``) and the position where it is reached."""
        bank, names = self.bank, [self.bank.manifest.positions[p] for p in self.positions]
        exact, place = np.empty(len(inverse), dtype=np.float32), np.empty(len(inverse), dtype=np.int64)
        order = np.argsort(inverse, kind="stable")
        for start in range(0, len(rows), 8192):
            tokens = bank.tokens(rows[start : start + 8192])
            named = bank.inputs.named_positions(tokens)
            at = np.stack([named[name] for name in names], axis=1)
            z = bank.model.harvest(tokens, [bank.sites[self.site]], at.clip(min=0))[0]  # (row, position, d_model)
            a, b = np.searchsorted(inverse[order], [start, start + len(tokens)])
            for part in np.array_split(order[a:b], max(1, (b - a) // _PAIRS)):
                own = torch.from_numpy(inverse[part] - start)
                d = distances.between(self.distance, queries[part, None], z[own])
                lowest = d.masked_fill(torch.from_numpy(at < 0)[own], torch.inf).min(1)
                exact[part] = lowest.values.numpy()
                place[part] = np.array(self.positions)[lowest.indices.numpy()]
        return exact, place


def _once(hits: Hits) -> Hits:
    """Return each row once, at its nearest position; they are sorted by distance already."""
    _, first = np.unique(hits.rows, return_index=True)
    return hits if len(first) == len(hits) else hits.part(np.sort(first))


def _cut(hits: Hits, epsilon: float, k: int) -> Hits:
    return hits.part(slice(max(len(hits.within(epsilon)), min(k, len(hits)))))

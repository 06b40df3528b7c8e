"""Exact search of a bank: all rows within a radius of a query activation, and the k nearest, for many queries in one pass.

The index rules out most rows; the others are measured on the stored vectors. A row so near ε that the rounding of the stored
vectors could decide is run through the probed model again. Statistics over many queries may do without that (rounding to fp16
moves D by 5e-4 at most, and a share of inputs by next to nothing), and may measure a large preimage on a part of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.bank.hits import Distances, Hits, Rows, once
from inversionview.bank.latents.codes import served
from inversionview.bank.latents.search import LatentScope, doubt_at, search_latent
from inversionview.bank.measure import AT_ONCE, Ruler, blurred, by_distance, rounding
from inversionview.bank.scan import FEW, survivors
from inversionview.bank.shards import Shard
from inversionview.bank.store import ActivationBank
from inversionview.bank.threads import each
from inversionview.core.errors import BankError
from inversionview.core.scope import Distance, check_epsilon
from inversionview.model.sites.site import Site

_DEVIATIONS = 5
"""Of rounding under a matrix, so many standard deviations are allowed for."""
_PAIRS = 2**16
"""(query, row) pairs measured together."""
_SMALL = 2**19
"""Few queries are measured against all of so small a slice, by its numbers, sooner than the index is looked at."""
_HITS = 4_000_000
"""Hits of one batch of queries, by estimate."""


class Proposer(Protocol):
    """An approximate index, which proposes rows."""

    def propose(self, queries: Float[Tensor, "query d_model"]) -> tuple[Rows, Rows]:
        """Return pairs (query, row of the bank) that seem near, by row."""
        ...


def search(
    bank: ActivationBank,
    site: str | Site,
    z: Float[Tensor, "query d_model"],
    *,
    epsilon: float,
    distance: Distance = "euclidean",
    at: str | Sequence[str] | None = None,
    k: int = 0,
    verify: bool = True,
    enough: int | None = None,
    first: int | None = None,
    proposals: Mapping[int, Proposer] | None = None,
    allowed: npt.NDArray[np.bool_] | None = None,
) -> Iterator[Hits]:
    """Yield for each query activation all rows with D ≤ ε and, if these are fewer than ``k``, the ``k`` nearest.

    A latent whose own codes the bank does not hold is searched by ``bank.latents``, which ``enough`` and ``proposals`` save
    nothing.

    Args:
        bank: what to search.
        site: the site of the queries.
        z: query activations.
        epsilon: threshold.
        distance: which distance.
        at: named positions at which rows are compared; D is the minimum over them. ``None``: over all of the bank's.
        k: how many rows each query gets at least.
        verify: measure again, in the model, what is so near ε that rounding could decide.
        enough: a query with more hits than so many is searched in about as many of the bank's rows as hold that number.
        first: search only so many of the bank's rows, its first, a random sample.
        proposals: for each position an approximate index that names the rows to measure, in place of the exact one.
        allowed: which of the bank's rows may be hits, ``[row]``; ``None``: all.

    Raises:
        SettingError: ε or the distance is none.
        UnknownSiteError, UnknownPositionError: the bank does not hold them.
        BankError: a shard is damaged.
    """
    check_epsilon(epsilon)
    size = len(bank) if first is None else min(first, len(bank))
    if served(bank, where := Site.parse(site)):
        within = LatentScope(epsilon, distance, bank.position_numbers(at), k, verify, size, allowed)
        yield from search_latent(bank, where, z, within)
        return
    numbers = bank.site_number(site), bank.position_numbers(at)
    scope = _Scope(bank, *numbers, distance, epsilon, k, verify, proposals or {}, allowed, size)
    queries, inverse = torch.unique(bank.compacted(numbers[0], z), dim=0, return_inverse=True)
    last_use = {int(u): i for i, u in enumerate(inverse)}
    waiting, found = list(dict.fromkeys(inverse.tolist())), dict[int, Hits]()
    for i, u in enumerate(inverse.tolist()):
        if u not in found:
            limits, count = scope.plan(queries[waiting], enough)
            batch, waiting = waiting[:count], waiting[count:]
            found |= zip(batch, scope.resolve(queries[batch], limits[:count]), strict=True)
        yield found[u] if last_use[u] > i else found.pop(u)


class _Scope:
    """What is searched: a site of a bank at some of its positions, by one distance, for one ε and k."""

    def __init__(
        self,
        bank: ActivationBank,
        site: int,
        positions: list[int],
        distance: Distance,
        epsilon: float,
        k: int,
        verify: bool,
        proposals: Mapping[int, Proposer],
        allowed: npt.NDArray[np.bool_] | None,
        size: int,
    ) -> None:
        self.size, self.proposals, self.allowed = size, proposals, allowed
        self.bank, self.site, self.positions, self.distance = bank, site, positions, distance
        self.epsilon, self.k = epsilon, min(k, size if allowed is None else int(allowed[:size].sum()))
        self.metric = bank.model.metric(distance, bank.sites[site])
        self.indexed = bank.serves(distance, site)
        self.verify = verify
        self.tolerance = self._tolerance() if verify and self.metric.elementwise else 0.0

    def _tolerance(self) -> float:
        """Return by how much D near ε may be off for the rounding of stored vectors, where each number is mapped by itself.

        A vector rounded to relative u lies within u·‖z‖ of itself, and ‖z‖ ≤ (1 + ε)·‖z_q‖ there. Under other maps the rounding
        weighs more in some rows than in others, see ``Ruler.blur``.
        """
        u = rounding(self.bank.manifest.precision)
        return blurred(u, self.epsilon) if self.metric.cosine else u * (1 + self.epsilon) * 1.01

    def plan(self, queries: Tensor, enough: int | None) -> tuple[Rows, int]:
        """Return how many rows to search for each query, and how many queries to search together; by a sample."""
        if len(queries) == 1 and enough is None:
            return np.full(1, self.size), 1
        share = (self._sample(queries[:2048], rows=2048) <= self.epsilon).double().mean(1).numpy()
        limits = np.full(len(queries), self.size)
        if enough is not None:  # a share below 2 % is not known well enough from the sample
            wanted = enough if self.allowed is None else enough / max(float(self.allowed.mean()), 1e-9)
            part = np.where(share < 0.02, self.size, wanted / share.clip(0.02))
            limits[: len(share)] = np.minimum(self.size, part)
        expected = (share * limits[: len(share)] + max(self.k, 1000)).cumsum()
        return limits, max(1, int((expected <= _HITS).sum()))

    def resolve(self, queries: Tensor, limits: Rows) -> list[Hits]:
        """Return all rows within ε and the k nearest, what is near ε decided by the model itself."""
        radius = torch.full((len(queries),), self.epsilon + self.tolerance)
        if self.k:
            radius = torch.maximum(radius, self._reach(queries))
        hits = self.measure(queries, radius, limits)
        short = [i for i, h in enumerate(hits) if len(h) < self.k]
        while short and not self.proposals:
            radius[short] = torch.where(radius[short] > 1e3, torch.inf, radius[short] * 2)
            for i, more in zip(short, self.measure(queries[short], radius[short], limits[short]), strict=True):
                hits[i] = more
            short = [i for i in short if len(hits[i]) < self.k and radius[i] < torch.inf]
        hits = self._verified(queries, hits) if self.verify else hits
        return [h.part(slice(max(len(h.within(self.epsilon)), min(self.k, len(h))))) for h in hits]

    def measure(self, queries: Tensor, radius: Float[Tensor, " query"], limits: Rows) -> list[Hits]:
        """Return for each query the rows, of the first ``limits``, with a stored distance up to its radius."""
        parts = [
            (which.astype(np.uint16), rows, near, np.full(len(rows), p, dtype=np.int64))
            for p, found in self._slices(queries, radius, limits)
            for which, rows, near in found
        ] or [(np.empty(0, np.uint16), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))]
        which, rows, near, place = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(which, kind="stable")  # of 16 bits: a radix sort
        cuts = np.searchsorted(which[order], np.arange(len(queries) + 1))
        seen, out = np.empty(len(self.bank), dtype=np.int32), []
        for limit, (a, b) in zip(limits.tolist(), pairwise(cuts), strict=True):
            own = order[a:b]
            own = own[by_distance(near[own])]
            hits = Hits(rows[own], near[own], place[own], limit)
            out.append(once(hits, seen) if len(self.positions) > 1 else hits)
        return out

    def _slices(
        self, queries: Tensor, radius: Tensor, limits: Rows
    ) -> Iterator[tuple[int, list[tuple[Rows, Rows, Distances]]]]:
        """Yield for each shard and position what ``_slice`` does; of few queries for several at a time."""

        def found(where: tuple[Shard, int]) -> tuple[int, list[tuple[Rows, Rows, Distances]]]:
            return where[1], list(self._slice(*where, queries, radius, limits))

        slices = product(self.bank.shards, self.positions)
        return each(found, slices) if len(queries) < FEW else map(found, slices)

    def _slice(
        self, shard: Shard, position: int, queries: Tensor, radius: Tensor, limits: Rows
    ) -> Iterator[tuple[Rows, Rows, Distances]]:
        """Yield (query, row of the bank, distance) of one slice."""
        asked, ruler = np.flatnonzero(limits > shard.rows.start), Ruler(self.metric, queries)
        width = self.bank.manifest.widths[self.site]
        if len(asked) < FEW and len(shard.rows) * width <= _SMALL and position not in self.proposals:
            yield from self._whole(shard, position, asked, ruler, radius, limits)
            return
        step = max(1, AT_ONCE // width)
        for which, rows in self._pairs(shard, position, queries[asked], radius[asked]):
            which = asked[which]
            if limits.min() < shard.rows.stop:
                inside = rows + shard.rows.start < limits[which]
                which, rows = which[inside], rows[inside]
            if self.allowed is not None:
                inside = self.allowed[rows + shard.rows.start]
                which, rows = which[inside], rows[inside]
            for start in range(0, len(which), step):
                w, r = which[start : start + step], rows[start : start + step]
                x = shard.gathered(self.site, position, r)
                d = _checked(ruler.of_one(w[0], x) if w[0] == w[-1] else ruler.of_pairs(w, x), shard)
                near = d <= self._reached(ruler, w, x, radius)
                yield w[near], r[near] + shard.rows.start, d[near]
            self.bank.visit(shard.mapped())

    def _whole(
        self, shard: Shard, position: int, asked: Rows, ruler: Ruler, radius: Tensor, limits: Rows
    ) -> Iterator[tuple[Rows, Rows, Distances]]:
        """Yield what ``_slice`` does, every row measured as it lies."""
        vectors, numbers = shard.vectors(self.site, position), np.arange(shard.rows.start, shard.rows.stop)
        there = shard.places(position) >= 0
        if self.allowed is not None:
            there = there & self.allowed[numbers]
        x = self.metric.mapped(torch.from_numpy(vectors).float())
        for query in asked:
            d = _checked(self.metric.of_mapped(ruler.mapped[query], x), shard)
            reached = self._reached(ruler, np.full(len(vectors), query), vectors, radius)
            rows = np.flatnonzero((d <= reached) & there & (numbers < limits[query]))
            yield np.full(len(rows), query), numbers[rows], d[rows]
        self.bank.visit(shard.mapped())

    def _pairs(self, shard: Shard, position: int, queries: Tensor, radius: Tensor) -> Iterator[tuple[Rows, Rows]]:
        """Yield pairs (query, row of the shard) that may lie within the radius."""
        if position in self.proposals:
            which, rows = self.proposals[position].propose(queries)
            inside = slice(*np.searchsorted(rows, [shard.rows.start, shard.rows.stop]))
            yield which[inside], rows[inside] - shard.rows.start
            return
        if self.indexed:
            ruler = Ruler(self.metric, queries)
            reach = (2 * radius).sqrt() if self.metric.cosine else radius * ruler.lengths
            yield from survivors(shard.index(self.site, position), ruler.points, reach.nan_to_num(0.0, posinf=torch.inf))
            return
        present = np.flatnonzero(shard.places(position) >= 0)
        for query in range(len(queries)):
            yield np.full(len(present), query), present

    def _sample(self, queries: Tensor, rows: int = 4096) -> Float[Tensor, "query row"]:
        """Return distances to the first rows of the bank, roughly: a random sample, the corpus being in random order."""
        nearest = torch.full((len(queries), 1), torch.inf)
        shard, ruler = self.bank.shards[0], Ruler(self.metric, queries)
        for p in self.positions:
            there = torch.from_numpy(shard.places(p)[:rows] >= 0)
            x = self.metric.mapped(torch.from_numpy(shard.vectors(self.site, p, rows)).float())
            if self.metric.cosine:
                d = 1 - ruler.points @ torch.nn.functional.normalize(x).T
            else:
                d = torch.cdist(ruler.points, x) / ruler.lengths[:, None]
            nearest = torch.minimum(nearest, d.nan_to_num(0.0).masked_fill(~there, torch.inf))
        return nearest

    def _reach(self, queries: Tensor) -> Float[Tensor, " query"]:
        """Return a radius in which about twice ``k`` rows lie, by a sample."""
        sample = self._sample(queries)
        rank = min(sample.size(1), 2 * self.k * sample.size(1) // self.size + 2)
        return sample.kthvalue(rank, dim=1).values

    def _verified(self, queries: Tensor, hits: list[Hits]) -> list[Hits]:
        """Measure again, in the model, every hit so near ε that rounding could decide."""
        ruler = Ruler(self.metric, queries)
        unsure = [np.abs(h.distances - self.epsilon) <= self._doubt(ruler, i, h) for i, h in enumerate(hits)]
        rows, inverse = np.unique(np.concatenate([h.rows[u] for h, u in zip(hits, unsure, strict=True)]), return_inverse=True)
        if not len(rows):
            return hits
        which = np.repeat(np.arange(len(hits)), [int(u.sum()) for u in unsure])
        exact, place = self._again(queries[which], rows, inverse)
        out, start = [], 0
        for h, u in zip(hits, unsure, strict=True):
            stop = start + int(u.sum())
            d, p = h.distances.copy(), h.positions.copy()
            d[u], p[u] = exact[start:stop], place[start:stop]
            out.append(Hits(h.rows, d, p, h.searched).part(np.argsort(d, kind="stable")))
            start = stop
        return out

    def _reached(
        self, ruler: Ruler, which: Rows, x: npt.NDArray[np.floating], radius: Float[Tensor, " query"]
    ) -> Float[np.ndarray, " row"]:
        """Return up to which stored distance each row may lie within its query's radius."""
        reached = radius[which]
        if self.verify and not self.metric.elementwise:
            reached = reached + ruler.blur(which, x, self.epsilon)
        found: Float[np.ndarray, " row"] = reached.numpy()
        return found

    def _doubt(self, ruler: Ruler, query: int, hits: Hits) -> float | Float[np.ndarray, " hit"]:
        """Return by how much the stored distance of each hit may be off."""
        if self.metric.elementwise:
            return self.tolerance
        found, shard = np.zeros(len(hits), dtype=np.float32), hits.rows // self.bank.manifest.shard_rows
        for number, position in np.unique(np.stack([shard, hits.positions], 1), axis=0):
            own = np.flatnonzero((shard == number) & (hits.positions == position))
            held = self.bank.shards[number]
            x = held.gathered(self.site, position, hits.rows[own] - held.rows.start)
            found[own] = ruler.blur(np.full(len(own), query), x, self.epsilon).numpy()
        return found

    def _again(self, queries: Tensor, rows: Rows, inverse: Rows) -> tuple[Distances, Rows]:
        """Run ``rows`` through the model; return D of pairs (query, ``rows[inverse]``) and the position where it is reached."""
        bank, names = self.bank, [self.bank.manifest.positions[p] for p in self.positions]
        exact, place = np.empty(len(inverse), dtype=np.float32), np.empty(len(inverse), dtype=np.int64)
        order = np.argsort(inverse, kind="stable")
        for start in range(0, len(rows), 8192):
            made = bank.run(rows[start : start + 8192], [bank.sites[self.site]], names)
            z, lacking = made.activations[0], torch.from_numpy(made.at < 0)
            a, b = np.searchsorted(inverse[order], [start, start + len(z)])
            for part in np.array_split(order[a:b], max(1, (b - a) // _PAIRS)):
                own = torch.from_numpy(inverse[part] - start)
                d = self.metric.between(queries[part, None], z[own])
                lowest = d.masked_fill(lacking[own], torch.inf).min(1)
                exact[part] = lowest.values.numpy()
                place[part] = np.array(self.positions)[lowest.indices.numpy()]
        return exact, place


def doubt(bank: ActivationBank, site: Site, z: Float[Tensor, " d_model"], hits: Hits, distance: Distance) -> float:
    """Return by how much the stored distances of some hits of a query may be off, at most; of a map by a matrix as a rule."""
    if served(bank, site):
        return doubt_at(bank, site, hits, distance)
    number = bank.site_number(site)
    every = list(range(len(bank.manifest.positions)))
    scope = _Scope(bank, number, every, distance, max(float(hits.distances.max()), 1e-9), 0, True, {}, None, len(bank))
    found = scope._doubt(Ruler(scope.metric, bank.compacted(number, z[None])), 0, hits)
    return float(np.max(found)) / (1 if scope.metric.elementwise else _DEVIATIONS)


def _checked(d: Tensor, shard: Shard) -> Distances:
    """Return distances unless one is NaN."""
    found: Distances = d.numpy()
    if np.isnan(found).any():
        raise BankError(f"{shard.folder} holds NaN activations: delete that folder and build the bank again.")
    return found

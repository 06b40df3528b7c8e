"""Exact search of a bank at one latent of a dictionary, by the codes that are kept of it: nothing else is read.

D is that of one number, see ``model.distances``. A row whose code is kept is measured by it, all others are off. Where the
rounding of stored vectors could decide, on which side of ε a row lies or whether it fires at all, the model itself does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.bank.hits import Distances, Hits, Rows, once
from inversionview.bank.latents.codes import KeptCodes, codes_of, dictionary_of
from inversionview.bank.measure import by_distance
from inversionview.bank.store import ActivationBank
from inversionview.core.scope import Distance
from inversionview.model.distances.metric import Metric
from inversionview.model.sites.site import Site

_AGAIN = 8192
"""Rows that are run through the model together."""
_SLACK = 1e-5
"""What is allowed for sums in another order, relative to a code."""


class _Fired(NamedTuple):
    """Where a latent fires, or may fire, at some positions of a bank."""

    rows: Rows
    places: Rows
    codes: npt.NDArray[np.float32]
    on: npt.NDArray[np.bool_]
    sure: npt.NDArray[np.bool_]
    off: npt.NDArray[np.float32]
    """By how much each code may be off."""

    def part(self, which: npt.NDArray[np.bool_] | Rows) -> _Fired:
        """Return some of them."""
        return _Fired(
            self.rows[which], self.places[which], self.codes[which], self.on[which], self.sure[which], self.off[which]
        )


class LatentScope(NamedTuple):
    """Within what is searched; see ``bank.search.search``."""

    epsilon: float
    distance: Distance
    positions: list[int]
    """By their numbers."""
    k: int
    verify: bool
    size: int
    """Of so many of the bank's rows, its first."""
    allowed: npt.NDArray[np.bool_] | None


def search_latent(bank: ActivationBank, site: Site, z: Float[Tensor, "query 1"], within: LatentScope) -> Iterator[Hits]:
    """Yield what ``bank.search.search`` does of queries at one latent."""
    codes = codes_of(bank, site)
    codes.teach(site)
    metric = bank.model.metric(within.distance, site)
    searched = LatentSearch(codes, site, metric, within.positions, within.size, within.allowed)
    for query in z.flatten().tolist():
        yield searched.hits(query, within.epsilon, within.k, within.verify)


def doubt_at(bank: ActivationBank, site: Site, hits: Hits, distance: Distance) -> float:
    """Return by how much the stored distances of some hits may be off, at most."""
    codes = codes_of(bank, site)
    codes.teach(site)
    metric = bank.model.metric(distance, site)
    fired = LatentSearch(codes, site, metric, np.unique(hits.positions).tolist(), len(bank)).fired
    own = fired.part(np.isin(fired.rows, hits.rows))
    return float(own.off.max(initial=0.0)) * float(_gain(metric))


class LatentSearch:
    """One latent, searched at some positions of a bank.

    Attributes:
        fired: where it fires, or may.
    """

    def __init__(
        self,
        codes: KeptCodes,
        site: Site,
        metric: Metric,
        positions: list[int],
        size: int,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.codes, self.bank, self.site, self.metric = codes, codes.bank, site, metric
        self.positions, self.size, self.allowed = positions, size, allowed
        part = dictionary_of(site)
        assert part is not None
        assert part.latent is not None
        self.latent = part.latent
        fired = self._fired()
        few = (fired.rows < size) & (True if allowed is None else allowed[fired.rows])
        self.fired = fired if few.all() else fired.part(few)

    def _fired(self) -> _Fired:
        gain, found = float(self.codes.encoder.gains[self.latent]), list(self.codes.entries(self.latent, self.positions))
        rows, kept, on, sure, moved = (
            np.concatenate(column) for column in zip(*(entries for _, entries in found), strict=True)
        )
        places = np.repeat([place for place, _ in found], [len(entries.rows) for _, entries in found])
        return _Fired(rows, places, kept, on, sure, moved * gain + _SLACK * np.abs(kept))

    def hits(self, query: float, epsilon: float, k: int, verify: bool) -> Hits:
        """Return all rows within ε and the ``k`` nearest, what is near ε, or may be off, decided by the model itself."""
        f = self.fired if verify else self.fired.part(self.fired.on)
        near = self._distances(query, f.codes)
        if verify:
            f, near = self._verified(query, f, near, epsilon, k)
        rows, places = f.rows, f.places
        away = float(self._distances(query, np.zeros(1, np.float32))[0])
        if away <= epsilon or np.count_nonzero(near <= away) < k:
            lost, where = self._others(f)
            rows, places = np.concatenate([rows, lost]), np.concatenate([places, where])
            near = np.concatenate([near, np.full(len(lost), away, dtype=np.float32)])
        order = by_distance(near)
        hits = Hits(rows[order], near[order], places[order], self.size)
        if len(self.positions) > 1:
            hits = once(hits, np.empty(len(self.bank), dtype=np.int32))
        return hits.part(slice(max(len(hits.within(epsilon)), min(k, len(hits)))))

    def unsure(self, query: float, epsilon: float) -> int:
        """Return of how many entries rounding could decide whether they lie inside ε of a query that is not 0."""
        f, gain = self.fired, float(_gain(self.metric))
        gap = self._distances(query, f.codes) - epsilon
        least, sure = self._least(query, f), self._settled(f)
        edge = np.where(sure, np.abs(gap) <= f.off * gain, least <= epsilon)
        near = np.flatnonzero(edge & sure)
        edge[near] = np.abs(gap[near]) <= self._finer(f.part(near)) * gain
        return int(np.count_nonzero(edge))

    def _least(self, query: float, f: _Fired) -> Distances:
        """Return how near codes may lie at least, if they fire and rounding moved them so: also to the other side of 0."""
        found: Distances = (np.abs(f.codes - np.float32(query)) - f.off) * np.float32(_gain(self.metric))
        return found

    def _settled(self, f: _Fired) -> npt.NDArray[np.bool_]:
        """Return which fire for sure, and on which side of 0."""
        return f.sure & (np.abs(f.codes) > f.off)

    def _distances(self, query: float, codes: npt.NDArray[np.float32]) -> Distances:
        found: Distances = self.metric.between(torch.tensor([[query]]), torch.from_numpy(np.array(codes))[:, None]).numpy()
        return found

    def _others(self, fired: _Fired) -> tuple[Rows, Rows]:
        """Return where the latent is off: rows of the bank, and positions; all but ``fired``."""
        rows, places = [], []
        for position in self.positions:
            off = np.concatenate([shard.places(position) >= 0 for shard in self.bank.shards])[: self.size]
            if self.allowed is not None:
                off = off & self.allowed[: self.size]
            off[fired.rows[fired.places == position]] = False
            rows.append(np.flatnonzero(off))
            places.append(np.full(len(rows[-1]), position))
        return np.concatenate(rows), np.concatenate(places)

    def _verified(self, query: float, f: _Fired, near: Distances, epsilon: float, k: int) -> tuple[_Fired, Distances]:
        """Run again what could be decided by rounding; return what fires, with its distances."""
        off = f.off * float(_gain(self.metric))
        away = float(self._distances(query, np.zeros(1, np.float32))[0])
        sure, least = self._settled(f), self._least(query, f)
        known = np.sort(near[sure] + off[sure])[: max(k, 1)]
        # what may be among the k nearest: none is farther than the k-th of those that are known
        upto = max(epsilon, float(known[k - 1]) if 0 < k <= len(known) else epsilon if k == 0 else np.inf)
        edge = np.abs(near - epsilon) <= off
        some = np.flatnonzero(sure & edge)
        if len(some):
            edge[some] = np.abs(near[some] - epsilon) <= self._finer(f.part(some)) * float(_gain(self.metric))
        asked = np.flatnonzero(np.where(sure, edge, (least <= upto) | (away <= upto)))
        if not len(asked):
            return f, near
        exact = self._again(f.part(asked))
        codes, near = f.codes.copy(), near.copy()
        codes[asked] = exact
        near[asked] = self._distances(query, exact)
        on = f.on | f.sure
        on[asked] = exact != 0
        return f._replace(codes=codes).part(on), near[on]

    def _finer(self, some: _Fired) -> npt.NDArray[np.float32]:
        """Return by how much codes may be off, by the numbers of their vectors."""
        dictionary = self.codes.encoder.dictionary
        if self.codes.frame is not None or dictionary.normalisation != "none":
            return some.off
        out = some.off.copy()
        worth = float(self.codes.encoder.gains[self.latent] / self.codes.encoder.norms[self.latent])
        for position in np.unique(some.places):
            own = np.flatnonzero(some.places == position)
            x = self.bank.activations(self.codes.base, self.bank.manifest.positions[position], some.rows[own])
            pairs = torch.arange(len(own)), torch.full((len(own),), self.latent)
            finer = self.codes.encoder.off(x, *pairs, self.codes.share).numpy() * worth
            out[own] = np.minimum(out[own], finer + _SLACK * np.abs(some.codes[own]))
        return out

    def _again(self, some: _Fired) -> npt.NDArray[np.float32]:
        """Return the codes that the model itself gives."""
        out = np.empty(len(some.rows), dtype=np.float32)
        for position in np.unique(some.places):
            own = np.flatnonzero(some.places == position)
            own = own[np.argsort(some.rows[own])]
            for start in range(0, len(own), _AGAIN):
                part = own[start : start + _AGAIN]
                made = self.bank.run(some.rows[part], [self.site], [self.bank.manifest.positions[position]])
                out[part] = made.activations[0][:, 0, 0].float().numpy()
        return out


def _gain(metric: Metric) -> Float[Tensor, ""]:
    """Return by how much a distance moves as a code moves by 1."""
    assert metric.gain is not None
    return metric.gain.abs().max()

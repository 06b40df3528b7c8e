"""An ε by what it means for one query: how many random inputs it admits, or how much its members change what the model says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from inversionview.bank.hits import Hits
from inversionview.bank.search import doubt, search
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError
from inversionview.core.scope import MOST_EPSILON, Distance, Meaning
from inversionview.intervene.stand_in import nats
from inversionview.preimage.preimage import Query, StandIn

_FIRST, _EVEN = 32, 192
"""So many activations are put in the query's place to find an ε, in a first round and a second."""
_TRIED = 32
"""So many members are put there to tell what an ε means."""
_LOOKED = 2**20
"""Of larger banks the first so many rows are looked at."""


def epsilon_meant(bank: ActivationBank, query: Query, distance: Distance, meaning: Meaning) -> float:
    """Return the largest ε that means this for a query.

    Args:
        bank: inputs to compare with, taken for random ones; the query's own never count.
        query: what is read.
        distance: which distance.
        meaning: what ε shall mean.

    Raises:
        SettingError: the bank is too small to tell, all of it lies at distance 0, or nothing can stand in for the query.
        UnknownSiteError, UnknownPositionError: the bank does not hold the site, or position.
        BankError: the bank is damaged.
    """
    near = nearest(bank, query, distance)
    of = _of_nats if meaning.unit == "nats" else _of_share
    found = of(bank, query, distance, near, meaning)
    if not found > 0:
        raise SettingError(
            f"ε = {meaning} cannot be told: so many inputs give the very activation of the query; ask for a number."
        )
    return found


def nearest(bank: ActivationBank, query: Query, distance: Distance) -> Hits:
    """Return every row of a bank that is not the query itself by its distance, as it is stored."""
    found = next(search(bank, query.site, query.z[None], epsilon=MOST_EPSILON, distance=distance, verify=False, first=_LOOKED))
    return found.part(~np.isin(found.rows, bank.rows_of(query.ids, query.position)))


def _of_share(bank: ActivationBank, query: Query, distance: Distance, near: Hits, meaning: Meaning) -> float:
    """Return a distance up to which so many lie inside, and all that are as near as the last of them."""
    inside = meaning.share * len(near)
    if inside < 1:
        raise SettingError(
            f"The bank holds {len(near):,} {bank.manifest.unit}, too few to tell what ε = {meaning} is: search more, or choose "
            f"1/{len(near)} or more."
        )
    return _beyond(bank, query, distance, near, min(ceil(inside), len(near)) - 1)


def _beyond(bank: ActivationBank, query: Query, distance: Distance, near: Hits, last: int) -> float:
    """Return an ε between one distance and the next, or beyond both by what rounding of the stored vectors may move the first.

    So what is as near as the last stays inside when it is run through the model again.
    """
    here = near.part(slice(last, last + 1))
    after = float(near.distances[min(last + 1, len(near) - 1)])
    off = doubt(bank, query.site, query.z, here, distance)
    return max((float(here.distances[0]) + after) / 2, float(here.distances[0]) + off)


@dataclass(frozen=True)
class Probe:
    """What one activation changes in the query's place."""

    rank: int
    """Among all by distance, from 0."""
    nats: float


def _of_nats(bank: ActivationBank, query: Query, distance: Distance, near: Hits, meaning: Meaning) -> float:
    """Return the largest distance within which the median change is at most so many nats, but for chance.

    First the nearest and some farther and farther away are tried, then others evenly up to twice as many as seem right.
    """
    if query.textless:
        raise SettingError("An ε in nats is told by the query's text, and a vector alone has none: give a number, or bits.")
    most, size, few = meaning.amount, len(near), _FIRST // 2
    spread = np.geomspace(1, size, few).astype(np.int64) - 1
    probes = _probed(bank, query, near, np.concatenate([np.arange(min(size, few)), spread]))
    upto = _last(probes, most)
    if upto >= 0:
        stop = min(size, max(2 * probes[upto].rank, _EVEN))
        even = _probed(bank, query, near, np.linspace(0, stop - 1, _EVEN).astype(np.int64))
        known = {probe.rank: probe for probe in [*even, *probes] if probe.rank < max(few, stop)}
        probes = [known[rank] for rank in sorted(known)]
        upto = _last(probes, most)
    if upto < 0:
        raise SettingError(
            f"Nothing among {size:,} {bank.manifest.unit} can stand in for the query within {most:g} nats: the nearest, at "
            f"D = {near.distances[0]:.3g}, changes what the model says by {probes[0].nats:.3g} nats; ask for more nats, or "
            "search more text."
        )
    return _beyond(bank, query, distance, near, probes[upto].rank)


def _probed(bank: ActivationBank, query: Query, near: Hits, ranks: npt.NDArray[np.int64]) -> list[Probe]:
    ranks = np.unique(ranks)
    found = nats_of_rows(bank, query, near.part(ranks))
    return [Probe(int(rank), float(each)) for rank, each in zip(ranks, found, strict=True)]


def nats_of_rows(bank: ActivationBank, query: Query, hits: Hits) -> Float[np.ndarray, " hit"]:
    """Return by how many nats each hit changes what the model says in the query's place, as it is stored."""
    out = np.empty(len(hits))
    for number in np.unique(hits.positions):
        own = np.flatnonzero(hits.positions == number)
        z = bank.activations(query.site, bank.manifest.positions[number], hits.rows[own])
        out[own] = nats(bank.model, query.ids, query.position, query.site, z).double().numpy()
    return out


def stand_in(bank: ActivationBank, query: Query, inside: Hits, seed: int = 0) -> StandIn | None:
    """Return by how many nats some hits, by lot, change what the model says; ``None`` without any, or where none can be run."""
    steady = bank.model.shape.steady
    if not len(inside) or (steady is not None and query.position >= steady):
        return None
    lot = np.sort(np.random.default_rng((seed, 23)).permutation(len(inside))[:_TRIED])
    return StandIn(float(np.median(nats_of_rows(bank, query, inside.part(lot)))), len(lot))


def _last(probes: Sequence[Probe], most: float) -> int:
    """Return the last of some probes, by rank, up to which the median of all ranks is at most so many nats; −1: none.

    Each probe stands for the ranks that lie nearer to it than to the others. Half of these must be within by more than the
    standard error of the share, where any are: just beyond, the median may jump.
    """
    ranks, values = np.array([p.rank for p in probes], dtype=float), np.array([p.nats for p in probes])
    weights = np.diff(np.concatenate([[-0.5], (ranks[1:] + ranks[:-1]) / 2, [ranks[-1] + 0.5]]))
    share = np.cumsum(weights * (values <= most)) / np.cumsum(weights)
    tried = np.cumsum(weights) ** 2 / np.cumsum(weights**2)  # as many of equal weight tell as much
    whole = np.cumsum(weights) <= np.arange(1, len(probes) + 1) + 0.5  # every rank up to here was tried
    for least in (0.5 + np.where(whole, 0.0, 0.5 / np.sqrt(tried)), 0.5):
        if (within := np.flatnonzero(share >= least)).size:
            return int(within[-1])
    return -1

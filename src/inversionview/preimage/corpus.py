"""The second source of preimages: search a bank for every known input inside ε; needs no decoder and no training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import torch

from inversionview import distances
from inversionview.bank.approximate import load_or_build
from inversionview.bank.search import Hits, search
from inversionview.bank.store import ActivationBank
from inversionview.information import bits
from inversionview.measure import distance_to
from inversionview.preimage.core import Preimage, Query, Sample
from inversionview.preimage.samples import choose, samples_of
from inversionview.ranges import check_seed, whole

Found = Callable[[tuple[Sample, ...]], None]
"""Called with samples as they are measured."""
MOST_DRAWS = 50_000
"""Of more inputs inside ε a random choice of so many is kept as the preimage's ``draws``."""
_FIRST_LOOK = 2**15
"""Inputs of the bank that are searched ahead of all others, where somebody waits."""


class _Where(TypedDict):
    """What is compared, and up to which distance."""

    epsilon: float
    distance: distances.Distance
    at: str | Sequence[str] | None


def corpus_preimage(
    bank: ActivationBank,
    query: Query,
    *,
    epsilon: float,
    distance: distances.Distance,
    k: int = 10,
    at: str | Sequence[str] | None = None,
    count: int | None = None,
    approximate: bool = False,
    seed: int = 0,
    keep: int = MOST_DRAWS,
    found: Found | None = None,
) -> Preimage:
    """Return every input of a bank inside the query's ε-preimage, and the ``k`` nearest, with the information in bits.

    Every input that is returned was run through the probed model again. The query itself never counts.

    Args:
        bank: of the query's model.
        query: what to read.
        epsilon: threshold.
        distance: which distance.
        k: the k nearest inputs are returned, inside ε or not.
        at: named positions at which D may be reached; ``None`` is all of the bank's.
        count: how many inputs to return at most, a random choice of those inside and the nearest outside; ``None`` is all.
        approximate: let faiss propose what to measure; the result's ``recall`` says how much that finds.
        seed: of that choice.
        keep: how many inputs inside ε become the preimage's ``draws``, at most.
        found: called with a first look: samples among the bank's first inputs, ahead of the search.

    Raises:
        SettingError: ε, ``k`` or ``count`` is out of range.
        UnknownSiteError, UnknownPositionError: the bank does not hold the site or position.
        BankError: the bank is damaged.
    """
    whole(k, "k", 0)
    if count is not None:
        whole(count, "The count of inputs")
    check_seed(seed)
    own = bank.rows_of(query.ids)
    made = {p: load_or_build(bank, query.site, p, epsilon=epsilon) for p in bank.position_numbers(at)} if approximate else {}
    recall = min((index.settings.recall for index in made.values()), default=None)
    where: _Where = {"epsilon": epsilon, "distance": distance, "at": at}
    if found is not None and count is not None:
        look = next(search(bank, query.site, query.z[None], k=k + len(own), verify=False, first=_FIRST_LOOK, **where))
        look = look.part(~np.isin(look.rows, own))
        found(_samples(bank, query, _chosen(look, epsilon, count, seed), **where))
    hits = next(search(bank, query.site, query.z[None], k=k + len(own), proposals=made, **where))
    hits = hits.part(~np.isin(hits.rows, own))
    inside = len(hits.within(epsilon))
    hits = hits.part(slice(max(inside, k)))
    lot = np.random.default_rng((seed, 17)).permutation(inside)[:keep]
    every = bank.tokens(hits.rows[lot])
    samples = _samples(bank, query, hits if count is None else _chosen(hits, epsilon, count, seed), **where)
    searched = len(bank) - len(own)
    told = bits(inside, searched)
    return Preimage(query, distance, epsilon, seed, samples, searched, source="corpus", bits=told, recall=recall, draws=every)


def _chosen(hits: Hits, epsilon: float, count: int, seed: int) -> Hits:
    """Return at most ``count`` of the hits."""
    if count >= len(hits):
        return hits
    generator = torch.Generator().manual_seed(seed)
    return hits.part(choose(torch.from_numpy(hits.distances), epsilon, count, generator).numpy())


def _samples(
    bank: ActivationBank, query: Query, hits: Hits, *, epsilon: float, distance: distances.Distance,
    at: str | Sequence[str] | None,
) -> tuple[Sample, ...]:  # fmt: skip
    """Run hits through the model again and return them, nearest first."""
    if not len(hits):
        return ()
    tokens = bank.tokens(hits.rows)
    per_token, _, _ = distance_to(bank.model, torch.from_numpy(tokens), query.z.expand(len(tokens), -1), query.site, distance)
    named = bank.inputs.named_positions(tokens)
    places = torch.from_numpy(np.stack([named[bank.manifest.positions[p]] for p in bank.position_numbers(at)], axis=1))
    reached = per_token.gather(1, places.clamp(min=0)).masked_fill(places < 0, torch.inf)
    nearest, which = reached.min(1)
    position = places.gather(1, which[:, None])[:, 0]
    order = torch.argsort(nearest, stable=True)
    return samples_of(
        bank.model, torch.from_numpy(tokens)[order], nearest[order], position[order], per_token[order],
        epsilon=epsilon, source="corpus",
    )  # fmt: skip

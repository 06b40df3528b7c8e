"""The second source of preimages: search a bank for every known input inside ε; needs no decoder and no training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch

from inversionview.bank.approximate import load_or_build
from inversionview.bank.search import Hits, Proposals, search
from inversionview.bank.store import ActivationBank
from inversionview.errors import UnknownPositionError
from inversionview.information import bits
from inversionview.measure import distance_to
from inversionview.positions import Positions
from inversionview.preimage.core import INSIDE_SHARE, Preimage, Query, Sample
from inversionview.preimage.notes import compared, listed
from inversionview.preimage.samples import choose, samples_of
from inversionview.ranges import check_seed, whole
from inversionview.scope import Distance

Found = Callable[[tuple[Sample, ...]], None]
"""Called with samples as they are measured."""
MOST_DRAWS = 50_000
"""Of more inputs inside ε a random choice of so many is kept as the preimage's ``draws``."""
_FIRST_LOOK = 2**15
"""Inputs of the bank that are searched ahead of all others, where somebody waits."""


class _Where(TypedDict):
    """What is compared, and up to which distance."""

    epsilon: float
    distance: Distance
    at: str | Sequence[str] | None


def corpus_preimage(
    bank: ActivationBank,
    query: Query,
    *,
    epsilon: float,
    distance: Distance,
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
        count: how many inputs to return at most, a random choice of those inside and the nearest outside; ``None`` is all
            inside and the ``k`` nearest.
        approximate: let faiss propose what to measure; the result's ``recall`` says how much that finds.
        seed: of that choice.
        keep: how many inputs inside ε become the preimage's ``draws``, at most.
        found: called with a first look: samples among the bank's first inputs, ahead of the search.

    Raises:
        SettingError: ε, ``k`` or ``count`` is out of range.
        UnknownSiteError, UnknownPositionError: the bank does not hold the site or position; without ``at`` the query's, too.
        BankError: the bank is damaged.
    """
    whole(k, "k", 0)
    if count is not None:
        whole(count, "The count of inputs")
    check_seed(seed)
    notes = compared(bank, query, at)
    own = bank.rows_of(query.ids)
    made = {p: load_or_build(bank, query.site, p, epsilon=epsilon) for p in bank.position_numbers(at)} if approximate else {}
    recall = min((index.settings.recall for index in made.values()), default=None)
    where: _Where = {"epsilon": epsilon, "distance": distance, "at": at}
    if found is not None and count is not None:
        look = next(search(bank, query.site, query.z[None], k=k + len(own), verify=False, first=_FIRST_LOOK, **where))
        look = look.part(~np.isin(look.rows, own))
        found(_samples(bank, query, _chosen(look, epsilon, count, seed), **where))
    hits = _nearest(bank, query, own, k, made, where)
    inside = len(hits.within(epsilon))
    beyond = 0 if count is None else count - min(inside, round(INSIDE_SHARE * count))
    if inside + beyond > len(hits):  # what lies just outside is shown as well
        hits = _nearest(bank, query, own, inside + beyond, made, where)
    hits = hits.part(slice(max(inside + beyond, k)))
    lot = np.random.default_rng((seed, 17)).permutation(inside)[:keep]
    every = bank.tokens(hits.rows[lot])
    samples = _samples(bank, query, hits if count is None else _chosen(hits, epsilon, count, seed), **where)
    searched = len(bank) - len(own)
    told = bits(inside, searched)
    return Preimage(
        query, distance, epsilon, seed, samples, searched, source="corpus", bits=told, recall=recall, draws=every,
        inside_count=inside, distinct=inside, notes=tuple(notes),
    )  # fmt: skip


def held_names(bank: ActivationBank, positions: Positions, query: Query, fixed: str | int | Sequence[str | int]) -> list[str]:
    """Return the bank's names of positions that are named so, or are indices or tokens of the query.

    Raises:
        UnknownPositionError: the bank does not hold one.
    """
    held, names = bank.manifest.positions, positions.names(query.ids)
    found: list[str] = []
    for at in [fixed] if isinstance(fixed, str | int) else fixed:
        if isinstance(at, str) and (at in held or at in names):
            found.append(at)  # of a name that it does not hold the bank says so
            continue
        index = positions.one(query.ids, at)
        name = next((name for name in held if names.get(name) == index), None)
        if name is None:
            raise UnknownPositionError(
                f"The bank holds {listed(held)} alone, and {query.tokens[index]!r} at #{index} is none of these: compare at "
                "one of them, or walk."
            )
        found.append(name)
    return found


def _nearest(
    bank: ActivationBank, query: Query, own: npt.NDArray[np.int64], k: int, made: Mapping[int, Proposals], where: _Where
) -> Hits:
    """Return what lies inside ε and the ``k`` nearest, the query's ``own`` rows left out."""
    hits = next(search(bank, query.site, query.z[None], k=k + len(own), proposals=made, **where))
    return hits.part(~np.isin(hits.rows, own))


def _chosen(hits: Hits, epsilon: float, count: int, seed: int) -> Hits:
    """Return at most ``count`` of the hits."""
    if count >= len(hits):
        return hits
    generator = torch.Generator().manual_seed(seed)
    return hits.part(choose(torch.from_numpy(hits.distances), epsilon, count, generator).numpy())


def _samples(
    bank: ActivationBank, query: Query, hits: Hits, *, epsilon: float, distance: Distance,
    at: str | Sequence[str] | None,
) -> tuple[Sample, ...]:  # fmt: skip
    """Run hits through the model again and return them, nearest first."""
    if not len(hits):
        return ()
    tokens, at_names = bank.located(hits.rows, [bank.manifest.positions[p] for p in bank.position_numbers(at)])
    per_token, _, _ = distance_to(bank.model, torch.from_numpy(tokens), query.z.expand(len(tokens), -1), query.site, distance)
    places = torch.from_numpy(at_names)
    reached = per_token.gather(1, places.clamp(min=0)).masked_fill(places < 0, torch.inf)
    nearest, which = reached.min(1)
    position = places.gather(1, which[:, None])[:, 0]
    order = torch.argsort(nearest, stable=True)
    return samples_of(
        bank.model, torch.from_numpy(tokens)[order], nearest[order], position[order], per_token[order],
        epsilon=epsilon, source="corpus",
    )  # fmt: skip

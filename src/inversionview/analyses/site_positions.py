"""Every site × position of a bank with random queries there and their exact preimages; and how many bits these mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from inversionview.bank.hits import Hits
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.information import least, value
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.core.scope import Own, Scope
from inversionview.model.sites.patterns import expand
from inversionview.model.sites.site import Site

ENOUGH = 2**14
"""A preimage of more inputs than so many is measured on a random part of the corpus that holds about so many."""
Allowed = npt.NDArray[np.bool_]
"""Which of a bank's rows are looked at, ``[row]``, where it is not all of them: as queries and as hits."""


@dataclass(frozen=True)
class Place:
    """A site at a named position, and queries there."""

    bank: ActivationBank
    site: Site
    position: str
    rows: npt.NDArray[np.int64]
    """Of the bank: the queries."""
    z: Float[Tensor, "query d_model"]
    allowed: Allowed | None

    def preimages(self, scope: Scope[Own]) -> Iterator[Hits]:
        """Yield each query's preimage among what is allowed, on stored distances."""
        return search(
            self.bank,
            self.site,
            self.z,
            epsilon=scope.epsilon,
            distance=scope.distance,
            at=None if scope.at is None else self.position,
            verify=False,
            enough=ENOUGH,
            allowed=self.allowed,
        )


def places(
    bank: ActivationBank,
    sites: str | Sequence[str | Site],
    positions: Sequence[str] | None,
    queries: int,
    seed: int,
    report: Progress | None,
    allowed: Allowed | None = None,
) -> Iterator[Place]:
    """Yield every site × position asked for; the queries of a position are the same at all sites.

    Raises:
        SettingError: ``queries`` is below 1.
        UnknownSiteError, UnknownPositionError: the bank does not hold them.
    """
    chosen = expand(sites, bank.sites)
    names = [bank.manifest.positions[p] for p in bank.position_numbers(positions)]
    for number, name in enumerate(names):
        rows, at = draw_queries(bank, name, queries, seed, allowed)
        z = bank.model.harvest(bank.tokens(rows), chosen, at[:, None])[:, :, 0]
        for i, site in enumerate(chosen):
            yield Place(bank, site, name, rows, bank.model.own(z[i], site), allowed)
            if report is not None:
                done, total = number * len(chosen) + i + 1, len(names) * len(chosen)
                report(done / total, f"{done} of {total} cells")


def draw_queries(
    bank: ActivationBank, position: str, count: int, seed: int, allowed: Allowed | None = None
) -> tuple[npt.NDArray[np.int64], Ids]:
    """Return ``count`` random rows of a bank that have a position (fewer if it has not so many), and its index in each."""
    whole(count, "The number of queries")
    check_seed(seed)
    rows = np.random.default_rng((seed, 5)).permutation(len(bank))
    rows = (rows if allowed is None else rows[allowed[rows]])[: 20 * count]
    places = bank.located(rows, [position])[1][:, 0]
    there = np.flatnonzero(places >= 0)[:count]
    if not len(there):
        who = "No input of the bank" if allowed is None else "None of the inputs that satisfy the filter"
        raise SettingError(f"{who} has a position {position}.")
    return rows[there], places[there]


def bits_of(row: int, hits: Hits, allowed: Allowed | None = None) -> float:
    """Return how many bits the preimage of the query in ``row`` means among the allowed rows, the query left out."""
    return value(*_counts(row, hits, allowed))


def least_of(bank: ActivationBank, row: int, hits: Hits, allowed: Allowed | None = None) -> float:
    """Return the least that it can mean: less than ``bits_of`` only where a sample of the inputs holds one other or none."""
    known = enumerated(bank) and hits.searched == len(bank)
    return (value if known else least)(*_counts(row, hits, allowed))


def _counts(row: int, hits: Hits, allowed: Allowed | None) -> tuple[int, int]:
    searched = hits.searched if allowed is None else np.count_nonzero(allowed[: hits.searched])
    return int((hits.rows != row).sum()), int(searched) - (row < hits.searched)


def enumerated(bank: ActivationBank) -> bool:
    """Return whether a bank holds every input there is."""
    return not bank.inputs.sampled and bank.inputs.corpus_size == len(bank)

"""Which features an activation tells, at every site × position.

For a feature φ: the mean over queries of log₂ P(φ = φ(x_q) ∣ preimage) / P(φ = φ(x_q)), in bits and as a share of H(φ); beside
it the consistency rate P(φ = φ(x_q) ∣ preimage) of InverseScope (arXiv 2506.07406). The preimage is the exact one of a bank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from inversionview.analyses.feature_codes import Codes, Feature, codes_of
from inversionview.analyses.inform.result import Cell, FeatureTable, Total
from inversionview.analyses.site_positions import Place, bits_of, enumerated, least_of, places
from inversionview.bank.hits import Hits
from inversionview.bank.store import ActivationBank
from inversionview.core.information import entropy, mean, means
from inversionview.core.progress import Progress
from inversionview.core.scope import PAPER, Own, Scope
from inversionview.model.sites.site import Site


def feature_information(
    bank: ActivationBank,
    *,
    study: str,
    queries: int = 200,
    sites: str | Sequence[str | Site] = "*",
    positions: Sequence[str] | None = None,
    scope: Scope[Own] = PAPER,
    features: Sequence[str] | None = None,
    extra: Mapping[str, Feature] | None = None,
    where: str | Sequence[str] = (),
    seed: int = 0,
    report: Progress | None = None,
) -> FeatureTable:
    """Return how many bits every site tells at every position, and about which features.

    Args:
        bank: its inputs are the corpus, and random ones of them the queries.
        study: its name, for the table.
        queries: at each site and position; fewer where few inputs have the position.
        sites: patterns over the bank's sites.
        positions: of the queries; by default all of the bank's.
        scope: how preimages are compared: at the query's own position only, or, without ``at``, over all of the bank's.
        features: of the study; by default all.
        extra: the user's features, functions of the text.
        where: filters such as ``A1=1``, by commas or each for itself: everything is told of the inputs that satisfy all, as if
            there were no others: queries, preimages, priors and entropies.
        seed: of the choice of queries.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: ``queries``, a feature or a filter is none, or nothing satisfies the filters.
        UnknownSiteError, UnknownPositionError: the bank does not hold them.
    """
    codes, totals, cells = codes_of(bank, features, extra, where), list[Total](), list[Cell]()
    for place in places(bank, sites, positions, queries, seed, report, codes.allowed):
        total, told = place_information(codes, place, scope, seed)
        totals.append(total)
        cells += told
    inputs = len(bank) if codes.allowed is None else int(codes.allowed.sum())
    fixed = scope.at is not None
    return FeatureTable(study, inputs, scope.epsilon, scope.distance, fixed, seed, tuple(totals), tuple(cells), codes.where)


def place_information(codes: Codes, place: Place, scope: Scope[Own], seed: int) -> tuple[Total, list[Cell]]:
    """Return what one site tells at one position, in all and about each feature; see ``feature_information``."""
    found = place.preimages(scope)
    told, known, others, least = _measure(place.bank, codes, place.rows, found)
    some = float((others > 0).mean())
    total = Total(place.site.short, place.position, mean(told, seed=seed), some, len(told), float(least.mean()))
    return total, list(_cells(place.site.short, place.position, codes, place.rows, known, seed))


def _measure(
    bank: ActivationBank, codes: Codes, rows: npt.NDArray[np.int64], found: Iterator[Hits]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return each query's bits, P(φ = φ(x_q) ∣ preimage) for every feature, ``[query, feature]`` (NaN where nothing is known
    of it), how many others lie inside ε, and the least that the bits can be."""
    told, known, others = np.empty(len(rows)), np.full((len(rows), len(codes.names)), np.nan), np.empty(len(rows), np.int64)
    least = np.empty(len(rows))
    for i, (row, hits) in enumerate(zip(rows.tolist(), found, strict=True)):
        near = hits.rows[hits.rows != row]
        whole = enumerated(bank) and hits.searched == len(bank)
        others[i], told[i], least[i] = len(near), bits_of(row, hits, codes.allowed), least_of(bank, row, hits, codes.allowed)
        if len(near) or whole:
            known[i] = codes.known(near, row, whole)
    return told, known, others, least


def _cells(
    site: str, position: str, codes: Codes, rows: npt.NDArray[np.int64], known: npt.NDArray[np.float64], seed: int
) -> Iterator[Cell]:
    said = ~np.isnan(known[:, 0])
    if not said.any():
        return
    gained = np.log2(known[said] / codes.own[rows[said]])
    columns = zip(codes.names, codes.prior, means(gained, seed=seed), means(known[said], seed=seed), strict=True)
    for feature, prior, told, consistency in columns:
        least = entropy(prior)
        yield Cell(site, position, feature, told, told.value / least, least, consistency, int(said.sum()))

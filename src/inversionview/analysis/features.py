"""Which features an activation tells, at every site × position.

For a feature φ: the mean over queries of log₂ P(φ = φ(x_q) ∣ preimage) / P(φ = φ(x_q)), in bits and as a share of H(φ); beside
it the consistency rate P(φ = φ(x_q) ∣ preimage) of InverseScope (arXiv 2506.07406). The preimage is the exact one of a bank.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.analysis.places import Allowed, Place, Report, bits_of, enumerated, least_of, places
from inversionview.bank.search import Hits
from inversionview.bank.store import ActivationBank
from inversionview.errors import SettingError, did_you_mean
from inversionview.filters import Filter, parse_filters, said
from inversionview.information import Mean, entropy, mean, means, shares
from inversionview.inputs import Ids
from inversionview.scope import Distance
from inversionview.sites import Site

Feature = Callable[[str], Any]
"""A user's feature: the value of a text."""
_ENDS = {"value": "", "low": "_low", "high": "_high"}


@dataclass(frozen=True)
class Cell:
    """One feature at one site and position."""

    site: str
    position: str
    feature: str
    bits: Mean
    """What the activation tells about the feature: an estimate from the queries that were drawn. By their chance it may exceed
    the entropy, which what it estimates cannot; below 0, the query's value is less common inside ε than among all inputs."""
    share: float
    """Of the feature's entropy; 1 means that it is known in full. An estimate, as ``bits``."""
    entropy: float
    """H(φ) over the table's inputs, in bits."""
    consistency: Mean
    """P(φ = φ(x_q) ∣ preimage)."""
    queries: int
    """Those with another input inside ε, or whose whole preimage is known; the others say nothing of features."""


@dataclass(frozen=True)
class Total:
    """All that one site and position tell."""

    site: str
    position: str
    bits: Mean
    """The mean of I_ε(q) over the queries."""
    found: float
    """Share of queries with any input inside ε; the others count as log₂ of the table's inputs, the most these can show."""
    queries: int
    least: float
    """The mean where queries with one other input inside ε or none count as the least that this can mean."""

    @property
    def bounded(self) -> bool:
        """There are such queries, so ``least`` is all that is known."""
        return self.least < self.bits.value - 1e-9


@dataclass(frozen=True)
class FeatureTable:
    """Sites × positions × features."""

    study: str
    inputs: int
    """How many the bank has that satisfy ``where``."""
    epsilon: float
    distance: Distance
    fixed: bool
    """D was compared at the query's own position only."""
    seed: int
    totals: tuple[Total, ...]
    cells: tuple[Cell, ...]
    where: tuple[str, ...] = ()
    """Filters: all is told of the inputs that satisfy them, and among these."""

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain JSON values."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each site × position × feature, for a data frame."""
        totals = {(t.site, t.position): t for t in self.totals}
        where = {"where": ",".join(self.where)} if self.where else {}
        return [{**self._record(cell, totals[cell.site, cell.position]), **where} for cell in self.cells]

    @staticmethod
    def _record(cell: Cell, total: Total) -> dict[str, Any]:
        means = {"bits": cell.bits, "consistency": cell.consistency, "site_bits": total.bits}
        flat = {name + end: getattr(m, part) for name, m in means.items() for part, end in _ENDS.items()}
        plain = {"site": cell.site, "position": cell.position, "feature": cell.feature}
        more = {"share": cell.share, "entropy": cell.entropy, "queries": cell.queries, "found": total.found}
        return {**plain, **flat, **more, "site_bits_least": total.least}

    def __rich__(self) -> Any:
        from inversionview.views.tables import feature_table

        return feature_table(self)


class Codes:
    """Every feature of every input of a bank as a small integer.

    Attributes:
        names: of the features.
        values: of each feature, in the order of their codes.
        codes: ``[row, feature]``.
        allowed: which rows satisfy the filters, ``[row]``; ``None`` without filters.
        where: the filters.
        prior: share of each value among these rows, for each feature.
    """

    def __init__(
        self, columns: Mapping[str, npt.NDArray[Any]], allowed: Allowed | None = None, where: Sequence[str] = ()
    ) -> None:
        self.names, self.allowed, self.where = list(columns), allowed, tuple(where)
        pairs = [np.unique(column, return_inverse=True) for column in columns.values()]
        self.values = [values for values, _ in pairs]
        self.codes = np.stack([codes for _, codes in pairs], axis=1).astype(np.int32)
        counted = self.codes if allowed is None else self.codes[allowed]
        self.prior = [shares(counted[:, i], len(values)) for i, values in enumerate(self.values)]
        self.own = np.stack([prior[self.codes[:, i]] for i, prior in enumerate(self.prior)], axis=1)  # [row, feature]

    def encode(self, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.int32]:
        """Return the codes of other inputs, ``[row, feature]``; the nearest value's where the corpus lacks one."""
        encoded = [
            np.searchsorted(v, columns[name]).clip(max=len(v) - 1) for name, v in zip(self.names, self.values, strict=True)
        ]
        return np.stack(encoded, axis=1).astype(np.int32)

    def known(self, others: npt.NDArray[np.int64], query: int, whole: bool) -> npt.NDArray[np.float64]:
        """Return P(φ = φ(x_q) ∣ preimage) for every feature, ``[feature]``.

        Where the others are the ``whole`` preimage but the query, it counts too and the share is exact. Where they are a
        sample, the query is left out and the prior counts as one more input, so that few hits say little.
        """
        agree: npt.NDArray[np.float64] = (self.codes[others] == self.codes[query]).sum(0).astype(np.float64)
        return (agree + (1.0 if whole else self.own[query])) / (len(others) + 1)


def pattern(expression: str) -> dict[str, Feature]:
    """Return a feature for every named group of a regular expression; a text that it does not match has no value.

    Raises:
        SettingError: it is not a regular expression, or has no named group.
    """
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise SettingError(f"{expression!r} is not a regular expression ({error}).") from error
    if not compiled.groupindex:
        raise SettingError(f"{expression!r} has no named group: write for instance '(?P<last>.)$'.")

    def feature(name: str) -> Feature:
        return lambda text: (found[name] or "") if (found := compiled.search(text)) else ""

    return {name: feature(name) for name in compiled.groupindex}


def codes_of(
    bank: ActivationBank,
    names: Sequence[str] | None = None,
    extra: Mapping[str, Feature] | None = None,
    where: str | Sequence[str] = (),
) -> Codes:
    """Return the features of every input of a bank: the study's of these ``names`` (``None``: all), and the user's.

    With the filters ``where``, over any of these features, what counts is the inputs that satisfy them.

    Raises:
        SettingError: a feature is unknown, or has the same value in every input; a filter is none, or nothing satisfies it.
    """
    parts: dict[str, list[npt.NDArray[Any]]] = {}
    for start in range(0, len(bank), 2**16):
        tokens = bank.tokens(np.arange(start, min(start + 2**16, len(bank))))
        own = bank.inputs.features(tokens)
        if taken := own.keys() & (extra or {}).keys():
            raise SettingError(f"There is a feature {min(taken)!r} already: call yours something else.")
        for name, values in {**own, **_own_features(bank, tokens, extra or {})}.items():
            parts.setdefault(name, []).append(values)
    asked = [] if names is None else [*names, *(extra or {})]
    for name in asked:
        if name not in parts:
            raise SettingError(f"There is no feature {name!r}; there are {', '.join(parts)}.{did_you_mean(name, parts)}")
    every = {name: np.concatenate(values) for name, values in parts.items()}
    filters = parse_filters(where, list(every))
    allowed = _allowed(every, filters)
    columns = {name: every[name] for name in asked or every}
    counted = columns if allowed is None else {name: column[allowed] for name, column in columns.items()}
    constant = [name for name, column in counted.items() if (column == column[0]).all()]
    stated = [name for name in constant if name in asked or name in (extra or {})]
    if stated or len(constant) == len(columns):
        name = (stated or constant)[0]
        who = "of the corpus" if allowed is None else f"that satisfies {said(filters)}"
        raise SettingError(f"The feature {name!r} is {str(counted[name][0])!r} in every input {who}: there is nothing to tell.")
    kept = {name: column for name, column in columns.items() if name not in constant}
    return Codes(kept, allowed, [str(each) for each in filters])


def _allowed(columns: Mapping[str, npt.NDArray[Any]], filters: Sequence[Filter]) -> Allowed | None:
    """Return which rows satisfy all filters; ``None`` without filters."""
    if not filters:
        return None
    allowed: Allowed = np.all([each.holds(columns) for each in filters], axis=0)
    if not allowed.any():
        raise SettingError(f"No input of the bank satisfies {said(filters)}.")
    return allowed


def _own_features(bank: ActivationBank, tokens: Ids, extra: Mapping[str, Feature]) -> dict[str, npt.NDArray[Any]]:
    if not extra:
        return {}
    texts = [bank.model.vocabulary.decode([i for i in row if i != bank.inputs.pad]) for row in tokens.tolist()]
    return {name: np.array([str(function(text)) for text in texts]) for name, function in extra.items()}


def feature_information(
    bank: ActivationBank,
    *,
    study: str,
    queries: int = 200,
    sites: str | Sequence[str | Site] = "*",
    positions: Sequence[str] | None = None,
    epsilon: float = 0.1,
    distance: Distance = "euclidean",
    fixed: bool = False,
    features: Sequence[str] | None = None,
    extra: Mapping[str, Feature] | None = None,
    where: str | Sequence[str] = (),
    seed: int = 0,
    report: Report | None = None,
) -> FeatureTable:
    """Return how many bits every site tells at every position, and about which features.

    Args:
        bank: its inputs are the corpus, and random ones of them the queries.
        study: its name, for the table.
        queries: at each site and position; fewer where few inputs have the position.
        sites: patterns over the bank's sites.
        positions: of the queries; by default all of the bank's.
        epsilon: threshold.
        distance: which distance.
        fixed: compare at the query's own position only, in place of the minimum over the bank's positions.
        features: of the study; by default all.
        extra: the user's features, functions of the text.
        where: filters such as ``A1=1``, by commas or each for itself: everything is told of the inputs that satisfy all, as if
            there were no others: queries, preimages, priors and entropies.
        seed: of the choice of queries.
        report: called with how many cells are done, and of how many.

    Raises:
        SettingError: ``queries``, a feature or a filter is none, or nothing satisfies the filters.
        UnknownSiteError, UnknownPositionError: the bank does not hold them.
    """
    codes, totals, cells = codes_of(bank, features, extra, where), list[Total](), list[Cell]()
    for place in places(bank, sites, positions, queries, seed, report, codes.allowed):
        total, told = place_information(codes, place, epsilon, distance, fixed, seed)
        totals.append(total)
        cells += told
    inputs = len(bank) if codes.allowed is None else int(codes.allowed.sum())
    return FeatureTable(study, inputs, epsilon, distance, fixed, seed, tuple(totals), tuple(cells), codes.where)


def place_information(
    codes: Codes, place: Place, epsilon: float, distance: Distance, fixed: bool, seed: int
) -> tuple[Total, list[Cell]]:
    """Return what one site tells at one position, in all and about each feature; see ``feature_information``."""
    found = place.preimages(epsilon, distance, fixed)
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

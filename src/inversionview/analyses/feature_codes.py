"""Features of inputs as codes in a bank, in the order of its rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.analyses.site_positions import Allowed
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError, did_you_mean
from inversionview.core.information import shares
from inversionview.corpora.filters import Filter, parse_filters, said

Feature = Callable[[str], Any]
"""A user's feature: the value of a text."""


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
        rows = np.arange(start, min(start + 2**16, len(bank)))
        own = bank.features(rows)
        if taken := own.keys() & (extra or {}).keys():
            raise SettingError(f"There is a feature {min(taken)!r} already: call yours something else.")
        for name, values in {**own, **_own_features(bank, rows, extra or {})}.items():
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


def _own_features(
    bank: ActivationBank, rows: npt.NDArray[np.int64], extra: Mapping[str, Feature]
) -> dict[str, npt.NDArray[Any]]:
    if not extra:
        return {}
    texts = [bank.model.vocabulary.decode([i for i in row if i != bank.inputs.pad]) for row in bank.tokens(rows).tolist()]
    return {name: np.array([str(function(text)) for text in texts]) for name, function in extra.items()}

"""Filters: conditions on the features of inputs, as ``A1=1`` or ``count>=3``, that single out some of them."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError, did_you_mean
from inversionview.corpora.inputs import Inputs

Comparison = Literal["=", "!=", "<", "<=", ">", ">="]
_COMPARE: dict[Comparison, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_CONDITION = r"\s*(==|!=|<=|>=|=|<|>)\s*+(?![=<>])(.*)"
_PART = r"(?:\{[^{}]*\}|[^,])+"
"""What lies between two commas; those in braces belong to the name of a feature."""


@dataclass(frozen=True)
class Filter:
    """One condition that an input satisfies or not."""

    feature: str
    comparison: Comparison
    value: str

    def __str__(self) -> str:
        return f"{self.feature}{self.comparison}{self.value}"

    @classmethod
    def parse(cls, text: str, known: Sequence[str]) -> Filter:
        """Return the filter that ``text`` means, such as ``A1=1``, ``F2+S2!=9``, ``{F1,S1}=68`` or ``letter=v``.

        Args:
            text: a feature, one of ``=`` (or ``==``), ``!=``, ``<``, ``<=``, ``>`` and ``>=``, and a value.
            known: the features there are; of several that fit the longest is meant.

        Raises:
            SettingError: it is no filter, the feature is unknown, or its order is asked against what is no number.
        """
        for name in sorted(known, key=len, reverse=True):
            if found := re.fullmatch(re.escape(name) + _CONDITION, text.strip()):
                made = cls(name, cast(Comparison, found[1].replace("==", "=")), found[2])
                if made.comparison not in ("=", "!=") and _number(made.value) is None:
                    raise SettingError(f"{text!r} asks for an order, but {made.value!r} is not a number.")
                return made
        if not (found := re.fullmatch("([^=<>!]+)" + _CONDITION, text.strip())):
            raise SettingError(f"{text!r} is not a filter: write a feature, one of = != < <= > >=, and a value, as in 'A1=1'.")
        raise SettingError(
            f"There is no feature {found[1].strip()!r}; there are {', '.join(known)}.{did_you_mean(found[1].strip(), known)}"
        )

    def holds(self, features: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
        """Return which rows satisfy the filter, ``[rows]``: a number against numbers by its value, anything else as text.

        Args:
            features: values in each row, ``[rows]``, of the filter's feature and any others.

        Raises:
            SettingError: it asks for the order of a feature whose values are not numbers.
        """
        column, number, compare = features[self.feature], _number(self.value), _COMPARE[self.comparison]
        if number is not None and column.dtype.kind in "biuf":
            return np.asarray(compare(column, number))
        if self.comparison not in ("=", "!="):
            raise SettingError(f"'{self}' asks for an order, but the values of {self.feature} are not numbers: use = or !=.")
        return np.asarray(compare(column.astype(str), self.value))


def parse_filters(texts: str | Sequence[str], known: Sequence[str]) -> tuple[Filter, ...]:
    """Return the filters that ``texts`` mean, each of which may hold several by commas; see ``Filter.parse``.

    Raises:
        SettingError: one is no filter of the ``known`` features.
    """
    every = [texts] if isinstance(texts, str) else texts
    return tuple(Filter.parse(part, known) for text in every for part in re.findall(_PART, text) or [text])


def said(filters: Sequence[Filter]) -> str:
    """Return filters as one text, by commas."""
    return ", ".join(map(str, filters))


def by_commas(text: str) -> list[str]:
    """Return what is between the commas; those in braces belong to the name of a feature.

    >>> by_commas("{F1,S1}, C2")
    ['{F1,S1}', 'C2']
    """
    return [part.strip() for part in re.findall(_PART, text) if part.strip()]


def satisfying(inputs: Inputs, tokens: Ids, filters: Sequence[Filter]) -> npt.NDArray[np.bool_]:
    """Return which inputs satisfy all ``filters``, ``[rows]``.

    Args:
        inputs: whose features are meant.
        tokens: ``[rows, positions]``, padded on the right.
        filters: without any, every input does.

    Raises:
        SettingError: a filter asks for the order of a feature whose values are not numbers.
    """
    features = inputs.features(tokens) if filters else {}
    return np.all([np.ones(len(tokens), dtype=bool), *(each.holds(features) for each in filters)], axis=0)


def feature_names(inputs: Inputs) -> list[str]:
    """Return the names of the inputs' features."""
    return list(inputs.features(inputs.tokens(np.arange(1))))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def as_listed(filters: str | Sequence[str]) -> list[str]:
    """Return one or several filters as several."""
    return [filters] if isinstance(filters, str) else list(filters)

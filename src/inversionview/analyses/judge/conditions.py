"""Statements that are checked without a language model: filters over features, regular expressions, and what is like a text.

A condition says of every input whether it is true (``holds``), and how much of it (``grades``), by which AUROC ranks inputs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from inversionview.analyses.feature_codes import Codes
from inversionview.analyses.interpret.clauses import FeatureStatement
from inversionview.analyses.interpret.scoring import Graded, Labels
from inversionview.analyses.judge.evidence import Columns, Evidence
from inversionview.analyses.judge.rulings import right
from inversionview.core.errors import SettingError
from inversionview.corpora.filters import Filter, parse_filters

PATTERN = "re:"
"""What a regular expression begins with; all else is a filter."""


class Said(NamedTuple):
    """What a condition says of inputs."""

    holds: Labels
    """Whether it is true, ``[input]``."""
    grades: Graded
    """How much of it, in [0, 1], ``[input]``."""


class Condition(Protocol):
    """What inputs may satisfy."""

    def of(self, inputs: Evidence) -> Said:
        """Return of which inputs it is true."""


@dataclass(frozen=True)
class Conjunction:
    """All filters hold, as with ``--where``."""

    filters: tuple[Filter, ...]

    def of(self, inputs: Evidence) -> Said:
        """See ``Condition.of``; the grade is the share of the filters that hold."""
        each = np.stack([one.holds(inputs.features) for one in self.filters])
        return Said(np.asarray(each.all(0)), each.mean(0))


@dataclass(frozen=True)
class Pattern:
    """A regular expression is found in the text."""

    expression: re.Pattern[str]

    def of(self, inputs: Evidence) -> Said:
        """See ``Condition.of``."""
        found = np.array([self.expression.search(text) is not None for text in inputs.texts], dtype=bool)
        return Said(found, found.astype(float))


@dataclass(frozen=True)
class Always:
    """The unconditional statement: true of every input."""

    def of(self, inputs: Evidence) -> Said:
        """See ``Condition.of``."""
        return Said(np.ones(len(inputs), dtype=bool), np.ones(len(inputs)))


@dataclass(frozen=True, eq=False)
class ByFeatures:
    """A feature statement, as ``interpret`` makes them."""

    statement: FeatureStatement
    codes: Codes

    def of(self, inputs: Evidence) -> Said:
        """See ``Condition.of``; the grade is the share of its bits in the clauses that hold."""
        codes = self.codes.encode(inputs.features)
        clauses = self.statement.clauses
        if not clauses:
            return Always().of(inputs)
        each = np.stack([clause.holds(codes) for clause in clauses])
        weights = np.array([max(clause.bits, 1e-3) for clause in clauses])
        return Said(np.asarray(each.all(0)), weights @ each / weights.sum())


@dataclass(frozen=True, eq=False)
class Alike:
    """An input is like a text: it shares at least so many of that text's feature values."""

    values: Columns
    """Of the text, ``[1]`` each."""
    least: int

    def of(self, inputs: Evidence) -> Said:
        """See ``Condition.of``; the grade is the share of the values that agree."""
        shared = _shared(self.values, inputs)
        return Said(shared >= self.least, shared / max(1, len(self.values)))

    @classmethod
    def to(cls, text: Evidence, seen: Evidence) -> Alike:
        """Return what tells inputs like a text from others as well as can be by one number of shared values.

        Args:
            text: one input.
            seen: inputs on both sides on which that number is chosen: not those that it is tested on.
        """
        shared = _shared(text.features, seen)
        best = max(range(1, len(text.features) + 1), key=lambda least: right(seen.inside, shared >= least))
        return cls(text.features, best)


def _shared(values: Columns, inputs: Evidence) -> Graded:
    own = [inputs.features[name] == value[0] for name, value in values.items()]
    shared: Graded = np.sum(own, axis=0).astype(float)
    return shared


def condition(statement: str, known: Columns) -> Condition:
    """Return what a statement means offline: filters by commas, ``{F1,S1}=68, C2=1``, or ``re:`` and a regular expression.

    Args:
        statement: what is said.
        known: features of some inputs, by name.

    Raises:
        SettingError: it is neither, names an unknown feature, or asks for an order that its values lack.
    """
    said = statement.strip()
    if said.startswith(PATTERN):
        try:
            if said != PATTERN:
                return Pattern(re.compile(said.removeprefix(PATTERN)))
        except re.error as error:
            raise SettingError(f"{said!r} is not a regular expression ({error}).") from error
        raise SettingError(f"{PATTERN!r} is followed by nothing: write a regular expression, as in 're:^6'.")
    filters = _filters(said, list(known))
    for one in filters:
        one.holds(known)
    return Conjunction(filters)


def _filters(said: str, names: Sequence[str]) -> tuple[Filter, ...]:
    try:
        return parse_filters(said, names)
    except SettingError as error:
        if not re.search(r"[=<>]", said):
            raise SettingError(
                f"{said!r} is prose, which no offline judge reads: write filters as in 'A1=1', re: and a regular expression, "
                "or name a language model with --by."
            ) from error
        raise

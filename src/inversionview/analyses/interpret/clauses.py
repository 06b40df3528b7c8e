"""What a statement is: a conjunction of clauses, each of which names values of a feature, or of two; and how it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from inversionview.analyses.feature_codes import Codes
from inversionview.analyses.interpret.sides import Rows
from inversionview.corpora.inputs import Inputs

NOTHING = "Nothing that the study's features tell."
_NAMED = 3
"""Values that are named of a longer list."""
_PAIRS_NAMED = 2
"""Values of a first feature whose own values of a second are named."""
Mask = npt.NDArray[np.bool_]
"""Over the values of a feature, ``[value]``, or of two, ``[value, value]``."""
Counts = npt.NDArray[np.int64]
"""How often each occurs, in the same shape."""
Features = tuple[int, ...]
"""Numbers of a clause's features in the study's ``Codes``, one or two."""


@dataclass(frozen=True, eq=False)
class Clause:
    """The values of one feature that a statement allows, or those of two features that go together."""

    features: Features
    values: Mask
    """Which values, by code."""
    each: tuple[float, ...]
    """What each feature adds, in bits, to the clauses and the feature before it."""

    @property
    def bits(self) -> float:
        """What it adds to the clauses before it."""
        return float(sum(self.each))

    def holds(self, codes: npt.NDArray[np.int32]) -> Mask:
        """Return of which inputs it is true, by their codes ``[row, feature]``."""
        return picked(self.values, codes, self.features)


@dataclass(frozen=True, eq=False)
class FeatureStatement:
    """What the inputs of a preimage have in common: all clauses hold."""

    codes: Codes
    clauses: tuple[Clause, ...]

    @property
    def bits(self) -> float:
        """log₂ P(statement ∣ preimage) / P(statement), over the inputs it was made from."""
        return float(sum(clause.bits for clause in self.clauses))

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, the most telling first."""
        return tuple(dict.fromkeys(self.codes.names[feature] for clause in self.clauses for feature in clause.features))

    def holds(self, rows: Rows) -> Mask:
        """Return of which inputs the statement is true, ``[row]``."""
        true = np.ones(len(rows), dtype=bool)
        for clause in self.clauses:
            true &= clause.holds(self.codes.codes[rows])
        return true

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the bits of the clauses that are true of each input, ``[row]``."""
        total = np.zeros(len(rows))
        for clause in self.clauses:
            total += max(clause.bits, 1e-3) * clause.holds(self.codes.codes[rows])
        return total

    def information(self, inside: Rows, every: Rows) -> float:
        """Return log₂ P(statement ∣ preimage) / P(statement), over inputs that it was not made from."""
        return bits_beyond(int(self.holds(inside).sum()), len(inside), int(self.holds(every).sum()), len(every))

    def said(self, inputs: Inputs, own: npt.NDArray[np.int32], of: float) -> str:
        """Return the statement in words, with its bits, which together are at most the query's: what is true of a preimage
        cannot tell more than that it lies in it, though estimates from half of the inputs may add up to more.

        Args:
            inputs: say what features are called, and their values.
            own: codes of the query, ``[feature]``, whose values are named first.
            of: the query's bits.
        """
        if not self.clauses:
            return NOTHING
        parts, left = [], of
        for clause in self.clauses:
            named = " with ".join(inputs.glossary.get(name, name) for name in self._names(clause))
            told = min(max(0.0, clause.bits), left)
            left -= told
            parts.append(f"{named}: {self._listed(inputs, clause, own)} ({told:.1f} bits)")
        return _sentence(parts, of - left, of)

    def _names(self, clause: Clause) -> list[str]:
        return [self.codes.names[feature] for feature in clause.features]

    def _listed(self, inputs: Inputs, clause: Clause, own: npt.NDArray[np.int32]) -> str:
        """Return a clause's values in words; of two features ``5 with 0–3, 6 with 4 or 5``, the query's first."""
        first, *second = clause.features
        said = partial(listed_values, inputs)
        if not second:
            return said(self.codes.names[first], self.codes.values[first], clause.values, int(own[first]))
        there = np.flatnonzero(clause.values.any(1))
        there = there[np.argsort(there != own[first], kind="stable")]
        names, values = self._names(clause), [self.codes.values[feature] for feature in clause.features]
        listed = [
            f"{said(names[0], values[0], np.arange(len(values[0])) == code, code)} with "
            + said(names[1], values[1], clause.values[code], int(own[second[0]]))
            for code in there[:_PAIRS_NAMED].tolist()
        ]
        more = len(there) - len(listed)
        return ", ".join(listed) + (f", and {more} more with others" if more else "")

    def to_json(self) -> list[dict[str, object]]:
        """Return the clauses as plain JSON values."""
        return [
            {
                "feature": " with ".join(self._names(clause)),
                "values": self._values(clause),
                "bits": clause.bits,
            }
            for clause in self.clauses
        ]

    def _values(self, clause: Clause) -> list[object]:
        """Return a clause's values; of two features as pairs."""
        columns = [
            [value.item() for value in self.codes.values[feature][codes]]
            for feature, codes in zip(clause.features, np.nonzero(clause.values), strict=True)
        ]
        return list(columns[0]) if len(columns) == 1 else [list(pair) for pair in zip(*columns, strict=True)]


def listed_values(inputs: Inputs, feature: str, values: npt.NDArray[np.generic], allowed: Mask, own: int) -> str:
    """Return values as a reader would say them: ``8``, ``7–9``, ``1, 4 or 5``, ``any but 0``; of many the first by name."""
    every = np.flatnonzero(allowed)
    if len(every) == len(values):
        return "any"
    say = lambda code: inputs.said(feature, values[code].item())  # noqa: E731
    if consecutive(values) and len(every) > 2 and every[-1] - every[0] == len(every) - 1:
        return f"{say(every[0])}–{say(every[-1])}"
    if own in every:
        every = np.concatenate([[own], every[every != own]])
    if len(every) <= _NAMED + 1:
        words = [say(code) for code in every]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    without = np.flatnonzero(~allowed)
    if len(without) <= _NAMED:
        return f"any but {', '.join(say(code) for code in without)}"
    return f"one of {len(every)} ({', '.join(say(code) for code in every[:_NAMED])}, …)"


def consecutive(values: npt.NDArray[np.generic]) -> bool:
    """Return whether a feature's values are whole numbers without a gap, such as digits and counts: they make ranges."""
    return values.dtype.kind in "iu" and int(values[-1]) - int(values[0]) == len(values) - 1


def picked(values: Mask, codes: npt.NDArray[np.int32], features: Features) -> Mask:
    """Return which inputs have one of the values."""
    picked: Mask = values[tuple(codes[:, feature] for feature in features)]
    return picked


def bits_beyond(inside: int, of_inside: int, every: int, of_every: int) -> float:
    """Return log₂ of two shares' ratio, half an input added to each so that none is 0."""
    return float(np.log2((inside + 0.5) / (of_inside + 0.5) * (of_every + 0.5) / (every + 0.5)))


def summary(inputs: Inputs, statements: Sequence[FeatureStatement], bits: float, information: float) -> str:
    """Return what statements of several queries have in common: the features that at least a third of them name.

    Args:
        inputs: say what features are called.
        statements: of one site and position.
        bits: mean of the queries' bits.
        information: mean of what the statements tell of these.
    """
    told: dict[str, list[float]] = {}
    for statement in statements:
        own: dict[str, float] = {}
        for clause in statement.clauses:
            for feature, gain in zip(clause.features, clause.each, strict=True):
                own[statement.codes.names[feature]] = own.get(statement.codes.names[feature], 0.0) + gain
        for name, gain in own.items():
            told.setdefault(name, []).append(gain)
    many = len(statements)
    common = sorted(
        ((sum(gains) / many, len(gains), name) for name, gains in told.items() if 3 * len(gains) >= many), reverse=True
    )
    if not common:
        return NOTHING
    parts = [
        f"{inputs.glossary.get(name, name)} ({gain:.1f} bits{'' if times == many else f', {times} of {many} queries'})"
        for gain, times, name in common
    ]
    return _sentence(parts, information, bits)


def _sentence(parts: Sequence[str], told: float, of: float) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}; {bits_told(told, of)} bits."


def bits_told(told: float, of: float) -> str:
    """Return how many bits a statement tells, of how many: at most all, and below 0 where it holds less often inside ε."""
    return f"{'< 0' if told <= -0.05 else f'{min(max(0.0, told), of):.1f}'} of {of:.1f}"

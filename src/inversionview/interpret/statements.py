"""A statement without a language model: the fewest features whose values tell a preimage, in words.

A statement is a conjunction: each of its clauses names a feature and the values that are seen inside ε. Clauses are chosen
greedily. First those that tell most about the preimage, in bits: log₂ P(φ ∈ V ∣ preimage) / P(φ ∈ V) given the clauses before,
the table of feature information taken jointly. Then those that show where the preimage ends, judged by inputs clearly outside.
Values that a single input shows count for nothing: they would not be seen in another half of the preimage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inversionview.analysis.features import Codes
from inversionview.inputs import Inputs
from inversionview.interpret.sides import Half, Rows

_MOST_CLAUSES = 8
_LEAST_BITS = 0.1
"""A clause that tells less is left out."""
_LEAST_ACCURACY = 0.005
"""So much balanced accuracy must a clause gain that only shows where the preimage ends."""
_BEYOND_CHANCE = 2.5
"""And so many standard errors of what it gains."""
_COVERED = 0.99
"""Share of the inputs inside whose values a clause names."""
_LEAST_KEPT = 0.9
"""A clause that would shut out more of the preimage than the rest of it tells nothing of what is common."""
NOTHING = "Nothing that the study's features tell."
_NAMED = 3
"""Values that are named of a longer list."""
Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Clause:
    """The values of one feature that a statement allows."""

    feature: int
    """Number of the feature in the study's ``Codes``."""
    values: Mask
    """Which values, by code."""
    bits: float
    """What it adds to the clauses before it."""


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
        return tuple(self.codes.names[clause.feature] for clause in self.clauses)

    def holds(self, rows: Rows) -> Mask:
        """Return of which inputs the statement is true, ``[row]``."""
        true = np.ones(len(rows), dtype=bool)
        for clause in self.clauses:
            true &= clause.values[self.codes.codes[rows, clause.feature]]
        return true

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the bits of the clauses that are true of each input, ``[row]``."""
        total = np.zeros(len(rows))
        for clause in self.clauses:
            total += max(clause.bits, 1e-3) * clause.values[self.codes.codes[rows, clause.feature]]
        return total

    def information(self, inside: Rows, every: Rows) -> float:
        """Return log₂ P(statement ∣ preimage) / P(statement), over inputs that it was not made from."""
        return _bits(int(self.holds(inside).sum()), len(inside), int(self.holds(every).sum()), len(every))

    def said(self, inputs: Inputs, own: npt.NDArray[np.int32], of: float) -> str:
        """Return the statement in words, with its bits.

        Args:
            inputs: say what features are called, and their values.
            own: codes of the query, ``[feature]``, whose values are named first.
            of: the query's bits.
        """
        if not self.clauses:
            return NOTHING
        parts = []
        for clause in self.clauses:
            name, values = self.codes.names[clause.feature], self.codes.values[clause.feature]
            listed = listed_values(inputs, name, values, clause.values, int(own[clause.feature]))
            parts.append(f"{inputs.glossary.get(name, name)}: {listed} ({clause.bits:.1f} bits)")
        return _sentence(parts, self.bits, of)

    def to_json(self) -> list[dict[str, object]]:
        """Return the clauses as plain JSON values."""
        return [
            {
                "feature": self.codes.names[clause.feature],
                "values": [value.item() for value in self.codes.values[clause.feature][clause.values]],
                "bits": clause.bits,
            }
            for clause in self.clauses
        ]


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


class _Rest:
    """The inputs that satisfy the clauses so far: inside, outside, and of the corpus."""

    def __init__(self, codes: Codes, half: Half, every: Rows) -> None:
        self.sizes = [len(values) for values in codes.values]
        self.ordered = [consecutive(values) for values in codes.values]
        self.inside, self.outside, self.every = (codes.codes[rows] for rows in (half.inside, half.outside, every))
        self.total = len(self.inside), max(1, len(self.outside)), len(self.every)
        self.fold = [np.arange(len(codes)) % 2 for codes in (self.inside, self.outside)]

    def counts(self, feature: int) -> tuple[Counts, Counts, Counts]:
        """Return how often each value of a feature occurs: inside, outside, in the corpus."""
        size = self.sizes[feature]
        inside, outside, every = (
            np.bincount(codes[:, feature], minlength=size) for codes in (self.inside, self.outside, self.every)
        )
        return inside, outside, every

    def folds(self, feature: int, fold: int) -> tuple[Counts, Counts]:
        """Return how often each value of a feature occurs in one half of the inputs inside, and of those outside."""
        both = zip((self.inside, self.outside), self.fold, strict=True)
        inside, outside = (np.bincount(codes[own == fold, feature], minlength=self.sizes[feature]) for codes, own in both)
        return inside, outside

    def keep(self, feature: int, values: Mask) -> None:
        """Add a clause."""
        both = zip((self.inside, self.outside), self.fold, strict=True)
        self.fold = [own[values[codes[:, feature]]] for codes, own in both]
        self.inside, self.outside, self.every = (
            codes[values[codes[:, feature]]] for codes in (self.inside, self.outside, self.every)
        )

    def filled(self, feature: int, values: Mask, outside: Counts) -> Mask:
        """Return a set of values; in a range also those between that were seen on neither side."""
        if not self.ordered[feature] or not values.any():
            return values
        codes = np.flatnonzero(values)
        between = np.zeros_like(values)
        between[codes[0] : codes[-1] + 1] = True
        full: Mask = values | (between & (outside == 0))
        return full


def feature_statement(codes: Codes, half: Half, every: Rows) -> FeatureStatement:
    """Return what is common to a preimage, in features.

    Args:
        codes: features of every input of the bank.
        half: the inputs on both sides of ε that the statement is made from.
        every: a random part of the bank, without regard to ε.
    """
    rest, found = _Rest(codes, half, every), dict[int, Mask]()
    while len(found) < _MOST_CLAUSES and (best := _most_telling(rest)):
        feature, values = best
        found[feature] = values & found.get(feature, values)
        rest.keep(feature, values)
    while len(found) < _MOST_CLAUSES and (best := _sharpest(rest)):
        feature, values = best
        found[feature] = values & found.get(feature, values)
        rest.keep(feature, values)
    return FeatureStatement(codes, _ordered(codes, half, every, _pruned(codes, half, every, found)))


def _most_telling(rest: _Rest) -> tuple[int, Mask] | None:
    """Return the clause that tells most about the preimage, given those before."""
    best: tuple[float, int, Mask] | None = None
    for feature in range(len(rest.sizes)):
        inside, outside, every = rest.counts(feature)
        if not inside.sum():
            return None
        order = np.argsort(-inside / np.maximum(every, 0.5), kind="stable")
        covered = np.cumsum(inside[order]) / inside.sum()
        values = np.zeros(len(inside), dtype=bool)
        values[order[: np.searchsorted(covered, _COVERED - 1e-12) + 1]] = True
        values &= inside > 0
        seen = int(inside[values].sum() - (inside[values] == 1).sum())  # what a single input shows is no evidence
        values = rest.filled(feature, values, outside)
        if seen < _LEAST_KEPT * inside.sum():
            continue
        told = _bits(seen, int(inside.sum()), int(every[values].sum()), int(every.sum()))
        if told >= _LEAST_BITS and (best is None or told > best[0] + 1e-9):
            best = told, feature, values
    return None if best is None else best[1:]


def _sharpest(rest: _Rest) -> tuple[int, Mask] | None:
    """Return the clause that best tells inside from outside, given those before.

    Its worth is that of values found in one half of the inputs and judged by the other, both ways; what chance could give is
    none.
    """
    best: tuple[float, int, Mask] | None = None
    n, m, _ = rest.total
    for feature in range(len(rest.sizes)):
        lost = spared = 0
        for judged in (0, 1):
            learned, held = rest.folds(feature, 1 - judged), rest.folds(feature, judged)
            values = rest.filled(feature, learned[0] / n > learned[1] / m, learned[1])
            lost += int(held[0][~values].sum())
            spared += int(held[1][~values].sum())
        gain, chance = (spared / m - lost / n) / 2, np.sqrt(spared / m**2 + lost / n**2) / 2
        if gain < max(_LEAST_ACCURACY, _BEYOND_CHANCE * chance) or (best is not None and gain <= best[0] + 1e-12):
            continue
        inside, outside, _ = rest.counts(feature)
        best = gain, feature, rest.filled(feature, inside / n > outside / m, outside)
    return None if best is None else best[1:]


def _pruned(codes: Codes, half: Half, every: Rows, found: Mapping[int, Mask]) -> dict[int, Mask]:
    """Return the clauses without those that the others make needless: neither bits nor accuracy need them."""
    kept = dict(found)
    for feature in list(kept):
        without = {name: values for name, values in kept.items() if name != feature}
        before, after = (_judged(codes, half, every, each) for each in (kept, without))
        if after[0] >= before[0] - 0.001 and after[1] >= before[1] - _LEAST_BITS:
            kept = without
    return kept


def _judged(codes: Codes, half: Half, every: Rows, clauses: Mapping[int, Mask]) -> tuple[float, float]:
    """Return balanced accuracy and bits of clauses; a value that one input alone shows does not count as kept."""
    inside, outside, corpus = (np.ones(len(rows), dtype=bool) for rows in (half.inside, half.outside, every))
    for feature, values in clauses.items():
        own = codes.codes[half.inside, feature]
        inside &= values[own] & (np.bincount(own, minlength=len(values))[own] > 1)
        outside &= values[codes.codes[half.outside, feature]]
        corpus &= values[codes.codes[every, feature]]
    accuracy = (inside.mean() + 1 - (outside.mean() if len(outside) else 0)) / 2
    return float(accuracy), _bits(int(inside.sum()), len(inside), int(corpus.sum()), len(corpus))


def _ordered(codes: Codes, half: Half, every: Rows, found: Mapping[int, Mask]) -> tuple[Clause, ...]:
    """Return the clauses, the most telling first, each with the bits that it adds."""
    rest, left, made = _Rest(codes, half, every), dict(found), list[Clause]()
    while left:
        told = {}
        for feature, values in left.items():
            inside, _, corpus = rest.counts(feature)
            told[feature] = _bits(int(inside[values].sum()), int(inside.sum()), int(corpus[values].sum()), int(corpus.sum()))
        best = max(left, key=lambda feature: told[feature])
        made.append(Clause(best, left[best], told[best]))
        rest.keep(best, left.pop(best))
    return tuple(made)


def _bits(inside: int, of_inside: int, every: int, of_every: int) -> float:
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
        for clause in statement.clauses:
            told.setdefault(statement.codes.names[clause.feature], []).append(clause.bits)
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
    return f"{text[:1].upper()}{text[1:]}; {told:.1f} of {of:.1f} bits."

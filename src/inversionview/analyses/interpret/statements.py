"""A statement without a language model: the fewest features whose values tell a preimage, in words.

A statement is a conjunction: each of its clauses names a feature and the values that are seen inside ε, or two features and
which of their values go together. Clauses are chosen greedily. First those that tell most about the preimage, in bits:
log₂ P(φ ∈ V ∣ preimage) / P(φ ∈ V) given the clauses before, the table of feature information taken jointly. Then those that
show where the preimage ends, judged by inputs clearly outside: of one feature, then of two, one of them named before.
A value of one feature that a single input shows counts for nothing: it would not be seen in another half of the preimage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import permutations
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from inversionview.analyses.feature_codes import Codes
from inversionview.analyses.interpret.clauses import (
    Clause,
    Counts,
    Features,
    FeatureStatement,
    Mask,
    bits_beyond,
    consecutive,
    picked,
)
from inversionview.analyses.interpret.sides import Half, Rows

_MOST_CLAUSES = 8
_LEAST_BITS = 0.1
"""A clause that tells less is left out."""
_LEAST_ACCURACY = 0.005
"""So much balanced accuracy must a clause gain that only shows where the preimage ends."""
_BEYOND_CHANCE = 2.5
"""And so many standard errors of what it gains, of a feature; of pairs more, as they are many: chance shows the best of them as
rarely."""
_MOST_PAIRS = 2**14
"""Two features with more pairs of values than that are left alone: no half has the inputs to learn which go together."""
_COVERED = 0.99
"""Share of the inputs inside whose values a clause names."""
_LEAST_KEPT = 0.9
"""A clause that would shut out more of the preimage than the rest of it tells nothing of what is common."""


class _Rest:
    """The inputs that satisfy the clauses so far: inside, outside, and of the corpus."""

    def __init__(self, codes: Codes, half: Half, every: Rows) -> None:
        self.sizes = [len(values) for values in codes.values]
        self.ordered = [consecutive(values) for values in codes.values]
        self.inside, self.outside, self.every = (codes.codes[rows] for rows in (half.inside, half.outside, every))
        self.total = len(self.inside), max(1, len(self.outside)), len(self.every)
        self.fold = [np.arange(len(codes)) % 2 for codes in (self.inside, self.outside)]

    def counts(self, features: Features) -> tuple[Counts, Counts, Counts]:
        """Return how often each value of a feature, or pair of values of two, occurs: inside, outside, in the corpus."""
        inside, outside, every = (self._count(codes, features) for codes in (self.inside, self.outside, self.every))
        return inside, outside, every

    def folds(self, features: Features, fold: int) -> tuple[Counts, Counts]:
        """Return the same in one half of the inputs inside, and of those outside."""
        both = zip((self.inside, self.outside), self.fold, strict=True)
        inside, outside = (self._count(codes[own == fold], features) for codes, own in both)
        return inside, outside

    def _count(self, codes: npt.NDArray[np.int32], features: Features) -> Counts:
        shape = tuple(self.sizes[feature] for feature in features)
        return np.bincount(_flat(codes, features, shape), minlength=int(np.prod(shape))).reshape(shape)

    def keep(self, features: Features, values: Mask) -> None:
        """Add a clause."""
        inside, outside, every = (picked(values, codes, features) for codes in (self.inside, self.outside, self.every))
        self.fold = [own[kept] for own, kept in zip(self.fold, (inside, outside), strict=True)]
        self.inside, self.outside, self.every = self.inside[inside], self.outside[outside], self.every[every]

    def filled(self, features: Features, values: Mask, outside: Counts) -> Mask:
        """Return a set of values; in a range, of the last feature, also those between that were not seen outside."""
        if not self.ordered[features[-1]]:
            return values
        before = np.logical_or.accumulate(values, axis=-1)
        after = np.logical_or.accumulate(values[..., ::-1], axis=-1)[..., ::-1]
        full: Mask = values | (before & after & (outside == 0))
        return full


def _flat(codes: npt.NDArray[np.int32], features: Features, shape: tuple[int, ...]) -> Counts:
    """Return one number for each input's value of a feature, or pair of values of two."""
    flat: Counts = np.ravel_multi_index(tuple(codes[:, feature] for feature in features), shape).astype(np.int64)
    return flat


def feature_statement(codes: Codes, half: Half, every: Rows) -> FeatureStatement:
    """Return what is common to a preimage, in features.

    Args:
        codes: features of every input of the bank.
        half: the inputs on both sides of ε that the statement is made from.
        every: a random part of the bank, without regard to ε.
    """
    rest, found = _Rest(codes, half, every), dict[Features, Mask]()
    single = [(feature,) for feature in range(len(rest.sizes))]

    def add(features: Features, values: Mask) -> None:
        for axis, feature in enumerate(features if len(features) == 2 else ()):
            if (feature,) in found:  # what is filled of a range is not what was shut out before
                values = values & np.expand_dims(found[feature,], 1 - axis)
        found[features] = values & found.get(features, values)
        rest.keep(features, values)

    while len(found) < _MOST_CLAUSES and (best := _most_telling(rest)):
        add(*best)
    while len(found) < _MOST_CLAUSES and (best := _sharpest(rest, single, _BEYOND_CHANCE)):
        add(*best)
    named = {features[0] for features in found}
    pairs = [
        (a, b)
        for a, b in permutations(range(len(rest.sizes)), 2)
        if a in named and rest.sizes[a] * rest.sizes[b] <= _MOST_PAIRS
    ]
    beyond = -NormalDist().inv_cdf(NormalDist().cdf(-_BEYOND_CHANCE) / max(1, len(pairs)))
    while len(found) < _MOST_CLAUSES and (best := _sharpest(rest, pairs, beyond)):
        add(*best)
    return FeatureStatement(codes, _ordered(codes, half, every, _pruned(codes, half, every, found)))


def _most_telling(rest: _Rest) -> tuple[Features, Mask] | None:
    """Return the clause that tells most about the preimage, given those before."""
    best: tuple[float, Features, Mask] | None = None
    for feature in range(len(rest.sizes)):
        inside, outside, every = rest.counts((feature,))
        if not inside.sum():
            return None
        order = np.argsort(-inside / np.maximum(every, 0.5), kind="stable")
        covered = np.cumsum(inside[order]) / inside.sum()
        values = np.zeros(len(inside), dtype=bool)
        values[order[: np.searchsorted(covered, _COVERED - 1e-12) + 1]] = True
        values &= inside > 0
        seen = int(inside[values].sum() - (inside[values] == 1).sum())  # what a single input shows is no evidence
        values = rest.filled((feature,), values, outside)
        if seen < _LEAST_KEPT * inside.sum():
            continue
        told = bits_beyond(seen, int(inside.sum()), int(every[values].sum()), int(every.sum()))
        if told >= _LEAST_BITS and (best is None or told > best[0] + 1e-9):
            best = told, (feature,), values
    return None if best is None else best[1:]


def _sharpest(rest: _Rest, candidates: Iterable[Features], beyond: float) -> tuple[Features, Mask] | None:
    """Return the clause that best tells inside from outside, given those before.

    Its worth is that of values found in one half of the inputs and judged by the other, both ways; what chance could give,
    ``beyond`` standard errors, is none.
    """
    best: tuple[float, Features, Mask] | None = None
    n, m, _ = rest.total
    for features in candidates:
        lost = spared = 0
        halves = rest.folds(features, 0), rest.folds(features, 1)
        for learned, held in (halves, halves[::-1]):
            values = rest.filled(features, learned[0] / n > learned[1] / m, learned[1])
            lost += int(held[0][~values].sum())
            spared += int(held[1][~values].sum())
        gain, chance = (spared / m - lost / n) / 2, np.sqrt(spared / m**2 + lost / n**2) / 2
        if gain < max(_LEAST_ACCURACY, beyond * chance) or (best is not None and gain <= best[0] + 1e-12):
            continue
        inside, outside, _ = rest.counts(features)
        best = gain, features, rest.filled(features, inside / n > outside / m, outside)
    return None if best is None else best[1:]


def _pruned(codes: Codes, half: Half, every: Rows, found: Mapping[Features, Mask]) -> dict[Features, Mask]:
    """Return the clauses without those that the others make needless: neither bits nor accuracy need them."""
    kept = dict(found)
    shown = np.ones(len(half.inside), dtype=bool)  # a value that one input alone shows does not count as kept
    for features in found:
        if len(features) == 1:
            own = codes.codes[half.inside, features[0]]
            shown &= np.bincount(own)[own] > 1
    for features in list(kept):
        without = {own: values for own, values in kept.items() if own != features}
        before, after = (_judged(codes, half, every, each, shown) for each in (kept, without))
        if after[0] >= before[0] - 0.001 and after[1] >= before[1] - _LEAST_BITS:
            kept = without
    return kept


def _judged(codes: Codes, half: Half, every: Rows, clauses: Mapping[Features, Mask], shown: Mask) -> tuple[float, float]:
    """Return balanced accuracy and bits of clauses; of the inputs inside only those that are ``shown`` count as kept."""
    inside, (outside, corpus) = shown.copy(), (np.ones(len(rows), dtype=bool) for rows in (half.outside, every))
    for features, values in clauses.items():
        inside &= picked(values, codes.codes[half.inside], features)
        outside &= picked(values, codes.codes[half.outside], features)
        corpus &= picked(values, codes.codes[every], features)
    accuracy = (inside.mean() + 1 - (outside.mean() if len(outside) else 0)) / 2
    return float(accuracy), bits_beyond(int(inside.sum()), len(inside), int(corpus.sum()), len(corpus))


def _ordered(codes: Codes, half: Half, every: Rows, found: Mapping[Features, Mask]) -> tuple[Clause, ...]:
    """Return the clauses, the most telling first, each with the bits that it adds."""
    rest, left, made = _Rest(codes, half, every), dict(found), list[Clause]()
    while left:
        told = {features: _told(rest, features, values) for features, values in left.items()}
        best = max(left, key=lambda features: sum(told[features]))
        made.append(Clause(best, left[best], told[best]))
        rest.keep(best, left.pop(best))
    return tuple(made)


def _told(rest: _Rest, features: Features, values: Mask) -> tuple[float, ...]:
    """Return the bits that a clause adds, of each of its features: of the second what it adds to the first."""
    inside, _, corpus = rest.counts(features)
    whole = bits_beyond(int(inside[values].sum()), int(inside.sum()), int(corpus[values].sum()), int(corpus.sum()))
    if len(features) == 1:
        return (whole,)
    (first,) = _told(rest, features[:1], np.any(values, axis=1))
    return first, whole - first

"""What counts as proven: shares with intervals, and a verdict from the ends of the intervals, never from the values alone.

*Precision* is the share of inputs inside ε of which a statement is true, *coverage* the share of inputs clearly outside of
which it is false; balanced accuracy is their mean. docs/judging.md defines every verdict.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, log2, sqrt
from typing import Any, Literal, get_args

import numpy as np

from inversionview.analyses.interpret.scoring import Graded, Labels, auroc
from inversionview.core.information import Mean, wilson

Ruling = Literal["proven", "too general", "too narrow", "unproven", "not testable here"]
RULINGS: tuple[Ruling, ...] = get_args(Ruling)
BAR = 0.9
"""A share is high where the lower end of its interval is at least this, and not high where the upper end is below."""
LEAST = ceil(1.959964**2 * BAR / (1 - BAR))
"""Inputs on each side that a test needs: of fewer even a statement without a mistake has an interval that begins below
``BAR``, as Wilson's lower end for n of n is n / (n + z²)."""


@dataclass(frozen=True)
class Measured:
    """How a statement did on a query's unseen inputs, with 95 % intervals."""

    precision: Mean
    """Share of the inputs inside of which it is true; Wilson's interval."""
    coverage: Mean
    """Share of the inputs outside of which it is false; likewise."""
    balanced_accuracy: Mean
    """Their mean; the interval by Newcombe's squares of the two intervals' reaches."""
    auroc: Mean
    """The probability that an input inside is graded higher than one outside; Wilson's interval for as many pairs as the
    smaller side has, as the variance is at most A(1 − A) / min(n, m) (Birnbaum and Klose 1957)."""
    inside: int
    outside: int
    exactness: Mean | None = None
    """Of random inputs of which it is true and which lie clearly on one side, the share inside; ``None`` where it was not
    asked, which it is where precision is high, or
    coverage and the statement true inside more often than outside."""

    @classmethod
    def of(cls, inside: Labels, holds: Labels, grades: Graded) -> Measured:
        """Measure what was said of inputs.

        Args:
            inside: which lie inside ε, ``[input]``.
            holds: of which the statement was found true.
            grades: how much of it was.
        """
        n, m = int(inside.sum()), int((~inside).sum())
        precision, coverage = share(int(holds[inside].sum()), n), share(int((~holds[~inside]).sum()), m)
        area, few = auroc(inside, grades), min(n, m)
        return cls(precision, coverage, _middle(precision, coverage), Mean(area, *wilson(area * few, few)), n, m)

    @property
    def partly(self) -> bool:
        """It is false of nearly all inputs outside, and shown to be true inside more often."""
        return self.coverage.low >= BAR and self.precision.low > 1 - self.coverage.low

    @property
    def excess(self) -> bool:
        """It is shown to be true of more than the inputs inside."""
        return self.coverage.high < BAR or (self.exactness is not None and self.exactness.high < BAR)

    def to_json(self) -> dict[str, Any]:
        """Return the values, and beside them the intervals, as plain JSON values."""
        told = {name: getattr(self, name) for name in ("balanced_accuracy", "auroc", "precision", "coverage", "exactness")}
        return {
            **{name: None if each is None else each.value for name, each in told.items()},
            "inside": self.inside,
            "outside": self.outside,
            "intervals": {name: [each.low, each.high] for name, each in told.items() if each is not None},
        }


def share(hits: int, trials: int) -> Mean:
    """Return a share with Wilson's interval."""
    return Mean(hits / trials, *wilson(hits, trials))


def _middle(a: Mean, b: Mean) -> Mean:
    """Return the mean of two independent shares; the interval of their sum is Newcombe's (1998), halved."""
    value = (a.value + b.value) / 2
    below = sqrt((a.value - a.low) ** 2 + (b.value - b.low) ** 2) / 2
    above = sqrt((a.high - a.value) ** 2 + (b.high - b.value) ** 2) / 2
    return Mean(value, value - below, value + above)


def gain(inside: Labels, holds: Labels, other: Labels) -> Mean:
    """Return by how much balanced accuracy is above another statement's on the same inputs, with a 95 % interval.

    Of each input it is known which of the two was right, so the difference is a mean over inputs on each side, the interval
    Student's t with the degrees of Welch. Where no two inputs differ the interval has no width.
    """
    from scipy.stats import t

    better = (holds == inside).astype(float) - (other == inside).astype(float)
    sides = better[inside], better[~inside]
    value = float(sum(each.mean() for each in sides) / 2)
    parts = [each.var(ddof=1) / len(each) if len(each) > 1 else 0.0 for each in sides]
    if not sum(parts):
        return Mean(value, value, value)
    free = sum(parts) ** 2 / sum(part**2 / (len(each) - 1) for part, each in zip(parts, sides, strict=True) if part)
    reach = float(t.ppf(0.975, free)) * sqrt(sum(parts)) / 2
    return Mean(value, value - reach, value + reach)


def ruled(told: Measured, of_query: bool | None) -> tuple[Ruling, str]:
    """Return the verdict on a statement, and why, as a sentence.

    Args:
        told: how it did on unseen inputs.
        of_query: whether it is true of the query's own input; ``None`` where that is not known.
    """
    p, c = told.precision, told.coverage
    if of_query is False:
        return "unproven", f"It is false of the input itself, and true of {p.value:.0%} of those inside."
    if p.low >= BAR and told.excess:
        return "too general", "It is true inside, but outside, too: of " + _outside(told)
    if min(p.low, c.low) >= BAR and (told.exactness is None or told.exactness.low >= BAR):
        return "proven", f"It is true of {p.value:.0%} of the inputs inside and false of {c.value:.0%} outside."
    if told.partly and p.high < BAR and not told.excess:
        return "too narrow", f"It is true of {p.value:.0%} of the inputs inside alone: the activation tells less."
    if told.partly and told.exactness is not None and told.excess:
        wide = 1 - told.exactness.value
        return (
            "unproven",
            f"It is true of {p.value:.0%} of the inputs inside, and {wide:.0%} of all that it is true of lie outside.",
        )
    if p.low <= 1 - c.low:
        return "unproven", "It is not shown to be true inside more often than outside."
    if p.high < BAR and c.high < BAR:
        return "unproven", f"It is false of {1 - p.value:.0%} of the inputs inside, and true of {1 - c.value:.0%} outside."
    return "unproven", f"Too few inputs tell whether a share is above {BAR:.0%} or below."


def _outside(told: Measured) -> str:
    """Return of how many inputs outside a statement is true, to end a sentence."""
    if told.coverage.high < BAR or told.exactness is None:
        return f"{1 - told.coverage.value:.0%} of the nearest inputs there."
    return f"all inputs of which it is true {1 - told.exactness.value:.0%} lie there."


def untestable(inside: int, outside: int, bits: float, inputs: int) -> str:
    """Return why a statement cannot be tested, and how many bits are needed.

    Args:
        inside: unseen inputs inside ε.
        outside: unseen inputs clearly outside.
        bits: what the activation tells.
        inputs: of the corpus, half of which are unseen.
    """
    if inside < LEAST:
        most, wanted = log2(max(1.0, inputs / (2 * LEAST))), ceil(round(2 * LEAST * 2**bits, 3))
        return (
            f"Of the {LEAST} unseen inputs inside ε that a test needs there are {inside}: of {inputs:,} inputs an activation "
            f"may tell at most {most:.1f} bits, and this one tells {bits:.1f}; take a bank of {wanted:,} inputs, a larger ε "
            "or, for a study, a walk."
        )
    return (
        f"{outside} unseen inputs lie clearly outside ε, and a test needs {LEAST}: the activation tells {bits:.1f} bits, and "
        f"at least {log2(inputs / max(1, inputs - 2 * LEAST)):.4f} are needed; take a smaller ε."
    )


def plain(mean: Mean | None) -> dict[str, float] | None:
    """Return a mean as plain JSON values."""
    return None if mean is None else asdict(mean)


def right(inside: Labels, holds: Labels) -> float:
    """Return balanced accuracy, ½ where a side is empty."""
    if inside.all() or not inside.any():
        return 0.5
    return float(np.mean([holds[inside].mean(), (~holds[~inside]).mean()]))

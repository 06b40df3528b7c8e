"""Whether a statement is true: balanced accuracy and AUROC on unseen inputs, half inside ε, half outside at matched ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.core.errors import SettingError
from inversionview.core.information import Mean, mean

Labels = npt.NDArray[np.bool_]
Graded = npt.NDArray[np.float64]


def balanced_accuracy(inside: Labels, said: Labels) -> float:
    """Return the mean of the shares that are told right inside and outside, in [0, 1]; ½ is chance.

    >>> balanced_accuracy(np.array([True, True, False]), np.array([True, False, False]))
    0.75

    Raises:
        SettingError: there is nothing inside, or nothing outside.
    """
    _check(inside)
    return float((said[inside].mean() + (~said[~inside]).mean()) / 2)


def auroc(inside: Labels, scores: Graded) -> float:
    """Return the area under the ROC curve: the probability that an input inside scores higher than one outside, ties half.

    It is U / (n · m) of Mann and Whitney.

    Raises:
        SettingError: there is nothing inside, or nothing outside.
    """
    from scipy.stats import rankdata

    _check(inside)
    within, without = int(inside.sum()), int((~inside).sum())
    ranks = rankdata(scores)[inside].sum()
    return float((ranks - within * (within + 1) / 2) / (within * without))


def _check(inside: Labels) -> None:
    if inside.all() or not inside.any():
        raise SettingError("A score needs inputs both inside and outside ε.")


@dataclass(frozen=True)
class Verdict:
    """What a statement said of one query's inputs."""

    balanced_accuracy: float
    auroc: float
    inputs: int

    @classmethod
    def of(cls, inside: Labels, said: Labels, scores: Graded) -> Verdict:
        """Score what was said."""
        return cls(balanced_accuracy(inside, said), auroc(inside, scores), len(inside))


@dataclass(frozen=True)
class Score:
    """Means over queries with 95 % bootstrap intervals."""

    balanced_accuracy: Mean
    auroc: Mean
    queries: int
    inputs: int
    """In all."""

    @classmethod
    def of(cls, told: Sequence[Verdict], seed: int = 0) -> Score | None:
        """Return the score over queries; ``None`` without any."""
        if not told:
            return None
        accuracy, area = (mean([getattr(each, name) for each in told], seed=seed) for name in ("balanced_accuracy", "auroc"))
        return cls(accuracy, area, len(told), sum(each.inputs for each in told))

    def to_json(self) -> dict[str, Any]:
        """Return the score as plain JSON values."""
        return asdict(self)


def beats(told: Sequence[Verdict], other: Sequence[Verdict], confidence: float = 0.95) -> bool:
    """Return whether the balanced accuracy is above another's on the same inputs, query by query.

    The interval of the mean difference by Student's t lies above 0: a bootstrap of a few queries would be too sure. One query
    alone is no evidence.
    """
    from scipy.stats import t

    if len(told) < 2:
        return False
    gains = np.array([a.balanced_accuracy - b.balanced_accuracy for a, b in zip(told, other, strict=True)])
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    return bool(gains.mean() > t.ppf((1 + confidence) / 2, len(gains) - 1) * error and gains.mean() > 0)

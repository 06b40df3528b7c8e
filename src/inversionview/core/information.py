"""Information in bits: what the size of a preimage says, with intervals. Pure functions on counts.

An activation z_q whose ε-preimage holds a share p of all inputs tells −log₂ p bits about its input; a feature φ of which the
preimage knows the value with probability P(φ = φ(x_q) ∣ preimage) instead of P(φ = φ(x_q)) gets log₂ of their ratio.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from math import log2, sqrt
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from inversionview.core.errors import SettingError

Method = Literal["corpus", "splitting", "importance"]
METHODS: tuple[Method, ...] = get_args(Method)
"""Ways to tell bits, the most exact first."""
Values = npt.NDArray[np.float64]
_BLOCKS = 2000
_NORMAL = 1.959964
"""97.5 % of a normal distribution lie below."""


@dataclass(frozen=True)
class Bits:
    """I_ε(q) = −log₂ P(D(z_q, x) ≤ ε) without the query itself, with its 95 % interval.

    Over a corpus: hits among inputs, the interval of Clopper and Pearson. By splitting: a product of shares on a ladder of ε,
    the interval from what independent chains disagree by. By importance: weighted draws of a decoder; see ``core.importance``.
    """

    value: float
    """In bits. Of a corpus with one hit or none the most that it can show, log₂ of its inputs: see ``bounded``."""
    low: float
    high: float | None
    """``None`` without a hit: then ``low`` is all that is known."""
    hits: int
    """Inputs inside ε."""
    inputs: int
    """Inputs searched, the query itself left out; by splitting, those measured; by importance, all draws."""
    method: Method = "corpus"
    occurrences: int | None = None
    """Of natural text: occurrences inside ε, which are its ``hits``; see ``clustered_bits``."""
    windows: int | None = None
    """Of natural text: windows that these lie in."""
    effective: float | None = None
    """By importance: draws of equal weight that those inside are worth (Kish)."""
    k_hat: float | None = None
    """By importance: the tail of their weights (Vehtari et al. 2024); ``None`` where too few tell it."""

    def to_json(self) -> dict[str, Any]:
        """Return all that is known, as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None or name == "high"}

    @property
    def bounded(self) -> bool:
        """``low`` is all that is known: nothing was found, or of a corpus so little that ``value`` is the most it can show."""
        return self.hits < (2 if self.method == "corpus" else 1)


def bits(hits: int, inputs: int, confidence: float = 0.95) -> Bits:
    """Return the information that ``hits`` of ``inputs`` mean.

    >>> bits(250, 1000).value
    2.0

    Raises:
        SettingError: there are no inputs, or more hits than inputs.
    """
    least, most = clopper_pearson(hits, inputs, confidence)
    return Bits(value(hits, inputs), abs(log2(most)), -log2(least) if hits else None, hits, inputs)


def clustered_bits(hits: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> Bits:
    """Return the information that occurrences mean which lie in windows, those of one window hanging together.

    The interval is that of Clopper and Pearson for as many independent occurrences as tell the share as well: n over the design
    effect, which is the variance of the share by windows (a ratio of sums over clusters) over the binomial one, at least 1
    (Korn and Graubard 1998). Without a hit, or with all of them in one window, each window counts once.
    Of one window the lower end of the share is that of one window in so many, in proportion.

    Args:
        hits: occurrences inside ε, of each window.
        sizes: all its occurrences.

    Raises:
        SettingError: there are none.
    """
    n, k = int(sizes.sum()), int(hits.sum())
    windows, met = len(sizes), int((hits > 0).sum())
    plain = bits(k, n)
    share = k / n
    if met > 1 and k < n:
        variance = float(((hits - share * sizes) ** 2).sum()) / n**2 * windows / (windows - 1)
        effective = min(float(n), share * (1 - share) / variance) if variance > 0 else float(n)
    else:
        effective = float(windows)
    low, high = _clopper_pearson(share * effective, effective, 0.95)
    if met == 1:  # one window of so many has hits, and its share of hits is taken as it is
        low = share * windows * _clopper_pearson(1, windows, 0.95)[0]
    return Bits(plain.value, abs(log2(high)), -log2(low) if k and low else None, k, n, occurrences=k, windows=met)


def value(hits: int, inputs: int) -> float:
    """Return −log₂ (hits / inputs); without a hit log₂ inputs, the most that a corpus of this size can show: see ``least``."""
    return log2(inputs / max(1, hits))


@cache
def least(hits: int, inputs: int) -> float:
    """Return ``value``; with one hit or none the lower end of the interval, which is all that is known then."""
    return value(hits, inputs) if hits > 1 else bits(hits, inputs).low


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval of a share: P(≥ hits ∣ low) = P(≤ hits ∣ high) = (1 − confidence) / 2.

    Both ends are quantiles of beta distributions (Clopper and Pearson 1934); 0 and 1 where no or all trials hit.
    """
    if not 0 <= hits <= trials or trials < 1:
        raise SettingError(f"{hits} hits of {trials} inputs make no share: there must be inputs, and no more hits than these.")
    return _clopper_pearson(hits, trials, confidence)


def effective_interval(share: float, trials: float) -> tuple[float, float]:
    """Return the 95 % interval of Clopper and Pearson of a share that is known as well as by so many plain trials.

    The number need not be whole.
    """
    return _clopper_pearson(share * trials, trials, 0.95)


def _clopper_pearson(hits: float, trials: float, confidence: float) -> tuple[float, float]:
    """Return the interval for numbers that need not be whole, as effective ones are not."""
    from scipy.special import betaincinv  # scipy.stats takes a second to import

    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, trials - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, trials - hits, 1 - tail)) if hits < trials else 1.0
    return low, high


def wilson(hits: float, trials: float) -> tuple[float, float]:
    """Return the 95 % interval of Wilson 1927 of a share; of correlated draws, ``trials`` is their effective number.

    >>> tuple(round(end, 3) for end in wilson(5, 10))
    (0.237, 0.763)

    Raises:
        SettingError: there are no trials, or more hits than trials.
    """
    if not 0 <= hits <= trials or not trials:
        raise SettingError(f"{hits} hits of {trials} trials make no share: there must be trials, and no more hits than these.")
    share, z2 = hits / trials, _NORMAL**2 / trials
    middle, reach = share + z2 / 2, _NORMAL * sqrt(share * (1 - share) / trials + z2 / (4 * trials))
    low, high = (middle - reach) / (1 + z2), (middle + reach) / (1 + z2)
    return (0.0 if not hits else min(low, share)), (1.0 if hits == trials else max(high, share))


@dataclass(frozen=True)
class Mean:
    """A mean over queries with its bootstrap interval."""

    value: float
    low: float
    high: float


def mean(values: npt.ArrayLike, *, seed: int = 0, draws: int = 1000, confidence: float = 0.95) -> Mean:
    """Return the mean of ``values`` with its percentile bootstrap interval (queries drawn again, with replacement)."""
    return means(np.asarray(values, dtype=np.float64)[:, None], seed=seed, draws=draws, confidence=confidence)[0]


def means(values: npt.NDArray[np.float64], *, seed: int = 0, draws: int = 1000, confidence: float = 0.95) -> list[Mean]:
    """Return the mean of each column with its interval, as ``mean`` does; all columns share the rows that are drawn."""
    if not len(values):
        raise SettingError("There is no query to average over.")
    drawn = resampled(values, seed=seed, draws=draws)
    return [interval(float(value), each, confidence) for value, each in zip(values.mean(0), drawn.T, strict=True)]


def interval(value: float, drawn: Values, confidence: float = 0.95) -> Mean:
    """Return a value with the percentile interval of its bootstrap draws, ``[draw]``."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Mean(value, float(low), float(high))


def resampled(values: npt.NDArray[np.floating[Any]], *, seed: int = 0, draws: int = 1000) -> npt.NDArray[np.float64]:
    """Return bootstrap draws of the means of columns, ``[draw, column]``; all columns share the rows that are drawn.

    Of more than 2,000 rows, that many random groups of about equal size are drawn again in place of single rows: their means
    vary as much, and the work does not grow.
    """
    x, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    if len(x) > _BLOCKS:
        x = x[np.random.default_rng((seed, 37)).permutation(len(x))]
    edges = np.linspace(0, len(x), min(len(x), _BLOCKS) + 1).astype(np.int64)
    sums, sizes = np.add.reduceat(x, edges[:-1], axis=0), np.diff(edges)
    picks = rng.integers(len(sizes), size=(draws, len(sizes)))
    cells = picks + len(sizes) * np.arange(draws)[:, None]
    times = np.bincount(cells.ravel(), minlength=cells.size).reshape(draws, -1)
    drawn: npt.NDArray[np.float64] = (times @ sums) / (times @ sizes)[:, None]
    return drawn


def shares(codes: npt.NDArray[np.integer[Any]], size: int) -> Values:
    """Return the share of each value 0 … size − 1 among ``codes``."""
    counts: Values = np.bincount(codes, minlength=size) / max(1, len(codes))
    return counts


def entropy(distribution: Values) -> float:
    """Return H = −Σ p log₂ p in bits, 0 log 0 being 0.

    >>> entropy(np.array([0.5, 0.25, 0.25, 0.0]))
    1.5
    """
    p = distribution[distribution > 0]
    return float(abs(-(p * np.log2(p)).sum()))


def divergence(p: Values, q: Values) -> float:
    """Return KL(p ‖ q) = Σ p log₂ (p / q) in bits, ≥ 0; infinite where p has what q lacks."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / q), 0.0)
    return float(max(terms.sum(), 0.0))

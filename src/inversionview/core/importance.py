"""Importance sampling: the share of a distribution that lies in a set, told by draws of others whose densities are known.

Draws of several proposals count as draws of their mixture (the balance heuristic of Veach and Guibas 1995, the deterministic
mixture of Owen and Zhou 2000): with n_k of N draws from q_k, x has the weight w(x) = π(x) / Σ_k (n_k / N) q_k(x), whichever
drew it. With π itself among the proposals no weight exceeds N / n_π, however badly the others cover the set. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, log10

import numpy as np
from jaxtyping import Bool, Float, Int

from inversionview.core.errors import SettingError
from inversionview.core.information import Bits, effective_interval

Weights = Float[np.ndarray, " draw"]
MOST_K = 0.7
"""Above this k̂ a mean of weights does not settle, however many there are."""
LEAST_EFFECTIVE = 50
"""Fewer effective draws tell too little: ± 0.4 bits and more."""


def balance(log_target: Weights, log_proposals: Float[np.ndarray, "proposal draw"], drawn: Sequence[int]) -> Weights:
    """Return the weight of each draw, π(x) over the density of the mixture that all draws are from; 0 where π is.

    Args:
        log_target: log π of each draw, normalised; −∞ for what is no input.
        log_proposals: log-density of each draw under each proposal.
        drawn: how many of the draws are from each.

    Raises:
        SettingError: a draw has no density under any of the proposals, so that it cannot be a draw of these.
    """
    shares = np.asarray(drawn, dtype=np.float64) / sum(drawn)
    with np.errstate(divide="ignore"):
        mixture = np.logaddexp.reduce(log_proposals + np.log(shares)[:, None], axis=0)
    real = np.isfinite(log_target)
    if not np.isfinite(mixture[real]).all():
        raise SettingError("A draw has density 0 under all that it may be drawn from: give the densities of what drew it.")
    weights = np.zeros(len(log_target))
    weights[real] = np.exp(log_target[real] - mixture[real])
    return weights


def kish(weights: Weights) -> float:
    """Return the effective number of weighted draws, (Σ w)² / Σ w² (Kish 1965).

    >>> kish(np.array([2.0, 2.0, 2.0, 0.0]))
    3.0
    """
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def k_hat(weights: Weights) -> float | None:
    """Return the shape k̂ of the Pareto distribution that fits the largest weights (Vehtari et al. 2024).

    Over ``MOST_K`` few draws make the sum. ``None`` of fewer than 25 weights above 0, and where the largest are all equal.
    """
    from arviz_stats.base import array_stats

    weights = weights[weights > 0]
    if len(weights) < 25:
        return None
    try:
        with np.errstate(all="ignore"):
            found = float(array_stats.psislw(-np.log(weights))[1])  # made for likelihoods, whose inverses are the weights
    except ValueError:
        return None
    return found if np.isfinite(found) else None


def most_k(count: int) -> float:
    """Return the k̂ above which a mean of so many weights has not settled, min(1 − 1 / log₁₀ n, 0.7) (Vehtari et al. 2024).

    >>> round(most_k(100), 3), most_k(10_000)
    (0.5, 0.7)
    """
    return min(1 - 1 / log10(max(count, 11)), MOST_K)


@dataclass(frozen=True)
class Share:
    """A share of π as weighted draws tell it."""

    value: float
    variance: float
    """Of ``value``: proposal by proposal, as the number of draws from each is fixed."""
    effective: float
    """Draws of equal weight that were worth as much."""
    k_hat: float | None


def share(weights: Weights, inside: Bool[np.ndarray, " draw"], proposal: Int[np.ndarray, " draw"]) -> Share:
    """Return P_π(inside) = E_q[w · 1[inside]].

    Args:
        weights: from ``balance``.
        inside: which draws lie in the set.
        proposal: which proposal each is from.
    """
    held = np.where(inside, weights, 0.0)
    each = (held[proposal == number] for number in np.unique(proposal))
    variance = sum(len(part) * float(part.var(ddof=1)) for part in each if len(part) > 1) / len(held) ** 2
    return Share(float(held.mean()), variance, kish(held), k_hat(held))


def importance_bits(
    weights: Weights, inside: Bool[np.ndarray, " draw"], proposal: Int[np.ndarray, " draw"], left_out: float = 0.0
) -> Bits:
    """Return −log₂ of the share of π inside, of what is left once ``left_out`` of it, the query's own, is.

    The interval is that of Clopper and Pearson for as many plain draws as tell the share as well, p (1 − p) over its variance.
    Without a draw inside those of the last proposal, which is π itself, bound it.
    """
    told = share(weights, inside, proposal)
    plain = int((proposal == proposal.max()).sum())
    hits = int((inside & (weights > 0)).sum())
    value = min(told.value / (1 - left_out), 1.0)
    if not hits:
        low = -log2(effective_interval(0.0, plain)[1])
        return Bits(low, low, None, 0, len(weights), "importance", effective=0.0)
    trials = value * (1 - value) / told.variance if told.variance and value < 1 else float(plain)
    least, most = effective_interval(value, trials)
    return Bits(
        abs(log2(value)), abs(log2(most)), -log2(least), hits, len(weights), "importance",
        effective=told.effective, k_hat=told.k_hat,
    )  # fmt: skip

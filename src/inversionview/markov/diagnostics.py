"""Can a walk be trusted? Rank-normalised split R̂, effective sample size and the time to forget the query, for every feature.

Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021. Chains that began at the query and chains that came down from the prior
must agree; where they do not, the walk has not seen the whole preimage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int

from inversionview.core.information import Bits

MOST_R_HAT = 1.05
"""Up to this R̂ a feature counts as mixed."""
LEAST_ESS = 400
"""From this effective sample size on (Vehtari et al. 2021, section 4)."""
_NEAR = 0.05
"""A share that is within this of its final value has forgotten where it began."""


@dataclass(frozen=True)
class Mixing:
    """How well the chains at the wanted ε agree on one feature."""

    feature: str
    r_hat: float | None
    """1 is perfect; ``None`` where there are too few draws to say, or chains that stand still at different values."""
    ess: float
    """Effective sample size of the draws."""
    share: float | None
    """Of the draws: how many have the query's value, P(φ = φ(x_q) ∣ preimage)."""
    forgotten: int | None
    """Steps until chains that began at the query had the query's value no more often than the others; ``None``: never, or all
    began there."""

    @property
    def mixed(self) -> bool:
        """R̂ and the effective sample size are good enough."""
        return self.r_hat is not None and self.r_hat < MOST_R_HAT and self.ess >= LEAST_ESS


def codes_of(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the rank of each value among the values there are."""
    _, codes = np.unique(values, return_inverse=True)
    return codes.reshape(values.shape)


def mixing(
    features: Mapping[str, npt.NDArray[Any]],
    query: Mapping[str, Any],
    steps: Int[np.ndarray, " draw"],
    warm: int,
    began: Bool[np.ndarray, " chain"],
    replicas: int = 1,
) -> tuple[Mixing, ...]:
    """Return how well every feature is mixed.

    Args:
        features: for each its values, ``[draw, chain]``, from the first step on.
        query: the query's values.
        steps: number of the step of each draw.
        warm: draws of the warm-up, which count for the time to forget alone.
        began: which chains began at the query.
        replicas: so many chains in a row are one column and exchange states; the columns are independent.
    """
    found = []
    for name, values in features.items():
        same = values == query[name]
        share = float(same[warm:].mean()) if len(same) > warm else None
        agreed = _agreement(codes_of(values[warm:]), replicas)
        found.append(Mixing(name, *agreed, share, _forgotten(same, steps, began)))
    return tuple(found)


def _agreement(codes: Int[np.ndarray, "draw chain"], replicas: int) -> tuple[float | None, float]:
    """Return R̂ and the effective sample size, which is no more than what the columns' means vary by allows."""
    if codes.size and (codes == codes.flat[0]).all():
        return 1.0, float(codes.size)
    if len(codes) < 4 or codes.shape[1] < 2 or (codes == codes[0]).all():
        return None, 0.0
    from arviz_stats.base import array_stats
    from scipy.stats import norm, rankdata

    normal = norm.ppf((rankdata(codes).reshape(codes.shape) - 0.375) / (codes.size + 0.25))
    columns = normal.reshape(len(normal), -1, replicas).mean(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        r_hat, ess = (f(codes.T.astype(float), chain_axis=0, draw_axis=1) for f in (array_stats.rhat, array_stats.ess))
        if columns.shape[1] > 1 and columns.var() > 0:
            of_means = array_stats.ess(columns.T, chain_axis=0, draw_axis=1, method="mean")
            ess = min(float(ess), float(of_means * normal.var() / columns.var()))
    return (float(r_hat), float(ess)) if np.isfinite(r_hat) and np.isfinite(ess) else (None, 0.0)


def _forgotten(
    same: Bool[np.ndarray, "draw chain"], steps: Int[np.ndarray, " draw"], began: Bool[np.ndarray, " chain"]
) -> int | None:
    """Return the first step after which chains from the query have its value as seldom as the others have in the end."""
    if not len(same) or not began.any() or began.all():
        return None
    final = float(same[len(same) // 2 :, ~began].mean())
    noise = 2 * np.sqrt(final * (1 - final) * (1 / began.sum() + 1 / (~began).sum()))
    near = np.flatnonzero(same[:, began].mean(1) <= final + max(_NEAR, noise))
    return int(steps[near[0]]) if len(near) else None


def splitting_bits(
    closer: Int[np.ndarray, "rung column"], steps: int, others: Float[np.ndarray, " column"], measured: int
) -> Bits:
    """Return −log₂ P(D ≤ ε), the product of the shares of each rung's chains that lie inside the next smaller ε.

    The interval is the jackknife's over the columns, which are independent of one another, with Student's t, 95 %. Where no
    column came through, its share is below 1 − 0.05^(1/columns) with 95 % confidence, and only a lower bound is given.

    Args:
        closer: in how many steps each outer rung lay inside the next smaller ε.
        steps: of how many.
        others: share of each column's innermost draws that are not the query itself, which is left out.
        measured: inputs that were run through the model.
    """
    from scipy.stats import t

    each, columns = np.vstack([others, closer / steps]), closer.shape[1]
    shares, hits = each.mean(1), int(closer[0].sum())
    seen = shares > 0
    known = float(-np.log2(shares[seen]).sum())
    if not seen.all():
        low = known - log2(1 - 0.05 ** (1 / columns))
        return Bits(low, low, None, 0, measured, "splitting")
    left_out = (shares[:, None] * columns - each) / max(1, columns - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimates = -np.log2(left_out).sum(0)
        error = float(np.sqrt((columns - 1) / columns * ((estimates - estimates.mean()) ** 2).sum()))
    reach = float(t.ppf(0.975, max(1, columns - 1))) * error
    high = known + reach if np.isfinite(reach) else None
    return Bits(abs(known), max(0.0, known - reach) if high is not None else 0.0, high, hits, measured, "splitting")

"""A ladder of ε by adaptive multilevel splitting: from draws of the prior down to the ε wanted.

Subset simulation (Au and Beck 2001): each level's ε is a quantile of D among the chains of the level before; those inside are
multiplied and walk on within it. The ladder is the one on which chains are exchanged, and P(D ≤ ε) is the product of the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inversionview.markov.kernel import Kernel, States, Trial, as_trial
from inversionview.markov.mix import Mix

SHARE = 0.3
"""Share of a level's chains that lie inside the next: the acceptance of an exchange, wanted between 20 and 40 %."""
_STEPS = 8
"""Steps on each level before its quantile is taken."""
_PATIENCE = 10
"""So many times as long, where no chain comes closer."""
_MOST = 300
"""Levels at most."""


@dataclass(frozen=True, eq=False)
class Ladder:
    """Thresholds with chains at each.

    Attributes:
        epsilons: innermost first; the last is ∞, where everything is inside.
        states: chains that stand within each.
        reached: the innermost was reached; otherwise no draw came so close, and its chains have to start at the query.
    """

    epsilons: npt.NDArray[np.float64]
    states: tuple[States, ...]
    reached: bool


def build(
    kernel: Kernel,
    epsilon: float,
    population: int,
    rng: np.random.Generator,
    *,
    seen: Callable[[Trial], None] = lambda trial: None,
    report: Callable[[float, int], None] = lambda epsilon, level: None,
    stop: Callable[[], bool] = lambda: False,
) -> Ladder | None:
    """Descend from the prior to ``epsilon``.

    Args:
        kernel: makes the steps.
        epsilon: threshold of the innermost level.
        population: chains on each level.
        rng: what draws.
        seen: called with everything that was drawn or tried.
        report: called after each level with its ε and number.
        stop: asked before each level; then there is no ladder.
    """
    states = kernel.fresh(population, rng)
    seen(as_trial(states))
    mix = Mix(kernel.local, costs=kernel.costs)
    epsilons, kept = [np.inf], [states]
    while epsilons[-1] > epsilon and len(epsilons) < _MOST:
        if stop():
            return None
        states = kept[-1].part(np.arange(population))
        level = next_level(states.distance, epsilon, epsilons[-1])
        for _ in range(_PATIENCE):
            if level is not None or np.isinf(epsilons[-1]) or stop():
                break
            _evolve(kernel, states, epsilons[-1], mix, rng, seen)
            level = next_level(states.distance, epsilon, epsilons[-1])
        if level is None:
            return Ladder(np.array([epsilon, *epsilons[::-1]]), (states, *kept[::-1]), False)
        inside = np.flatnonzero(states.distance <= level)
        states = states.part(inside[rng.permutation(np.arange(population) % len(inside))])
        mix = Mix(kernel.local, costs=kernel.costs)
        _evolve(kernel, states, level, mix, rng, seen)
        epsilons.append(level)
        kept.append(states)
        report(level, len(epsilons) - 1)
    if epsilons[-1] > epsilon:
        return Ladder(np.array([epsilon, *epsilons[::-1]]), (kept[-1], *kept[::-1]), False)
    return Ladder(np.array(epsilons[::-1]), tuple(kept[::-1]), True)


def next_level(distance: npt.NDArray[np.float64], epsilon: float, last: float) -> float | None:
    """Return the next threshold: the ``SHARE`` quantile of D, but not below ``epsilon``; ``None`` where nothing is closer.

    D often takes few values, so that the quantile may be the last threshold again: then the next smaller value there is.
    """
    ordered = np.sort(distance)
    level = float(ordered[max(0, int(SHARE * len(ordered)) - 1)])
    if level >= last:
        below = ordered[ordered < last]
        if not len(below):
            return None
        level = float(below[-1])
    if level < epsilon or (distance <= epsilon).mean() >= SHARE / 2:
        return epsilon
    return level


def _evolve(
    kernel: Kernel, states: States, epsilon: float, mix: Mix, rng: np.random.Generator, seen: Callable[[Trial], None]
) -> None:
    limit = np.full(len(states.distance), epsilon)
    for _ in range(_STEPS):
        which = mix.draw(len(limit), rng)
        if kernel.costs is not None:
            which[:] = which[0]
        before = states.tokens.copy()
        trial = kernel.step(states, limit, which, rng)
        mix.learn(which, trial, before)
        seen(trial)

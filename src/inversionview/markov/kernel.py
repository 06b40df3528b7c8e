"""One Metropolis–Hastings step of many chains at once: propose, measure in the probed model, accept.

The target of a chain is π(x) ∝ p(x) · 1[D(z_q, x) ≤ ε], with p the prior. A kernel knows p, the moves and how D is measured;
each chain brings an ε of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.scope import Distance, Scope
from inversionview.corpora.inputs import Inputs
from inversionview.model.measure import Finder
from inversionview.model.sites.site import Site

Measure = Callable[[Ids], tuple[Float[np.ndarray, " row"], Int[np.ndarray, " row"]]]
"""Returns D of each row and the position where it is reached."""


class Target(NamedTuple):
    """What the chains are measured against."""

    z: Float[Tensor, " d_model"]
    site: Site
    scope: Scope[Finder]
    ended: bool = False
    """Inputs end at the position that is compared, their last token: what follows it cannot change what is read there."""

    @property
    def kind(self) -> Distance:
        """Which distance."""
        return self.scope.distance

    @property
    def fixed(self) -> Finder | None:
        """What finds the position to compare, in place of the minimum."""
        return self.scope.at


@dataclass
class States:
    """Where the chains stand."""

    tokens: Int[np.ndarray, "chain pos"]
    distance: Float[np.ndarray, " chain"]
    position: Int[np.ndarray, " chain"]
    log_prior: Float[np.ndarray, " chain"]

    def copy_from(self, other: States, here: npt.ArrayLike, there: npt.ArrayLike) -> None:
        """Take the states ``there`` of another over as the chains ``here``."""
        for name in ("tokens", "distance", "position", "log_prior"):
            getattr(self, name)[here] = getattr(other, name)[there]

    def part(self, chains: npt.ArrayLike | slice) -> States:
        """Return a copy of some chains."""
        return States(*(np.copy(getattr(self, name)[chains]) for name in ("tokens", "distance", "position", "log_prior")))


def joined(parts: Sequence[States]) -> States:
    """Return states of several one after another."""
    names = ("tokens", "distance", "position", "log_prior")
    return States(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


class Trial(NamedTuple):
    """What one step proposed."""

    tokens: Int[np.ndarray, "chain pos"]
    distance: Float[np.ndarray, " chain"]
    """D of a proposal; NaN where it was refused or left nothing to do before it was measured."""
    position: Int[np.ndarray, " chain"]
    real: Bool[np.ndarray, " chain"]
    """The proposal differs from the state."""
    accepted: Bool[np.ndarray, " chain"]
    """Real and taken."""


def as_trial(states: States) -> Trial:
    """Return inputs that were drawn or given, not proposed, as if they had been."""
    every = np.ones(len(states.distance), dtype=bool)
    return Trial(states.tokens, states.distance, states.position, every, every)


class Kernel(Protocol):
    """Makes steps of chains."""

    moves: tuple[str, ...]
    redraw: int | None
    """The move that draws from the prior whatever the state, where there is one."""
    costs: tuple[float, ...] | None
    """What a step of each move costs, where all chains make the same move in one step; ``None`` where each has its own."""
    local: int
    """So many of the moves, the first, are made at every ε; one that is left at the wanted ε alone, by all chains at once."""
    aside: Trial | None
    """What the last step measured beside what the chains tried, where it did."""

    def begin(self, tokens: Ids) -> States:
        """Return chains that start at these inputs, measured; log p is −∞ for what the prior does not know."""
        ...

    def fresh(self, count: int, rng: np.random.Generator) -> States:
        """Return independent draws from the prior, measured."""
        ...

    def elsewhere(self, count: int, epsilon: float, rng: np.random.Generator) -> States | None:
        """Return members that were not come upon by moves, up to ``count``, at which chains may begin; ``None`` without any."""
        ...

    def step(
        self, states: States, epsilon: Float[np.ndarray, " chain"], which: Int[np.ndarray, " chain"], rng: np.random.Generator
    ) -> Trial:
        """Make one step in place: chain i tries move ``which[i]`` and stays within ``epsilon[i]``."""
        ...


class Attempt(NamedTuple):
    """What moves made of some inputs, before the model is run."""

    tokens: Int[np.ndarray, "chain pos"]
    real: Bool[np.ndarray, " chain"]
    """They differ from the inputs."""
    passed: Bool[np.ndarray, " chain"]
    """The prior and the ratio of the moves do not refuse them: what lies inside ε is taken."""
    log_prior: Float[np.ndarray, " chain"]
    """−∞ where nothing was proposed."""


def proposed(inputs: Inputs, tokens: Ids, log_prior: npt.NDArray[np.float64], which: Ids, rng: np.random.Generator) -> Attempt:
    """Make move ``which[i]`` of input i by Metropolis and Hastings' rule, but for what the model has to say."""
    new, ratio = tokens.copy(), np.zeros(len(which))
    for number, move in enumerate(inputs.moves):
        chains = np.flatnonzero(which == number)
        if len(chains):
            new[chains], ratio[chains] = move.propose(tokens[chains], rng)
    possible = np.isfinite(ratio)
    new[~possible] = tokens[~possible]
    real = (new != tokens).any(1)
    own = np.full(len(which), -np.inf)
    own[real] = inputs.log_prior(new[real])
    with np.errstate(divide="ignore"):
        passed = real & (np.log(rng.random(len(which))) < own - log_prior + ratio)
    return Attempt(new, real, passed, own)


class StudyKernel:
    """The kernel of a study that declares its moves and its prior.

    Args:
        inputs: the study's.
        measure: D of rows of tokens. What was measured is kept, up to ``remember`` inputs, and not measured again.
    """

    def __init__(self, inputs: Inputs, measure: Measure, remember: int = 1_000_000) -> None:
        self.inputs, self._measure, self._remember = inputs, measure, remember
        self.moves = tuple(move.name for move in inputs.moves)
        self.costs: tuple[float, ...] | None = None
        self.local = len(self.moves)
        self.aside: Trial | None = None
        self.redraw = self.moves.index("all") if "all" in self.moves else None
        self._known: dict[int, tuple[float, int]] = {}

    def begin(self, tokens: Ids) -> States:
        """See ``Kernel.begin``."""
        return States(tokens.copy(), *self.measure(tokens), self.inputs.log_prior(tokens))

    def fresh(self, count: int, rng: np.random.Generator) -> States:
        """See ``Kernel.fresh``."""
        return self.begin(self.inputs.fresh(count, rng))

    def elsewhere(self, count: int, epsilon: float, rng: np.random.Generator) -> States | None:
        """See ``Kernel.elsewhere``: moves are all there is."""
        return None

    def measure(self, tokens: Ids) -> tuple[npt.NDArray[np.float64], Ids]:
        """Return D of each row and where it is reached; inputs that are known are looked up."""
        if len(self._known) > self._remember:
            self._known.clear()
        keys = keys_of(tokens).tolist()
        new = {key: row for row, key in enumerate(keys) if key not in self._known}
        if new:
            distance, position = self._measure(tokens[list(new.values())])
            self._known.update(zip(new, zip(distance.tolist(), position.tolist(), strict=True), strict=True))
        found = [self._known[key] for key in keys]
        return np.array([d for d, _ in found]), np.array([p for _, p in found], dtype=np.int64)

    def step(
        self, states: States, epsilon: Float[np.ndarray, " chain"], which: Int[np.ndarray, " chain"], rng: np.random.Generator
    ) -> Trial:
        """See ``Kernel.step``. What the prior refuses is not run through the model."""
        new, real, passes, log_prior = proposed(self.inputs, states.tokens, states.log_prior, which, rng)
        passed = np.flatnonzero(passes)
        trial = Trial(new, np.full(len(which), np.nan), np.zeros(len(which), dtype=np.int64), real, np.zeros_like(real))
        trial.distance[passed], trial.position[passed] = self.measure(new[passed])
        trial.accepted[passed] = trial.distance[passed] <= epsilon[passed]
        taken = trial.accepted
        states.copy_from(States(new, trial.distance, trial.position, log_prior), taken, taken)
        return trial


_PRIMES = np.random.default_rng(20240527).integers(1, 2**63, size=2**14, dtype=np.uint64) | np.uint64(1)


def keys_of(tokens: Ids) -> npt.NDArray[np.uint64]:
    """Return a 64-bit key of each row (multiply-shift hashing), by which equal inputs are known."""
    with np.errstate(over="ignore"):
        mixed = (tokens.astype(np.uint64) + np.uint64(1)) * _PRIMES[: tokens.shape[1]]
        mixed ^= mixed >> np.uint64(29)
        total = (mixed * np.uint64(0xBF58476D1CE4E5B9)).sum(1)
        return total ^ (total >> np.uint64(32))

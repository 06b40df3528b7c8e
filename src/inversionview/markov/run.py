"""A walk from beginning to end: the ladder, the chains on it, what they find, until time, steps or mixing end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Int

from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.information import Bits
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seconds, check_seed, positive, whole
from inversionview.markov.chains import Chains, started
from inversionview.markov.diagnostics import Mixing, mixing, splitting_bits
from inversionview.markov.kernel import Kernel, States, Trial, as_trial, joined
from inversionview.markov.ladder import Ladder, build
from inversionview.markov.pool import Pool

Features = Callable[[Ids], Mapping[str, npt.NDArray[Any]]]
Found = Callable[[Ids, npt.NDArray[np.float64], Ids], None]
"""Called with new members as they are found: tokens, D and the position where it is reached."""
_MOST_REPLICAS = 16
_FEWEST_COLUMNS = 8
_WRITTEN = 128
"""Members from elsewhere among which chains begin, at most."""
_ALONE = 500
"""Steps after which a walk that waits for its features to mix gives up where it has found nothing but the query."""
_DROPPED = 0.2
"""Share of all steps at the beginning of which nothing is counted."""
_SECONDS, _PATIENCE = 10.0, 60.0
"""A walk that nothing else ends has the first, and up to the second where a model is so slow that it has hardly walked."""
_WALKED = 3
"""So many times the warm-up are the steps that such a walk makes."""


@dataclass(frozen=True)
class WalkSettings:
    """How long and how wide a walk is.

    Attributes:
        chains: at the wanted ε.
        seconds: after so many it ends; where nothing else ends it 10, on slow models more, so that it gets beyond its warm-up.
        steps: after so many it ends; then the seed fixes all that it finds.
        until_mixed: it ends as soon as every feature is mixed.
        bits_within: it ends as soon as the interval of the bits reaches no further than this to either side.
        exchange: with replicas on a ladder of ε; also gives the bits.
        population: chains on each level while the ladder is made.
        warm: steps in which the mix of moves is learnt.
        seed: of all draws.
    """

    chains: int = 256
    seconds: float | None = None
    steps: int | None = None
    until_mixed: bool = False
    bits_within: float | None = None
    exchange: bool = True
    population: int = 512
    warm: int = 50
    seed: int = 0
    patient: bool = field(default=False, init=False)
    """Nothing was set to end it."""

    @property
    def warm_up(self) -> int:
        """``warm``, but no more than a quarter of the steps."""
        return self.warm if self.steps is None else min(self.warm, self.steps // 4)

    def __post_init__(self) -> None:
        if self.seconds is None and self.steps is None and not self.until_mixed and self.bits_within is None:
            object.__setattr__(self, "seconds", _SECONDS)
            object.__setattr__(self, "patient", True)
        if self.bits_within is not None:
            positive(self.bits_within, "bits_within")
            if not self.exchange:
                raise SettingError("bits_within goes with exchange: bits come from a ladder of ε.")
        if self.seconds is not None:
            check_seconds(self.seconds, "The seconds of a walk")
        if self.steps is not None:
            whole(self.steps, "The steps of a walk")
        if self.chains < 2:
            raise SettingError(f"A walk needs at least 2 chains, but has {self.chains}.")
        whole(self.chains, "The number of chains")
        whole(self.population, "The population of a ladder", 16)
        whole(self.warm, "The number of steps in which moves are learnt", 0)
        check_seed(self.seed)


@dataclass
class Walk:
    """A walk under way."""

    kernel: Kernel
    query: States
    settings: WalkSettings
    pool: Pool
    features: Features
    report: Progress | None
    found: Found | None
    rng: np.random.Generator
    began: float = field(default_factory=time.perf_counter)
    ladder: Ladder | None = None
    chains: Chains | None = None
    interrupted: bool = False
    starts: States | None = None
    """Members from elsewhere, where chains begin in place of what comes down the ladder."""
    written: States | None = None
    """Members that the kernel knows from elsewhere, where chains begin beside that."""
    _look: int = 0

    @property
    def seconds(self) -> float:
        """Time since it began, without what its reports took: there a walk may have to wait for others."""
        return time.perf_counter() - self.began

    def go(self) -> None:
        """Walk until the end that was set; Ctrl-C ends it and keeps what was found."""
        try:
            if self.starts is not None:
                self._take(as_trial(self.starts))
            self.written = self.kernel.elsewhere(_WRITTEN, self.pool.epsilon, self.rng)
            self._take_aside()
            if self.settings.exchange:
                self._climb()
            self.chains = self._chains()
            while not self._over():
                self._take(self.chains.step())
                self._take_aside()
                self.chains.learning = self.chains.steps < self.settings.warm_up
                self._tell(self._share())
        except KeyboardInterrupt:
            self.interrupted = True

    def _climb(self) -> None:
        """Make the ladder, in half of the time at most."""
        most = _PATIENCE if self.settings.patient else self.settings.seconds
        most = None if most is None else most / 2
        self.ladder = build(
            self.kernel, self.pool.epsilon, self.settings.population, self.rng, seen=self._drawn,
            report=lambda epsilon, level: self._tell(self._share(), f"level {level} at ε = {epsilon:.3g}"),
            stop=lambda: most is not None and self.seconds > most,
        )  # fmt: skip

    def _drawn(self, trial: Trial) -> None:
        self._take(trial)
        self._tell(self._share())

    def _chains(self) -> Chains:
        epsilon = self.pool.epsilon
        if self.ladder is None:
            epsilons, columns, replicas = np.array([epsilon]), self.settings.chains, 1
            rungs = [next((s for s in (self.starts, self.written) if s is not None), self.query)]
            others = columns - self._from_query(columns)
        else:
            epsilons, rungs = self.ladder.epsilons, list(self.ladder.states)
            replicas = min(max(1, len(epsilons) - 1), _MOST_REPLICAS)
            few = self.kernel.local < len(self.kernel.moves)
            if few:  # nothing has to come down the ladder for each of them
                replicas = min(replicas, max(1, self.settings.chains // _FEWEST_COLUMNS))
            columns = max(_FEWEST_COLUMNS, self.settings.chains // replicas)
            if self.settings.bits_within:  # all rungs count alike
                replicas, columns = 1, max((4 if few else 2) * _FEWEST_COLUMNS, self.settings.chains // 8)
            others = columns // 2
            if not self.ladder.reached:
                rungs[0] = self.query if self.written is None else self.written
            elif self.written is not None:
                rungs[0] = joined([rungs[0], self.written])
            if self.starts is not None:
                rungs[0] = self.starts
        start = started(columns, replicas, rungs, self.query, self.rng, others)
        return Chains(self.kernel, epsilons, start, columns, replicas, self.rng)

    def _take(self, trial: Trial) -> None:
        members = self.pool.add(trial)
        if self.found is not None and len(members[0]):
            self.found(*members)

    def _take_aside(self) -> None:
        if self.kernel.aside is not None:
            self._take(self.kernel.aside)

    def _share(self) -> float:
        shares = [0.0]
        if self.settings.seconds is not None:
            shares.append(min(self.seconds / self.settings.seconds, self._walked if self.settings.patient else 1.0))
        if self.settings.steps is not None and self.chains is not None:
            shares.append(self.chains.steps / self.settings.steps)
        return min(1.0, max(shares))

    @property
    def _walked(self) -> float:
        """How far a patient walk has got with its steps, or with its patience."""
        steps = 0 if self.chains is None else self.chains.steps
        return max(steps / max(1, _WALKED * self.settings.warm_up), self.seconds / _PATIENCE)

    def _tell(self, share: float, note: str = "") -> None:
        if self.report is not None:
            told = time.perf_counter()
            self.report(share, note or f"{self.pool.members:,} members, {self.pool.members / self.seconds:,.0f}/s")
            self.began += time.perf_counter() - told

    def _over(self) -> bool:
        """Time or steps are up, or what the settings wait for has come; that is looked at ever more seldom."""
        if self._share() >= 1:
            return True
        wanted, steps = self.settings, 0 if self.chains is None else self.chains.steps
        if not (wanted.until_mixed or wanted.bits_within) or steps < max(self._look, 2 * wanted.warm_up):
            return False
        self._look = int(1.25 * steps) + 1
        bits = self.bits()
        sharp = bits is not None and bits.high is not None and bits.high - bits.low <= 2 * (wanted.bits_within or np.inf)
        return (not wanted.bits_within or sharp) and (not wanted.until_mixed or self._settled())

    def _settled(self) -> bool:
        """All features are mixed; where no other input was found for long, there is nothing to mix."""
        alone = not self.pool.members and self.chains is not None and self.chains.steps >= _ALONE
        return alone or self.mixed(self.mixing())

    def mixed(self, features: Sequence[Mixing]) -> bool:
        """Return whether every feature is mixed: chains that all still stand at the query agree, but say nothing."""
        return self.pool.taken > 0 and bool(features) and all(f.mixed for f in features)

    def draws(self) -> tuple[Int[np.ndarray, "draw chain pos"], Int[np.ndarray, " draw"], int]:
        """Return all states at the wanted ε that were kept, their steps, and from which on they count."""
        if self.chains is None or not self.chains.record.step:
            return self.query.tokens[None, :0], np.empty(0, dtype=np.int64), 0
        record = self.chains.record
        steps = np.array(record.step)
        warm = int(np.searchsorted(steps, max(self.settings.warm_up, _DROPPED * self.chains.steps), side="right"))
        return np.stack(record.inner), steps, warm

    def mixing(self) -> tuple[Mixing, ...]:
        """Return how well each feature is mixed."""
        draws, steps, warm = self.draws()
        if self.chains is None or not len(steps):
            return ()
        flat = draws.reshape(-1, draws.shape[-1])
        values = {name: v.reshape(draws.shape[:2]) for name, v in self.features(flat).items()}
        query = {name: v[0] for name, v in self.features(self.query.tokens).items()}
        began = self.chains.column[: draws.shape[1]] < self._from_query(self.chains.columns)
        return mixing(values, query, steps, warm, began, self.chains.replicas)

    def _from_query(self, columns: int) -> int:
        """Return how many of the columns begin at the query."""
        return columns if self.alone else columns - columns // 2

    @property
    def alone(self) -> bool:
        """All chains begin at the query."""
        return self.ladder is None and self.starts is None and self.written is None

    def bits(self) -> Bits | None:
        """Return the bits, where there is a ladder on which enough was seen."""
        draws, _, warm = self.draws()
        if self.ladder is None or self.chains is None or len(draws) <= warm or not self.chains.record.step:
            return None  # the time was up before a step was kept
        record = self.chains.record
        closer = np.stack(record.closer[: len(record.step)])  # what came after the last step that was kept is left out
        closer = closer[warm:]
        others = (draws[warm:] != self.query.tokens).any(-1).reshape(-1, self.chains.columns, self.chains.replicas)
        return splitting_bits(closer.sum(0), len(closer) * record.every, others.mean((0, 2)), self.pool.measured)

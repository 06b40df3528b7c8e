"""Replica exchange, ladder, bits and diagnostics, on spaces of which all is known: exact targets, binomial tails, iid draws."""

from __future__ import annotations

from collections.abc import Callable
from math import comb, inf, log2, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.information import Bits
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.moves import Move, Proposal, symmetric
from inversionview.markov import ladder
from inversionview.markov.chains import Chains, History, places, started
from inversionview.markov.diagnostics import mixing, splitting_bits
from inversionview.markov.kernel import Measure, States, StudyKernel, Trial
from inversionview.markov.mix import Mix
from inversionview.markov.pool import Pool
from inversionview.markov.run import Walk, WalkSettings
from inversionview.studies.counting.corpus import CountingInputs

TOO_RARE = 1e-4
"""A p-value below this fails a test; the seeds are fixed."""


class Torus(Inputs):
    """18 × 18 places, one step up, down, left or right a move; places have weights 1, 2 or 4."""

    pad, bos, eos, max_length = 18, None, None, 2

    def __init__(self, redraw: bool) -> None:
        self.redraw = redraw
        self.weights = np.random.default_rng(3).choice([1.0, 2.0, 4.0], size=18 * 18)

    def __len__(self) -> int:
        return 18 * 18

    def tokens(self, rows: Ids, salt: int = 0) -> Ids:
        return np.stack(np.divmod(rows, 18), axis=1)

    def log_prior(self, tokens: Ids) -> np.ndarray:
        logs: np.ndarray = np.log(self.weights)[tokens[:, 0] * 18 + tokens[:, 1]]
        return logs

    def fresh(self, count: int, rng: np.random.Generator) -> Ids:
        return self.tokens(rng.choice(len(self), size=count, p=self.weights / self.weights.sum()))

    @property
    def moves(self) -> tuple[Move, ...]:
        return (Move("step", self._step), *([Move("all", self._all)] if self.redraw else []))

    def _step(self, tokens: Ids, rng: np.random.Generator) -> Proposal:
        return symmetric((tokens + np.array([[0, 1], [0, -1], [1, 0], [-1, 0]])[rng.integers(4, size=len(tokens))]) % 18)

    def _all(self, tokens: Ids, rng: np.random.Generator) -> Proposal:
        new = self.fresh(len(tokens), rng)
        return Proposal(new, self.log_prior(tokens) - self.log_prior(new))


CENTRES = np.array([[2, 2], [2, 11], [11, 3], [12, 12]])
LADDER = np.array([1.5, 3.5, 5.5, inf])


def hills(tokens: Ids) -> tuple[np.ndarray, Ids]:
    """D is the number of steps to the nearest centre: up to 3 the four pieces do not touch."""
    gap = np.abs(tokens[:, None] - CENTRES)
    return np.minimum(gap, 18 - gap).sum(2).min(1).astype(float), np.zeros(len(tokens), dtype=np.int64)


class World:
    """The torus with those pieces, its exact targets, and chains on it."""

    def __init__(self, redraw: bool) -> None:
        self.inputs = Torus(redraw)
        self.kernel = StudyKernel(self.inputs, hills)
        self.every = self.inputs.tokens(np.arange(len(self.inputs)))
        self.distance = hills(self.every)[0]

    def target(self, epsilon: float) -> np.ndarray:
        """π(x) ∝ p(x) · 1[D ≤ ε], listed."""
        weights = self.inputs.weights * (self.distance <= epsilon)
        return weights / weights.sum()

    def exact(self, rung: np.ndarray, rng: np.random.Generator) -> States:
        """Exact draws, each within the ε of its rung."""
        rows = np.empty(len(rung), dtype=np.int64)
        for k, epsilon in enumerate(LADDER):
            rows[rung == k] = rng.choice(len(self.inputs), size=(rung == k).sum(), p=self.target(epsilon))
        return self.kernel.begin(self.inputs.tokens(rows))

    def fits(self, tokens: Ids, epsilon: float) -> bool:
        """Whether independent states may be draws of the target; none may lie outside."""
        p = self.target(epsilon)
        counts = np.bincount(tokens @ [18, 1], minlength=len(p))
        return not counts[p == 0].any() and bool(chisquare(counts[p > 0], len(tokens) * p[p > 0]).pvalue > TOO_RARE)


# -- replica exchange -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("redraw", [False, True])
def test_exchange_leaves_every_target_as_it_is(redraw: bool) -> None:
    world, rng, columns = World(redraw), np.random.default_rng(1), 6000
    start = world.exact(places(columns, 2, len(LADDER))[0], rng)
    chains = Chains(world.kernel, LADDER, start, columns, 2, rng)
    chains.learning = False
    for _ in range(6):
        chains.step()
        assert (chains.states.distance <= LADDER[chains.rung[chains.place]]).all()
    for k, epsilon in enumerate(LADDER):
        assert world.fits(chains.states.tokens[chains.state[chains.rung == k]], epsilon)
    rates = chains.exchanged.rates()
    for k, rate in enumerate(rates):  # P(D ≤ inner ∣ D ≤ outer), three rounds of 6,000
        share = world.target(LADDER[k + 1])[world.distance <= LADDER[k]].sum()
        assert abs((rate or 0) - share) < 5 * sqrt(share * (1 - share) / (3 * columns))


@pytest.mark.parametrize("redraw", [False, True])
def test_chains_that_all_begin_at_the_query_reach_every_piece(redraw: bool) -> None:
    """One step cannot leave a piece at ε = 1.5; by exchange the innermost chains become draws of the whole target."""
    world, rng, columns = World(redraw), np.random.default_rng(2), 700
    query = world.kernel.begin(CENTRES[:1])
    start = started(columns, 2, [query] * len(LADDER), query, rng, others=0)
    chains = Chains(world.kernel, LADDER, start, columns, 2, rng)
    for _ in range(50 if redraw else 1000):
        chains.step()
        chains.learning = chains.steps < 20
    inner = chains.states.tokens[chains.state[: 2 * columns]]
    assert world.fits(inner[::2], 1.5)  # one of each column: independent of one another
    assert world.fits(inner[1::2], 1.5)
    # without exchange they never leave the query's piece
    alone = Chains(StudyKernel(Torus(False), hills), LADDER[:1], query.part(np.zeros(50, dtype=int)), 50, 1, rng)
    for _ in range(100):
        alone.step()
    assert len(np.unique(alone.states.tokens @ [18, 1])) == 5
    assert (np.abs(alone.states.tokens - CENTRES[0]).sum(1) <= 1).all()


@settings(max_examples=25, deadline=None)
@given(
    columns=st.integers(1, 6), replicas=st.integers(1, 4), rungs=st.integers(1, 4), steps=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_places_stay_a_permutation_within_columns(columns: int, replicas: int, rungs: int, steps: int, seed: int) -> None:
    world, rng, epsilons = World(True), np.random.default_rng(seed), LADDER[-rungs:]
    rung, column = places(columns, replicas, rungs)
    assert rung.tolist() == [0] * (columns * replicas) + [k for k in range(1, rungs) for _ in range(columns)]
    assert column.tolist() == [c for c in range(columns) for _ in range(replicas)] + [*range(columns)] * (rungs - 1)
    query = world.kernel.begin(CENTRES[:1])
    start = started(columns, replicas, [query] * rungs, query, rng, others=0)
    chains = Chains(world.kernel, epsilons, start, columns, replicas, rng)
    for step in range(1, steps + 1):
        chains.step()
        assert sorted(chains.state.tolist()) == list(range(len(rung)))
        assert (chains.place[chains.state] == np.arange(len(rung))).all()
        # states began in the order of the places: they never leave their column
        assert (column[chains.place] == column).all()
        assert (chains.states.distance <= epsilons[rung[chains.place]]).all()
        np.testing.assert_array_equal(chains.states.distance, hills(chains.states.tokens)[0])
        np.testing.assert_array_equal(chains.states.log_prior, world.inputs.log_prior(chains.states.tokens))
        assert chains.steps == step


class Still:
    """A kernel that moves nothing: what changes place does so by exchange alone."""

    moves: tuple[str, ...] = ("none",)
    local = 1
    redraw = None
    costs = None

    def step(self, states: States, epsilon: np.ndarray, which: Ids, rng: np.random.Generator) -> Trial:
        nothing = np.zeros(len(which), dtype=bool)
        return Trial(states.tokens, np.full(len(which), np.nan), states.position, nothing, nothing)


def test_an_exchange_takes_place_only_where_the_outer_state_lies_inside_the_inner_epsilon() -> None:
    # two columns of one replica on three rungs: places 0, 1 | 2, 3 | 4, 5
    distance = np.array([0.0, 0.1, 0.9, 1.0, 1.8, 2.5])
    states = States(np.arange(6)[:, None], distance, np.zeros(6, dtype=np.int64), np.zeros(6))
    chains = Chains(Still(), np.array([1.0, 2.0, inf]), states, 2, 1, np.random.default_rng(0))  # type: ignore[arg-type]
    chains.step()  # rungs 0 and 1: both, for 1.0 ≤ 1.0; then rungs 1 and 2: 1.8 ≤ 2, but not 2.5
    assert chains.state.tolist() == [2, 3, 4, 1, 0, 5]
    chains.step()  # rungs 0 and 1: not 1.8, but 0.1; then rungs 1 and 2: 0.0
    assert chains.state.tolist() == [2, 1, 0, 3, 4, 5]
    chains.step()  # both, then 1.8 again
    assert chains.state.tolist() == [0, 3, 4, 1, 2, 5]
    assert chains.exchanged.tried.tolist() == [6, 6]
    assert chains.exchanged.done.tolist() == [5, 3]
    # after each step, which of the outer rungs lie inside the next smaller ε: rung 1 in 1.0, rung 2 in 2.0
    seen = [[[False, True], [True, False]], [[True, True], [True, False]], [[False, True], [True, False]]]
    assert np.array(chains.record.closer).astype(bool).tolist() == seen


def test_chains_begin_at_the_query_and_the_last_columns_elsewhere() -> None:
    def states(*values: int) -> States:
        return States(np.array(values)[:, None], np.array(values) / 10, np.array(values), np.array(values) * 1.0)

    begun = started(3, 2, [states(1, 2), states(3), states(4)], states(0), np.random.default_rng(0), others=1)
    assert begun.tokens[:4, 0].tolist() == [0, 0, 0, 0]
    assert set(begun.tokens[4:6, 0].tolist()) <= {1, 2}
    assert begun.tokens[6:, 0].tolist() == [0, 0, 3, 0, 0, 4]
    assert (begun.position == begun.tokens[:, 0]).all()
    assert (begun.log_prior == begun.tokens[:, 0]).all()
    np.testing.assert_allclose(begun.distance, begun.tokens[:, 0] / 10)


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 300), most=st.integers(1, 10).map(lambda n: 2 * n))
def test_a_record_keeps_few_steps_evenly_and_counts_all(steps: int, most: int) -> None:
    record, seen = History(), np.random.default_rng(steps).random((steps, 2, 3)) < 0.5
    for step in range(1, steps + 1):
        record.keep(step, np.array([[step]]), seen[step - 1], most)
        assert len(record.step) < max(most, 2)
    # the kept steps are the multiples of a power of two, all of them
    assert record.every & (record.every - 1) == 0
    assert record.step == list(range(record.every, steps + 1, record.every))
    assert [int(kept[0, 0]) for kept in record.inner] == record.step
    whole = len(record.step) * record.every
    np.testing.assert_array_equal(np.sum(record.closer[: len(record.step)], axis=0) if whole else 0, seen[:whole].sum(0))


# -- the mix of moves -------------------------------------------------------------------------------------------------


def test_moves_that_carry_far_are_made_more_often_and_none_is_left_out() -> None:
    before = np.zeros((300, 9), dtype=np.int64)
    which = np.arange(300) % 3
    accepted = which > 0
    tokens = before.copy()
    tokens[which == 0] = 1
    tokens[which == 1, :1] = 1  # one token changes
    tokens[which == 2, :4] = 1  # four: twice as far by the root
    mix = Mix(3)
    assert mix.weights.tolist() == [1 / 3] * 3
    trial = Trial(tokens, np.zeros(300), before[:, 0], np.ones(300, dtype=bool), accepted)
    for _ in range(50):
        mix.learn(which, trial, before)
    gain = np.array([10.0, 10 + 5000, 10 + 10_000]) / 5020  # each with twenty tries that carried 10, as a prior
    np.testing.assert_allclose(mix.weights, 0.1 + 0.7 * gain / gain.sum())
    drawn = np.bincount(mix.draw(20_000, np.random.default_rng(0)), minlength=3)
    assert chisquare(drawn, 20_000 * mix.weights).pvalue > TOO_RARE
    dear = Mix(3, costs=(1.0, 1.0, 4.0))
    dear.learn(which, trial, before)
    assert dear.weights[2] < dear.weights[1]


def test_a_rung_that_only_redraws_does_not_learn() -> None:
    mix = Mix(4, only=2)
    mix.learn(np.zeros(5, dtype=np.int64), Trial(*[np.ones(5, dtype=bool)] * 5), np.zeros((5, 1)))  # type: ignore[arg-type]
    assert mix.weights.tolist() == [0, 0, 1, 0]
    assert set(mix.draw(100, np.random.default_rng(0)).tolist()) == {2}


# -- the ladder -------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    distance=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 2.0, inf]) | st.floats(0, 3), min_size=16, max_size=60),
    epsilon=st.sampled_from([0.1, 0.3]), last=st.sampled_from([0.5, 1.0, inf]),
)  # fmt: skip
def test_the_next_threshold_is_smaller_and_some_chain_lies_inside(distance: list[float], epsilon: float, last: float) -> None:
    within = np.minimum(distance, last)  # chains of a level lie inside it
    level = ladder.next_level(within, epsilon, last)
    if level is None:
        assert (within >= last).all()
        return
    assert epsilon <= level < last
    assert (within <= level).any()
    share, smaller = (within <= level).mean(), within[within < level]
    if level > epsilon:
        # no smaller value would still hold three of ten, unless it is the next there is below the last threshold
        assert share >= ladder.SHARE - 1 / len(within) or level == within[within < last].max()
        assert len(smaller) < ladder.SHARE * len(within)


class Letters(Inputs):
    """Strings of ``size`` symbols out of eight, all equally likely; a move redraws one symbol."""

    pad, bos, eos = 8, None, None

    def __init__(self, size: int) -> None:
        self.max_length = size

    def __len__(self) -> int:
        return 8**self.max_length

    def tokens(self, rows: Ids, salt: int = 0) -> Ids:
        return rows[:, None] // 8 ** np.arange(self.max_length) % 8

    def log_prior(self, tokens: Ids) -> np.ndarray:
        return np.zeros(len(tokens))

    def fresh(self, count: int, rng: np.random.Generator) -> Ids:
        return rng.integers(8, size=(count, self.max_length))

    @property
    def moves(self) -> tuple[Move, ...]:
        return (Move("symbol", self._symbol), Move("all", lambda t, rng: symmetric(self.fresh(len(t), rng))))

    def _symbol(self, tokens: Ids, rng: np.random.Generator) -> Proposal:
        new = tokens.copy()
        new[np.arange(len(new)), rng.integers(self.max_length, size=len(new))] = rng.integers(8, size=len(new))
        return symmetric(new)

    def features(self, tokens: Ids) -> dict[str, np.ndarray]:
        return {"first": tokens[:, 0], "last": tokens[:, -1]}


def mismatches(tokens: Ids) -> tuple[np.ndarray, Ids]:
    """The query is all zeros."""
    return (tokens != 0).sum(1).astype(float), np.zeros(len(tokens), dtype=np.int64)


def walked(inputs: Inputs, measure: Measure, query: Ids, epsilon: float, **options: float | None) -> Walk:
    kernel = StudyKernel(inputs, measure)
    chosen = WalkSettings(**{"seconds": None, "steps": 150, **options})  # type: ignore[arg-type]
    rng = np.random.default_rng(chosen.seed)
    walk = Walk(kernel, kernel.begin(query), chosen, Pool(epsilon, query), inputs.features, None, None, rng)
    walk.go()
    return walk


def bits_of(walk: Walk) -> Bits:
    bits = walk.bits()
    assert bits is not None
    assert bits.method == "splitting"
    return bits


def tail(size: int, most: int) -> float:
    """−log₂ of the share of strings with 1 … ``most`` mismatches."""
    return 3 * size - log2(sum(comb(size, k) * 7**k for k in range(1, most + 1)))


def test_a_ladder_leads_down_from_the_prior() -> None:
    inputs = Letters(20)
    tried: list[Ids] = []
    made = ladder.build(
        StudyKernel(inputs, mismatches), 2.5, 512, np.random.default_rng(0), seen=lambda t: tried.append(t.tokens)
    )
    assert made is not None
    assert made.reached
    assert made.epsilons[0] == 2.5
    assert np.isinf(made.epsilons[-1])
    assert (np.diff(made.epsilons) > 0).all()
    for epsilon, states in zip(made.epsilons, made.states, strict=True):
        assert len(states.distance) == 512
        assert (states.distance <= epsilon).all()
        np.testing.assert_array_equal(states.distance, mismatches(states.tokens)[0])
    np.testing.assert_array_equal(tried[0], made.states[-1].tokens)  # the draws of the prior count as seen
    assert ladder.build(StudyKernel(inputs, mismatches), 2.5, 64, np.random.default_rng(0), stop=lambda: True) is None


def test_a_ladder_that_does_not_come_down_says_so() -> None:
    """Everything but the query is at D = 1: no draw comes closer."""
    flat = StudyKernel(Letters(12), lambda t: ((t != 0).any(1) * 1.0, t[:, 0]))
    made = ladder.build(flat, 0.5, 64, np.random.default_rng(0))
    assert made is not None
    assert not made.reached
    assert made.epsilons.tolist() == [0.5, 1.0, inf]


@pytest.mark.parametrize(("size", "most", "within"), [(6, 2, 0.3), (10, 3, 0.3), (20, 3, 0.5), (20, 1, 0.5)])
def test_bits_by_splitting_are_those_of_the_binomial_tail(size: int, most: int, within: float) -> None:
    """Up to 53 bits, which no corpus could show."""
    bits = bits_of(
        walked(Letters(size), mismatches, np.zeros((1, size), dtype=np.int64), most + 0.5, steps=75 * size, population=1024)
    )
    exact = tail(size, most)
    assert abs(bits.value - exact) < within
    assert bits.high is not None
    assert bits.low <= exact <= bits.high
    assert bits.high - bits.low < 2
    assert bits.hits > 0


def test_a_walk_ends_once_the_bits_are_as_sharp_as_wanted() -> None:
    query, exact = np.zeros((1, 10), dtype=np.int64), tail(10, 3)
    steps = []
    for within in (0.5, 0.25):
        walk = walked(Letters(10), mismatches, query, 3.5, steps=None, bits_within=within)
        bits = bits_of(walk)
        assert bits.low <= exact <= (bits.high or 0) <= bits.low + 2 * within
        assert walk.chains is not None
        steps.append(walk.chains.steps)
    assert steps[0] < steps[1]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    exact, query, covered = tail(6, 2), np.zeros((1, 6), dtype=np.int64), 0
    for seed in range(24):
        bits = bits_of(walked(Letters(6), mismatches, query, 2.0, seed=seed, chains=32, population=128, steps=120))
        covered += bits.low <= exact <= (bits.high or inf)
    assert covered >= 20  # of 24 at 95 %: 19 or fewer have the probability 0.006


@pytest.mark.parametrize(
    ("of_difference", "exact"),
    [
        (lambda d: (d != 0) * 1.0, log2(9)),  # the count alone, one of nine
        (lambda d: np.minimum(d, 2) / 2.0, log2(9)),
        (lambda d: (d > 1) * 1.0, log2(9 / 3)),  # 4, 5 and 6
        (lambda d: d * 0.0, 0.0),
    ],
)
def test_bits_of_a_distance_with_few_values(of_difference: Callable[[np.ndarray], np.ndarray], exact: float) -> None:
    """Counting inputs, of which D sees the count alone: nine equally likely values; the query's is 5."""
    inputs = CountingInputs()
    row = "Baaaaabc|a:5E"
    query = np.array([[inputs.vocabulary.index(c) for c in row] + [inputs.pad] * (33 - len(row))])

    def measure(tokens: Ids) -> tuple[np.ndarray, Ids]:
        return of_difference(np.abs(inputs.features(tokens)["count"] - 5)), np.zeros(len(tokens), dtype=np.int64)

    bits = bits_of(walked(inputs, measure, query, 0.1, steps=150, chains=64))
    assert abs(bits.value - exact) < 0.2
    assert bits.high is not None
    assert bits.low - 1e-9 <= exact <= bits.high + 1e-9
    assert bits.value >= bits.low >= 0


def test_only_the_query_inside_gives_a_lower_bound() -> None:
    walk = walked(Letters(8), mismatches, np.zeros((1, 8), dtype=np.int64), 0.5, steps=60)
    bits = bits_of(walk)
    assert walk.pool.members == 0
    assert bits.high is None
    assert bits.hits == 0
    assert bits.low == bits.value > 10
    # the same where no draw of the prior comes near
    far = walked(Letters(12), lambda t: ((t != 0).any(1) * 1.0, t[:, 0]), np.zeros((1, 12), dtype=np.int64), 0.5, steps=60)
    assert far.ladder is not None
    assert not far.ladder.reached
    assert bits_of(far).high is None
    assert 5 < bits_of(far).low < 36


def test_the_mix_is_frozen_after_the_warm_up() -> None:
    """Two walks that differ in length alone have the same mix: nothing is learnt after step 50."""
    query = np.zeros((1, 8), dtype=np.int64)
    mixes = []
    for steps in (200, 320):
        walk = walked(Letters(8), mismatches, query, 2.0, steps=steps, chains=16, population=64)
        assert walk.chains is not None
        mixes.append([mix.weights.tolist() for mix in walk.chains.mixes])
    assert mixes[0] == mixes[1]
    assert mixes[0][0] != [0.5, 0.5]
    assert mixes[0][-1] == [0, 1]


# -- diagnostics ------------------------------------------------------------------------------------------------------


STEPS = np.arange(1, 401)
BEGAN = np.arange(32) < 16


def test_independent_draws_are_mixed() -> None:
    values = np.random.default_rng(0).integers(5, size=(400, 32))
    (found,) = mixing({"x": values}, {"x": 3}, STEPS, 0, BEGAN)
    assert found.r_hat == pytest.approx(1, abs=0.01)
    assert found.ess == pytest.approx(values.size, rel=0.15)
    assert found.share == (values == 3).mean()
    assert found.mixed


def test_repeated_draws_count_once() -> None:
    """Each draw stands for ten steps: a tenth of the effective sample size."""
    values = np.random.default_rng(0).integers(5, size=(40, 32)).repeat(10, axis=0)
    (found,) = mixing({"x": values}, {"x": 3}, STEPS, 0, BEGAN)
    assert found.ess == pytest.approx(values.size / 10, rel=0.25)


def test_chains_stuck_at_different_values_are_not_mixed() -> None:
    rng = np.random.default_rng(0)
    still = np.tile(np.arange(32) % 2, (400, 1))
    nearly = np.where(rng.random((400, 32)) < 0.9, still, 1 - still)
    letters = np.array(["ab", "cd"])[nearly]
    found = mixing({"still": still, "nearly": nearly, "letters": letters}, {"still": 0, "nearly": 0, "letters": "ab"},
                   STEPS, 0, BEGAN)  # fmt: skip
    assert [f.feature for f in found] == ["still", "nearly", "letters"]
    assert found[0].r_hat is None
    assert found[0].ess == 0
    assert all((f.r_hat or 0) > 1.5 for f in found[1:])
    assert not any(f.mixed for f in found)


def test_few_draws_are_not_mixed() -> None:
    values = np.random.default_rng(0).integers(5, size=(400, 32))
    few = mixing({"x": values}, {"x": 3}, STEPS, 395, BEGAN)[0]  # 160 draws
    assert not few.mixed
    assert few.ess < 400
    too_few = mixing({"x": values}, {"x": 3}, STEPS, 397, BEGAN)[0]
    assert (too_few.r_hat, too_few.ess) == (None, 0)
    none = mixing({"x": values}, {"x": 3}, STEPS, 400, BEGAN)[0]
    assert (none.r_hat, none.ess, none.share, none.mixed) == (None, 0, None, False)


def test_a_feature_that_never_changes_is_mixed() -> None:
    found = mixing({"x": np.full((100, 32), "k")}, {"x": "k"}, STEPS[:100], 20, BEGAN)[0]
    assert (found.r_hat, found.ess, found.share, found.forgotten, found.mixed) == (1.0, 2560, 1.0, 1, True)


def test_the_warm_up_does_not_count() -> None:
    values = np.random.default_rng(0).integers(5, size=(400, 32))
    values[:100] = 7
    late = mixing({"x": values}, {"x": 7}, STEPS, 100, BEGAN)[0]
    assert late.mixed
    assert late.share == 0
    assert not mixing({"x": values}, {"x": 7}, STEPS, 0, BEGAN)[0].mixed


def test_the_time_to_forget_the_query() -> None:
    """200 chains from the query and 200 others, of which always half have its value; the former all do until draw 30."""
    same = np.tile(np.arange(400) % 2 == 0, (100, 1))
    same[:30, :200] = True
    steps, began = 10 * np.arange(1, 101), np.arange(400) < 200
    # after the fact the share is ½; near it is within 2 standard errors, 2 · √(¼ / 200) = 0.07
    assert mixing({"x": same}, {"x": True}, steps, 50, began)[0].forgotten == 310
    slow = same.copy()
    slow[:40, :200] = np.arange(200) % 20 < 11  # 0.55: near enough
    assert mixing({"x": slow}, {"x": True}, steps, 50, began)[0].forgotten == 10
    never = np.tile(np.arange(400) < 200, (100, 1))
    assert mixing({"x": never}, {"x": True}, steps, 50, began)[0].forgotten is None
    assert mixing({"x": same}, {"x": True}, steps, 50, ~began & began)[0].forgotten is None


def test_splitting_by_hand() -> None:
    """Two rungs, four columns, eight steps; the jackknife column by column, with Student's t of three degrees, 3.1824."""
    closer, others = np.array([[4, 4, 2, 6], [2, 1, 3, 2]]), np.array([0.5, 1.0, 0.75, 0.75])
    found = splitting_bits(closer, 8, others, 999)
    value = -log2(16 / 32) - log2(8 / 32) - log2(0.75)
    left_out = [
        -log2((4 + 2 + 6) / 24) - log2((1 + 3 + 2) / 24) - log2(2.5 / 3),
        -log2((4 + 2 + 6) / 24) - log2((2 + 3 + 2) / 24) - log2(2.0 / 3),
        -log2((4 + 4 + 6) / 24) - log2((2 + 1 + 2) / 24) - log2(2.25 / 3),
        -log2((4 + 4 + 2) / 24) - log2((2 + 1 + 3) / 24) - log2(2.25 / 3),
    ]
    mean = sum(left_out) / 4
    reach = 3.182446 * sqrt(3 / 4 * sum((x - mean) ** 2 for x in left_out))
    assert (found.hits, found.inputs, found.method) == (16, 999, "splitting")
    assert found.value == pytest.approx(value)
    assert found.low == pytest.approx(value - reach)
    assert found.high == pytest.approx(value + reach)


def test_splitting_at_its_ends() -> None:
    everything = splitting_bits(np.full((3, 8), 50), 50, np.ones(8), 1)
    assert (everything.value, everything.low, everything.high) == (0, 0, 0)
    # no column came from the second rung to the first: were its share p, all four would miss it with (1 − p)⁴ = 0.05
    nobody = splitting_bits(np.array([[0, 0, 0, 0], [3, 3, 2, 2]]), 5, np.ones(4), 1)
    assert nobody.value == nobody.low == pytest.approx(1 - log2(1 - 0.05**0.25))
    assert (nobody.high, nobody.hits) == (None, 0)
    # one column alone: the interval knows no upper end
    one = splitting_bits(np.array([[3, 0, 0, 0]]), 5, np.ones(4), 1)
    assert one.value == pytest.approx(log2(20 / 3))
    assert (one.low, one.high) == (0, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": 0}, {"seconds": -1.0}, {"seconds": float("nan")}, {"seconds": inf}, {"steps": 0},
        {"steps": -3}, {"chains": 1}, {"chains": 0}, {"population": 15}, {"seed": -1}, {"bits_within": 0.0},
        {"bits_within": float("nan")}, {"bits_within": 0.3, "exchange": False},
    ],
)  # fmt: skip
def test_settings_out_of_range(wrong: dict[str, float | None]) -> None:
    with pytest.raises(SettingError, match=r"^[^\n]+\.$"):
        WalkSettings(**wrong)  # type: ignore[arg-type]
    assert WalkSettings(seconds=None, until_mixed=True).until_mixed


def test_a_walk_ends_after_ten_seconds_unless_something_else_ends_it() -> None:
    assert WalkSettings().seconds == 10
    assert WalkSettings(steps=5).seconds is None
    assert WalkSettings(until_mixed=True).seconds is None
    assert WalkSettings(steps=5, seconds=2).seconds == 2


def test_replicas_of_one_column_are_not_worth_more_than_the_column() -> None:
    """Eight places that all show their column's state, which is drawn anew at every step: one draw a step, not eight."""
    rng = np.random.default_rng(3)
    columns = rng.integers(5, size=(400, 16))
    values = np.repeat(columns, 8, axis=1)
    alone = mixing({"x": columns}, {"x": 0}, STEPS, 0, np.arange(16) < 8)[0]
    together = mixing({"x": values}, {"x": 0}, STEPS, 0, np.arange(128) < 64, replicas=8)[0]
    assert together.ess == pytest.approx(alone.ess, rel=0.2)
    assert mixing({"x": values}, {"x": 0}, STEPS, 0, np.arange(128) < 64)[0].ess > 4 * together.ess


def test_the_share_of_the_query_counts_among_what_the_columns_disagree_by() -> None:
    sure = splitting_bits(np.full((1, 8), 30), 100, np.full(8, 0.1), 1)
    unsure = splitting_bits(np.full((1, 8), 30), 100, np.array([0.0, 0.2] * 4), 1)
    assert sure.value == pytest.approx(unsure.value)
    assert sure.high is not None
    assert sure.high - sure.low == pytest.approx(0, abs=1e-6)
    assert unsure.low < unsure.value - 0.5

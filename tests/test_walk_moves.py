"""Moves, priors and steps of the studies: every proposal an input, detailed balance by brute force on listed spaces."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations, permutations, product
from math import exp, factorial, log, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, norm

from inversionview.core.arrays import Ids
from inversionview.corpora.inputs import Inputs
from inversionview.markov.kernel import States, StudyKernel
from inversionview.studies.addition.corpus import AdditionInputs
from inversionview.studies.counting.corpus import CountingInputs

STUDIES: dict[str, Inputs] = {"counting": CountingInputs(), "addition": AdditionInputs()}
MOVES = [(name, move.name) for name, inputs in STUDIES.items() for move in inputs.moves]
TOO_RARE = 1e-4
"""A p-value below this fails a test; the seeds are fixed."""


def ids(study: str, text: str) -> list[int]:
    """Token ids of a text with its B, E and P, padded."""
    inputs = STUDIES[study]
    row = [list(inputs.vocabulary).index(character) for character in text]
    return row + [inputs.pad] * (inputs.max_length - len(row))


def rows(study: str, texts: list[str]) -> Ids:
    return np.array([ids(study, text) for text in texts])


def text_of(study: str, row: Ids) -> str:
    """The text with all its B, E and P, but for the padding at the end."""
    return "".join(STUDIES[study].vocabulary[i] for i in row).rstrip("P")


def counts_of(text: str) -> list[int] | None:
    """How often each letter of a counting input occurs; ``None`` where it is none. By its definition, on text."""
    parts = re.fullmatch(r"B([a-z]+)\|([a-z]):([1-9])E", text)
    if parts is None:
        return None
    counts = Counter(parts[1])
    real = len(counts) == 3 and max(counts.values()) <= 9 and counts[parts[2]] == int(parts[3])
    return list(counts.values()) if real else None


def orders(counts: list[int]) -> int:
    """The multinomial coefficient: how many strings have these counts."""
    return factorial(sum(counts)) // prod(factorial(n) for n in counts)


def log_prior_of(study: str, text: str) -> float:
    """log p(x) up to a constant, by definition."""
    if study == "addition":
        parts = re.fullmatch(r"B([1-9]\d\d)\+([1-9]\d\d)=([1-9]\d*)E", text)
        return 0.0 if parts and int(parts[1]) + int(parts[2]) == int(parts[3]) else -np.inf
    counts = counts_of(text)
    return -np.inf if counts is None else -log(orders(counts))


@st.composite
def counting_texts(draw: st.DrawFn) -> str:
    letters = draw(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=3, max_size=3, unique=True))
    counts = draw(st.lists(st.integers(1, 9), min_size=3, max_size=3))
    string = draw(st.permutations([c for c, n in zip(letters, counts, strict=True) for _ in range(n)]))
    slot = draw(st.integers(0, 2))
    return f"B{''.join(string)}|{letters[slot]}:{counts[slot]}E"


@st.composite
def addition_texts(draw: st.DrawFn) -> str:
    first, second = draw(st.integers(100, 999)), draw(st.integers(100, 999))
    return f"B{first}+{second}={first + second}E"


TEXTS = {"counting": counting_texts(), "addition": addition_texts()}


# -- the prior --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", STUDIES)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_prior_knows_inputs_from_what_is_none(study: str, data: st.DataObject) -> None:
    """One token of an input becomes any other, BOS, EOS and padding too: sometimes an input is left, mostly none."""
    row = ids(study, data.draw(TEXTS[study]))
    length = row.index(STUDIES[study].eos) + 1
    spoilt = row.copy()
    spoilt[data.draw(st.integers(0, len(row) - 1))] = data.draw(st.integers(0, STUDIES[study].pad))
    cut = np.array([row])[:, :length]  # less padding says the same
    found = STUDIES[study].log_prior(np.array([row, spoilt]))
    assert found[0] == pytest.approx(log_prior_of(study, text_of(study, row)))
    assert found[1] == pytest.approx(log_prior_of(study, text_of(study, spoilt)))
    assert STUDIES[study].log_prior(cut)[0] == pytest.approx(found[0])


@pytest.mark.parametrize("study", STUDIES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_prior_takes_any_tokens(study: str, data: st.DataObject) -> None:
    inputs = STUDIES[study]
    row = data.draw(st.lists(st.integers(0, inputs.pad), min_size=inputs.max_length, max_size=inputs.max_length))
    assert inputs.log_prior(np.array([row]))[0] == log_prior_of(study, text_of(study, row))


def test_all_orders_of_a_configuration_have_probability_one_together() -> None:
    for counts in ((1, 1, 1), (2, 1, 1), (3, 1, 2)):
        letters = "".join(c * n for c, n in zip("kqx", counts, strict=True))
        texts = [f"B{''.join(order)}|q:{counts[1]}E" for order in sorted(set(permutations(letters)))]
        assert np.exp(STUDIES["counting"].log_prior(rows("counting", texts))).sum() == pytest.approx(1)


def test_fresh_counting_inputs_are_draws_from_the_prior() -> None:
    count = 26_000
    drawn = STUDIES["counting"].fresh(count, np.random.default_rng(1))
    texts = [text_of("counting", row) for row in drawn]
    strings, asked = [t[1 : t.index("|")] for t in texts], [t[t.index("|") + 1] for t in texts]
    counts = [Counter(s) for s in strings]
    assert all(counts_of(text) for text in texts)
    assert_uniform([c[q] for c, q in zip(counts, asked, strict=True)], range(1, 10))
    assert_uniform(asked, "abcdefghijklmnopqrstuvwxyz")
    assert_uniform([sorted(c).index(q) for c, q in zip(counts, asked, strict=True)], range(3))
    triples = ["".join(three) for three in combinations("abcdefghijklmnopqrstuvwxyz", 3)]
    assert_uniform(["".join(sorted(c)) for c in counts], triples)
    ways = Counter(a + b + c for a, b, c in product(range(1, 10), repeat=3))
    lengths = Counter(map(len, strings))
    assert chisquare([lengths[n] for n in ways], [count * w / 729 for w in ways.values()]).pvalue > TOO_RARE
    # every order is as likely: the first letter is the smallest with the probability count / length, so is the last
    share = np.array([c[min(c)] / len(s) for c, s in zip(counts, strings, strict=True)])
    for place in (0, 1, -1):
        same = np.array([s[place] == min(s) for s in strings])
        assert abs((same - share).sum()) < 4 * np.sqrt((share * (1 - share)).sum())


def test_fresh_additions_are_uniform() -> None:
    drawn = STUDIES["addition"].fresh(20_000, np.random.default_rng(1))
    texts = [text_of("addition", row) for row in drawn]
    assert all(log_prior_of("addition", text) == 0 for text in texts)
    for operand in (slice(1, 4), slice(5, 8)):
        assert_uniform([int(t[operand]) for t in texts], range(100, 1000))
    assert_uniform([t[1] + t[5] for t in texts], [a + b for a in "123456789" for b in "123456789"])


def assert_uniform(values: list, among: object) -> None:
    counts = Counter(values)
    every = list(among)  # type: ignore[call-overload]
    assert set(counts) <= set(every)
    assert chisquare([counts[v] for v in every]).pvalue > TOO_RARE


# -- proposals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", STUDIES)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_every_proposal_that_can_be_made_is_an_input(study: str, data: st.DataObject, seed: int) -> None:
    tokens = rows(study, data.draw(st.lists(TEXTS[study], min_size=1, max_size=3))).repeat(20, axis=0)
    before, rng = tokens.copy(), np.random.default_rng(seed)
    for move in STUDIES[study].moves:
        new, ratio = move.propose(tokens, rng)
        assert (tokens == before).all()
        assert new.shape == tokens.shape
        assert (ratio < np.inf).all()
        real = np.isfinite(ratio)
        assert all(np.isfinite(log_prior_of(study, text_of(study, row))) for row in new[real])
        assert np.isfinite(STUDIES[study].log_prior(new[real])).all()


@pytest.mark.parametrize(
    ("study", "move", "here", "there", "chance", "back"),
    [
        # two places of four, in either order
        ("counting", "swap", "Baabc|a:2E", "Babac|a:2E", 2 / 16, 2 / 16),
        # a place of four, one of two letters
        ("counting", "replace", "Baabc|a:2E", "Babbc|a:1E", 1 / 8, 1 / 8),
        # the stretch 0–1 (2 of 9, then 1 of 2 orders) or 0–2 (2 of 9, 1 of 6)
        ("counting", "shuffle", "Babc|a:1E", "Bbac|a:1E", 4 / 27, 4 / 27),
        # out: either a of four letters; in: before or after the a, of four slots, one of three letters
        ("counting", "resize", "Baabc|a:2E", "Babc|a:1E", 1 / 2 * 2 / 4, 1 / 2 * 2 / 4 / 3),
        # one of three letters, one of the 23 others
        ("counting", "rename", "Babc|a:1E", "Bdbc|d:1E", 1 / 69, 1 / 69),
        # one of three pairs
        ("counting", "exchange", "Baabc|a:2E", "Bbbac|a:1E", 1 / 3, 1 / 3),
        ("counting", "ask", "Baabc|a:2E", "Baabc|b:1E", 1 / 2, 1 / 2),
        # one of six digits, one of ten values
        ("addition", "digit", "B403+288=691E", "B413+288=701E", 1 / 60, 1 / 60),
        # the same two digits in either order
        ("addition", "two digits", "B403+288=691E", "B413+287=700E", 2 / 3600, 2 / 3600),
        ("addition", "place", "B403+288=691E", "B404+285=689E", 1 / 300, 1 / 300),
        ("addition", "operand", "B403+288=691E", "B977+288=1265E", 1 / 1800, 1 / 1800),
        ("addition", "swap", "B403+288=691E", "B288+403=691E", 1, 1),
        ("addition", "swap place", "B403+288=691E", "B203+488=691E", 1 / 3, 1 / 3),
        # one of two signs, nine amounts, three places
        ("addition", "transfer", "B403+288=691E", "B398+293=691E", 1 / 54, 1 / 54),
        ("addition", "add", "B403+288=691E", "B398+288=686E", 1 / 108, 1 / 108),
    ],
)
def test_proposals_and_ways_back_have_the_chances_counted_by_hand(
    study: str, move: str, here: str, there: str, chance: float, back: float
) -> None:
    count, rng = max(5000, round(80 / chance)), np.random.default_rng(3)
    (made,) = (m for m in STUDIES[study].moves if m.name == move)
    for text, other, wanted, reverse in ((here, there, chance, back), (there, here, back, chance)):
        new, ratio = made.propose(rows(study, [text]).repeat(count, axis=0), rng)
        hits = (new == rows(study, [other])).all(1) & np.isfinite(ratio)
        assert abs(hits.sum() - count * wanted) <= 4 * np.sqrt(count * wanted * (1 - wanted))
        assert np.exp(ratio[hits]) == pytest.approx(reverse / wanted)


@settings(max_examples=40, deadline=None)
@given(text=counting_texts(), seed=st.integers(0, 2**32 - 1))
def test_a_new_counting_input_is_proposed_with_the_ratio_of_the_prior(text: str, seed: int) -> None:
    """q(x′ ∣ x) = p(x′): the ratio is log p(x) − log p(x′)."""
    tokens = rows("counting", [text]).repeat(5, axis=0)
    new, ratio = next(m for m in STUDIES["counting"].moves if m.name == "all").propose(tokens, np.random.default_rng(seed))
    for row, found in zip(new, ratio, strict=True):
        assert found == pytest.approx(log_prior_of("counting", text) - log_prior_of("counting", text_of("counting", row)))


# -- detailed balance, by brute force ---------------------------------------------------------------------------------


@dataclass
class Space:
    """A part of a study's inputs that is listed in full: inside it D = 0, elsewhere 1."""

    study: str
    texts: list[str]
    tokens: Ids = field(init=False)
    p: np.ndarray = field(init=False)
    """π(x), by definition."""

    def __post_init__(self) -> None:
        self.tokens = rows(self.study, self.texts)
        weights = np.exp([log_prior_of(self.study, text) for text in self.texts])
        self.p = weights / weights.sum()
        self._index = {row.tobytes(): i for i, row in enumerate(self.tokens.astype(np.uint8))}
        self.kernel = StudyKernel(STUDIES[self.study], self.measure)

    def which(self, tokens: Ids) -> Ids:
        """The number of each input, −1 outside."""
        return np.array([self._index.get(row.tobytes(), -1) for row in tokens.astype(np.uint8)])

    def measure(self, tokens: Ids) -> tuple[np.ndarray, Ids]:
        return np.where(self.which(tokens) >= 0, 0.0, 1.0), np.zeros(len(tokens), dtype=np.int64)

    def draw(self, count: int, rng: np.random.Generator) -> States:
        """Exact draws of π."""
        return self.kernel.begin(self.tokens[rng.choice(len(self.p), size=count, p=self.p)])

    def step(self, states: States, move: str, rng: np.random.Generator) -> Ids:
        """Make one step in place; return the numbers of where the chains stand."""
        count = len(states.distance)
        self.kernel.step(states, np.full(count, 0.5), np.full(count, self.kernel.moves.index(move)), rng)
        return self.which(states.tokens)


def strings(letters: str, lengths: range) -> list[str]:
    """All counting inputs over some letters, of some lengths of their strings."""
    made = ["".join(s) for n in lengths for s in product(letters, repeat=n) if len(set(s)) == 3]
    return [f"B{s}|{q}:{s.count(q)}E" for s in made for q in sorted(set(s))]


def sums(first: list[int], second: list[int]) -> list[str]:
    return [f"B{a}+{b}={a + b}E" for a in first for b in second]


NUMBERS = [*range(100, 110), *range(200, 205), 110, 115, 155, 501]
SPACES: dict[str, Callable[[], Space]] = {
    "counting": lambda: Space("counting", strings("abcd", range(3, 6))),
    "addition": lambda: Space("addition", sums(NUMBERS, NUMBERS)),
}


@pytest.fixture(scope="module")
def spaces() -> dict[str, Space]:
    return {name: make() for name, make in SPACES.items()}


def test_the_spaces_are_listed_in_full(spaces: dict[str, Space]) -> None:
    # of three letters: 6 + 36 + 150 strings, three questions; of four letters four triples
    assert len(strings("abc", range(3, 6))) == 576
    assert len(spaces["counting"].texts) == len(set(spaces["counting"].texts)) == 4 * 576
    assert len(spaces["addition"].texts) == len(NUMBERS) ** 2


@pytest.mark.parametrize(("study", "move"), MOVES)
def test_a_move_leaves_the_target_as_it_is(spaces: dict[str, Space], study: str, move: str) -> None:
    """From exact draws of π: as many go from x to x′ as from x′ to x, and after more steps the distribution is still π."""
    space, rng, count = spaces[study], np.random.default_rng((7, len(move))), 25_000
    states = space.draw(count, rng)
    before = space.which(states.tokens)
    after = space.step(states, move, rng)
    assert (after >= 0).all()
    rare = move in ("all", "operand")  # leads out of so small a space nearly always: see the next test
    assert (before != after).mean() > (-1 if rare else 0.01)
    assert_balanced(before, after, len(space.p))
    for _ in range(2):
        after = space.step(states, move, rng)
    assert chisquare(np.bincount(after, minlength=len(space.p)), count * space.p).pvalue > TOO_RARE


def assert_balanced(before: Ids, after: Ids, size: int) -> None:
    """Of the n steps between two states each direction has half: Σ (a − b)² / n has mean 1 and variance 2 − 2/n a pair."""
    moved = before != after
    low, high = np.minimum(before, after)[moved], np.maximum(before, after)[moved]
    pair, both = np.unique(low * size + high, return_counts=True)
    if not len(pair):
        return
    up = np.bincount(np.searchsorted(pair, (low * size + high)[before[moved] < after[moved]]), minlength=len(pair))
    statistic = ((2 * up - both) ** 2 / both).sum()
    spread = np.sqrt((2 - 2 / both).sum())
    assert statistic - len(pair) < norm.isf(TOO_RARE) * spread + 5  # 5: the tail of few pairs is wider than normal
    net = np.zeros(size)
    np.add.at(net, after, 1)
    np.subtract.at(net, before, 1)
    gone = np.bincount(before[moved], minlength=size) + np.bincount(after[moved], minlength=size)
    busy = gone >= 10
    assert (np.abs(net[busy]) <= 5 * np.sqrt(gone[busy])).all()


@pytest.mark.parametrize(("study", "move"), MOVES)
def test_a_move_is_balanced_in_half_of_all_inputs(study: str, move: str) -> None:
    """Half of all inputs inside, by lot: as many steps lead from one kind of input to another as back."""
    lot, rng = np.random.default_rng(5).integers(2**40, size=STUDIES[study].max_length), np.random.default_rng(6)

    def measure(tokens: Ids) -> tuple[np.ndarray, Ids]:
        return (tokens @ lot // 2**12 % 2).astype(float), np.zeros(len(tokens), dtype=np.int64)

    def kinds(tokens: Ids) -> Ids:
        if study == "addition":  # F1, S1, odd or even sum
            return (tokens[:, 1] * 10 + tokens[:, 5]) * 2 + (tokens[:, 3] + tokens[:, 7]) % 2
        features = STUDIES[study].features(tokens)  # count, length, an early letter or a late one
        return (features["count"] * 28 + features["length"]) * 2 + (tokens[:, 1] > 12)

    kernel = StudyKernel(STUDIES[study], measure)
    states = kernel.fresh(40_000, rng)
    states = states.part(states.distance == 0)
    count, before = len(states.distance), kinds(states.tokens)
    assert count > 15_000
    trial = kernel.step(states, np.full(count, 0.5), np.full(count, kernel.moves.index(move)), rng)
    assert trial.accepted.mean() > 0.05
    assert_balanced(before, kinds(states.tokens), size=600)
    assert not measure(states.tokens)[0].any()


@pytest.mark.parametrize("study", STUDIES)
def test_all_moves_together_reach_the_target_from_one_start(study: str) -> None:
    """Independent chains, all from one input: after enough steps they are draws of π."""
    numbers = list(range(100, 120))
    space = Space(study, strings("abc", range(3, 6)) if study == "counting" else sums(numbers, numbers))
    assert len(space.p) in (576, 400)
    rng, count = np.random.default_rng(11), 4000
    states = space.kernel.begin(space.tokens[:1].repeat(count, axis=0))
    for _ in range(60 if study == "counting" else 350):
        space.kernel.step(states, np.full(count, 0.5), rng.integers(len(space.kernel.moves), size=count), rng)
    reached = np.bincount(space.which(states.tokens), minlength=len(space.p))
    assert chisquare(reached, count * space.p).pvalue > TOO_RARE


# -- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", STUDIES)
def test_with_everything_inside_a_new_draw_is_always_taken(study: str) -> None:
    kernel = StudyKernel(STUDIES[study], lambda t: (np.zeros(len(t)), np.zeros(len(t), dtype=np.int64)))
    states = kernel.fresh(3000, np.random.default_rng(0))
    before = states.tokens.copy()
    assert kernel.redraw is not None
    trial = kernel.step(states, np.full(3000, np.inf), np.full(3000, kernel.redraw), np.random.default_rng(1))
    assert trial.accepted.all()
    assert (states.tokens == trial.tokens).all()
    assert not (states.tokens == before).all(1).any()


@pytest.mark.parametrize("study", STUDIES)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_step_says_what_it_did(study: str, seed: int) -> None:
    """D here is a hash of the input; every chain has an ε of its own."""

    def measure(tokens: Ids) -> tuple[np.ndarray, Ids]:
        return (tokens * np.arange(1, tokens.shape[1] + 1)).sum(1) % 97 / 97, tokens[:, 3]

    rng, count = np.random.default_rng(seed), 300
    kernel = StudyKernel(STUDIES[study], measure)
    states = kernel.fresh(count, rng)
    epsilon = np.maximum(states.distance, rng.random(count))
    for _ in range(3):
        before = states.part(np.arange(count))
        trial = kernel.step(states, epsilon, rng.integers(len(kernel.moves), size=count), rng)
        taken, measured = trial.accepted, ~np.isnan(trial.distance)
        assert ((trial.tokens != before.tokens).any(1) == trial.real).all()
        assert (measured <= trial.real).all()
        assert (taken == (measured & (trial.distance <= epsilon))).all()
        assert (states.tokens == np.where(taken[:, None], trial.tokens, before.tokens)).all()
        np.testing.assert_array_equal(trial.distance[measured], measure(trial.tokens[measured])[0])
        # what stands there is what an own measurement says
        distance, position = measure(states.tokens)
        np.testing.assert_array_equal(states.distance, distance)
        np.testing.assert_array_equal(states.position, position)
        np.testing.assert_allclose(states.log_prior, [log_prior_of(study, text_of(study, row)) for row in states.tokens])
        assert (states.distance <= epsilon).all()


def test_an_input_is_measured_once() -> None:
    seen: list[bytes] = []

    def measure(tokens: Ids) -> tuple[np.ndarray, Ids]:
        seen.extend(row.tobytes() for row in tokens)
        return tokens[:, 1] / 10, tokens[:, 2]

    kernel = StudyKernel(STUDIES["addition"], measure, remember=50)
    tokens = STUDIES["addition"].tokens(np.array([5, 700_000, 5, 9]))
    for _ in range(2):
        distance, position = kernel.measure(tokens)
        assert (distance == tokens[:, 1] / 10).all()
        assert (position == tokens[:, 2]).all()
    assert len(seen) == len(set(seen)) == 3
    # beyond what it remembers it forgets, and measures anew
    kernel.measure(STUDIES["addition"].tokens(np.arange(100)))
    kernel.measure(tokens)
    assert len(seen) == 3 + 98 + 3


def test_the_acceptance_is_the_ratio_of_the_prior() -> None:
    """From abc to aabc by one more letter: p falls to a half, the way back is 1/3 as likely … and the ratio is log 3."""
    kernel = StudyKernel(STUDIES["counting"], lambda t: (np.zeros(len(t)), np.zeros(len(t), dtype=np.int64)))
    count = 40_000
    states = kernel.begin(rows("counting", ["Babc|a:1E"]).repeat(count, axis=0))
    trial = kernel.step(states, np.ones(count), np.full(count, kernel.moves.index("resize")), np.random.default_rng(0))
    # p(aabc) / p(abc) = 6 / 12; q(abc ∣ aabc) / q(aabc ∣ abc) = 3; taken with min(1, 3/2). One fewer cannot be
    assert trial.accepted[trial.real].all()
    assert abs(trial.real.mean() - 0.5) < 4 * 0.5 / np.sqrt(count)
    states = kernel.begin(rows("counting", ["Baabc|a:2E"]).repeat(count, axis=0))
    trial = kernel.step(states, np.ones(count), np.full(count, kernel.moves.index("resize")), np.random.default_rng(1))
    shorter = trial.tokens[:, 4] == ids("counting", "Babc|a:1E")[4]
    # one fewer: taken with 2 · 1/3; to five letters: p falls by 12 / 20 (aaabc) or 12 / 30 (aabbc), times 3: always
    rate = trial.accepted[shorter].mean()
    assert abs(rate - 2 / 3) < 4 * np.sqrt(2 / 9 / shorter.sum())
    assert exp(states.log_prior.min()) == pytest.approx(1 / 30)

"""Walks that may go to what a decoder writes, against full lists: any decoder leaves the distribution as it is."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import inversionview as iv
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError, UnknownSiteError
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.moves import Move, Proposal, symmetric
from inversionview.decoder.decoder import Decoder
from inversionview.markov.independent import IndependentKernel
from inversionview.markov.kernel import States
from inversionview.markov.pool import Pool
from inversionview.markov.run import Walk, WalkSettings
from inversionview.sources.written import DecoderWriter
from tests.test_cli import ADD, COUNT, bad, run
from tests.test_scoring import BOS, EOS, PAD, Z, every_input, random_decoder
from tests.test_walk_moves import assert_balanced

TOO_RARE = 1e-4
"""A p-value below this fails a test; the seeds are fixed."""
EVERY = every_input()
"""All 364 strings of at most five of three letters."""
WEIGHTS = np.random.default_rng(3).choice([1.0, 2.0, 4.0, 0.0], p=[0.4, 0.3, 0.2, 0.1], size=len(EVERY))
"""What the prior gives to each: of some nothing."""
DISTANCE = np.random.default_rng(4).integers(4, size=len(EVERY)) / 4
NUMBER = {row.tobytes(): i for i, row in enumerate(EVERY)}


def numbers(tokens: Ids) -> Ids:
    """The number of each string, −1 of what is none."""
    return np.array([NUMBER.get(row.tobytes(), -1) for row in np.ascontiguousarray(tokens)], dtype=np.int64)


def measure(tokens: Ids) -> tuple[np.ndarray, Ids]:
    which = numbers(tokens)
    assert (which >= 0).all()  # what the prior refuses is not run through the model
    return DISTANCE[which], np.zeros(len(tokens), dtype=np.int64)


class Strings(Inputs):
    """Those strings. Their one move replaces a letter, so it never leads from a length to another."""

    pad, bos, eos, max_length = PAD, BOS, EOS, 7

    def __len__(self) -> int:
        return len(EVERY)

    def tokens(self, rows: Ids, salt: int = 0) -> Ids:
        return EVERY[rows]

    def log_prior(self, tokens: Ids) -> np.ndarray:
        which = numbers(tokens)
        with np.errstate(divide="ignore"):
            return np.where(which >= 0, np.log(WEIGHTS)[which], -np.inf)

    def fresh(self, count: int, rng: np.random.Generator) -> Ids:
        return EVERY[rng.choice(len(EVERY), size=count, p=WEIGHTS / WEIGHTS.sum())]

    def features(self, tokens: Ids) -> dict[str, np.ndarray]:
        return {"length": (tokens < BOS).sum(1), "first": tokens[:, 1]}

    @property
    def moves(self) -> tuple[Move, ...]:
        return (Move("replace", self._replace),)

    def _replace(self, tokens: Ids, rng: np.random.Generator) -> Proposal:
        new, length = tokens.copy(), (tokens < BOS).sum(1)
        place = 1 + rng.integers(length.clip(min=1))
        letter = rng.integers(3, size=len(tokens))
        new[np.arange(len(tokens)), place] = np.where(length, letter, new[np.arange(len(tokens)), place])
        return symmetric(new)


def decoder_of(kind: str) -> Decoder:
    """A random decoder; one that seldom writes most of the strings; one that would write padding and BOS, were it let."""
    decoder = random_decoder(seed=7)
    with torch.no_grad():
        weight = decoder.head()[0]
        weight.mul_(1.0 if kind == "narrow" else 0.3)
        if kind == "astray":
            weight[[BOS, PAD]] = 2 * weight[[0, 1]]
    return decoder


def kernel_of(kind: str) -> IndependentKernel:
    return IndependentKernel(Strings(), measure, DecoderWriter(decoder_of(kind), Z[0], 1, 7, PAD))


def target(epsilon: float) -> np.ndarray:
    """π(x) ∝ p(x) · 1[D ≤ ε], listed."""
    weights = WEIGHTS * (epsilon >= DISTANCE)
    return weights / weights.sum()


@pytest.mark.parametrize("kind", ["random", "narrow", "astray"])
def test_what_the_decoder_writes_has_the_probability_that_it_is_said_to_have(kind: str) -> None:
    """Of all strings, and of those that come to no end, the probabilities are 1 together; draws are as often as these say."""
    writer = DecoderWriter(decoder_of(kind), Z[0], 1, 7, PAD)
    endless = np.array([[BOS, *letters] for letters in product(range(3), repeat=6)])
    p = np.exp(writer.score(np.concatenate([EVERY, endless])))
    assert p.sum() == pytest.approx(1, abs=1e-4)
    drawn = numbers(writer.draw(5000, np.random.default_rng(0)))
    counts = np.bincount(drawn[drawn >= 0], minlength=len(EVERY))
    often = 5000 * p[: len(EVERY)] > 5
    seen = np.append(counts[often], 5000 - counts[often].sum())
    wanted = np.append(5000 * p[: len(EVERY)][often], 5000 * (1 - p[: len(EVERY)][often].sum()))
    assert chisquare(seen, wanted * 5000 / wanted.sum()).pvalue > TOO_RARE
    # a row that is longer than any input of the decoder is none of its
    assert np.isinf(DecoderWriter(decoder_of(kind), Z[0], 1, 9, PAD).score(np.full((1, 9), 1))).all()


@pytest.mark.parametrize("kind", ["random", "narrow", "astray"])
def test_the_move_leaves_the_target_as_it_is(kind: str) -> None:
    """From exact draws of π, at two ε at once: as many go from x to x′ as back, and the distribution is still π."""
    kernel, rng, count = kernel_of(kind), np.random.default_rng((7, len(kind))), 3000
    epsilon = np.repeat([0.3, 0.6], count // 2)
    rows = np.concatenate([rng.choice(len(EVERY), size=count // 2, p=target(e)) for e in (0.3, 0.6)])
    states = kernel.begin(EVERY[rows])
    for step in range(3):
        before = numbers(states.tokens)
        trial = kernel.step(states, epsilon, np.full(count, kernel.local), rng)
        after = numbers(states.tokens)
        assert ((before != after) == trial.accepted).all()
        assert (trial.accepted <= trial.real).all()
        assert (states.distance <= epsilon).all()
        assert (states.distance == DISTANCE[after]).all()
        if step == 0:
            assert (before != after).mean() > 0.02
        for half in (slice(count // 2), slice(count // 2, count)):
            assert_balanced(before[half], after[half], len(EVERY))
    for half, limit in ((slice(count // 2), 0.3), (slice(count // 2, count), 0.6)):
        p = target(limit)
        counts = np.bincount(after[half], minlength=len(p))
        assert not counts[p == 0].any()
        assert chisquare(counts[p > 0], count // 2 * p[p > 0]).pvalue > TOO_RARE


def test_the_acceptance_is_the_ratio_of_the_weights() -> None:
    """From one input that the decoder writes too seldom: Σ q(x′) min(1, w(x′) / w(x)) over all that lie inside."""
    kernel, epsilon, count = kernel_of("random"), 0.6, 4000
    p, q = target(epsilon), np.exp(DecoderWriter(decoder_of("random"), Z[0], 1, 7, PAD).score(EVERY))
    offered = q * (p > 0) / (q * (p > 0)).sum()
    weight = np.divide(p, offered, out=np.zeros_like(p), where=offered > 0)
    state = int(np.argsort(weight)[-5])
    ratio = (offered * np.minimum(1, weight / weight[state])).sum() - offered[state]
    states = kernel.begin(EVERY[np.full(count, state)])
    trial = kernel.step(states, np.full(count, epsilon), np.full(count, kernel.local), np.random.default_rng(1))
    assert 0.02 < ratio < 0.9
    assert abs(trial.accepted.mean() - ratio) < 4 * np.sqrt(ratio * (1 - ratio) / count)


def test_a_decoder_that_writes_nothing_inside_does_no_harm() -> None:
    kernel = kernel_of("random")
    states = kernel.begin(EVERY[:1].repeat(50, axis=0))
    trial = kernel.step(states, np.full(50, -1.0), np.full(50, kernel.local), np.random.default_rng(1))
    assert not trial.real.any()
    assert (states.tokens == EVERY[0]).all()
    assert kernel.elsewhere(16, -1.0, np.random.default_rng(1)) is None


def test_a_state_that_the_decoder_cannot_write_stays() -> None:
    """Its weight has no end."""

    class Deaf(DecoderWriter):
        def score(self, tokens: Ids) -> np.ndarray:
            return np.where(tokens[:, 1] == EOS, -np.inf, super().score(tokens))

    kernel = IndependentKernel(Strings(), measure, Deaf(decoder_of("random"), Z[0], 1, 7, PAD))
    states = kernel.begin(EVERY[:1].repeat(200, axis=0))
    assert EVERY[0, 1] == EOS
    trial = kernel.step(states, np.full(200, 1.0), np.full(200, kernel.local), np.random.default_rng(1))
    assert trial.real.any()
    assert not trial.accepted.any()


@pytest.mark.parametrize("exchange", [True, False])
def test_a_walk_reaches_what_its_own_moves_do_not(exchange: bool) -> None:
    """Its moves keep the length; with the decoder all lengths have their shares, on the chains from the query, too."""
    epsilon, query = 0.6, EVERY[[int(np.flatnonzero((target(0.6) > 0) & ((EVERY < BOS).sum(1) == 3))[0])]]
    kernel = kernel_of("random")
    settings, pool = WalkSettings(steps=400, chains=64, population=64, exchange=exchange), Pool(epsilon, query)
    walk = Walk(kernel, kernel.begin(query), settings, pool, Strings().features, None, None, np.random.default_rng(0))
    walk.go()
    draws, _, warm = walk.draws()
    p = target(epsilon)
    assert all(feature.r_hat is not None and feature.r_hat < 1.1 for feature in walk.mixing())
    assert walk.chains is not None
    from_query = walk.chains.column[: draws.shape[1]] < walk.chains.columns // 2
    for some in (from_query, ~from_query):
        shares = np.bincount(numbers(draws[warm:, some].reshape(-1, 7)), minlength=len(p)) / draws[warm:, some, 0].size
        lengths = (EVERY < BOS).sum(1)
        for length in range(6):
            assert abs(shares[lengths == length].sum() - p[lengths == length].sum()) < 0.1
    assert set(numbers(pool.inside)) <= set(np.flatnonzero(p > 0))  # of no probability under the prior: no member
    assert not walk.alone
    if exchange:
        bits, inside = walk.bits(), p > 0
        assert bits is not None
        inside[numbers(query)] = False
        exact = -np.log2(WEIGHTS[inside].sum() / WEIGHTS.sum())
        assert bits.low - 0.1 <= exact <= (bits.high or 0) + 0.1


def test_members_at_which_chains_begin_are_resampled_to_the_target() -> None:
    p, rng, firsts = target(0.6), np.random.default_rng(5), []
    for _ in range(30):
        found = kernel_of("random").elsewhere(64, 0.6, rng)
        assert isinstance(found, States)
        assert (found.distance <= 0.6).all()
        firsts.append(numbers(found.tokens))
    lengths = (EVERY < BOS).sum(1)
    for length in range(6):
        assert abs((lengths[np.concatenate(firsts)] == length).mean() - p[lengths == length].sum()) < 0.05


# -- the shipped decoders ---------------------------------------------------------------------------------------------

SHORT: dict[str, Any] = {"steps": 12, "chains": 16, "population": 64}


def test_a_walk_says_how_often_the_decoder_was_followed(addition: iv.Study) -> None:
    query = addition.query(ADD, at="=", site="a0.0")
    first, again, without = (iv.walk(addition, query, **SHORT, decoder=decoder).to_json() for decoder in (None, True, False))
    assert 0 < first["walk"]["acceptance"]["decoder"] < 1
    assert 0 < first["walk"]["mix"]["decoder"] < 1
    assert "decoder" not in without["walk"]["acceptance"]
    assert set(first["walk"]["acceptance"]) - set(without["walk"]["acceptance"]) == {"decoder"}
    for value in (first, again):
        del value["walk"]["seconds"], value["walk"]["members_per_second"]
    assert first == again


def test_without_it_no_decoder_is_opened(monkeypatch: pytest.MonkeyPatch, addition: iv.Study) -> None:
    def none(*args: object) -> None:
        raise AssertionError

    query = addition.query(ADD, at="=", site="a0.0")
    monkeypatch.setattr("inversionview.studies.study.opened_decoder", none)
    study = iv.load("addition")
    assert iv.walk(study, query, **SHORT, decoder=False).walk is not None
    assert iv.walk(study, query, **SHORT, prior="uniform", longer=0, exchange=False).walk is not None


def test_what_cannot_be_asked(addition: iv.Study) -> None:
    query = addition.query(ADD, at="=", site="a0.0")
    with pytest.raises(SettingError, match=r"^[^\n]+ here the prior is 'uniform'[^\n]+\.$"):
        iv.walk(addition, query, decoder=True, prior="uniform", **SHORT)
    unread = addition.query(ADD, at="=", site="m0")
    assert "m0" not in addition.decoder.config.sites
    with pytest.raises(UnknownSiteError, match=r"^The decoder was not trained on m0, [^\n]+\.$"):
        iv.walk(addition, unread, decoder=True, **SHORT)
    walk = iv.walk(addition, unread, **SHORT).walk
    assert walk is not None
    assert "decoder" not in walk.acceptance


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = ("--at", "=", "--site", "a0.0", "--json")
    short = ("--steps", "4", "--chains", "4", "--no-exchange")
    for told in ((), ("--decoder",), ("--no-decoder",)):
        code, out, _ = run(capsys, "walk", "addition", ADD, *place, *short, *told)
        assert code == 0
        assert ("decoder" in json.loads(out)["walk"]["acceptance"]) == (told != ("--no-decoder",))
    code, out, _ = run(
        capsys, "read", "addition", ADD, *place, "--source", "walk", "--seconds", "0.5", "--no-decoder", "--count", "3"
    )
    assert "decoder" not in json.loads(out)["walk"]["acceptance"]
    bad(capsys, "walk", "addition", ADD, "--decoder", "--prior", "model", says="leave the decoder out")
    bad(capsys, "read", "counting", COUNT, "--source", "corpus", "--decoder", says="--decoder")

"""Walks through preimages of the shipped models: against all 810,000 additions, and as the command line shows them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import inversionview as iv
from inversionview.core.errors import InputError, SettingError, UnknownPositionError
from inversionview.core.information import Bits
from inversionview.core.scope import Distance
from inversionview.markov.diagnostics import Mixing
from inversionview.markov.kernel import StudyKernel
from inversionview.markov.pool import Pool
from inversionview.markov.run import Walk, WalkSettings
from inversionview.model.distances import geometry as distances
from inversionview.model.measure import distance_to, nearest
from tests.test_cli import ADD, COUNT, run
from tests.test_walk_moves import log_prior_of

SMALL: dict[str, Any] = {"seconds": None, "steps": 30, "chains": 16, "population": 64}
"""A walk of half a second."""
ROUNDING = 1e-5
"""By how much D of an input may differ between batches of other sizes."""


# -- against every input ----------------------------------------------------------------------------------------------

FRAGMENTED = ("403+288=691", "A1", 0.1)
"""34 members in pieces."""
LARGE = ("615+861=1476", "A2", 0.3)


class Truth:
    """All additions inside the ε of a query but for itself, from D of every one; and what a walk found of them."""

    def __init__(self, study: iv.Study, query: iv.Query, epsilon: float, distance: np.ndarray) -> None:
        self.study, self.query, self.epsilon = study, query, epsilon
        self.distance = distance.astype(float)
        every = study.inputs.tokens(np.flatnonzero(distance <= epsilon))
        self.tokens = every[~(every == self._padded(query.ids)).all(1)]
        self.bits = -np.log2(len(self.tokens) / (len(distance) - 1))
        self.texts = {study.model.vocabulary.decode([i for i in row if i != study.inputs.pad]) for row in self.tokens.tolist()}

    def _padded(self, ids: tuple[int, ...]) -> np.ndarray:
        return np.array([[*ids, *[self.study.inputs.pad] * (self.study.inputs.max_length - len(ids))]])

    def walk(self, **options: Any) -> tuple[Walk, tuple[Mixing, ...], np.ndarray, Bits]:
        """Return a walk that looks D up, how it is mixed, its draws without the query, and its bits."""
        inputs, tokens = self.study.inputs, self._padded(self.query.ids)
        kernel, rng = StudyKernel(inputs, self._measure), np.random.default_rng(0)
        settings, pool = WalkSettings(**options), Pool(self.epsilon, tokens)
        done = Walk(kernel, kernel.begin(tokens), settings, pool, inputs.features, None, None, rng)
        done.go()
        (draws, _, warm), bits = done.draws(), done.bits()
        mixed, draws = done.mixing(), draws[warm:].reshape(-1, draws.shape[-1])
        assert bits is not None
        return done, mixed, draws[~(draws == tokens).all(1)], bits

    def _measure(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = (tokens[:, 1:4] @ [100, 10, 1] - 100) * 900 + tokens[:, 5:8] @ [100, 10, 1] - 100
        return self.distance[rows], np.zeros(len(tokens), dtype=np.int64)

    def variation(self, draws: np.ndarray) -> dict[str, float]:
        """Total variation between the draws and the truth, for every feature."""
        exact, found = self.study.inputs.features(self.tokens), self.study.inputs.features(draws)
        out = {}
        for name, values in exact.items():
            every = np.unique(np.concatenate([values, found[name]]))
            shares = [np.array([(v == value).mean() for value in every]) for v in (values, found[name])]
            out[name] = float(np.abs(shares[0] - shares[1]).sum() / 2)
        return out


@pytest.fixture(scope="module")
def truths(addition: iv.Study) -> dict[str, Truth]:
    queries = [addition.query(text, at=at, site="x0.post") for text, at, _ in (FRAGMENTED, LARGE)]
    tokens = addition.inputs.tokens(np.arange(len(addition.inputs)))
    distance = nearest(addition.model, tokens, [(q.z, q.site) for q in queries], "euclidean").numpy()
    return {
        name: Truth(addition, query, epsilon, d)
        for name, query, epsilon, d in zip(("fragmented", "large"), queries, (FRAGMENTED[2], LARGE[2]), distance, strict=True)
    }


def test_every_member_of_a_preimage_in_pieces_is_found(addition: iv.Study, truths: dict[str, Truth]) -> None:
    truth = truths["fragmented"]
    assert len(truth.tokens) == 33
    found: list[str] = []

    def take(tokens: np.ndarray, distance: np.ndarray, position: np.ndarray) -> None:
        found.extend(addition.model.vocabulary.decode([i for i in row if i != addition.inputs.pad]) for row in tokens.tolist())

    preimage = iv.walk(
        addition, truth.query, epsilon=truth.epsilon, seconds=None, steps=600, count=200, found=take, decoder=False
    )
    assert preimage.walk is not None
    assert preimage.bits is not None
    assert sorted(found) == sorted(truth.texts)
    assert preimage.walk.members == 33
    assert {s.text for s in preimage.inside} == truth.texts
    assert abs(preimage.bits.value - truth.bits) < 0.3
    assert preimage.bits.low <= truth.bits <= (preimage.bits.high or 0)


def test_a_mixed_walk_has_the_shares_of_the_whole_preimage(truths: dict[str, Truth]) -> None:
    truth = truths["large"]
    assert len(truth.tokens) > 50_000
    walk, mixed, draws, bits = truth.walk(seconds=None, steps=4096, until_mixed=True)
    assert all(feature.mixed for feature in mixed)
    assert walk.chains is not None
    assert walk.chains.steps < 4096
    variation = truth.variation(draws)
    assert set(variation) == {feature.feature for feature in mixed}
    assert max(variation.values()) <= 0.05
    exact = truth.study.inputs.features(truth.tokens)
    own = truth.study.inputs.features(np.array([[*truth.query.ids]]))
    for feature in mixed:
        assert feature.share == pytest.approx((exact[feature.feature] == own[feature.feature]).mean(), abs=0.05)
    assert abs(bits.value - truth.bits) < 0.3
    assert bits.low <= truth.bits <= (bits.high or 0)
    texts = {truth.study.model.vocabulary.decode([i for i in row if i != 14]) for row in walk.pool.inside.tolist()}
    assert len(texts) == walk.pool.members
    assert texts <= truth.texts


# -- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("study", "text", "at", "site", "options"),
    [
        ("addition", ADD, "=", "a0.0", {}),
        ("addition", "403+288=691", "A1", "x0.post", {"epsilon": 0.3}),
        ("addition", ADD, "A2", "x1.post", {"distance": "cosine", "epsilon": 0.02, "exchange": False}),
        ("addition", ADD, "A4", "x0.post", {"fixed": "A4", "epsilon": 0.3}),
        ("counting", COUNT, ":", "a1.0", {}),
        ("counting", COUNT, "query", "x0.mid", {"fixed": "query", "distance": "cosine"}),
        ("counting", "zzzzzzzzzxy|x:1", ":", "x1.post", {"exchange": False, "epsilon": 0.2}),
    ],
)
def test_every_sample_is_what_the_model_says(
    request: pytest.FixtureRequest, study: str, text: str, at: str, site: str, options: dict[str, Any]
) -> None:
    """Measured again by themselves: inside iff D ≤ ε; all distinct inputs of the study, the query is none of them."""
    loaded: iv.Study = request.getfixturevalue(study)
    query = loaded.query(text, at=at, site=site)
    streamed: dict[str, tuple[float, int]] = {}

    def take(tokens: np.ndarray, distance: np.ndarray, position: np.ndarray) -> None:
        for ids, d, place in zip(tokens.tolist(), distance.tolist(), position.tolist(), strict=True):
            decoded = loaded.model.vocabulary.decode([i for i in ids if i != loaded.inputs.pad])
            assert decoded not in streamed
            streamed[decoded] = d, place

    preimage = iv.walk(loaded, query, found=take, **SMALL, **options)
    epsilon, fixed = options.get("epsilon", 0.1), options.get("fixed")
    assert (preimage.source, preimage.epsilon, preimage.distance) == ("walk", epsilon, options.get("distance", "euclidean"))
    assert 0 < len(preimage.inside) < len(preimage) == 100
    assert preimage.walk is not None
    assert len(streamed) == preimage.walk.members >= preimage.walk.taken > 0
    assert all(d <= epsilon for d, _ in streamed.values())
    assert preimage.draws is not None
    assert len(preimage.draws) == preimage.walk.draws > 100
    drawn = {loaded.model.vocabulary.decode([i for i in row if i != loaded.inputs.pad]) for row in preimage.draws.tolist()}
    assert drawn - {text} <= set(streamed)
    assert {s.text for s in preimage.inside} <= set(streamed)
    assert not {s.text for s in preimage.outside} & set(streamed)
    for where in (preimage, streamed):
        texts = [s if isinstance(s, str) else s.text for s in where]
        assert text not in texts
        assert len(set(texts)) == len(texts)
        assert all(np.isfinite(log_prior_of(study, f"B{t}E")) for t in texts)
    assert [s.distance for s in preimage] == sorted(s.distance for s in preimage)
    for sample in preimage:
        again, place = by_definition(loaded, query, sample.text, preimage.distance, fixed)
        assert sample.distance == pytest.approx(again, abs=ROUNDING)
        assert sample.inside == (sample.distance <= epsilon)
        assert sample.inside == (again <= epsilon) or abs(again - epsilon) < ROUNDING
        assert sample.token_distances[sample.position] == pytest.approx(again, abs=ROUNDING)
        assert sample.token_distances[-1] is None  # EOS
        assert sample.source == "walk"
        assert sample.count >= 1
        if fixed is not None:
            assert sample.position == place
        if sample.inside:
            assert streamed[sample.text][0] == pytest.approx(again, abs=ROUNDING)
            assert sample.token_distances[streamed[sample.text][1]] == pytest.approx(again, abs=ROUNDING)


def by_definition(study: iv.Study, query: iv.Query, text: str, kind: Distance, fixed: str | None) -> tuple[float, int | None]:
    """D from the input's own activations: the minimum over all tokens but EOS, or the one at the fixed position."""
    ids = study.model.encode(text)
    z = study.model.activations(torch.tensor([ids]), [query.site])[0, 0]
    each = distances.between(kind, query.z, z.float())[:-1]
    plain = distance_to(study.model, torch.tensor([ids]), query.z[None], query.site, kind)[1]
    if fixed is None:
        assert float(plain) == pytest.approx(float(each.min()), abs=ROUNDING)
        return float(each.min()), None
    place = study.locate(ids, fixed)
    return float(each[place]), place


def test_count_bounds_what_is_shown_and_nothing_else(addition: iv.Study) -> None:
    query = addition.query(ADD, at="=", site="a0.0")
    few, many = (iv.walk(addition, query, count=count, **SMALL) for count in (10, 100))
    assert (len(few), len(many)) == (10, 100)
    assert few.walk is not None
    assert many.walk is not None
    assert (few.walk.members, few.bits, few.candidates) == (many.walk.members, many.bits, many.candidates)
    assert few.candidates == few.walk.measured


# -- seeds, starts, interruptions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchange", [True, False])
def test_the_seed_fixes_all_but_the_time(counting: iv.Study, exchange: bool) -> None:
    query = counting.query(COUNT)

    def walked(seed: int) -> dict[str, Any]:
        value = iv.walk(counting, query, seed=seed, exchange=exchange, **SMALL).to_json()
        assert value["seed"] == seed
        assert value["walk"].pop("seconds") > 0
        assert value["walk"].pop("members_per_second") > 0
        return {name: part for name, part in json.loads(json.dumps(value)).items() if name != "seed"}

    first = walked(5)
    assert walked(5) == first
    assert walked(6) != first


def test_half_of_the_chains_begin_at_members_from_elsewhere(addition: iv.Study, truths: dict[str, Truth]) -> None:
    """Without exchange, from pieces that the query's own steps do not reach so soon; what is no member is passed over."""
    truth = truths["fragmented"]
    alone = iv.walk(addition, truth.query, exchange=False, decoder=False, **{**SMALL, "steps": 1})
    assert alone.walk is not None
    wrong = ("403+288=692", "999+999=1998")  # no input, though at A1 nothing tells it from the query; outside
    texts = [*sorted(truth.texts), *wrong, truth.query.text]

    def rows(texts: Iterable[str]) -> np.ndarray:
        ids = [addition.model.encode(text) for text in texts]
        return np.array([[*row, *[addition.inputs.pad] * (addition.inputs.max_length - len(row))] for row in ids])

    elsewhere = replace(alone, draws=rows(texts))
    found: list[str] = []

    def take(tokens: np.ndarray, distance: np.ndarray, position: np.ndarray) -> None:
        found.extend(addition.model.vocabulary.decode([i for i in row if i != addition.inputs.pad]) for row in tokens.tolist())

    options: dict[str, Any] = {**SMALL, "steps": 4, "exchange": False, "decoder": False, "chains": 64}
    helped = iv.walk(addition, truth.query, starts=[elsewhere], found=take, count=1000, **options)
    assert helped.walk is not None
    assert alone.walk.members < helped.walk.members == 33
    assert set(found) == truth.texts
    assert any("All chains began at the query" in note for note in alone.walk.notes)
    assert not any("All chains began" in note for note in helped.walk.notes)
    # a start that is outside or no input at all is none
    nothing = replace(elsewhere, draws=rows(wrong))
    unhelped = iv.walk(addition, truth.query, starts=[nothing], **options)
    assert unhelped.walk is not None
    assert any("All chains began at the query" in note for note in unhelped.walk.notes)
    assert {s.text for s in unhelped.inside} <= truth.texts
    # the decoder's samples will do
    decoded = iv.read(addition, truth.query, epsilon=0.3, count=50, source="decoder")
    begun = iv.walk(addition, truth.query, starts=[decoded], epsilon=0.3, exchange=True, **SMALL)
    assert {s.text for s in decoded.inside if np.isfinite(log_prior_of("addition", f"B{s.text}E"))} <= {truth.query.text} | {
        s.text for s in iv.walk(addition, truth.query, starts=[decoded], epsilon=0.3, count=20_000, **SMALL).inside
    }
    assert begun.bits is not None


@pytest.mark.parametrize("when", ["first members", "half"])
def test_an_interrupt_keeps_what_was_found(addition: iv.Study, when: str) -> None:
    query = addition.query(ADD, at="=", site="a0.0")
    found: list[list[int]] = []

    def take(tokens: np.ndarray, distance: np.ndarray, position: np.ndarray) -> None:
        found.extend(tokens.tolist())
        if when == "first members":
            raise KeyboardInterrupt

    def report(share: float, note: str) -> None:
        if share >= 0.5:
            raise KeyboardInterrupt

    preimage = iv.walk(addition, query, found=take, report=report, **SMALL)
    assert preimage.walk is not None
    assert preimage.walk.interrupted
    assert preimage.walk.steps == (0 if when == "first members" else 15)
    assert "Interrupted" in preimage.walk.notes[0]
    assert preimage.walk.members == len(found) > 0
    assert len(preimage.inside) > 0
    texts = {addition.model.vocabulary.decode([i for i in row if i != 14]) for row in found}
    assert {s.text for s in preimage.inside} <= texts
    assert (preimage.bits is None) == (when == "first members")
    assert not any("All chains began" in note for note in preimage.walk.notes)


def test_progress_goes_from_zero_to_one(addition: iv.Study) -> None:
    shares: list[float] = []
    iv.walk(addition, addition.query(ADD), report=lambda share, note: shares.append(share), **SMALL)
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)


def test_seconds_end_a_walk_also_before_there_is_a_ladder(addition: iv.Study) -> None:
    query = addition.query("403+288=691", at="A1", site="x0.post")
    began = time.perf_counter()
    preimage = iv.walk(addition, query, seconds=0.2, population=4096)
    assert time.perf_counter() - began < 60  # without an end it takes minutes
    assert preimage.walk is not None
    assert preimage.bits is None
    assert any("no time to make a ladder" in note for note in preimage.walk.notes)
    assert preimage.walk.ladder in ((), (0.1,))


# -- its ends ---------------------------------------------------------------------------------------------------------


def test_at_bos_everything_is_inside_and_nothing_is_told(addition: iv.Study) -> None:
    preimage = iv.walk(addition, addition.query(ADD, at=0, site="a0.0"), **SMALL)
    assert preimage.walk is not None
    assert preimage.bits is not None
    assert preimage.bits.value == pytest.approx(0, abs=1e-3)
    assert (preimage.bits.high or 0) < 1e-3
    assert not preimage.outside
    assert "tells nothing (0 bits)" in preimage.walk.notes[0]


def test_where_only_the_query_lies_inside_the_nearest_are_shown(addition: iv.Study) -> None:
    query = addition.query(ADD, at="END", site="x1.post")
    preimage = iv.walk(addition, query, epsilon=1e-3, **SMALL)
    assert preimage.walk is not None
    assert preimage.bits is not None
    assert (preimage.walk.members, preimage.inside) == (0, ())
    assert preimage.bits.high is None
    assert preimage.bits.low > 10
    assert len(preimage.outside) == 100
    (note,) = preimage.walk.notes
    assert "only the query lies inside ε: the site identifies the input" in note
    assert f"D = {preimage.samples[0].distance:.3f}" in note
    for sample in preimage.outside[:10]:
        assert sample.distance == pytest.approx(by_definition(addition, query, sample.text, "euclidean", None)[0], abs=ROUNDING)


def test_a_short_walk_says_that_it_is_not_mixed(counting: iv.Study) -> None:
    preimage = iv.walk(counting, counting.query(COUNT), **SMALL)
    assert preimage.walk is not None
    assert not preimage.walk.mixed
    (note,) = (note for note in preimage.walk.notes if "true members" in note)
    assert "how often each feature occurs among all members is not known yet" in note
    assert "--steps" in note
    assert preimage.walk.r_hat is None or preimage.walk.r_hat >= 1.05 or preimage.walk.ess < 400


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("study", "text"),
    [
        ("addition", "615+861=1477"), ("addition", "015+861=876"), ("addition", "15+861=876"), ("addition", "615+861="),
        ("addition", "6"), ("addition", "=615+861"), ("counting", "abc|a:7"), ("counting", "aaaaa|a:5"), ("counting", "ab|a:1"),
        ("counting", "abc|d:1"), ("counting", "abcd|a:1"), ("counting", "a1bc|a:1"), ("counting", "abc"),
        ("counting", "aaaaaaaaaabc|b:1"), ("counting", ":"),
    ],
)  # fmt: skip
def test_a_query_that_is_no_input_has_probability_0(request: pytest.FixtureRequest, study: str, text: str) -> None:
    loaded: iv.Study = request.getfixturevalue(study)
    with pytest.raises(InputError, match=r"has probability 0 under the prior \(study\)") as error:
        iv.walk(loaded, loaded.query(text, at=-2), **SMALL)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epsilon": 0.0}, "ε must be"), ({"epsilon": -1.0}, "ε must be"), ({"epsilon": float("nan")}, "ε must be"),
        ({"epsilon": float("inf")}, "ε must be"), ({"chains": 1}, "at least 2 chains"), ({"seconds": 0}, "positive"),
        ({"seconds": float("nan")}, "positive"), ({"steps": 0}, "positive"),
        ({"seed": -1}, "seed"), ({"count": 0}, "count"), ({"distance": "taxi"}, "taxi"), ({"prior": "mine"}, "no prior 'mine'"),
        ({"fixed": "A1"}, "outside ε"), ({"fixed": "A9"}, "no position 'A9'"), ({"keep": [2]}, "priors 'model' and 'uniform'"),
        ({"guided": True}, "priors 'model' and 'uniform'"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(addition: iv.Study, options: dict[str, Any], says: str) -> None:
    with pytest.raises((SettingError, InputError, UnknownPositionError), match=says):
        iv.walk(addition, addition.query(ADD), **{**SMALL, **options})


# -- the command line -------------------------------------------------------------------------------------------------

Captured = pytest.CaptureFixture[str]
AT = ("--at", "=", "--site", "a0.0")


def test_walk_json(capsys: Captured) -> None:
    code, out, err = run(
        capsys, "walk", "counting", COUNT, "--at", ":", "--site", "a1.0", "--steps", "20", "--json", "--epsilon", "0.3"
    )
    value = json.loads(out)
    walk = value["walk"]
    assert (code, err) == (0, "")
    assert (value["source"], value["epsilon"], len(value["samples"])) == ("walk", 0.3, 100)
    assert (walk["steps"], walk["prior"], walk["interrupted"]) == (20, "study", False)
    assert walk["members"] > 100
    assert walk["members_per_second"] == pytest.approx(walk["members"] / walk["seconds"], rel=0.01)
    assert value["candidates"] == walk["measured"] >= walk["members"]
    assert walk["ladder"][0] == 0.3
    assert walk["ladder"][-1] is None
    assert walk["ladder"][:-1] == sorted(walk["ladder"][:-1])
    assert len(walk["exchanged"]) == len(walk["ladder"]) - 1
    assert set(walk["mix"]) == set(walk["acceptance"]) == {
        "swap", "replace", "shuffle", "resize", "rename", "exchange", "ask", "all", "decoder",
    }  # fmt: skip
    assert sum(walk["mix"].values()) == pytest.approx(1)
    assert all(rate is None or 0 <= rate <= 1 for rate in [*walk["acceptance"].values(), *walk["exchanged"]])
    assert [f["feature"] for f in walk["features"]] == ["letter", "count", "length", "others", "counts"]
    assert walk["ess"] == min(f["ess"] for f in walk["features"])
    assert value["bits"]["method"] == "splitting"
    assert value["bits"]["inputs"] == walk["measured"]
    assert all(s["source"] == "walk" and s["effect"] is None for s in value["samples"])


def test_options_reach_the_walk(capsys: Captured) -> None:
    _, out, _ = run(
        capsys, "walk", "addition", ADD, "--at", "A2", "--site", "x0.post", "--steps", "7", "--chains", "8", "--no-exchange",
        "--epsilon", "0.4", "--distance", "cosine", "--fixed", "A2", "--seed", "3", "--count", "5", "--json",
    )  # fmt: skip
    value = json.loads(out)
    assert (value["epsilon"], value["distance"], value["seed"], len(value["samples"])) == (0.4, "cosine", 3, 5)
    assert (value["walk"]["steps"], value["walk"]["chains"], value["walk"]["ladder"]) == (7, 8, [0.4])
    assert "bits" not in value
    assert {s["position"] for s in value["samples"]} == {10}


def test_a_walk_as_a_table(capsys: Captured) -> None:
    short = ["--steps", "3", "--no-exchange", "--chains", "8"]
    code, out, _ = run(capsys, "walk", "addition", ADD, *AT, *short, "--no-decoder")
    assert code == 0
    assert "B615+861(=)1476E" in out
    assert "distinct members in" in out
    assert "All chains began at the query" in " ".join(out.split())


def test_until_mixed_ends_once_mixed(capsys: Captured) -> None:
    arguments = ("walk", "addition", ADD, "--at", "+", "--site", "x0.post", "--until-mixed", "--json", "--chains", "64")
    code, out, _ = run(capsys, *arguments)
    walk = json.loads(out)["walk"]
    assert code == 0
    assert walk["mixed"]
    assert walk["r_hat"] < 1.05
    assert walk["ess"] >= 400


@pytest.mark.parametrize("seconds", [0.001, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_a_walk_may_end_before_it_has_begun(counting: iv.Study, seconds: float) -> None:
    preimage = iv.walk(counting, counting.query(COUNT, at=":", site="a1.0"), epsilon=0.2, seconds=seconds)
    assert all(sample.inside == (sample.distance <= 0.2) for sample in preimage)


@pytest.mark.parametrize("source", ["walk", "corpus"])
def test_read_from_another_source(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, counting: iv.Study, source: str
) -> None:
    arguments = ["read", "counting", COUNT, "--at", ":", "--site", "a1.0", "--source", source, "--json", "--epsilon", "0.2"]
    if source == "corpus":
        bank = iv.build_bank(counting, tmp_path / "bank", rows=500)
        monkeypatch.setattr("inversionview.sources.arguments.bank_to_search", lambda *_: bank)
    else:
        arguments += ["--seconds", "1.5"]
    code, out, err = run(capsys, *arguments)
    value = json.loads(out)
    assert (code, err) == (0, "")
    assert value["source"] == source
    assert {s["source"] for s in value["samples"]} == {source}
    assert ("walk" in value) == (source == "walk")


def test_stream_prints_each_member_as_a_line_of_json(capsys: Captured) -> None:
    arguments = ("walk", "addition", ADD, *AT, "--steps", "4", "--no-exchange", "--chains", "16", "--stream")
    code, out, err = run(capsys, *arguments)
    *lines, last = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert last["walk"]["members"] == len(lines) == len({line["text"] for line in lines}) > 0
    for line in lines:
        assert set(line) == {"text", "tokens", "distance", "position"}
        assert line["distance"] <= 0.1
        assert "".join(line["tokens"]) == f"B{line['text']}E"


@pytest.mark.parametrize("form", [(), ("--json",), ("--stream",)])
def test_an_interrupt_shows_what_was_found(capsys: Captured, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]) -> None:
    step, steps = StudyKernel.step, iter(range(5))

    def interrupted(*arguments: Any) -> Any:
        if next(steps) == 4:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(StudyKernel, "step", interrupted)
    code, out, err = run(capsys, "walk", "addition", ADD, *AT, "--seconds", "300", "--no-exchange", *form)
    assert code == 130
    assert err.strip().splitlines()[-1].endswith("Interrupted: what was found until then is shown.")
    assert "Interrupted: what was found until then." in " ".join(out.split())
    if form:
        assert json.loads(out.splitlines()[-1])["walk"]["interrupted"]


def test_ctrl_c_prints_what_was_found() -> None:
    """A process is interrupted once it has found something."""
    command = [sys.executable, "-m", "inversionview.cli", "walk", "addition", ADD, *AT, "--seconds", "300", "--stream"]
    # SIGINT may be ignored here, where the tests run in the background; the process must not take that over
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    read = process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    out, err = process.stdout.read(), process.stderr.read()  # communicate() would pass over what readline() has read ahead
    lines = [json.loads(line) for line in (read + out).splitlines()]
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in err
    assert err.strip() == "Interrupted: what was found until then is shown."
    assert lines[-1]["walk"]["interrupted"]
    assert any(s["inside"] for s in lines[-1]["samples"])
    members = [line["text"] for line in lines[:-1]]
    assert len(members) == len(set(members)) > 0
    assert lines[-1]["walk"]["members"] >= len(members)  # the last of them it may not have come to print


def test_help_has_examples(capsys: Captured) -> None:
    code, out, _ = run(capsys, "walk", "--help")
    said = " ".join(out.split())
    assert code == 0
    assert "Examples" in said
    assert "inversionview walk counting" in said
    assert "--until-mixed" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("walk", "addition", "615+861=1477", "--steps", "2"), "probability 0 under the prior"),
        (("walk", "counting", "abc|a:7", "--steps", "2"), "probability 0 under the prior"),
        (("walk", "counting", "aaaaa|a:5", "--steps", "2"), "probability 0 under the prior"),
        (("walk", "counting", "a1bc|a:1", "--steps", "2"), "probability 0 under the prior"),
        (("walk", "addition", ADD, "--epsilon", "0"), "ε must be"),
        (("walk", "addition", ADD, "--epsilon", "nan"), "but not 'nan'"),
        (("walk", "addition", ADD, "--chains", "1"), "at least 2 chains"),
        (("walk", "addition", ADD, "--seconds", "0"), "positive"),
        (("walk", "addition", ADD, "--seconds", "soon"), "--seconds"),
        (("walk", "addition", ADD, "--steps", "0"), "positive"),
        (("walk", "addition", ADD, "--bits-within", "0"), "bits_within must be positive"),
        (("walk", "addition", ADD, "--seed", "-1"), "seed"),
        (("walk", "addition", ADD, "--count", "0"), "--count"),
        (("walk", "addition", ADD, "--prior", "mine"), "no prior 'mine'"),
        (("walk", "addition", ADD, "--start", "nowhere"), "no start 'nowhere'"),
        (("walk", "addition", ADD, "--keep", "two", "--prior", "uniform"), "no position 'two'"),
        (("walk", "addition", ADD, "--keep", "2", "--steps", "2"), "priors 'model' and 'uniform'"),
        (("walk", "addition", ADD, "--fixed", "Q9"), "Q9"),
        (("walk", "addition", ADD, "--fixed", "A1"), "outside ε"),
        (("walk", "addition", ADD, "--at", "Q9"), "Q9"),
        (("walk", "addition", ADD, "--site", "a9.9"), "layers 0, 1"),
        (("walk", "addition", "615+8x1=1476"), "x"),
        (("walk", "addition"), "text"),
        (("walk", "adition", ADD), "addition"),
        (("read", "addition", ADD, "--source", "thin air"), "no source 'thin air'"),
        (("read", "addition", "615+861=1477", "--source", "walk"), "probability 0 under the prior"),
        (("read", "addition", ADD, "--source", "walk", "--seconds", "-1"), "positive"),
    ],
)
def test_mistakes(capsys: Captured, arguments: tuple[str, ...], says: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1

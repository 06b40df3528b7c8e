"""Statements, the inputs they are tested on, their scores, and what is made of them: against definitions and planted truths."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import inversionview as iv
from inversionview.analyses.feature_codes import Codes, codes_of
from inversionview.analyses.interpret.clauses import NOTHING, listed_values
from inversionview.analyses.interpret.client import Client
from inversionview.analyses.interpret.result import Interpretations
from inversionview.analyses.interpret.scoring import Verdict, auroc, balanced_accuracy, beats
from inversionview.analyses.interpret.show import markdown, page
from inversionview.analyses.interpret.sides import Half, sides
from inversionview.analyses.interpret.statements import feature_statement
from inversionview.bank.store import ActivationBank
from inversionview.core import errors
from inversionview.core.scope import Distance
from inversionview.model.distances import geometry as distances
from inversionview.studies.registry import shipped_inputs
from tests.scripted import Reply, form, sensible, serving
from tests.test_cli import bad, run

ROWS = 20_000
SITES = ["x0.pre", "a0.0", "a0.1", "x0.mid"]


@pytest.fixture(scope="module")
def bank(addition: iv.Study, tmp_path_factory: pytest.TempPathFactory) -> ActivationBank:
    folder = tmp_path_factory.mktemp("bank")
    return iv.build_bank(addition, folder, rows=ROWS, sites=[iv.Site.parse(s) for s in SITES], positions=["+", "=", "A1"])


# -- sides ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
@pytest.mark.parametrize("at", [None, "="])
def test_sides_are_their_definition(bank: ActivationBank, kind: Distance, at: str | None) -> None:
    """Even rows to make, odd ones to test; inside the farthest first, outside beyond gap·ε the nearest first; no query."""
    epsilon, own = (0.3, 7) if kind == "euclidean" else (0.05, 7)
    site = iv.Site.parse("x0.mid")
    names = ["+", "=", "A1"] if at is None else [at]
    stored = [bank.activations(site, name, np.arange(ROWS)) for name in names]
    z = bank.activations(site, "=", np.array([own]))
    d = torch.stack([distances.between(kind, z, x) for x in stored]).min(0).values.numpy().astype(np.float64)
    d[own] = np.inf
    (found,) = sides(bank, site, z, [np.array([own])], epsilon=epsilon, distance=kind, at=at, gap=1.5)
    inside = np.flatnonzero(d <= epsilon)
    assert found.bits == pytest.approx(np.log2((ROWS - 1) / len(inside)))
    assert 100 < len(inside) <= 2048
    for half, parity, gap in ((found.fit, 0, 1.5), (found.test, 1, 1.5), (found.line, 1, 1.0)):
        assert set(half.inside) == set(inside[inside % 2 == parity])
        assert (np.diff(d[half.inside]) <= 1e-6).all()
        beyond = np.flatnonzero(np.isfinite(d) & (d > gap * epsilon) & (np.arange(ROWS) % 2 == parity))
        assert np.allclose(d[half.outside], np.sort(d[beyond])[: len(half.outside)], atol=1e-6)
        within, without = half.matched()
        assert len(within) == len(without) == min(len(half.inside), len(half.outside))
    few = found.test.matched(5)
    assert [len(each) for each in few] == [5, 5]
    assert few[0][0] == found.test.inside[0]


def test_a_large_preimage_is_looked_at_in_part(bank: ActivationBank) -> None:
    z = bank.activations("x0.mid", "=", np.array([0]))
    (found,) = sides(bank, "x0.mid", z, [np.array([0])], epsilon=2.0)
    assert len(found.fit.inside) + len(found.test.inside) <= 2048
    with pytest.raises(errors.SettingError, match="gap"):
        list(sides(bank, "x0.mid", z, [np.array([0])], epsilon=0.1, gap=0.5))


# -- scores -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=30))
def test_scores_are_their_definition(rows: list[tuple[bool, int]]) -> None:
    inside, scores = np.array([r[0] for r in rows]), np.array([float(r[1]) for r in rows])
    said = scores > 2
    if inside.all() or not inside.any():
        with pytest.raises(errors.SettingError):
            auroc(inside, scores)
        return
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(scores[inside], scores[~inside])]
    assert auroc(inside, scores) == pytest.approx(np.mean(pairs))
    right = (said == inside).astype(float)
    assert balanced_accuracy(inside, said) == pytest.approx((right[inside].mean() + right[~inside].mean()) / 2)


def test_a_statement_beats_another_only_beyond_chance() -> None:
    good, chance = [Verdict(0.9, 0.9, 40)] * 5, [Verdict(0.5, 0.5, 40)] * 5
    assert beats(good, chance)
    assert not beats(chance, good)
    assert not beats(good, good)
    assert not beats(good[:1], chance[:1])
    rng = np.random.default_rng(0)
    lots = ([Verdict(float(x), 0.5, 40) for x in rng.normal(0.5, 0.2, 4)] for _ in range(1000))
    assert np.mean([beats(lot, chance[:4]) for lot in lots]) < 0.04  # 0.025 is meant


# -- statements -------------------------------------------------------------------------------------------------------


def planted(rule: Any, count: int = 40_000, seed: int = 0) -> tuple[Codes, Half, np.ndarray]:
    """Return random features and a preimage that is exactly what a rule says, the rest outside."""
    rng = np.random.default_rng(seed)
    columns = {"a": rng.integers(0, 10, count), "b": rng.integers(0, 10, count), "c": rng.integers(0, 2, count),
               "d": rng.integers(0, 30, count)}  # fmt: skip
    inside = rule(columns)
    rows = np.arange(count)
    return Codes(columns), Half(rows[inside][:2000], rows[~inside][:2000]), rows


@pytest.mark.parametrize(
    ("rule", "features", "bits"),
    [
        (lambda x: x["a"] == 3, {"a"}, np.log2(10)),
        (lambda x: (x["a"] == 3) & (x["c"] == 1), {"a", "c"}, np.log2(20)),
        (lambda x: (x["d"] >= 7) & (x["d"] <= 9), {"d"}, np.log2(10)),
        (lambda x: (x["a"] % 2 == 0) & (x["b"] > 6), {"a", "b"}, np.log2(2 * 10 / 3)),
        (lambda x: (x["a"] == 3) | (x["a"] == 4) & (x["b"] < 3), {"a", "b"}, -np.log2(0.1 + 0.1 * 0.3)),
        (
            lambda x: ((x["a"] == 2) & (x["d"] < 9) | (x["a"] == 7) & (x["d"] > 19)) & (x["c"] == 0),
            {"a", "c", "d"},
            -np.log2((0.1 * 9 / 30 + 0.1 / 3) / 2),
        ),
    ],
)
def test_a_planted_rule_is_found(rule: Any, features: set[str], bits: float) -> None:
    codes, half, every = planted(rule)
    statement = feature_statement(codes, half, every)
    assert set(statement.features) == features
    assert statement.bits == pytest.approx(bits, abs=0.1)
    unseen = planted(rule, seed=1)[0]
    truth = rule(
        {name: values[unseen.codes[:, i]] for i, (name, values) in enumerate(zip(unseen.names, unseen.values, strict=True))}
    )
    holds = np.all([c.values[tuple(unseen.codes[:, f] for f in c.features)] for c in statement.clauses], axis=0)
    assert (holds == truth).all()
    assert statement.information(half.inside, every) == pytest.approx(bits, abs=0.1)
    assert statement.holds(half.inside).all()
    assert not statement.holds(half.outside).any()
    assert (statement.agreement(half.inside) == statement.agreement(half.inside)[0]).all()
    assert statement.agreement(half.outside).max() < statement.agreement(half.inside)[0]


def test_values_that_go_together_in_words_and_json() -> None:
    codes, half, every = planted(lambda x: (x["a"] == 3) | (x["a"] == 4) & (x["b"] < 3))
    statement = feature_statement(codes, half, every)
    (clause,) = statement.clauses
    own = np.array([4, 1, 0, 0], dtype=np.int32)
    assert (
        statement.said(shipped_inputs("addition"), own, 3.0) == "A with b: 4 with 0–2, 3 with any (2.9 bits); 2.9 of 3.0 bits."
    )
    assert clause.each[0] == pytest.approx(np.log2(10 / 2), abs=0.1)
    assert clause.bits == pytest.approx(-np.log2(0.13), abs=0.1)
    (plain,) = statement.to_json()
    assert plain["feature"] == "a with b"
    assert sorted(plain["values"]) == sorted([*([3, b] for b in range(10)), *([4, b] for b in range(3))])


@pytest.mark.parametrize("seed", range(5))
def test_no_rule_no_statement(seed: int) -> None:
    """What is inside at random has nothing in common."""
    lot = np.random.default_rng(seed).random(40_000) < 0.1
    codes, half, every = planted(lambda x: lot)
    statement = feature_statement(codes, half, every)
    assert statement.clauses == ()
    assert statement.said(shipped_inputs("addition"), codes.codes[0], 3.0) == NOTHING


@pytest.mark.parametrize("seed", range(5))
def test_pairs_that_only_chance_shows_are_not_stated(seed: int) -> None:
    """Half of what one clause allows is inside, at random."""
    lot = np.random.default_rng(seed).random(40_000) < 0.5
    codes, half, every = planted(lambda x: (x["a"] < 4) & lot)
    assert feature_statement(codes, half, every).features == ("a",)


def test_values_in_words() -> None:
    inputs, digits = shipped_inputs("addition"), np.arange(10)

    def say(*values: int, own: int = -1) -> str:
        allowed = np.isin(digits, values)
        return listed_values(inputs, "F1", digits, allowed, own)

    assert say(8) == "8"
    assert say(3, 8) == "3 or 8"
    assert say(3, 8, own=8) == "8 or 3"
    assert say(7, 8, 9) == "7–9"
    assert say(0, 1, 2, 3, 5, 6, 7, 8, 9) == "any but 4"
    assert say(*range(10)) == "any"
    assert say(0, 2, 4, 6, 8) == "one of 5 (0, 2, 4, …)"
    pairs = np.array([0, 1, 59, 68])
    assert listed_values(inputs, "{F1,S1}", pairs, pairs >= 59, 3) == "6 and 8 or 5 and 9"


def test_every_feature_of_the_studies_is_in_the_glossary() -> None:
    for name in ("addition", "counting"):
        inputs = shipped_inputs(name)
        assert set(inputs.features(inputs.tokens(np.arange(2)))) == set(inputs.glossary)


# -- interpretations --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(addition: iv.Study, bank: ActivationBank) -> Interpretations:
    return iv.interpret(addition, 8, "*", "*", bank=bank)


def test_the_papers_finding_at_equals(made: Interpretations) -> None:
    """Head a0.0 at = holds the hundreds digits in either order and nothing else (Huang et al. 2024, section 3.3)."""
    cell = next(cell for cell in made if (cell.site, cell.position) == ("a0.0", "="))
    assert cell.statement.startswith("The hundreds digits in either order (")
    assert cell.share is not None
    assert cell.share > 0.97
    assert cell.score is not None
    assert cell.score.balanced_accuracy.low > 0.98
    assert cell.proven is True
    for reading in cell.queries:
        digits = re.sub(r"[⟦⟧]", "", reading.query)
        first, second = sorted((digits[0], digits[4]))
        assert f"{first} and {second}" in (reading.statement or "")


def test_a_statement_that_tells_most_of_the_bits_is_true(made: Interpretations) -> None:
    good, of = made.reached()
    assert good == of >= 5
    first = next(cell for cell in made if (cell.site, cell.position) == ("x0.pre", "A1"))
    assert first.share == pytest.approx(1.0, abs=0.02)
    assert made.reached(share=2.0) == (0, 0)


def test_a_site_that_tells_nothing_has_no_score(made: Interpretations) -> None:
    """x0.pre at + is the same in every input: nothing lies outside."""
    cell = next(cell for cell in made if (cell.site, cell.position) == ("x0.pre", "+"))
    assert (cell.score, cell.proven, cell.share) == (None, None, None)
    assert "too few" in cell.statement
    assert cell.to_json()["balanced_accuracy"] is None


def test_samples_are_verified(made: Interpretations, addition: iv.Study, bank: ActivationBank) -> None:
    for cell in made:
        for reading in cell.queries[:2]:
            assert all(sample.distance <= 0.1 for sample in reading.samples)
    cell = next(cell for cell in made if (cell.site, cell.position) == ("a0.0", "="))
    reading = cell.queries[0]
    query = addition.query(re.sub("[⟦⟧]", "", reading.query), at="=", site="a0.0")
    for sample in reading.samples:
        tokens = torch.tensor([addition.model.encode(re.sub("[⟦⟧]", "", sample.text))])
        z = addition.model.activations(tokens, [query.site])[0][0]
        at = [4, 8, 9]
        assert min(float(distances.euclidean(query.z, z[i])) for i in at) == pytest.approx(sample.distance, abs=1e-5)


def test_the_same_seed_gives_the_same_and_json_is_json(addition: iv.Study, bank: ActivationBank) -> None:
    first, second = (iv.interpret(addition, 3, "a0.0", "=", bank=bank, seed=4).to_json() for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(second))


def test_given_texts_are_read(addition: iv.Study, bank: ActivationBank) -> None:
    made = iv.interpret(addition, ["615+861=1476", "300+400=700"], "a0.0", "=", bank=bank)
    assert [reading.query for reading in made[0].queries] == ["615+861⟦=⟧1476", "300+400⟦=⟧700"]
    assert "6 and 8" in (made[0].queries[0].statement or "")
    with pytest.raises(errors.InputError):
        iv.interpret(addition, ["615+8x"], "a0.0", "=", bank=bank)


@pytest.mark.parametrize("arguments", [{"site": "a9.9"}, {"at": "Q"}, {"queries": 0}, {"epsilon": 0.0}, {"gap": 0.5}])
def test_mistakes(addition: iv.Study, bank: ActivationBank, arguments: dict[str, Any]) -> None:
    with pytest.raises(errors.InversionViewError):
        iv.interpret(addition, **{"queries": 2, "bank": bank, **arguments})


# -- by a language model ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("openai._base_client.BaseClient._calculate_retry_timeout", lambda *a, **k: 0.01)


def oracle(body: dict[str, Any], number: int) -> Reply:
    """Write the truth about a0.0 at =, and judge inputs by the statement's digits."""
    if form(body) != "Guesses":
        user = body["messages"][1]["content"]
        if form(body) == "Summary":
            return Reply(json.dumps({"summary": "The hundreds digits."}))
        query = re.search(r'"(\d)\d\d\+(\d)', user)
        assert query
        return Reply(json.dumps({"statement": f"Hundreds digits {query[1]} and {query[2]}.", "varies": "all else"}))
    user = body["messages"][1]["content"]
    statement, lines = user.split("<samples>\n")[1], user.split("<samples>\n")[2].split("\n</samples>")[0].split("\n")
    wanted = re.search(r"(\d) and (\d)", statement)
    guesses = []
    for line in lines:
        count, text = line.split(" ", 1)
        digits = sorted((text[1], text[5]))
        true = wanted is not None and digits == sorted(wanted.groups())
        guesses.append({"input": int(count), "probability": 0.9 if true else 0.2})
    return Reply(json.dumps({"guesses": guesses}))


def test_a_true_statement_is_proven(addition: iv.Study, bank: ActivationBank, tmp_path: Path) -> None:
    with serving(oracle) as server:
        asking = Client("oracle", base_url=server.url, cache=tmp_path)
        made = iv.interpret(addition, 6, "a0.0,a0.1", "=", bank=bank, client=asking)
        cell = made[0]
        assert (cell.source, cell.statement, cell.queries[0].varies) == ("oracle", "The hundreds digits.", "all else")
        assert cell.score is not None
        assert cell.score.queries == 4
        assert cell.score.balanced_accuracy.value > 0.97
        assert cell.other is not None
        assert cell.other.balanced_accuracy.value < 0.7
        assert cell.features is not None
        assert made.costs is not None
        assert made.costs.requests == len(server.bodies) == 2 * (6 + 1 + 2 * 4)
        assert made[1].proven is False  # a0.1 holds the tens digits
        again = Client("oracle", base_url=server.url, cache=tmp_path, budget=1)  # costs nothing: no budget is too small
        assert iv.interpret(addition, 6, "a0.0,a0.1", "=", bank=bank, client=again)[0] == cell
        assert again.usage.requests == 0


def test_requests_are_bounded(addition: iv.Study, bank: ActivationBank, tmp_path: Path) -> None:
    """100 queries at 10 sites: 1,000 statements, 10 summaries, 80 simulations; here 25 at 4."""
    with serving(sensible) as server:
        asking = Client("any", base_url=server.url, cache=tmp_path, concurrency=16)
        seen: list[Any] = []
        iv.interpret(addition, 25, SITES, "A1", bank=bank, client=asking, confirm=seen.append)
        assert len(server.bodies) <= seen[0].requests <= 4 * (25 + 1 + 8)
        assert asking.usage.tokens <= seen[0].tokens


def test_a_chance_statement_is_unproven(addition: iv.Study, bank: ActivationBank, tmp_path: Path) -> None:
    with serving(sensible) as server:
        made = iv.interpret(addition, 5, "a0.0", "=", bank=bank, client=Client("any", base_url=server.url, cache=tmp_path))
        assert made[0].score is not None
        assert made[0].score.balanced_accuracy.value == 0.5
        assert made[0].score.auroc.value == 0.5
        assert made[0].proven is False


def test_what_fails_is_said_where_it_failed(addition: iv.Study, bank: ActivationBank, tmp_path: Path) -> None:
    def script(body: dict[str, Any], number: int) -> Reply:
        return Reply("", refusal="no") if number == 2 else oracle(body, number)

    with serving(script) as server:
        asking = Client("any", base_url=server.url, cache=tmp_path, concurrency=1)
        made = iv.interpret(addition, 4, "a0.0", "=", bank=bank, client=asking)
        assert [reading.statement is None for reading in made[0].queries] == [False, True, False, False]
        assert "refused" in (made[0].queries[1].problem or "")
        assert made.costs is not None
        assert made.costs.failed == 1

    def no_summary(body: dict[str, Any], number: int) -> Reply:
        return Reply("nonsense") if form(body) == "Summary" else oracle(body, number)

    with serving(no_summary) as server:
        made = iv.interpret(
            addition, 2, "a0.0", "=", bank=bank, client=Client("any", base_url=server.url, cache=tmp_path / "b")
        )
        assert made[0].source == "features"
        assert "form" in (made[0].note or "")


def test_an_obedient_model_changes_nothing_that_is_stored(addition: iv.Study, bank: ActivationBank, tmp_path: Path) -> None:
    """A model that does what an injected sample says answers in another form: refused, repaired or recorded, never stored."""
    with serving(lambda body, number: Reply('{"hacked": true, "key": "sk"}')) as server:
        made = iv.interpret(
            addition, 2, "a0.0", "=", bank=bank, client=Client("any", base_url=server.url, cache=tmp_path / "c")
        )
        assert all(reading.statement is None for reading in made[0].queries)
        assert "hacked" not in json.dumps(made.to_json())
        assert not list((tmp_path / "c").rglob("*.json"))


# -- reports ----------------------------------------------------------------------------------------------------------


def test_reports_in_every_format(made: Interpretations, tmp_path: Path) -> None:
    for kind in ("html", "md", "json", "csv", "parquet"):
        made.save(tmp_path / f"report.{kind}")
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(made.to_json()))
    frame = pandas.read_csv(tmp_path / "report.csv")
    assert len(frame) == len(made) == len(SITES) * 3
    assert frame.equals(pandas.read_csv(tmp_path / "report.csv"))
    text = (tmp_path / "report.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| site", "| ---"))]
    assert len(rows) == len(made)
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {10}
    with pytest.raises(errors.SettingError, match="html"):
        made.save(tmp_path / "report.pdf")


def test_text_is_never_markup(made: Interpretations) -> None:
    from dataclasses import replace

    evil = '<img src=x onerror=alert(1)>|`*_["'
    cell = made[5]
    queries = tuple(replace(q, query=evil, statement=evil, samples=(replace_text(q, evil),)) for q in cell.queries)
    changed = replace(made, study=evil, cells=(replace(cell, statement=evil, position=evil, queries=queries),))
    assert "<img" not in page(changed)
    assert "onerror" in page(changed)
    for line in markdown(changed).splitlines():
        outside_code = re.sub(r"(`+)[^`].*?\1", "", line)
        assert not re.search(r"(?<!\\)<img", re.sub(r"`.*`", "", outside_code)), line


def replace_text(reading: Any, text: str) -> Any:
    from inversionview.analyses.interpret.result import Example

    return Example(text, 0.05)


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(addition: iv.Study, bank: ActivationBank, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(bank.folder)


def test_one_site_as_json(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    code, out, _ = run(
        capsys, "interpret", "addition", "--site", "a0.0", "--at", "=", "--queries", "5", "--no-llm", "--json", "--bank", folder
    )
    value = json.loads(out)
    assert code == 0
    assert value["statement"].startswith("The hundreds digits in either order")
    assert value["balanced_accuracy"] > 0.98
    assert value["auroc"] > 0.98
    assert (value["site"], value["position"], value["study"], value["inputs"]) == ("a0.0", "=", "addition", ROWS)
    assert len(value["queries"]) == 5


def test_a_report_over_all(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    paths = [tmp_path / "r.html", tmp_path / "r.json"]
    code, out, _ = run(
        capsys, "interpret", "addition", "--no-llm", "--queries", "3", "--bank", folder, "--out", str(paths[0]), "--report",
        str(paths[1]),
    )  # fmt: skip
    assert code == 0
    assert "at A1" in out
    assert len(json.loads(paths[1].read_text())["interpretations"]) == len(SITES) * 3
    assert "<script" not in paths[0].read_text()


def test_an_estimate_sends_nothing(capsys: pytest.CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    with serving(sensible) as server:
        arguments = ("interpret", "addition", "--site", "a0.0", "--at", "=", "--queries", "3", "--bank", folder, "--llm", "m",
                     "--base-url", server.url, "--cache", str(tmp_path))  # fmt: skip
        code, out, _ = run(capsys, *arguments, "--estimate", "--json", "--price-in", "1", "--price-out", "2")
        value = json.loads(out)
        assert code == 0
        assert value["requests"] == 3 + 1 + 6
        assert value["cost"] > 0
        code, out, _ = run(capsys, *arguments, "--estimate")
        assert "at most 10 requests" in out
        bad(capsys, *arguments, "--budget", "10", "--json", says="--budget")
        assert server.bodies == []
        code, out, err = run(capsys, *arguments)
        assert code == 0
        assert len(server.bodies) <= 10
        assert "unproven" in out
        assert "At most 10 requests" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--llm"),
        (("--llm", "m"), "OPENAI_API_KEY"),
        (("--no-llm", "--llm", "m"), "--no-llm"),
        (("--no-llm", "--queries", "0"), "--queries"),
        (("--no-llm", "--site", "a9.9"), "a9.9"),
        (("--no-llm", "--at", "Q"), "Q"),
        (("--no-llm", "--gap", "0.5"), "--gap"),
        (("--no-llm", "--out", "x.pdf"), ".html"),
        (("--no-llm", "--epsilon", "0"), "ε"),
    ],
)
def test_mistakes_at_the_command_line(
    capsys: pytest.CaptureFixture[str], folder: str, arguments: tuple[str, ...], says: str
) -> None:
    bad(capsys, "interpret", "addition", "--bank", folder, *arguments, says=says)


def test_features_need_a_corpus(bank: ActivationBank) -> None:
    codes = codes_of(bank)
    assert set(codes.names) <= set(bank.inputs.glossary)

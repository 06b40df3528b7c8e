"""Completeness and threshold studies: distances, recall, ranks and gaps from their definitions, and the commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import inversionview as iv
from inversionview.analyses.all_inputs import chosen_rows, is_query
from inversionview.analyses.complete import figures
from inversionview.analyses.complete.measure import completeness, summary
from inversionview.analyses.complete.result import CompletenessTable
from inversionview.analyses.threshold.measure import find_gaps, threshold_study
from inversionview.core import errors
from inversionview.core.arrays import Ids
from inversionview.core.scope import Scope
from inversionview.corpora.texts import TextInputs
from inversionview.decoder.sampling import token_log_probs
from inversionview.model.measure import distance_to, nearest
from inversionview.model.sites.site import Site
from inversionview.studies.addition.corpus import AdditionInputs
from tests.test_cli import bad, run

TEXT = "615+861=1476"


class FewAdditions(AdditionInputs):
    """An enumerable space of 2,000 additions: 600 + 60 … 615 + 99, and those of 861."""

    def __len__(self) -> int:
        return 2000

    def tokens(self, rows: np.ndarray, salt: int = 0) -> Ids:
        first, second = 600 + rows // 125, 800 + rows % 125
        return super().tokens((first - 100) * 900 + second - 100)


FEW = FewAdditions()
ALL = FEW.tokens(np.arange(2000))


@pytest.fixture(scope="module")
def query(addition: iv.Study) -> iv.Query:
    return addition.query(TEXT, at="=", site="a0.0")


@pytest.fixture(scope="module")
def result(addition: iv.Study, query: iv.Query):
    return completeness(addition.decoder, addition.model, FEW, [query], Scope(0.03), draws=3)[0]


# -- definitions -------------------------------------------------------------------------------------------------------


def test_distances_of_all_inputs_are_those_of_single_ones(addition: iv.Study, query: iv.Query) -> None:
    queries = [query, addition.query(TEXT, at="A1", site="x1.post"), addition.query("100+100=200", at=-1, site="x0.mid")]
    tokens = np.concatenate([ALL[::40], addition.inputs.tokens(np.array([0, 809_999]))])
    measured = nearest(addition.model, tokens, [(q.z, q.site) for q in queries], "euclidean")
    ids = torch.from_numpy(tokens)
    for row, q in zip(measured, queries, strict=True):
        assert torch.allclose(row, distance_to(addition.model, ids, q.z.expand(len(ids), -1), q.site)[1], atol=1e-5)
    cosine = distance_to(addition.model, ids, query.z.expand(len(ids), -1), query.site, "cosine")[1]
    assert torch.allclose(nearest(addition.model, tokens, [(query.z, query.site)], "cosine")[0], cosine, atol=1e-5)


def test_every_input_is_scored_under_the_three_variants(addition: iv.Study, query: iv.Query, result) -> None:
    assert [scores.name for scores in result.variants] == ["τ = 1", "τ = 2", "noise η = 0.1"]
    assert [scores.draws for scores in result.variants] == [1, 1, 3]
    ids = torch.from_numpy(ALL)
    log_p = token_log_probs(addition.decoder, ids, query.z.expand(2000, -1), torch.ones(2000, dtype=torch.long)).sum(1).numpy()
    assert np.allclose(result.log_p(0), log_p, atol=1e-3)
    assert len(result.rows) == len(result.distance) == len(result.log_p(1)) == 2000
    # at a higher temperature every distribution of a token is flatter, so the range of log p shrinks
    assert np.ptp(result.log_p(1)) < np.ptp(result.log_p(0))


def test_recall_and_rank_from_their_definitions(result) -> None:
    itself = is_query(ALL, result.query, FEW.pad)
    assert itself.sum() == 1
    for scores in result.variants[:2]:
        outside = np.sort(scores.log_p[~result.inside])
        percentile = outside[int(np.ceil(0.95 * len(outside))) - 1]
        assert scores.percentile == pytest.approx(percentile)
        assert scores.recall == pytest.approx((scores.log_p[result.inside & ~itself] > percentile).mean())
        worst = np.flatnonzero(result.inside)[scores.log_p[result.inside].argmin()]
        assert scores.lowest_rank == 1 + list(np.argsort(-scores.log_p, kind="stable")).index(worst)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 0), st.booleans()), min_size=3, max_size=60), st.integers(0, 59))
def test_summary_of_any_values(values: list[tuple[int, bool]], query: int) -> None:
    log_p, inside = (np.array(part) for part in zip(*values, strict=True))
    itself = np.arange(len(values)) == query
    scores = summary(iv.Setting(), 1, log_p.astype(np.float32), None, inside, itself)
    members = [p for (p, within), q in zip(values, itself, strict=True) if within and not q]
    outside = sorted(p for p, within in values if not within)
    if members and outside:
        percentile = next(p for p in outside if sum(o <= p for o in outside) >= 0.95 * len(outside) - 1e-9)
        assert scores.recall == sum(p > percentile for p in members) / len(members)
    else:
        assert scores.recall is None
    if inside.any():
        assert scores.lowest_rank == 1 + sum(p > min(log_p[inside]) for p in log_p)
    else:
        assert scores.lowest_rank is None


def test_quick_keeps_recall_and_says_where_a_rank_is_a_bound(addition: iv.Study, query: iv.Query, result) -> None:
    quick = completeness(addition.decoder, addition.model, FEW, [query], Scope(0.03), quick=True, draws=3)[0]
    for exact, bounded in zip(result.variants, quick.variants, strict=True):
        assert bounded.floor is not None
        assert bounded.recall == exact.recall
        assert bounded.percentile == pytest.approx(exact.percentile, abs=1e-4)
        assert (bounded.log_p >= exact.log_p - 1e-3).all()
    for exact, bounded in zip(result.variants[:2], quick.variants, strict=False):
        if bounded.rank_is_exact:
            assert bounded.lowest_rank == exact.lowest_rank
        else:
            assert bounded.lowest_rank <= exact.lowest_rank


def test_nothing_inside_and_nothing_outside(addition: iv.Study, query: iv.Query) -> None:
    common = {"draws": 1, "limit": 20}
    for epsilon, inside in ((1e-9, 0), (100.0, 20)):
        found = completeness(addition.decoder, addition.model, addition.inputs, [query], Scope(epsilon), **common)[0]
        assert int(found.inside.sum()) == inside
        assert [scores.recall for scores in found.variants] == [None] * 3
        assert "NaN" not in json.dumps(found.to_json())


def test_seeds_reproduce(addition: iv.Study) -> None:
    one, again, other = (iv.random_queries(addition, 4, seed=seed) for seed in (1, 1, 2))
    assert [(q.text, q.position, q.site) for q in one] == [(q.text, q.position, q.site) for q in again]
    assert [(q.text, q.position, q.site) for q in one] != [(q.text, q.position, q.site) for q in other]
    assert all(q.position > 0 for q in one)
    first, second = (iv.complete(addition, 1, limit=50, draws=2, seed=3)[0] for _ in range(2))
    assert first.to_json() == second.to_json()
    assert np.array_equal(first.rows, second.rows)


def test_random_queries_at_a_place(addition: iv.Study) -> None:
    found = iv.random_queries(addition, 6, at="A4", site="x0.mid")
    assert {(q.position, q.site.short) for q in found} == {(12, "x0.mid")}
    with pytest.raises(errors.UnknownPositionError, match="Q"):
        iv.random_queries(addition, 2, at="Q")


def test_rows(addition: iv.Study, query: iv.Query) -> None:
    assert chosen_rows(FEW, None, 0).tolist() == list(range(2000)) == chosen_rows(FEW, 5000, 0).tolist()
    some = chosen_rows(FEW, 30, 4)
    assert len(set(some.tolist())) == 30
    assert some.tolist() == sorted(some.tolist())
    assert np.flatnonzero(is_query(ALL, query, FEW.pad)).tolist() == [15 * 125 + 61]
    assert not is_query(ALL[:, :9], query, FEW.pad).any()


# -- threshold ---------------------------------------------------------------------------------------------------------


def test_a_gap_of_known_place_is_found() -> None:
    distance = np.sort(np.concatenate([np.linspace(0.02, 0.08, 50), np.linspace(0.2, 1.0, 500)])).astype(np.float32)
    (gap, *_) = find_gaps(distance)
    # 5 of 50 may be missed within a gap: it begins up to 10 % before the last of the cluster
    assert 0.07 <= gap.start <= 0.0801
    assert gap.stop == pytest.approx(0.2, abs=0.01)
    assert gap.epsilon == pytest.approx((gap.start * gap.stop) ** 0.5)
    assert 45 <= gap.inside <= 50


def test_strays_do_not_hide_a_gap() -> None:
    cluster, rest = np.linspace(0.02, 0.08, 100), np.linspace(0.3, 1.0, 5000)
    gap = find_gaps(np.sort(np.concatenate([cluster, [0.1, 0.13, 0.18], rest])).astype(np.float32))[0]
    assert gap.start < 0.1
    assert gap.stop == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("dimension", [3, 6])
def test_distances_without_structure_have_no_gap(dimension: int) -> None:
    """Uniform in a ball of that dimension: the share inside ε is εᵈ."""
    found = [find_gaps(np.sort(np.random.default_rng(seed).random(20_000) ** (1 / dimension))) for seed in range(20)]
    assert sum(bool(gaps) for gaps in found) <= 1


@pytest.mark.parametrize("count", [0, 1, 9, 19])
def test_too_few_inputs_have_no_gap(count: int) -> None:
    assert find_gaps(np.linspace(0.1, 5, count)) == ()


def test_equal_activations_are_one_cluster() -> None:
    gap = find_gaps(np.concatenate([np.zeros(300), np.linspace(0.5, 1, 700)]))[0]
    assert gap.start == 0.01  # closer than that is the same
    assert 0.5 <= gap.stop < 0.53  # up to 10 % of 300 strays into the rest
    assert gap.inside >= 273


def test_the_ladder_by_hand(addition: iv.Study, query: iv.Query) -> None:
    study = threshold_study(addition.model, FEW, query, Scope(), epsilons=[0.01, 0.02])
    distance = nearest(addition.model, ALL, [(query.z, query.site)], "euclidean")[0].numpy()
    others = distance[~is_query(ALL, query, FEW.pad)]
    features = FEW.features(ALL[~is_query(ALL, query, FEW.pad)])
    assert {0.01, 0.02, 0.1} <= {rung.epsilon for rung in study.rungs}
    assert np.allclose(study.distance, np.sort(others))
    for rung in study.rungs:
        inside = others <= np.float32(rung.epsilon)
        assert rung.inside == inside.sum()
        if rung.inside:
            assert 2.0**-rung.bits == pytest.approx(inside.mean())
            assert rung.shares["F3"] == pytest.approx((features["F3"][inside] == 5).mean())
            assert rung.shares["C3"] == pytest.approx((features["C3"][inside] == 0).mean())
        else:
            assert (rung.bits, rung.shares) == (None, None)
    assert study.values["A2"] == 4
    assert [rung.epsilon for rung in study.rungs if "study" in rung.marks] == [0.1]
    assert json.loads(json.dumps(study.to_json()))["inputs"] == 1999


# -- figures and tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".html", b"<!doctype html>")])
def test_figures(addition: iv.Study, query: iv.Query, result, tmp_path: Path, suffix: str, magic: bytes) -> None:
    study = threshold_study(addition.model, FEW, query, Scope())
    table = CompletenessTable((result,), lambda r, places: ["<b>x</b>"] * len(places))
    table.save(tmp_path / f"complete{suffix}")
    study.save(tmp_path / f"threshold{suffix}")
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(magic)
        if suffix == ".html":
            page = path.read_text()
            assert "<script src=" not in page
            assert "<b>x</b>" not in page


def test_hostile_token_text_is_escaped_in_the_page(query: iv.Query, result, tmp_path: Path) -> None:
    from dataclasses import replace

    evil = replace(query, tokens=("<img src=x>", "$x$", "\x1b"), position=1, site=Site(0, "pre"))
    hostile = replace(result, query=evil)
    assert figures.label(evil) == "<img src=x>($x$)· · x0.pre"
    table = CompletenessTable((hostile,), lambda r, places: ["<script>1</script>"] * len(places))
    table.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<img src=x>" not in page
    assert "<script>1" not in page
    table.save(tmp_path / "figure.svg")


def test_the_densest_panels_stay_small(result) -> None:
    assert len(figures.chosen(np.ones(100_000, dtype=np.bool_))) == 3000
    assert figures.chosen(np.array([True, False, True])).tolist() == [0, 2]
    counts, edges, levels = figures.density(result, result.variants[0])
    assert counts.sum() == (~result.inside).sum()
    assert (len(edges), len(levels)) == (121, 81)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_tables(result, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    CompletenessTable((result,)).save(path)
    if suffix == ".npz":
        found = dict(np.load(path))
    else:
        from pyarrow import parquet

        found = {name: np.array(column) for name, column in parquet.read_table(path).to_pydict().items()}
    assert set(found) == {"row", "query0_distance", "query0_log_p0", "query0_log_p1", "query0_log_p2"}
    assert np.allclose(found["query0_distance"], result.distance)
    assert np.allclose(found["query0_log_p1"], result.log_p(1))


# -- other studies -----------------------------------------------------------------------------------------------------


def test_counting(counting: iv.Study) -> None:
    found = iv.complete(counting, iv.random_queries(counting, 1, site="x0.post"), limit=300, draws=2)[0]
    assert len(found.rows) == 300
    ids = torch.from_numpy(counting.inputs.tokens(found.rows))
    number = counting.decoder.config.sites.index("x0.post")
    plain = token_log_probs(counting.decoder, ids, found.query.z.expand(300, -1), torch.full((300,), number)).sum(1)
    assert np.allclose(found.log_p(), plain.numpy(), atol=1e-3)


def test_texts_of_a_run_are_their_own_inputs(addition: iv.Study) -> None:
    texts = [f"{a}+{b}={a + b}" for a in range(100, 110) for b in range(200, 210)]
    inputs = TextInputs.tokenize(texts, addition.model.vocabulary)
    queries = [addition.query(texts[17], at="=", site="a0.0")]
    found = completeness(addition.decoder, addition.model, inputs, queries, Scope(), draws=1)[0]
    assert len(found.rows) == 100
    assert found.distance.min() == pytest.approx(0, abs=1e-6)
    assert threshold_study(addition.model, inputs, queries[0], Scope()).base == {"length": 1.0}


# -- commands ----------------------------------------------------------------------------------------------------------


def test_complete_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(
        capsys, "complete", "addition", "--queries", "2", "--inputs", "200", "--draws", "2", "--epsilon", "0.2", "--json",
        "--out", str(tmp_path / "figure.png"), "--data", str(tmp_path / "data.npz"),
    )  # fmt: skip
    value = json.loads(out)
    assert (code, err) == (0, "")
    assert len(value["queries"]) == 2
    for one in value["queries"]:
        assert (one["inputs"], one["epsilon"], len(one["variants"])) == (200, 0.2, 3)
        assert {"recall", "lowest_rank_inside", "draws"} <= set(one["variants"][0])
    assert (tmp_path / "figure.png").exists()
    assert len(np.load(tmp_path / "data.npz")["row"]) == 200


def test_complete_of_one_query_as_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("--at", "=", "--site", "a0.0", "--inputs", "300", "--draws", "1", "--quick", "--out", str(tmp_path / "folder"))
    code, out, _ = run(capsys, "complete", "addition", TEXT, *options)
    assert code == 0
    assert "recall" in out
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"complete.png", "complete.svg", "complete.html"}


def test_threshold(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("--at", "=", "--site", "a0.0", "--inputs", "3000", "--out", str(tmp_path / "figure.svg"))
    code, out, _ = run(capsys, "threshold", "addition", TEXT, *options)
    assert code == 0
    assert re.search(r"0\.100\s", out)
    assert (tmp_path / "figure.svg").exists()
    code, out, err = run(capsys, "threshold", "addition", TEXT, *options, "--json", "--epsilon", "0.3")
    assert (code, err) == (0, "")
    assert {0.3, 0.1} <= {rung["epsilon"] for rung in json.loads(out)["ladder"]}


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("complete", "threshold"):
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        assert f"inversionview {command}" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("complete", "adition"), "Did you mean 'addition'"),
        (("complete", "addition", "--queries", "0"), "at least 1"),
        (("complete", "addition", "--queries", "-3"), "at least 1"),
        (("complete", "addition", "--site", "a9.9"), "heads are in layers 0, 1."),
        (("complete", "addition", "--site", "m0"), "not trained on m0"),
        (("complete", "addition", "--at", "Q"), "no position 'Q'"),
        (("complete", "addition", TEXT, "--at", "Q"), "no position 'Q'"),
        (("complete", "addition", "--epsilon", "0"), "ε must be"),
        (("complete", "addition", "--draws", "0"), "at least 1"),
        (("complete", "addition", "--inputs", "0"), "at least 1"),
        (("complete", "addition", "--distance", "taxi"), "taxi"),
        (("complete", "addition", "--out", "figure.pdf"), ".svg"),
        (("complete", "addition", "--out", "/proc/figure.png"), "/proc"),
        (("complete", "addition", "--data", "data.csv"), ".parquet"),
        (("complete", "addition", "615x861"), "'x'"),
        (("threshold", "addition", TEXT, "--epsilon", "-1"), "ε must be"),
        (("threshold", "addition", TEXT, "--site", "a9.9"), "heads are in layers 0, 1."),
        (("threshold", "addition", TEXT, "--at", "Q"), "no position 'Q'"),
        (("threshold", "addition", TEXT, "--inputs", "0"), "at least 1"),
        (("threshold", "addition", TEXT, "--out", "figure"), "cannot be written"),
        (("threshold", "addition", TEXT, "--out", "figure.gif"), ".png"),
        (("threshold", "addition"), "text"),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figure").write_text("a file, where a folder is asked for")
    bad(capsys, *arguments, says=says)

"""Calibration: closed forms, the definition of each number, plain transformers with hooks; resuming, views, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, spearmanr

import inversionview as iv
from inversionview.analyses.calibrate import measure, verb
from inversionview.analyses.calibrate.result import Calibration
from inversionview.analyses.calibrate.sample import Occurrences
from inversionview.core.errors import InputError, SettingError
from inversionview.core.results import as_text
from inversionview.core.scope import DISTANCES
from inversionview.corpora.natural import TextSource
from inversionview.explorer.answers import maps
from inversionview.intervene.stand_in import PatchedToken
from inversionview.model.distances.metric import Metric
from inversionview.model.sites.kind import Counts
from inversionview.model.sites.site import Site, all_sites
from inversionview.studies import calibrated
from inversionview.studies.statistics import learn
from tests.language import deep_llama
from tests.plain import Plain
from tests.test_cli import run

SITES = "x0.post,a1.2,m1"
SMALL: dict[str, Any] = {"sites": SITES, "queries": 5, "partners": 8, "occurrences": 300}
WORDS = "John Mary Peter garden ring drink store gave to the went and said school office"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deep_llama(tmp_path_factory.mktemp("calibrate") / "llama", layers=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("texts") / "corpus.txt"
    path.write_text("\n".join(" ".join(rng.choice(WORDS.split(), 12)) for _ in range(60)), encoding="utf-8")
    return path


def opened(folder: Path, corpus: Path) -> iv.Study:
    return iv.load(model=folder, texts=TextSource(str(corpus), context=20))


@pytest.fixture(scope="module")
def loaded(folder: Path, corpus: Path) -> iv.Study:
    return opened(folder, corpus)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def study(own_cache: Path, loaded: iv.Study) -> iv.Study:
    """The same study, with a cache in which nothing is kept yet."""
    return loaded


# -- numbers -----------------------------------------------------------------------------------------------------------

tables = st.integers(3, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n) for _ in range(2)])  # few values: ties
)


@given(tables)
def test_the_correlation_is_spearmans(table: tuple[list[int], list[int]]) -> None:
    d, nats = (np.array(each, dtype=float) for each in table)
    found = measure.correlation(d, nats)
    if np.ptp(nats) == 0:
        assert math.isnan(found)
    elif np.ptp(d) == 0:
        assert found == 0
    else:
        assert found == pytest.approx(spearmanr(d, nats).statistic, abs=1e-9)


def test_shares_of_gaussian_clouds_have_their_closed_forms() -> None:
    """On a line P(|z − 1| ≤ ε) = Φ(1 + ε) − Φ(1 − ε); in a plane the angle is uniform, so P(D ≤ ε) = arccos(1 − ε) / π."""
    torch.manual_seed(0)
    line, plane = torch.randn(200_000, 1), torch.randn(200_000, 2)
    euclid = measure.distances_to({"euclidean": Metric("euclidean")}, torch.ones(1, 1), line)["euclidean"][0]
    angle = measure.distances_to({"cosine": Metric("cosine")}, torch.ones(1, 2), plane)["cosine"][0]
    for unit in ("3bits", "7bits", "1/1000", "10bits"):
        share = measure.share_of(unit)
        off = 4 / math.sqrt(share * 200_000)  # of a share: four standard errors
        epsilon = measure.quantile(euclid, share)
        assert norm.cdf(1 + epsilon) - norm.cdf(1 - epsilon) == pytest.approx(share, rel=off)
        assert math.acos(1 - measure.quantile(angle, share)) / math.pi == pytest.approx(share, rel=off)
    assert measure.share_of("10bits") == 1 / 1024


def test_an_epsilon_of_a_share_is_the_least_that_holds_it() -> None:
    d = np.arange(1, 101)[::-1] / 100
    assert measure.quantile(d, 1 / 8) == 0.13
    assert measure.quantile(d, 0.05) == 0.05
    assert math.isnan(measure.quantile(d, 1 / 1000)), "less than one lies inside"


steps = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=8)


@given(steps, st.integers(0, 5))
def test_an_epsilon_of_nats_is_the_largest_whose_median_member_is_within(table: list[tuple[int, int]], most: int) -> None:
    """By the definition: every rank inside ε belongs to the partner of the nearest rank, and half of them may cost more."""
    ranks = np.array([gap for gap, _ in table]).cumsum() * 2
    nats, d = np.array([cost for _, cost in table], dtype=float), ranks / 100
    wanted = 0.0
    for k in range(1, len(ranks) + 1):
        fine = np.arange(0.5, ranks[k - 1] * 2) / 2  # four to a rank's width, none half way between two
        fine = fine[fine < ranks[k - 1]]
        own = np.abs(fine[:, None] - ranks[:k]).argmin(1)
        if np.median(np.sort(nats[own])[: (len(own) + 1) // 2][-1:]) <= most:
            wanted = d[k - 1]
    assert measure.reach(d, ranks, nats, most) == wanted


def test_partners_are_near_and_far_by_each_distance_in_turn() -> None:
    rng = np.random.default_rng(0)
    orders = [rng.permutation(50_000) for _ in range(3)]
    for first in range(4):
        found = measure.partners(orders, 20, first)
        assert len(set(found.tolist())) == 20
        ranks = [int(np.flatnonzero(orders[(first + j) % 3] == x)[0]) + 1 for j, x in enumerate(found)]
        assert ranks == [round(r) for r in np.geomspace(1, 50_000, 20)], "few of 50,000 can coincide"
        assert sum(rank <= 1000 for rank in ranks) >= 10
    alike = [np.arange(8)] * 3
    assert sorted(measure.partners(alike, 8, 0).tolist()) == list(range(8)), "each once, where all are needed"


def test_all_distances_at_once_are_those_of_the_metrics(study: iv.Study) -> None:
    sample = Occurrences.of(study, 300)
    sites = [Site.parse(name) for name in SITES.split(",")]
    learn(study, DISTANCES, sites)
    for site, z in zip(sites, sample.activations(study.model, sites, lambda _: None), strict=True):
        metrics = {d: study.model.metric(d, site) for d in DISTANCES}
        for name, found in measure.distances_to(metrics, z[:4], z).items():
            wanted = metrics[name].between(z[:4, None], z)
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=2e-3, atol=2e-3 if "euc" in name else 1e-6)
        at = np.broadcast_to(np.arange(sample.tokens.shape[1]), sample.tokens.shape)
        expected = study.model.harvest(sample.tokens, [site], at)[0]
        frame = study.model.frame(site)
        torch.testing.assert_close(z if frame is None else z @ frame, expected[torch.from_numpy(sample.there)])


def test_statistics_are_those_of_every_token_that_counts(study: iv.Study) -> None:
    """Texts of different lengths are run without their padding; what counts is the same."""
    sites = [Site.parse(name) for name in SITES.split(",")]
    learn(study, DISTANCES, sites)
    known = study.model.statistics
    assert known is not None
    sample = Occurrences.of(study, 5000)
    assert known.tokens == len(sample)
    for site, z in zip(sites, sample.activations(study.model, sites, lambda _: None), strict=True):
        own = known.moments[site.short]
        np.testing.assert_allclose(own["mean"], z.double().numpy().mean(0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(own["covariance"], np.cov(z.double().numpy().T, bias=True), rtol=1e-3, atol=1e-3)
        values = torch.linalg.eigvalsh(own["gradients"])
        assert float(values.min()) > -1e-5 * float(values.max()), "a mean of outer products"


# -- against plain transformers ----------------------------------------------------------------------------------------


def plain_nats(plain: Plain, ids: list[int], site: str, z: torch.Tensor) -> float:
    """KL of what the model says next, whole runs with a hook that writes."""
    p, q = (plain.run(ids, writes)[0][-1].log_softmax(-1) for writes in ([], [(site, len(ids) - 1, z)]))
    return float((p.exp() * (p - q)).sum())


def test_what_is_told_is_spearmans_correlation_with_the_nats_of_plain_patches(study: iv.Study, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    plain = Plain(AutoModelForCausalLM.from_pretrained(folder))
    result = iv.calibrate(study, **SMALL)
    kept = calibrated.read_kept(calibrated.calibration_path(study), study)["sites"]
    sample = Occurrences.of(study, 300)
    queries = sample.queries(5, 0)
    others = np.stack([sample.others(query) for query in queries])
    for site in [Site.parse(name) for name in SITES.split(",")]:
        z = sample.activations(study.model, [site], lambda _: None)[0]
        metrics = {d: study.model.metric(d, site) for d in DISTANCES}
        chosen = measure.choose(metrics, z[queries], z, others, 8)
        frame = study.model.frame(site)
        full = z if frame is None else z @ frame
        correlations = {d: [] for d in DISTANCES}
        for i, query in enumerate(queries):
            nats = [plain_nats(plain, sample.ids(query), site.short, full[p]) for p in chosen.partners[i]]
            for d in DISTANCES:
                own = [float(metrics[d].between(z[query], z[p])) for p in chosen.partners[i]]
                correlations[d].append(spearmanr(own, nats).statistic)
        for d in DISTANCES:
            told = kept[site.short]["distances"][d]
            assert told["correlation"] == pytest.approx(correlations[d], abs=0.02), "but for nats alike up to rounding"
            inside = [
                float((metrics[d].between(z[q], z[o]) <= 0.1).float().mean()) for q, o in zip(queries, others, strict=True)
            ]
            assert told["inside"] == pytest.approx(inside, abs=0.01)
            row = next(row for row in result.at(site.short) if row.distance == d)
            assert row.correlation.value == pytest.approx(np.mean(correlations[d]), abs=0.02)
            assert row.correlation.low <= row.correlation.value <= row.correlation.high
    assert all(i != j for i, own in zip(queries, chosen.partners, strict=True) for j in own)
    assert not any(sample.inputs[q] in sample.inputs[own] for q, own in zip(queries, chosen.partners, strict=True))


def test_several_sites_of_one_place_are_those_alone(study: iv.Study) -> None:
    torch.manual_seed(0)
    ids = [int(i) for i in study.inputs.corpus(np.arange(1))[0, :9]]
    put = [
        (Site.parse(name), torch.randn(3, study.model.shape.d_model)) for name in ("m1", "x0.pre", "a0.1", "x1.mid", "x0.pre")
    ]
    for position in (0, 8):
        place = PatchedToken(study.model, ids, position)
        for (site, z), own in zip(put, place.nats(put), strict=True):
            torch.testing.assert_close(own, torch.cat([place.nats([(site, row[None])])[0] for row in z]), rtol=1e-3, atol=1e-6)


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_an_interrupted_calibration_goes_on_and_seeds_reproduce(study: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = iv.calibrate(study, **SMALL, seed=3)
    path = calibrated.calibration_path(study)
    path.unlink()
    monkeypatch.setattr(verb, "_TOGETHER", 1)
    ran: list[str] = []
    nats = PatchedToken.nats

    def counted(self: PatchedToken, put: Any) -> Any:
        ran.extend(site.short for site, _ in put)
        if len(set(ran)) == 3:
            raise KeyboardInterrupt
        return nats(self, put)

    with monkeypatch.context() as patch:
        patch.setattr(PatchedToken, "nats", counted)
        with pytest.raises(KeyboardInterrupt):
            iv.calibrate(study, **SMALL, seed=3)
        done = set(ran[:-1])
        assert len(done) == 2
        assert set(calibrated.read_kept(path, study)["sites"]) == done, "what was finished is kept"
        ran.clear()
        again = iv.calibrate(study, **SMALL, seed=3)
        assert set(ran).isdisjoint(done), "and not measured again"
        assert again.to_json() == whole.to_json()
        ran.clear()
        assert iv.calibrate(study, **SMALL, seed=3).to_json() == whole.to_json()
        assert not ran
    assert iv.calibrate(study, **SMALL, seed=4).rows != whole.rows


def test_advice_is_kept_for_later_readings(study: iv.Study) -> None:
    assert calibrated.read_calibration(study) == {}
    result = iv.calibrate(study, **SMALL)
    found = calibrated.read_calibration(study)
    assert set(found) == set(SITES.split(","))
    for site, told in found.items():
        assert told.distance == result.advised(site)
        row = next(row for row in result.at(site) if row.distance == told.distance)
        assert set(told.epsilons) == set(calibrated.UNITS)
        for unit, epsilon in told.epsilons.items():
            assert epsilon == (None if row.epsilons[unit] is None else row.epsilons[unit].value)
        assert told.epsilons["10bits"] is None, "of some 300 occurrences less than one is inside"
        assert told.epsilons["3bits"] > 0
        assert told.foretells == (row.correlation.value, row.correlation.low, row.correlation.high)
    cells = {cell.site: cell.value for cell in maps.foretold_map(study, "it was cold").cells}
    assert {site for site, value in cells.items() if value is not None} == set(found)
    path = calibrated.calibration_path(study)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert calibrated.read_calibration(study) == {}, "a damaged file counts for nothing"


def test_the_best_of_a_group_is_compared_over_the_same_queries(study: iv.Study) -> None:
    result = iv.calibrate(study, **SMALL)
    for group in result.groups:
        assert group.best == max(group.correlations, key=lambda d: group.correlations[d].value)
        assert group.best not in group.as_good
    for site in result.sites:
        advised, kind = result.advised(site), next(group for group in result.kinds if site in group.sites)
        third = next(group for group in result.thirds(kind.kind) if site in group.sites)
        assert advised == kind.best or (advised == third.best and kind.best not in third.as_good)
        rows = result.at(site)
        best = max(rows, key=lambda row: row.correlation.value)
        assert best.behind.value == best.behind.high == 0
        for row in rows:
            assert row.behind.value == pytest.approx(best.correlation.value - row.correlation.value, abs=1e-9)
    assert set(result.overall.sites) == set(SITES.split(","))


def test_views(study: iv.Study, tmp_path: Path) -> None:
    result = iv.calibrate(study, **SMALL)
    text = as_text(result, width=80)
    assert "…" not in text
    told = " ".join(text.split())
    assert f"Use {result.kinds[0].best} at the residual stream" in told
    assert all(f"{group.best} at {name}" in told for group, name in zip(result.kinds[1:], ("MLPs", "heads"), strict=True))
    for suffix in (".csv", ".parquet", ".png", ".svg", ".html"):
        assert result.save(tmp_path / f"calibration{suffix}").stat().st_size > 500
    rows = result.records()
    assert len(rows) == 3 * len(DISTANCES)
    assert sum(row["advised"] for row in rows) == 3


@pytest.mark.parametrize(("layers", "least", "most"), [(1, 4, 8), (2, 8, 16), (30, 20, 20)])
def test_about_twenty_sites_are_looked_at_unless_some_are_named(layers: int, least: int, most: int) -> None:
    chosen = verb.usual(all_sites(Counts((9,) * layers)))
    assert {site.layer for site in chosen} >= {0, layers - 1}
    assert {site.kind for site in chosen} == {"post", "mid", "mlp", "head"}
    assert least <= len(chosen) <= most


# -- what is refused ---------------------------------------------------------------------------------------------------


def planted(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    real = Occurrences.activations

    def activations(self: Occurrences, model: Any, sites: Any, told: Any) -> Any:
        return [
            change(z) if site.short == "x0.post" else z for site, z in zip(sites, real(self, model, sites, told), strict=True)
        ]

    monkeypatch.setattr(Occurrences, "activations", activations)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda z: z[:1].expand(len(z), -1).clone(), "are all the same at x0.post"),
        (lambda z: z[torch.arange(len(z)) % 2], "take two values at x0.post"),
        (lambda z: z.index_fill(0, torch.tensor([3]), math.nan), "x0.post are not finite"),
    ],
)
def test_sites_of_which_nothing_can_be_told_are_named(
    study: iv.Study, monkeypatch: pytest.MonkeyPatch, change: Any, said: str
) -> None:
    planted(monkeypatch, change)
    result = iv.calibrate(study, **{**SMALL, "sites": "x0.post,m1"})
    assert result.sites == ["m1"]
    assert said in result.left_out["x0.post"]
    assert result.left_out["x0.post"] in as_text(result, width=400)
    with pytest.raises(SettingError, match=said):
        iv.calibrate(study, **{**SMALL, "sites": "x0.post"})


def test_zero_vectors_are_ranked_with_the_others(study: iv.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, lambda z: torch.where(torch.arange(len(z))[:, None] % 3 == 0, torch.zeros(()), z))
    result = iv.calibrate(study, **{**SMALL, "sites": "x0.post"})
    assert all(np.isfinite(row.correlation.value) for row in result.rows)
    json.dumps(result.to_json(), allow_nan=False)


def test_numbers_and_corpora_that_do_not_do(study: iv.Study, folder: Path, tmp_path: Path) -> None:
    for wrong in ({"queries": 1}, {"partners": 2}, {"occurrences": 0}, {"seed": -1}):
        with pytest.raises(SettingError):
            iv.calibrate(study, **{**SMALL, **wrong})
    with pytest.raises(SettingError, match=r"fewer than the 1000 partners .*--partners"):
        iv.calibrate(study, **{**SMALL, "partners": 1000})
    with pytest.raises(InputError):
        iv.calibrate(iv.load(model=folder), **SMALL)
    (tmp_path / "one.txt").write_text("John gave Mary a ring")
    with pytest.raises(SettingError, match="a single text"):
        iv.calibrate(opened(folder, tmp_path / "one.txt"), **SMALL)


def test_the_command(capsys: pytest.CaptureFixture[str], own_cache: Path, folder: Path, corpus: Path) -> None:
    task = ["calibrate", "--model", str(folder), "--texts", str(corpus), "--sites", "m1", "--queries", "3", "--partners", "4"]
    code, out, _ = run(capsys, *task, "--occurrences", "200", "--json", "--out", str(own_cache / "c.csv"))
    value = json.loads(out)
    assert code == 0
    assert {row["distance"] for row in value["rows"]} == set(DISTANCES)
    assert value["advice"]["m1"] in DISTANCES
    assert (own_cache / "c.csv").read_text(encoding="utf-8-sig").startswith('"site","distance","correlation"')
    for wrong, said in (
        (["calibrate", "--model", str(folder)], "--texts"),
        ([*task, "--out", "c.doc"], "c.doc"),
        ([*task, "--tokens", "5", "--occurrences", "5"], "--tokens"),
    ):
        code, out, err = run(capsys, *wrong)
        assert (code, out) == (2, "")
        assert said in err
        assert err.strip().count("\n") == 0


def test_a_run_keeps_its_calibration(capsys: pytest.CaptureFixture[str], own_cache: Path, folder: Path, corpus: Path) -> None:
    on = ["--model", str(folder), "--texts", str(corpus)]
    place = own_cache / "run"
    assert run(capsys, "bank", *on, "--sites", "x0.post", "--tokens", "50", "--out", str(place))[0] == 0
    code, out, _ = run(capsys, "calibrate", str(place), "--sites", "m1", "--queries", "3", "--partners", "4", "--json")
    assert code == 0
    assert json.loads((place / "calibration.json").read_text())["advice"]["m1"]["distance"] == json.loads(out)["advice"]["m1"]
    assert set(calibrated.read_calibration(iv.load(place))) == {"m1"}


def test_a_study_of_its_own_inputs_needs_no_texts(own_cache: Path) -> None:
    found = iv.calibrate(iv.load("addition"), sites="x0.post", queries=4, partners=5, occurrences=400)
    assert isinstance(found, Calibration)
    assert found.texts == "addition"
    assert found.sites == ["x0.post"]

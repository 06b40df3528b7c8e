"""What a first reading says of a feature is true of the exact preimage, which is found here by running every input."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser

import inversionview as iv
from inversionview.cli import main
from inversionview.core import information
from inversionview.decoder.bias import FILE, LEAST_COMPARED, SiteTruth
from inversionview.explorer.answers import readings
from inversionview.page.bundle import STATIC
from inversionview.preimage.common import BIASED
from inversionview.sources.registry import first_source
from inversionview.studies.spec import write_spec
from tests.browser import chromium
from tests.conftest import ROWS

TEXTS = {"counting": "vvzccvczvvvzvcvc|v:8", "addition": "615+861=1476"}
EPSILON = 0.1
NEAR = 1e-4
"""D of this and a second run of the model may differ by so much."""


class Exact:
    """Every input of a study's small bank, run through the model at all its named positions, and measured by the definition."""

    def __init__(self, study: iv.Study) -> None:
        self.study, model = study, study.model
        self.names = list(study.bank().manifest.positions)
        tokens = study.inputs.corpus(np.arange(ROWS))
        query = np.array([model.encode(TEXTS[study.name]) + [study.inputs.pad] * tokens.shape[1]])[:, : tokens.shape[1]]
        every = np.concatenate([query, tokens])
        named = study.inputs.named_positions(every)
        self.places = torch.from_numpy(np.stack([named[name] for name in self.names], 1))
        self.z = model.activations(torch.from_numpy(every), study.sites, self.places.clamp(min=0)).float()
        self.other = (tokens != query).any(1)
        self.columns = study.inputs.features(every)

    def inside(self, site: int, name: str) -> tuple[np.ndarray, int]:
        """Return which inputs lie inside ε, the query left out, and how many more or fewer rounding may make them."""
        z = self.z[site]  # [input, position, d_model]
        asked = z[0, self.names.index(name)]
        d = (z[1:] - asked).norm(dim=-1) / asked.norm()
        d = d.masked_fill(self.places[1:] < 0, torch.inf).min(1).values.numpy()
        unsure = int((np.abs(d - EPSILON) < NEAR).sum())
        return (d <= EPSILON) & self.other, unsure


@pytest.fixture(scope="module")
def exact(counting: iv.Study, addition: iv.Study) -> dict[str, Exact]:
    return {study.name: Exact(study) for study in (counting, addition)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def priors(study: iv.Study) -> dict[str, tuple[float, int]]:
    """The share of the query's values among the study's inputs, and of how many."""
    count = 100_000
    tokens = study.inputs.corpus(np.arange(count))
    own = study.inputs.features(np.array([[*study.model.encode(TEXTS[study.name])] + [study.inputs.pad] * tokens.shape[1]]))
    return {name: (float((column == own[name][0]).mean()), count) for name, column in study.inputs.features(tokens).items()}


@pytest.mark.parametrize("name", ["counting", "addition"])
def test_every_site_and_position(exact: dict[str, Exact], name: str) -> None:
    truth, checked = exact[name], 0
    study, known = truth.study, priors(truth.study)
    for i, site in enumerate(study.sites):
        for at in truth.names:
            reading = readings.read(study, study.query(TEXTS[name], at=at, site=site), count=20)
            told = reading.features.inside if reading.features else None
            assert told is not None
            assert (reading.preimage.source, told.source, told.epsilon, told.candidates) == ("corpus", "corpus", EPSILON, ROWS)
            within, unsure = truth.inside(i, at)
            assert abs(told.inside - within.sum()) <= unsure
            assert told.inside == reading.preimage.inside == told.counted
            if not told.features:
                assert not told.inside
                assert "None of 4,000 inputs lies inside ε" in told.note
                continue
            for feature, said in zip(reading.features.names, told.features, strict=True):
                column = truth.columns[feature]
                agree = int((column[1:][within] == column[0]).sum())
                assert abs(said.agreeing - agree) <= unsure
                low, high = information.wilson(agree, within.sum())
                assert (said.low, said.high) == pytest.approx((low, high), abs=2 * unsure / within.sum() + 1e-9)
                assert said.low <= said.share <= said.high
                values, counts = np.unique(column[1:][within], return_counts=True)
                assert abs(said.values[0][1] - counts.max()) <= unsure
                assert abs(said.distinct - len(values)) <= unsure
                checked += 1
                if said.bits is None:
                    assert agree <= unsure or known[feature][0] < 5e-4
                    continue
                prior, of = known[feature]
                slack = 4 * ((1 - prior) / (prior * of)) ** 0.5 / np.log(2) + 4 * unsure / max(1, agree)
                assert said.bits_high is not None
                assert (said.bits_low or 0.0) <= said.bits <= said.bits_high
                assert said.bits <= -log2(prior) + 4 * ((1 - prior) / (prior * 20_000)) ** 0.5 / np.log(2) + slack
                right = min(log2(agree / within.sum() / prior), log2(ROWS / within.sum()))  # no more than the reading tells
                assert (said.bits_low or -9.0) - slack <= right <= said.bits_high + slack
    assert checked > 5 * len(truth.names)


def test_the_example_of_the_readme(counting: iv.Study, exact: dict[str, Exact]) -> None:
    """a1.0 at ':' keeps the count, not the letter: few of the inputs inside have it, whatever samples near z may show."""
    within, _ = exact["counting"].inside([s.short for s in counting.sites].index("a1.0"), ":")
    told = readings.read(counting, counting.query(TEXTS["counting"], at=":", site="a1.0")).features
    assert told is not None
    assert told.inside is not None
    letter = told.inside.features[told.names.index("letter")]
    assert letter.share == (exact["counting"].columns["letter"][1:][within] == "v").mean() < 0.3


def test_decoders_tell_no_more_than_was_measured(counting: iv.Study, addition: iv.Study) -> None:
    """Of samples near z shares stand beside the site's KL, marked where it is large, or are not given; bits never."""
    for study in (counting, addition):
        assert study.truth is not None
        for site in study.sites:
            at = study.spec.at
            preimage = iv.read(study, study.query(TEXTS[study.name], at=at, site=site), each=2, weighed=0, source="decoder")
            told, measured = iv.common(preimage), study.truth.of(site.short)
            assert told is not None
            assert "are not draws from the preimage" in told.note
            if measured is None:
                assert told.features == ()
                assert "too few inputs inside ε" in told.note
                continue
            assert (told.recall, told.counted) == (measured.recall, preimage.inside_count)
            for one in told.features:
                apart, chance = measured.divergence[one.feature], measured.floor[one.feature]
                assert (one.bits, one.divergence, one.chance) == (None, apart, chance)
                assert one.trusted == (apart - chance <= BIASED)
    wider = iv.common(
        iv.read(
            counting, counting.query(TEXTS["counting"], at=":", site="a1.0"), each=2, epsilon=0.2, weighed=0, source="decoder"
        ),
    )
    assert wider is not None
    assert (wider.features, "at ε = 0.1" in wider.note) == ((), True)
    unnamed = iv.common(
        iv.read(counting, counting.query(TEXTS["counting"], at=3, site="a1.0"), each=2, weighed=0, source="decoder")
    )
    assert unnamed is not None
    assert (unnamed.features, "query, :" in unnamed.note) == ((), True)


def test_an_unmixed_walk_is_marked(counting: iv.Study) -> None:
    query = counting.query(TEXTS["counting"], at=":", site="x0.pre")
    short = iv.walk(counting, query, steps=60, chains=16, exchange=False)
    assert short.walk is not None
    told = iv.common(short)
    assert told is not None
    assert not short.walk.mixed
    assert told.features
    assert "not mixed" in told.note
    assert all(not one.trusted and one.bits is None for one in told.features)
    assert short.inside_count == short.walk.members


def test_merged_readings_tell_of_the_exact_part(counting: iv.Study) -> None:
    query = counting.query(TEXTS["counting"], at=":", site="a1.0")
    every = readings.read(counting, query, source="all", count=30, seconds=0.2)
    one = readings.read(counting, query, source="corpus", count=10)
    assert every.features is not None
    assert one.features is not None
    assert every.features.inside == one.features.inside
    assert every.preimage.inside is None


def test_which_source_comes_first(counting: iv.Study, addition: iv.Study) -> None:
    def first(study: iv.Study, at: Any, site: str = "a1.0", **more: Any) -> str:
        return first_source(study, study.query(TEXTS[study.name], at=at, site=site), **more).name

    assert [first(counting, at) for at in ("query", ":", "END", 3)] == ["corpus", "corpus", "decoder", "decoder"]
    assert [first(addition, at) for at in ("F1", "=", "A3", 8, 0)] == ["corpus"] * 4 + ["decoder"]
    assert first(counting, ":", told=["temperature"]) == "decoder"
    assert first(counting, ":", fixed=":") == "corpus"
    assert first(counting, ":", fixed="3") == "decoder"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(["read", "counting", TEXTS["counting"], "--at", ":", "--site", "a1.0", *arguments])
    return " ".join(capsys.readouterr().out.split())


def test_the_terminal_says_the_same(counting: iv.Study, capsys: pytest.CaptureFixture[str]) -> None:
    query = counting.query(TEXTS["counting"], at=":", site="a1.0")
    table, found = said(capsys), iv.search(counting, query, count=30)
    assert found.inside_count is not None
    share = 100 * found.inside_count / ROWS
    assert f"{found.inside_count} of 4,000 inputs of the corpus lie inside ε ({share:.2g} %)" in table
    assert f"Shown: {len(found.inside)} of these by lot and the {len(found.outside)} nearest outside" in table
    told = iv.common(found)
    assert told is not None
    letter = next(one for one in told.features if one.feature == "letter")
    shown = re.search(r"letter = v ([\d.]+) % \[([\d.]+), ([\d.]+)\]", table)
    assert shown is not None
    assert [float(part) for part in shown.groups()] == pytest.approx(
        [100 * letter.share, 100 * letter.low, 100 * letter.high], abs=0.5
    )
    drawn = said(capsys, "--temperature", "1", "--candidates", "50")
    assert re.search(r"\d+ of 50 candidates of the decoder lie inside ε", drawn)
    assert re.search(r"Common inside ε \([\d,]+ weighed draws\)", drawn)
    assert re.search(r" bits \[[\d.]+, [\d.]+\]", drawn)  # by importance
    value = json.loads(said(capsys, "--json"))
    assert (value["source"], value["inside"], value["candidates"]) == ("corpus", found.inside_count, ROWS)


def test_the_page_computes_the_same(counting: iv.Study, addition: iv.Study, browser: Browser) -> None:
    """At the reading's ε all that was found is told, wherever the rows are a choice; at another what the rows can tell."""
    source = (STATIC / "stats.js").read_text(encoding="utf-8")
    code = """async ([source, reading, epsilons]) => {
      const m = await import('data:text/javascript,' + encodeURIComponent(source));
      const rows = m.ranked(reading), tally = m.agreeing(rows, reading.features, reading.features.inside.source);
      return epsilons.map(e => m.common(reading, rows, tally, m.insideCount(rows, e), e)); }"""
    page = browser.new_page()
    for study, at, site in (
        (counting, ":", "x0.pre"),
        (counting, ":", "a1.0"),
        (addition, "=", "a0.0"),
        (addition, "A1", "x1.post"),
    ):
        query = study.query(TEXTS[study.name], at=at, site=site)
        reading = readings.read(study, query, count=40).to_json()
        told, samples = reading["features"]["inside"], reading["preimage"]["samples"]
        last = max(s["distance"] for s in samples)
        beyond = (EPSILON + last) / 2
        here, less, more, unknown = page.evaluate(code, [source, reading, [EPSILON, EPSILON * 0.9, beyond, 2 * last]])
        for entry in here["entries"]:
            one = told["features"][entry["index"]]
            assert all(entry[key] == one[key] for key in ("share", "low", "high", "bits", "bits_low", "bits_high"))
        wide = iv.search(study, query, epsilon=beyond)  # exact at the larger ε, too
        narrow = iv.search(study, query, epsilon=EPSILON * 0.9)
        for entries, whole in ((more["entries"], wide), (less["entries"], narrow)):
            exact = {one.feature: one for one in iv.common(whole).features}
            for entry in entries:
                if entry["share"] is not None:
                    wider = 4 * ((entry["high"] - entry["low"]) / 2 + 0.01)  # the rows are draws: by chance a few miss
                    assert abs(entry["share"] - exact[entry["name"]].share) <= (1e-6 if entries is more["entries"] else wider)
                    assert entry["low"] <= entry["share"] <= entry["high"]
                    assert entry["bits"] is None or entry["bits"] <= entry["most"]
        assert all(entry["share"] is None for entry in unknown["entries"])
        assert "read again" in unknown["sentence"]
    page.close()


def test_truth_is_kept_with_the_decoder_it_was_measured_of(
    counting: iv.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(counting.decoder_path, folder / "decoder", ignore=shutil.ignore_patterns(FILE))
    write_spec(folder, counting.spec.model_copy(update={"sites": ["a1.0", "x0.pre"]}))
    assert iv.load(folder).truth is None
    bank = counting.bank()
    main(["truth", str(folder), "--bank", str(bank.folder), "--queries", "2", "--samples", "8", "--json"])
    shown = capsys.readouterr()
    assert FILE in shown.err
    kept = iv.load(folder).truth
    assert kept is not None
    assert [row.site for row in kept.sites] == [row["site"] for row in json.loads(shown.out)["sites"]]
    assert kept.of("a1.0") is None  # two queries are too few
    enough = [replace(row, compared=LEAST_COMPARED, divergence=row.divergence or {"letter": 0.0}) for row in kept.sites]
    run = iv.load(folder)
    iv.keep_truth(run, enough, bank)
    assert isinstance(run.truth.of("a1.0"), SiteTruth)
    path = folder / "decoder" / FILE
    path.write_text(path.read_text(encoding="utf-8").replace('"inputs": 4', '"inputs": 5'), encoding="utf-8")
    with pytest.raises(iv.InversionViewError, match="is damaged"):
        iv.load(folder).truth
    iv.keep_truth(run, enough, bank)
    with (folder / "decoder" / "model.safetensors").open("ab") as file:
        file.write(b" ")
    assert iv.load(folder).truth is None


@pytest.mark.parametrize(("hits", "trials"), [(0, 7), (1, 50), (25, 50), (240, 1932), (50, 50), (3.5, 12.25)])
def test_wilson_is_its_definition(hits: float, trials: float) -> None:
    """Both ends solve (share − p)² = z²·p·(1 − p) / n, unless the share is there itself."""
    share = hits / trials
    for p in information.wilson(hits, trials):
        if p not in (0.0, 1.0):
            assert (share - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / trials)
    low, high = information.wilson(hits, trials)
    assert 0 <= low <= share <= high <= 1

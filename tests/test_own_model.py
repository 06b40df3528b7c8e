"""A user's own model, from texts to a reading: a small Llama that knows who has which food.

"<name> has <number> <food>s": at the last letter of "has" the residual stream must hold the name, from which the food follows,
and cannot hold the number, which comes later. So samples of its preimage must agree on the name, not on the number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import inversionview as iv
from inversionview.analyses.bits.measure import bits_curve
from inversionview.cli import main
from inversionview.core import errors
from inversionview.core.information import wilson
from inversionview.explorer.answers.info import study_info
from inversionview.model.sites.patterns import find_site
from inversionview.preimage.common import told
from inversionview.runs.train import Reading, read_texts, train_texts
from tests.conftest import WORDS, sentences


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "sentences.txt"
    path.write_text("\n".join([*sentences(), "", "  "]))
    return path


@pytest.fixture(scope="module")
def run(own_model: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mine"
    config = iv.TrainConfig(minutes=None, steps=350, batch=64, queries=8, evaluations=2)
    reading = Reading("x0.pre,x0.post,a0.*", stream=True)
    train_texts(str(own_model), str(texts), out, config, reading=reading, width=32, layers=2, pathway=64)
    return out


def test_what_comes_before_is_encoded_what_comes_after_is_not(run: Path) -> None:
    study = iv.load(run)
    query = study.query("bob has 23 nuts", at=7, site="x0.post")
    assert query.tokens[7] == "s"
    inside = iv.read(study, query, count=100, source="decoder").inside
    assert len(inside) >= 10
    assert sum(sample.text.startswith("bob has") for sample in inside) >= 0.9 * len(inside)
    assert len({number for sample in inside if (number := re.search(r"\d+", sample.text))}) >= 5


def test_a_run_reads_without_naming_site_or_position(run: Path) -> None:
    study = iv.load(run)
    query = study.query("ann has 5 figs")
    assert query.position == len(query.tokens) - 2
    assert query.site == study.sites[-1]
    assert len(iv.read(study, query, count=10, source="decoder")) == 10


def test_the_good_ratio_is_well_above_chance(run: Path) -> None:
    assert iv.evaluate(iv.load(run), queries=20)["mean"] > 0.2


def test_a_run_has_an_epsilon_for_each_kind_of_site_from_its_texts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By definition: the distance within which 1 % of all ordered pairs of texts lie at their ends, of the sites the median."""
    study = iv.load(run)
    assert study.spec.distance == "cosine"
    tokens = study.inputs.tokens(np.arange(len(study.inputs)))
    end = (tokens != study.inputs.pad).sum(1) - 2
    for family, sites in {"residual": ["x0.pre", "x0.post"], "head": ["a0.0", "a0.1", "a0.2", "a0.3"]}.items():
        near = []
        for site in sites:
            here = study.model.activations(
                torch.from_numpy(tokens), [find_site(site, study.sites)], torch.from_numpy(end)[:, None]
            )
            z = here[0, :, 0].double().numpy()
            unit = z / np.linalg.norm(z, axis=1, keepdims=True)
            pairs = 1 - unit @ unit.T
            near.append(np.quantile(pairs[~np.eye(len(z), dtype=bool)], 0.01))
        wanted = sorted(near)[len(near) // 2]
        assert study.spec.epsilons[family] == pytest.approx(wanted, rel=0.06)  # two digits
    query = study.query("ann has 5 figs", site="a0.1")
    assert iv.read(study, query, count=2, source="decoder").epsilon == study.spec.epsilons["head"]
    assert iv.read(study, query, count=2, epsilon=0.3, source="decoder").epsilon == 0.3
    assert iv.read(study, query, count=2, distance="euclidean", source="decoder").epsilon == study.spec.epsilon
    assert {site.short: site.epsilon for site in study_info(study).sites}["x0.post"] == study.spec.epsilons["residual"]
    main(["sites", str(run)])
    assert f"ε (cosine) unless you give another: residual {study.spec.epsilons['residual']:g}" in capsys.readouterr().out


def test_a_bank_of_ends_is_not_asked_for_other_places(run: Path, tmp_path: Path) -> None:
    study = iv.load(run)
    bank = iv.build_bank(study, tmp_path, rows=200)
    inside = study.query("ann has 5 figs", at="#4", site="x0.post")
    with pytest.raises(errors.UnknownPositionError, match=r"holds END alone, and ' ' at #4 is another place.*--fixed END"):
        iv.search(study, inside, bank=bank)
    forced = iv.search(study, inside, bank=bank, fixed="END", count=3)
    assert forced.notes[0] == "Compared at END only."
    end = iv.search(study, study.query("ann has 5 figs", site="x0.post"), bank=bank, count=3)
    assert end.notes[0] == "Compared at END only, which the bank holds, not at all positions."
    assert all(sample.tokens[sample.position] == "s" for sample in end)


def test_a_corpus_of_texts_is_a_sample_even_where_a_bank_holds_all_of_it(run: Path, tmp_path: Path) -> None:
    """No other text inside is a bound, and a share of few inside has the interval of a sample (Wilson)."""
    study = iv.load(run)
    bank = iv.build_bank(study, tmp_path, rows=len(study.inputs))
    text = study.model.vocabulary.decode(study.inputs.tokens(np.arange(1))[0].tolist())
    found = iv.search(study, study.query(text, site="x0.post"), bank=bank, epsilon=1e-6, count=3)
    assert found.bits is not None
    assert found.bits.bounded
    (curve,) = bits_curve(bank, [1e-6], sites="x0.post", distance="cosine", queries=5)
    assert curve.least[0] < curve.bits[0].value
    wide = iv.search(study, study.query(text, site="x0.post"), bank=bank, epsilon=0.05, count=3)
    features = told(study.inputs, wide)
    assert features is not None
    assert features.features
    for one in features.features:
        assert (one.low, one.high) == pytest.approx(wilson(one.agreeing, features.counted))


def test_a_bank_of_a_run_holds_all_its_texts_unless_fewer_are_asked_for(run: Path, tmp_path: Path) -> None:
    main(["bank", str(run), "--out", str(tmp_path)])
    assert len(iv.load(run).bank(tmp_path)) == 60 * len(WORDS)


def test_texts_are_kept_as_arrow_without_empty_lines(run: Path) -> None:
    study = iv.load(run)
    assert len(study.inputs) == 60 * len(WORDS)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "corpus", "decoder", "metrics.jsonl", "study.json"]


def test_the_library_way(own_model: Path, tmp_path: Path) -> None:
    model = iv.ProbedModel.from_pretrained(own_model)
    inputs = iv.TextInputs.tokenize(sentences(), model.tokenizer)
    config = iv.TrainConfig(minutes=None, steps=2, batch=8, pool=2, evaluations=1, queries=2)
    decoder = iv.train(model, inputs, sites="a0.*", config=config, width=16, layers=1)
    decoder.save_pretrained(tmp_path)
    again = iv.Decoder.from_pretrained(tmp_path)
    assert again.config == decoder.config
    assert again.config.sites == ("a0.0", "a0.1", "a0.2", "a0.3")


def test_sources_of_texts(tmp_path: Path) -> None:
    lines = tmp_path / "t.jsonl"
    lines.write_text("\n".join(json.dumps({"text": t, "other": 1}) for t in ("one", "two\nlines")) + "\n\n")
    assert list(read_texts(str(lines))) == ["one", "two\nlines"]


def bad_sources(folder: Path) -> Iterator[tuple[str, str]]:
    (folder / "broken.jsonl").write_text('{"text": "x"}\n{"txt": 1}\n')
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    yield str(folder / "nowhere.txt"), "no file"
    yield str(folder / "broken.jsonl"), "Line 2"
    yield str(folder / "latin.txt"), "UTF-8"


def test_bad_sources(tmp_path: Path) -> None:
    for source, says in bad_sources(tmp_path):
        with pytest.raises(errors.InputError, match=says):
            list(read_texts(source))


@pytest.mark.parametrize(("content", "says"), [("\n\n", "no text"), ("ann has 1 figs\n", "too few"), ("Ünn has 1\n" * 3, "Ü")])
def test_bad_texts(own_model: Path, tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "t.txt"
    path.write_text(content)
    with pytest.raises(errors.InputError, match=says):
        train_texts(str(own_model), str(path), tmp_path / "run", iv.TrainConfig(minutes=None, steps=1))
    assert not (tmp_path / "run" / "decoder").exists()

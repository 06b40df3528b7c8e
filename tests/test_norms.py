"""What dominates norms: a planted coordinate and massive numbers on planted tokens, against plain transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import inversionview as iv
from inversionview.core.errors import InputError, UnknownSiteError
from inversionview.core.results import as_text
from inversionview.corpora.natural import TextSource
from tests.language import BEGIN, deep_llama
from tests.test_cli import run

EVERYWHERE, MASSIVE = 7, 3
"""Coordinates that are planted: one large at all tokens, one massive at BOS and at ","."""
TEXTS = [
    "John gave Mary a ring, and Peter went home",
    "Mary went to the garden. Peter, John",
    "The ring and the drink, said John",
] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = deep_llama(tmp_path_factory.mktemp("norms") / "llama", layers=2)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, EVERYWHERE] = 4.0
        for token in (BEGIN, ","):
            model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids(token), MASSIVE] = 900.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "corpus.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def study(folder: Path, corpus: Path) -> iv.Study:
    return iv.load(model=folder, texts=TextSource(str(corpus)))


def test_planted_coordinates_are_named_with_what_plain_transformers_gives(study: iv.Study, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    z, ids = [], []
    for text in TEXTS:
        row = [tokenizer.convert_tokens_to_ids(BEGIN), *tokenizer(text, add_special_tokens=False)["input_ids"]]
        ids += row
        z.append(model(torch.tensor([row]), output_hidden_states=True).hidden_states[0][0].detach().double().numpy())
    values, words = np.concatenate(z), np.array(tokenizer.convert_ids_to_tokens(ids))
    usual = values[words != BEGIN]
    squares, size = usual**2, np.abs(usual)
    found = iv.norms(study)
    told = next(site for site in found.sites if site.site == "x0.pre")
    assert found.tokens == len(values)
    assert told.norm == pytest.approx(np.median(np.linalg.norm(usual, axis=1)), rel=0.02)
    assert told.bos == pytest.approx(np.linalg.norm(values[words == BEGIN][0]), rel=1e-4)
    shares = (squares / squares.sum(1, keepdims=True)).mean(0)
    first = told.coordinates[0]
    assert first.index == EVERYWHERE == int(shares.argmax())
    assert first.share == pytest.approx(shares[EVERYWHERE], rel=1e-4)
    assert first.ratio == pytest.approx(np.median(size[:, EVERYWHERE]) / np.median(np.median(size, axis=0)), rel=0.05)
    massive = (words == BEGIN) | (words == ",")
    assert (np.abs(values) >= 1000 * np.median(size)).any(1).tolist() == massive.tolist(), "as it was planted"
    assert told.massive is not None
    assert told.massive.coordinates == (MASSIVE,)
    assert told.massive.tokens == pytest.approx(massive.mean())
    assert told.massive.on["BOS"] == pytest.approx((words == BEGIN).sum() / massive.sum())
    assert told.massive.on["delimiters"] == pytest.approx((words == ",").sum() / massive.sum())
    assert told.massive.on["others"] == told.massive.on["first token"] == 0


def test_a_model_without_any_says_none(tmp_path: Path, corpus: Path) -> None:
    study = iv.load(model=deep_llama(tmp_path / "plain", layers=1), texts=TextSource(str(corpus)))
    found = iv.norms(study)
    assert [site.site for site in found.sites] == ["x0.pre", "x0.mid", "x0.post"]
    assert all(site.massive is None for site in found.sites)
    assert "none" in as_text(found)
    with pytest.raises(UnknownSiteError):
        iv.norms(study, sites="x7.post")
    with pytest.raises(InputError):
        iv.norms(iv.load(model=tmp_path / "plain"))


def test_the_command_tells_them_as_table_and_json(capsys: pytest.CaptureFixture[str], folder: Path, corpus: Path) -> None:
    code, out, _ = run(capsys, "sites", "--model", str(folder), "--norms", "--texts", str(corpus), "--json")
    value = json.loads(out)
    assert code == 0
    assert value["norms"][0]["site"] == "x0.pre"
    assert value["norms"][0]["coordinates"][0]["index"] == EVERYWHERE
    assert value["sites"][0]["short"] == "x0.pre"
    code, out, _ = run(capsys, "sites", "--model", str(folder), "--norms", "--texts", str(corpus))
    assert code == 0
    assert f"#{EVERYWHERE} " in out
    code, out, err = run(capsys, "sites", "--model", str(folder), "--texts", str(corpus))
    assert (code, out) == (2, "")
    assert "--norms" in err
    code, out, _ = run(capsys, "sites", "addition", "--norms", "--json")
    assert {site["site"] for site in json.loads(out)["norms"]} >= {"x0.pre", "x1.post"}

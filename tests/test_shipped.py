"""What the package ships is as good as it says: probed models above the paper's accuracy, decoders as documented."""

from __future__ import annotations

import json
import re

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import inversionview as iv
from inversionview.runs.train_probed import accuracy, train_shipped
from inversionview.studies.registry import shipped_inputs
from inversionview.studies.shipped import shipped_path

# Huang et al. 2024, sections 3.1 and 3.3
PAPER = {"counting": 0.9953, "addition": 0.9801}
RATIO = {"counting": 0.46, "addition": 0.69}  # measured over 200 queries a site, docs/benchmarks.md


@pytest.mark.parametrize("study", ["counting", "addition"])
def test_probed_models_are_ordinary_and_accurate(study: str) -> None:
    folder = shipped_path(study, "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (model.config.model_type, model.config.n_layer) == ("gpt2", 2)
    assert accuracy(model, shipped_inputs(study), limit=10_000) >= PAPER[study]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    text = "vvz|v:2" if study == "counting" else "615+861=1476"
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == [*f"B{text}E"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("B", "E", "P")
    assert (model.config.bos_token_id, model.config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


@pytest.mark.parametrize("study", ["counting", "addition"])
def test_decoders_are_as_good_as_documented(study: str) -> None:
    assert (
        iv.evaluate(iv.load(study), queries=60)["mean"] >= RATIO[study] - 0.06
    )  # twice the sampling error of 60 queries a site


def parts(sample: iv.Sample) -> re.Match[str] | None:
    return re.fullmatch(r"(\d)(\d)(\d)\+(\d)(\d)(\d)=\d+", sample.text)


@pytest.mark.parametrize(("site", "first", "second", "digits"), [("a0.0", 1, 4, {"6", "8"}), ("a0.1", 2, 5, {"1", "6"})])
def test_heads_at_the_equals_sign_hold_pairs_of_digits(
    addition: iv.Study, site: str, first: int, second: int, digits: set[str]
) -> None:
    """Huang et al. 2024, table 3 and figure 31: heads of layer 0 at '=' collect F_i and S_i, in either order."""
    query = addition.query("615+861=1476", at="=", site=site)
    inside = [m for s in iv.read(addition, query, fixed="=", count=100, source="decoder").inside if (m := parts(s))]
    assert len(inside) >= 20
    assert sum({m[first], m[second]} == digits for m in inside) >= 0.9 * len(inside)
    others = [{m[group] for m in inside} for group in range(1, 7) if group not in (first, second)]
    assert all(len(values) >= 5 for values in others)


def counted(sample: iv.Sample) -> tuple[str, int] | None:
    """The letter a sample asks for, and how often it really occurs."""
    match = re.fullmatch(r"([a-z]+)\|([a-z]):\d", sample.text)
    return (match[2], match[1].count(match[2])) if match else None


def test_counting_holds_character_and_count_at_the_query(counting: iv.Study) -> None:
    """Huang et al. 2024, figure 3a: at the query character x0.post encodes the character and its count."""
    query = counting.query("vvzccvczvvvzvcvc|v:8", at="query", site="x0.post")
    inside = [c for s in iv.read(counting, query, fixed="query", count=100, source="decoder").inside if (c := counted(s))]
    assert len(inside) >= 20
    assert all(letter == "v" for letter, _ in inside)
    assert sum(abs(count - 8) <= 1 for _, count in inside) >= 0.9 * len(inside)


def test_counting_knows_the_answer_before_it_is_written(counting: iv.Study) -> None:
    query = counting.query("vvzccvczvvvzvcvc|v:8", at=":", site="x1.post")
    inside = [c for s in iv.read(counting, query, fixed=":", count=100, source="decoder").inside if (c := counted(s))]
    assert len(inside) >= 20
    assert sum(count == 8 for _, count in inside) >= 0.9 * len(inside)


def test_train_probed_learns(tmp_path) -> None:
    """A short training by the shipped recipe, far above the chance of 1/9 of guessing a count."""
    result = train_shipped("addition", tmp_path / "model", inputs=40_000)
    assert json.loads((tmp_path / "model" / "training.json").read_text()) == result
    study = iv.load("addition", model=tmp_path / "model")
    assert study.model.shape.d_model == 32
    assert result["inputs"] <= 40_000

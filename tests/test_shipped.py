"""What the package ships is as good as it says: probed models above the paper's accuracy, decoders above their targets."""

from __future__ import annotations

import json
import re

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import inversionview as iv
from inversionview.studies import shipped_inputs, shipped_path
from inversionview.studies.training import accuracy, train_shipped

# Huang et al. 2024, sections 3.1 and 3.3
PAPER = {"counting": 0.9953, "addition": 0.9801}
TARGET = {"counting": 0.70, "addition": 0.85}


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
def test_decoders_reach_their_targets(study: str) -> None:
    assert iv.load(study).evaluate(queries=60)["mean"] >= TARGET[study] - 0.02  # the sampling error of 60 queries a site


def test_counting_keeps_the_count_at_the_colon(counting: iv.Study) -> None:
    """Huang et al. 2024, figure 3b: at ':' a1.0 keeps the count and drops the character."""
    query = counting.query("vvzccvczvvvzvcvc|v:8", at=":", site="a1.0")
    inside = counting.preimage(query, fixed=":", count=100).inside
    true_counts = [
        s.text.split("|")[0].count(s.text.split("|")[1][0]) for s in inside if re.fullmatch(r"[a-z]+\|[a-z]:.*", s.text)
    ]
    assert len(true_counts) >= 20
    assert sum(c == 8 for c in true_counts) / len(true_counts) >= 0.9
    assert len({s.text.split("|")[1][:1] for s in inside if "|" in s.text}) >= 3


def test_counting_holds_character_and_count_at_the_query(counting: iv.Study) -> None:
    """Huang et al. 2024, figure 3a: at the query character x0.post encodes the character and its count."""
    query = counting.query("vvzccvczvvvzvcvc|v:8", at="query", site="x0.post")
    inside = counting.preimage(query, fixed="query", count=100).inside
    assert len(inside) >= 10
    right = [s.text.split("|")[1][:1] == "v" and s.text.split("|")[0].count("v") == 8 for s in inside]
    assert sum(right) / len(right) >= 0.9


def test_train_probed_learns(tmp_path) -> None:
    """A short training by the shipped recipe, far above the chance of 1/9 of guessing a count."""
    result = train_shipped("addition", tmp_path / "model", inputs=40_000)
    assert json.loads((tmp_path / "model" / "training.json").read_text()) == result
    study = iv.load("addition", model=tmp_path / "model")
    assert study.model.shape.d_model == 32
    assert result["inputs"] <= 40_000

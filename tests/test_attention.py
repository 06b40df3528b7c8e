"""The attention of a head that is read, against plain Hugging Face; and how readings show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import inversionview as iv
from inversionview.model.tokens import character_tokenizer
from inversionview.preimage.show import attention_line
from tests.test_cli import run

CHARACTERS = [*"abcdefgh ", "B", "E", "P"]
TEXT, SIZE = "a bad cabbage", {"initializer_range": 0.4, "bos_token_id": 9, "eos_token_id": 10, "pad_token_id": 11}


def _gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=12, n_embd=32, n_layer=2, n_head=4, n_positions=24, **SIZE))


def _grouped() -> LlamaForCausalLM:
    """Four heads of queries on two of keys."""
    config = LlamaConfig(
        vocab_size=12, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=24, **SIZE,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module", params=[_gpt2, _grouped])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    request.param().eval().save_pretrained(folder)
    character_tokenizer(CHARACTERS).save_pretrained(folder)
    return folder


def test_a_head_attends_as_in_hugging_face(folder: Path) -> None:
    study = iv.load(model=folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    ids = list(study.query(TEXT).ids)
    with torch.no_grad():
        patterns = plain(torch.tensor([ids]), output_attentions=True).attentions
    seen = []
    for layer in range(2):
        for head in range(4):
            for position in (0, 5, len(ids) - 1):
                query = study.query(TEXT, at=position, site=f"a{layer}.{head}")
                assert query.attention is not None
                assert query.attention == pytest.approx(patterns[layer][0, head, position].tolist(), abs=1e-5)
                assert sum(query.attention) == pytest.approx(1, abs=1e-5)
                assert len(query.attention) == len(ids)
                assert not any(query.attention[position + 1 :])
                seen.append(query.attention)
    assert len({tuple(round(w, 3) for w in weights) for weights in seen}) > 16  # heads differ: no mistake of index could pass


def test_only_heads_attend(addition: iv.Study) -> None:
    for site in ("x0.pre", "x0.post", "m0"):
        query = addition.query("615+861=1476", at="=", site=site)
        assert query.attention is None
        assert "attention" not in query.to_json()
    assert "attends" not in str(
        iv.read(addition, addition.query("615+861=1476", site="x0.post"), count=3, each=2, source="decoder")
    )
    made = iv.Query("a", (0,), ("a",), 0, iv.Site(0, "head", 0), "m", torch.zeros(1))
    assert made.attention is None


def test_a_reading_says_where_its_head_looks(addition: iv.Study) -> None:
    """The hundreds' head: F1 and S1 come first, whichever is ahead."""
    query = addition.query("615+861=1476", at="=", site="a0.0")
    line = str(iv.read(addition, query, count=3, each=2, source="decoder")).splitlines()[1]
    assert line.startswith(" " * len("query ") + "attends to '")
    assert all(f"at {i}: {query.attention[i]:.2f}" in line for i in (1, 5))
    assert line.count("at ") <= 6


def test_the_line_names_six_at_most_and_sums_up_the_rest() -> None:
    uneven = [0.01, 0.3, 0.04, 0.65]
    assert attention_line(["B", " a", "\n", "b"], uneven) == "attends to 'b' at 3: 0.65, ' a' at 1: 0.30, the rest: 0.05"
    assert attention_line(["B", "a"], [1.0, 0.0]) == "attends to 'B' at 0: 1.00"
    assert attention_line(["B"] * 8, [0.125] * 8).endswith("'B' at 5: 0.12, the rest: 0.25")
    assert attention_line(["B"] * 40, [0.025] * 40) == "attends to no token with 0.05 or more"
    assert "\x1b" not in attention_line(["\x1b[2J"], [1.0])


@pytest.mark.parametrize(
    "command",
    [
        ("read", "--count", "2"),
        ("walk", "--seconds", "0.5"),
        ("threshold", "--inputs", "500"),
        ("complete", "--inputs", "200", "--quick"),
        ("agree", "--sources", "walk,decoder", "--seconds", "0.5"),
    ],
)
def test_the_json_of_every_command_has_it(capsys: pytest.CaptureFixture[str], addition: iv.Study, command: tuple) -> None:
    text, at = "615+861=1476", ("--at", "=", "--site", "a0.1", "--json")
    code, out, _ = run(capsys, command[0], "addition", text, *at, *command[1:])
    value = json.loads(out)
    query = value["query"] if "query" in value else value["queries"][0]["query"]
    assert code == 0
    assert query["attention"] == pytest.approx(list(addition.query(text, at="=", site="a0.1").attention), abs=1e-6)

"""Verbs of a task take a model in memory: ``heads`` in ioi, ``recall`` in facts; ``truth`` says what it lacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

import inversionview as iv
from inversionview.core.errors import InputError, InversionViewError, SettingError, WeightsError
from tests.language import deep_llama


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A random Llama and its tokenizer."""
    folder = deep_llama(tmp_path_factory.mktemp("llama"), layers=2)
    made = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return made, transformers.AutoTokenizer.from_pretrained(folder)


def test_heads_are_those_of_the_task(held: tuple[Any, Any]) -> None:
    model, tokenizer = held
    found = iv.heads(model, tokenizer=tokenizer, prompts=3, anyway=True, again=True)
    named = iv.heads(iv.load("ioi", model=model, tokenizer=tokenizer), prompts=3, anyway=True, again=True)
    assert found.to_json() == {**named.to_json(), "study": found.to_json().get("study")}
    assert found.records() == named.records()


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        (lambda m, t, _: iv.heads(m, tokenizer=t, prompts=3), InputError, "it does not do the task"),
        (lambda m, t, texts: iv.heads(m, tokenizer=t, texts=texts), SettingError, "ioi has inputs of its own"),
        (lambda m, t, _: iv.recall(m, tokenizer=t), InputError, "facts rightly"),
        (lambda m, t, _: iv.retrieval_heads(m, tokenizer=t), InputError, "facts rightly"),
        (lambda m, t, texts: iv.recall(m, tokenizer=t, texts=texts), SettingError, "facts has inputs of its own"),
        (lambda m, t, _: iv.truth(m, tokenizer=t), InputError, "a model without a corpus or a decoder"),
        (lambda m, t, texts: iv.truth(m, tokenizer=t, texts=texts), WeightsError, "train --model .* --texts FILE --out RUN"),
        (lambda *_: iv.recall("facts"), SettingError, "load it, as in iv.load"),
        (lambda *_: iv.heads(3), InversionViewError, "model"),
    ],
)
def test_what_lacks_is_said(
    held: tuple[Any, Any], tmp_path: Path, asked: Callable[..., Any], error: type[Exception], says: str
) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(f"John gave Mary {i} rings" for i in range(40)))
    with pytest.raises(error, match=says) as raised:
        asked(*held, str(tmp_path / "texts.txt"))
    assert "\n" not in str(raised.value)

"""Shared fixtures: the shipped studies, and a small model of the user's own trained in the tests' set-up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: other processes may need the cores too

import pytest
import torch

import inversionview as iv
from inversionview.bank import folders

torch.set_num_threads(2)
ROWS = 4000
"""Inputs of the shipped studies' banks in tests."""
WORDS = {"ann": "fig", "bob": "nut", "cat": "pie", "dan": "tea"}


LONGEST = ("training", "explorer_live", "explorer_page", "walk_language", "interpret_served", "own_model", "damage")
"""Files of tests that begin first, so that no process is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others keep their order."""
    order = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """A training in this process makes the processor flush denormals to zero, which is not for the tests after it."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session", autouse=True)
def small_banks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's cache in which both shipped studies have a small bank."""
    home = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        for study in (iv.load("counting"), iv.load("addition")):
            iv.build_bank(study, folders.cached(study.model, study.inputs, ROWS), rows=ROWS)
        yield home


@pytest.fixture(scope="module", autouse=True)
def user_cache(small_banks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache of one file of tests, for processes that these start, too: no file meets what another has kept."""
    home = tmp_path_factory.mktemp("cache") / "own"
    shutil.copytree(small_banks, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def addition() -> iv.Study:
    return iv.load("addition")


@pytest.fixture(scope="session")
def counting() -> iv.Study:
    return iv.load("counting")


def sentences() -> list[str]:
    """Every "<name> has <n> <food>s" there is: the food follows from the name, the number (1–60) is free."""
    return [f"{name} has {n} {food}s" for name, food in WORDS.items() for n in range(1, 61)]


@pytest.fixture(scope="session")
def own_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer Llama of width 32, trained for some seconds to continue those sentences."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from inversionview.model.tokens import character_tokenizer

    torch.manual_seed(0)
    characters = [*"abcdefghijklmnopqrstuvwxyz 0123456789", "B", "E", "P"]
    tokenizer = character_tokenizer(characters)
    config = LlamaConfig(
        vocab_size=len(characters), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    batch = tokenizer(sentences(), padding=True, return_tensors="pt", return_token_type_ids=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("own") / "llama"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""A bank of texts withstands ``kill -9``, and texts may be larger than memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.killing import ROOM

WORDS = ["bank", "river", "sat", "by", "the", "of", "he", "old", "went", "again"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a random GPT-2 of two layers and 400 lines of text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    names = ["<s>", "<unk>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", unk_token="<unk>")
    fast.save_pretrained(tmp_path / "model")
    config = GPT2Config(vocab_size=len(names), n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    draw = np.random.default_rng(0)
    (tmp_path / "texts.txt").write_text("".join(" ".join(draw.choice(WORDS, size=12)) + "\n" for _ in range(400)))
    return tmp_path


def done(what: str, folder: Path) -> subprocess.CompletedProcess[str]:
    told = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tests.killing", what, str(folder)], capture_output=True, text=True, env=told, check=False
    )


def test_a_bank_that_was_killed_is_gone_on_with_and_equal(folder: Path) -> None:
    """Vectors, windows and every other file, byte for byte, after a kill at any of places all along the way."""
    ended = done("kill", folder)
    assert ended.returncode == 0, ended.stderr
    assert "kills of" in ended.stdout


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux how much memory a process has")
def test_a_file_larger_than_memory_is_read(folder: Path) -> None:
    lines = (folder / "texts.txt").read_text()
    for name, size in (("some.txt", ROOM // 7), ("large.txt", ROOM // 7 * 10)):
        with (folder / name).open("w") as file:
            for _ in range(size // len(lines)):
                file.write(lines)
    ended = done("memory", folder)
    assert ended.returncode == 0, ended.stderr
    assert (folder / "large" / "bank" / "manifest.json").exists()

"""GGUF files are read quickly, and as gguf and transformers read them when left alone."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inversionview.core.errors import WeightsError
from inversionview.model.bridge import BridgeBackend
from inversionview.model.gguf import quick_gguf
from inversionview.model.probed import ProbedModel

gguf = pytest.importorskip("gguf")

WIDTH, LAYERS, VOCABULARY = 64, 2, 600  # more rows than are unpacked at once
LETTERS = "abcdefghijklmnopqrstuvwxyzäöü"
TOKENS = ["<s>", "</s>", *LETTERS, *(a + b for a in LETTERS for b in LETTERS)][:VOCABULARY]
MERGES = [f"{a} {b}" for a in LETTERS for b in LETTERS][: VOCABULARY - 2 - len(LETTERS)]
SHAPES = {
    "attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH // 2, WIDTH), "attn_v": (WIDTH // 2, WIDTH), "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (96, WIDTH), "ffn_up": (96, WIDTH), "ffn_down": (WIDTH, 96),
}  # fmt: skip
QUANTS = ["Q4_1", "Q8_0", "Q4_0", "F16", "Q5_1", "Q4_1", "Q8_0"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A Llama with random weights, most of them quantised."""
    torch.set_num_threads(1)
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    writer.add_token_types([3, 3] + [1] * (VOCABULARY - 2))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_array("test.floats", [0.5, 1.5])
    writer.add_array("test.flags", [True, False, True])
    writer.add_array("test.short", ["", "ß"])
    draw = np.random.default_rng(0)

    def add(name: str, shape: tuple[int, ...], quant: str = "F32") -> None:
        kind = gguf.GGMLQuantizationType[quant]
        writer.add_tensor(name, gguf.quantize(draw.normal(size=shape).astype(np.float32) * 0.1, kind), raw_dtype=kind)

    add("token_embd.weight", (VOCABULARY, WIDTH), "Q8_0")
    add("output_norm.weight", (WIDTH,))
    for layer in range(LAYERS):
        for (name, shape), quant in zip(SHAPES.items(), QUANTS, strict=True):
            add(f"blk.{layer}.{name}.weight", shape, quant)
        add(f"blk.{layer}.attn_norm.weight", (WIDTH,))
        add(f"blk.{layer}.ffn_norm.weight", (WIDTH,))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def own() -> list[Any]:
    """What is replaced while a file is loaded."""
    return [gguf.GGUFReader, gguf.get_tensor_name_map, gguf.quants._apply_over_grouped_rows]


PLAIN = own()


def test_model_config_and_tokenizer_are_those_of_transformers(file: Path) -> None:
    wanted = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = wanted.config.to_dict()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    backend, found = BridgeBackend.from_pretrained(str(file))
    weights = dict(backend.weights())
    assert len(weights) == 2 + 9 * LAYERS
    assert all(torch.equal(weights[name], weight) for name, weight in wanted.named_parameters())
    assert backend.bridge.original_model.config.to_dict() == config
    assert found.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert found.special_tokens_map == tokenizer.special_tokens_map
    assert own() == PLAIN


@pytest.mark.parametrize("byte_order", ["LITTLE", "BIG"])
def test_fields_are_those_of_gguf(file: Path, byte_order: str) -> None:
    if byte_order == "BIG":
        file = file.with_name("big.gguf")
        writer = gguf.GGUFWriter(file, "llama", endianess=gguf.GGUFEndian.BIG)
        writer.add_array("test.numbers", [1, 2, 3])
        writer.add_array("test.words", ["one", "two"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    plain = gguf.GGUFReader(file)
    with quick_gguf():
        quick = gguf.GGUFReader(file)
        assert gguf.GGUFReader(file) is quick
    assert list(quick.fields) == list(plain.fields)
    for name, field in plain.fields.items():
        assert quick.fields[name].contents() == field.contents(), name
        same = [(f.offset, f.types, f.data, [bytes(part) for part in f.parts]) for f in (field, quick.fields[name])]
        assert same[0] == same[1], name
    for a, b in zip(plain.tensors, quick.tensors, strict=True):
        assert (a.name, a.data_offset, a.tensor_type) == (b.name, b.data_offset, b.tensor_type)


@pytest.mark.parametrize("part", [0.001, 0.1, 0.2, 0.3, 0.9])
def test_a_file_cut_short_leaves_nothing_replaced(file: Path, part: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * part)])
    with pytest.raises(WeightsError, match=r"truncated or not weights .*: copy or download them again\.$"):
        ProbedModel.from_pretrained(file)
    assert own() == PLAIN


def longer(data: bytes, key: bytes) -> bytes:
    """Say that an array has 2⁵⁰ elements."""
    at = data.index(key) + len(key) + 8
    return data[:at] + (2**50).to_bytes(8, "little") + data[at + 8 :]


@pytest.mark.parametrize("key", [b"tokenizer.ggml.tokens", b"tokenizer.ggml.token_type", b"test.flags"])
def test_an_array_that_says_it_is_longer_than_the_file(file: Path, key: bytes) -> None:
    file.write_bytes(longer(file.read_bytes(), key))
    with quick_gguf(), pytest.raises((ValueError, struct.error)):
        gguf.GGUFReader(file)
    with pytest.raises(WeightsError, match=r"truncated or not weights .*: copy or download them again\.$"):
        ProbedModel.from_pretrained(file)
    assert own() == PLAIN


def break_reader(patch: pytest.MonkeyPatch) -> None:
    """As in a release of gguf that has other names."""
    patch.setattr(gguf, "GGUFReader", type("Other", (), {}))


def break_quants(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(gguf.quants, "_apply_over_grouped_rows")


@pytest.mark.parametrize("broken", [break_reader, break_quants])
def test_other_releases_are_left_alone(broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    before = dict(vars(gguf)), dict(vars(gguf.quants))
    with quick_gguf():
        pass
    assert (dict(vars(gguf)), dict(vars(gguf.quants))) == before

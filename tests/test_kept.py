"""A GGUF of a Llama is read from its copy in the cache: the same model, never another file's, and gone when there are many."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inversionview.core.errors import WeightsError
from inversionview.model import kept
from inversionview.model.backend import Patch
from inversionview.model.bridge import BridgeBackend
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.kind import Tap
from inversionview.model.sites.site import Site
from inversionview.model.tokens import Vocabulary, fingerprint

gguf = pytest.importorskip("gguf")

WIDTH, LAYERS, LETTERS = 32, 2, "abcdefghijklmnopqrstuvwxyz"
TOKENS = ["<s>", "</s>", *LETTERS, *(a + b for a in LETTERS for b in "abc")]
MERGES = [f"{a} {b}" for a in LETTERS for b in "abc"]
SHAPES = {
    "attn_q": (WIDTH, WIDTH), "attn_k": (16, WIDTH), "attn_v": (16, WIDTH), "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (64, WIDTH), "ffn_up": (64, WIDTH), "ffn_down": (WIDTH, 64),
}  # fmt: skip


def write(path: Path, seed: int = 0, tokens: list[str] = TOKENS) -> Path:
    """A Llama of random weights with two key-value heads, its matrices in eight bits."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(48)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(500.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(MERGES)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    draw = np.random.default_rng(seed)

    def add(name: str, shape: tuple[int, ...], quant: str = "Q8_0") -> None:
        kind = gguf.GGMLQuantizationType[quant]
        values = draw.normal(size=shape).astype(np.float32) * (0.1 if quant == "F32" else 0.4) + (quant == "F32")
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", (len(tokens), WIDTH))
    add("output_norm.weight", (WIDTH,), "F32")
    for layer in range(LAYERS):
        for name, shape in SHAPES.items():
            add(f"blk.{layer}.{name}.weight", shape)
        add(f"blk.{layer}.attn_norm.weight", (WIDTH,), "F32")
        add(f"blk.{layer}.ffn_norm.weight", (WIDTH,), "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file, and a cache of its own in which nothing lies."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write(tmp_path / "model.gguf")


def copies(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "cache" / "inversionview" / "models"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def streams(model: ProbedModel, tokens: torch.Tensor) -> torch.Tensor:
    return model.activations(tokens, [Site(0, "pre"), *(Site(layer, "post") for layer in range(LAYERS))])


def test_first_and_second_time_give_what_transformers_gives(file: Path, tmp_path: Path) -> None:
    """Streams and heads against hooks in the plain model; padding on either side changes nothing."""
    plain = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    tokens = torch.randint(2, len(TOKENS), (3, 40), generator=torch.Generator().manual_seed(0))
    inputs: list[torch.Tensor] = []
    for block in plain.model.layers:
        block.self_attn.o_proj.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        states = plain(tokens, output_hidden_states=True, use_cache=False).hidden_states
    wanted = torch.stack(states[:LAYERS])  # the last of them is normed
    w_o, parts = plain.model.layers[1].self_attn.o_proj.weight, [slice(8 * head, 8 * head + 8) for head in range(4)]
    heads = torch.stack([inputs[1][..., part] @ w_o[:, part].T for part in parts])
    tokenizer = Vocabulary.from_transformers(AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name))
    first = ProbedModel.from_pretrained(file)
    assert len(copies(tmp_path)) == 1
    second = ProbedModel.from_pretrained(file)
    for model in (first, second):
        assert type(model.backend).__name__ == "KeptBackend"
        assert fingerprint(model.vocabulary) == fingerprint(tokenizer)
        torch.testing.assert_close(streams(model, tokens)[:LAYERS], wanted, atol=1e-4, rtol=1e-4)
        found = model.activations(tokens, [Site(1, "head", h) for h in range(4)])
        torch.testing.assert_close(found, heads.detach(), atol=1e-4, rtol=1e-4)
        pad = torch.full((3, 5), model.vocabulary.pad)
        for padded, part in ((torch.cat([pad, tokens], 1), slice(5, None)), (torch.cat([tokens, pad], 1), slice(40))):
            torch.testing.assert_close(streams(model, padded)[:, :, part][:LAYERS], wanted, atol=1e-4, rtol=1e-4)
    every = [dict(model.backend.weights()) for model in (first, second)]
    names = dict(plain.named_parameters())
    assert all(each.keys() == names.keys() and all(torch.equal(each[n], names[n]) for n in names) for each in every)
    assert first.fingerprint == second.fingerprint == ProbedModel(BridgeBackend(plain), tokenizer, "plain").fingerprint
    assert torch.equal(streams(first, tokens), streams(second, tokens))


def test_reading_imports_no_transformers_and_the_rest_is_the_bridges(file: Path) -> None:
    bridge, _ = BridgeBackend.from_pretrained(str(file))
    ProbedModel.from_pretrained(file)
    code = (
        "import sys, torch; from inversionview.model.probed import ProbedModel\n"
        f"model = ProbedModel.from_pretrained({str(file)!r})\n"
        "model.fingerprint, model.activations(torch.arange(2, 14)[None], model.sites)\n"
        "assert not {'transformers', 'transformer_lens', 'gguf'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    second, tokens = ProbedModel.from_pretrained(file), torch.arange(2, 14)[None]
    torch.testing.assert_close(second.backend.logits(tokens, None), bridge.logits(tokens, None))
    z = second.backend.extend(tokens, None, Site(1, "post"), logits=False).activations
    assert z is not None
    torch.testing.assert_close(z, second.activations(tokens, [Site(1, "post")])[0], atol=1e-4, rtol=1e-4)


def test_it_runs_as_the_bridge_does(file: Path) -> None:
    """Logits with padding, patches at every kind of site, going on from keys and values, gradients, and which norms read."""
    bridge, _ = BridgeBackend.from_pretrained(str(file))
    ours = ProbedModel.from_pretrained(file).backend
    assert type(ours).__name__ == "KeptBackend"
    same = partial(torch.testing.assert_close, atol=2e-4, rtol=1e-3)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(2, 80, (3, 9), generator=generator)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, :4] = False
    same(ours.logits(tokens, mask)[mask], bridge.logits(tokens, mask)[mask])
    before = [each.extend(tokens[:, :5], None, None).cache for each in (ours, bridge)]
    taps = [
        Tap(layer, name) for layer in range(LAYERS) for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    ]
    for site in (Site(0, "pre"), Site(0, "mid"), Site(1, "post"), Site(0, "mlp"), Site(1, "head", 2), Site(0, "head", 3)):
        values = torch.randn(3, 1, WIDTH, generator=generator)
        at = torch.full((3, 1), 6)
        same(*(each.logits(tokens, None, {site: Patch(at, values)}) for each in (ours, bridge)))
        gone = [
            each.extend(tokens[:, 5:], cache, None, patches={site: Patch(at, values)})
            for each, cache in zip((ours, bridge), before, strict=True)
        ]
        same(*(each.logits for each in gone))
        same(gone[0].logits, ours.logits(tokens, None, {site: Patch(at, values)})[:, 5:])
        rows = torch.arange(4)
        put = {site: Patch(torch.full((4, 1), 5), torch.randn(4, 1, WIDTH, generator=generator), rows)}
        same(
            *(
                each.variants(tokens[0, 5], cache.rows(rows[:1]), 4, put)
                for each, cache in zip((ours, bridge), before, strict=True)
            )
        )
        read = [
            each.extend(tokens[:, 5:], cache, site, logits=False) for each, cache in zip((ours, bridge), before, strict=True)
        ]
        same(*(each.activations for each in read))
        pulls = [each.pull(tokens, None, site, lambda z: z[:, -1].square().sum(-1)) for each in (ours, bridge)]
        assert float((pulls[0][1] - pulls[1][1]).norm()) <= 1e-3 * float(pulls[1][1].norm())
    same(*(each.gradients(tokens, None, taps, lambda logits: logits[:, -1].logsumexp(-1)) for each in (ours, bridge)))
    at = torch.arange(9).expand(3, -1)
    same(*(each.attention_outputs(tokens, None, [0, 1], at) for each in (ours, bridge)))
    x = torch.randn(4, WIDTH, generator=generator)
    for layer in range(LAYERS):
        for tap in ("resid_pre", "resid_mid"):
            norms = [each.reading(layer, tap) for each in (ours, bridge)]
            assert norms[0] is not None
            assert norms[1] is not None
            same(norms[0](x), norms[1](x))
    same(ours.unembed(ours.final_norm(x)), bridge.unembed(bridge.final_norm(x)))


def test_another_file_of_the_same_name_size_and_time_is_another_model(file: Path, tmp_path: Path) -> None:
    tokens, first = torch.arange(2, 14)[None], ProbedModel.from_pretrained(file)
    ProbedModel.from_pretrained(file)
    opened, before = ProbedModel.from_pretrained(file), file.stat()
    write(file, seed=1)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    other = ProbedModel.from_pretrained(file)
    assert other.fingerprint != first.fingerprint
    assert float((streams(other, tokens) - streams(first, tokens)).norm()) > 0.1
    assert len(copies(tmp_path)) == 2
    with pytest.raises(WeightsError, match="has changed since it was loaded"):
        opened.backend.attention(tokens, None, 0)


@pytest.mark.parametrize("name", ["weights.safetensors", "tokenizer.json", "model.json"])
@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_a_damaged_copy_is_not_read(file: Path, tmp_path: Path, name: str, harm: str) -> None:
    first, tokens = ProbedModel.from_pretrained(file), torch.arange(2, 14)[None]
    mark, wanted = first.fingerprint, streams(first, tokens)
    path = copies(tmp_path)[0] / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # not written in place: it is mapped
    if harm != "gone":
        path.write_bytes(data if harm == "changed" else data[: len(data) // 2])
    again = ProbedModel.from_pretrained(file)
    assert again.fingerprint == mark
    assert torch.equal(streams(again, tokens), wanted)
    assert kept.Copy(file).read() is not None  # it was written anew


def test_copies_are_few_and_small(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ProbedModel.from_pretrained(file)
    (oldest,) = copies(tmp_path)
    size = sum(path.stat().st_size for path in oldest.iterdir())
    os.utime(oldest, (0, 0))
    monkeypatch.setattr(kept, "_TOTAL", int(2.2 * size))
    newer = [ProbedModel.from_pretrained(write(tmp_path / f"{seed}.gguf", seed)) for seed in (1, 2)]
    assert len(copies(tmp_path)) == 2
    assert oldest not in copies(tmp_path)
    assert newer[0].fingerprint != newer[1].fingerprint
    monkeypatch.setattr(kept, "_LARGEST", size // 2)
    assert type(ProbedModel.from_pretrained(write(tmp_path / "3.gguf", 3)).backend).__name__ == "BridgeBackend"
    monkeypatch.setattr(kept, "_LARGEST", size * 2)
    monkeypatch.setattr(kept, "_SPARE", 2**50)
    assert type(ProbedModel.from_pretrained(tmp_path / "3.gguf").backend).__name__ == "BridgeBackend"
    assert len(copies(tmp_path)) == 2

"""A decoder around a causal LM: its one-position cache against attention written out, its files, and what is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import inversionview as iv
from inversionview.core.errors import MismatchError, SettingError, WeightsError
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.pretrained import PretrainedDecoder
from inversionview.decoder.sampling import sample, token_log_probs
from inversionview.decoder.scoring import PrefixTree, log_probs
from inversionview.model.tokens import character_tokenizer
from tests.conftest import sentences

torch.set_num_threads(1)
CHARACTERS = [*"abcdefgh", "B", "E", "P"]
BOS, EOS, PAD, WIDTH = 8, 9, 10, 6
CONFIG = DecoderConfig(
    ("x0.pre", "a0.1"), WIDTH, 11, 7, bos=BOS, eos=EOS, pad=PAD, pathway=12, rank=4, cells=2, blocks=1, hidden=16
)


def language_model(kind: str):
    torch.manual_seed(0)
    if kind == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=16, initializer_range=0.5,
                bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
            )
        )  # fmt: skip
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=11, n_embd=16, n_layer=2, n_head=4, n_positions=16, initializer_range=0.5,
            bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
        )
    )  # fmt: skip


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "lm"
    language_model(request.param).save_pretrained(folder)
    character_tokenizer(CHARACTERS).save_pretrained(folder)
    return folder


def decoder_on(base: Path, **changes: object) -> PretrainedDecoder:
    torch.manual_seed(1)
    decoder = PretrainedDecoder.on(replace(CONFIG, base=str(base), **changes)).eval()
    assert isinstance(decoder, PretrainedDecoder)
    with torch.no_grad():
        for slot in decoder.slots:
            slot.weight.normal_(std=1.0)
            slot.bias.normal_()
        for name, parameter in decoder.lm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)  # at first it is 0
    return decoder


def conditions(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0)), torch.arange(count) % 2


def rotate(x: Tensor, position: Tensor, theta: float) -> Tensor:
    """Rotary embedding (Su et al. 2021): pairs (i, i + d/2) of a vector turn by position · θ^(−2i/d)."""
    half = x.size(-1) // 2
    angle = position[:, None] * theta ** (-torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


@torch.no_grad()
def written_out(decoder: PretrainedDecoder, tokens: Tensor, z: Tensor, site: Tensor) -> Tensor:
    """Logits of the LM with attention as a loop over queries, each over [slot, tokens up to it]; tokens count from 1."""
    lm, n, length = decoder.lm, *tokens.shape
    llama = isinstance(lm, LlamaForCausalLM)
    body = lm.model if llama else lm.transformer
    positions = torch.arange(1, length + 1)
    x = body.embed_tokens(tokens) if llama else body.wte(tokens) + body.wpe(positions)
    u = decoder.pathway(z, site)
    for layer, slot in zip(body.layers if llama else body.h, decoder.slots, strict=True):
        if llama:
            h, a = layer.input_layernorm(x), layer.self_attn
            q, k, v = (p(h).view(n, length, -1, 4).transpose(1, 2) for p in (a.q_proj, a.k_proj, a.v_proj))
            q, k = (rotate(t, positions, 10000.0) for t in (q, k))
        else:
            q, k, v = (t.view(n, length, 4, 4).transpose(1, 2) for t in layer.attn.c_attn(layer.ln_1(x)).split(16, dim=-1))
        key, value = slot(u).view(n, 2, k.size(1), 1, 4).unbind(1)
        k, v = torch.cat([key, k], dim=2), torch.cat([value, v], dim=2)
        k, v = (t.repeat_interleave(4 // t.size(1), dim=1) for t in (k, v))  # a key/value head serves several queries
        mixed = torch.empty_like(q)
        for t in range(length):
            weights = (q[:, :, t : t + 1] @ k[:, :, : t + 2].mT / 2).softmax(-1)
            mixed[:, :, t : t + 1] = weights @ v[:, :, : t + 2]
        joined = mixed.transpose(1, 2).flatten(2)
        x = x + (layer.self_attn.o_proj(joined) if llama else layer.attn.c_proj(joined))
        x = x + (layer.mlp(layer.post_attention_layernorm(x)) if llama else layer.mlp(layer.ln_2(x)))
    return lm.lm_head(body.norm(x) if llama else body.ln_f(x))


def test_the_slot_is_one_position_that_all_tokens_see(base: Path) -> None:
    decoder, (z, site) = decoder_on(base), conditions(5)
    tokens = torch.randint(0, 11, (5, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(decoder(tokens, z, site), written_out(decoder, tokens, z, site), atol=1e-4)
        changed = decoder(tokens, z + 1, site)
    assert ((changed - decoder(tokens, z, site)).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("tokens", [(), (0, 2, 3, 6, BOS, EOS)], ids=["all", "restricted"])
def test_steps_are_one_forward_pass_also_when_rows_leave(base: Path, tokens: tuple[int, ...]) -> None:
    decoder, (z, site) = decoder_on(base, tokens=tokens), conditions(6)
    own = torch.randint(0, decoder.config.size, (6, 5), generator=torch.Generator().manual_seed(2))
    left = torch.tensor([True, False, True, True, False, True])
    with torch.no_grad():
        whole, steps = decoder(own, z, site), decoder.begin(z, site)
        assert whole.size(-1) == decoder.config.size
        for place in range(1, 6):
            assert torch.allclose(steps.next(own[:, :place]), whole[:, place - 1], atol=1e-4)
            if place == 2:
                steps.keep(left)
                own, whole = own[left], whole[left]


def test_samples_and_scores_speak_the_models_ids(base: Path) -> None:
    allowed = (0, 2, 3, 6, BOS, EOS)
    decoder, (z, site) = decoder_on(base, tokens=allowed), conditions(600)  # more than are written at once
    drawn = sample(decoder, z, site, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (600, 7)
    assert set(drawn.unique().tolist()) <= {*allowed, PAD}
    assert {0, 2, 3, 6} <= set(drawn.unique().tolist())
    scores = token_log_probs(decoder, drawn[:20], z[:20], site[:20])
    assert bool(scores.isfinite().all())
    foreign = drawn[:1].clone()
    foreign[0, 1] = 1
    assert token_log_probs(decoder, foreign, z[:1], site[:1])[0, 1] == -torch.inf
    rows = torch.unique(drawn[:40], dim=0)
    scored = log_probs(decoder, PrefixTree.of(rows.numpy(), PAD), z[:1], 0, temperatures=(1.0,))
    plain = token_log_probs(decoder, rows, z[:1].expand(len(rows), -1), torch.zeros(len(rows), dtype=torch.long)).sum(1)
    assert torch.allclose(scored[0], plain, atol=1e-4)


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_files_hold_what_was_trained_and_no_more(base: Path, tmp_path: Path, tuning: str) -> None:
    decoder, (z, site) = decoder_on(base, tuning=tuning, lora=2), conditions(4)
    if tuning == "full":
        decoder = PretrainedDecoder(replace(decoder.config, architecture=decoder.lm.config.to_dict()), decoder.lm).eval()
        with torch.no_grad():
            next(decoder.lm.parameters()).add_(0.1)
    decoder.save_pretrained(tmp_path / "decoder")
    again = Decoder.from_pretrained(tmp_path / "decoder")
    assert isinstance(again, PretrainedDecoder)
    tokens = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(again(tokens, z, site), decoder(tokens, z, site), atol=1e-6)
    names = {name for name in decoder.kept() if name.startswith("lm.")}
    assert (tuning == "frozen") == (not names)
    assert tuning != "lora" or all("lora_" in name for name in names)


def test_a_missing_base_is_told(base: Path, tmp_path: Path) -> None:
    decoder_on(base).save_pretrained(tmp_path / "decoder")
    path = tmp_path / "decoder" / "config.json"
    elsewhere = json.loads(path.read_text()) | {"base": str(tmp_path / "gone")}
    del elsewhere["checksum"]  # as the sentence says that one must
    path.write_text(json.dumps(elsewhere))
    with pytest.raises(WeightsError, match=r"causal LM is missing.*gone.*config\.json"):
        Decoder.from_pretrained(tmp_path / "decoder")


def test_inputs_longer_than_the_lm_reads_are_refused(base: Path) -> None:
    with pytest.raises(SettingError, match="reads 16"):
        decoder_on(base, max_length=16)


def test_another_vocabulary_is_refused(base: Path, own_model: Path) -> None:
    model = iv.ProbedModel.from_pretrained(own_model)
    inputs = iv.TextInputs.tokenize(sentences(), model.tokenizer)
    with pytest.raises(MismatchError, match="another vocabulary"):
        iv.train(model, inputs, "x0.post", iv.TrainConfig(minutes=None, steps=1), base=str(base))


def test_a_batch_in_parts_is_the_batch_whole(own_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = iv.ProbedModel.from_pretrained(own_model)
    inputs = iv.TextInputs.tokenize(sentences(), model.tokenizer)
    config = iv.TrainConfig(minutes=None, steps=3, batch=16, groups=2, pool=3, queries=2, evaluations=1)
    made = []
    for rows in (3, 100):
        monkeypatch.setattr("inversionview.decoder.pretrained._TRAINED", rows)
        sizes = {"base": str(own_model), "tuning": "lora", "lora": 2, "pathway": 16, "cells": 2, "hidden": 16}
        made.append(iv.train(model, inputs, "x0.post", config, **sizes).kept())
    for name, parted in made[0].items():
        torch.testing.assert_close(parted, made[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_training_changes_what_it_should_and_goes_on_exactly(own_model: Path, tmp_path: Path, tuning: str) -> None:
    """A run of two pools, and one that is cut after its first and goes on: the same losses and weights."""
    model = iv.ProbedModel.from_pretrained(own_model)
    inputs = iv.TextInputs.tokenize(sentences(), model.tokenizer)
    config = iv.TrainConfig(minutes=None, steps=8, batch=16, groups=2, pool=4, queries=2, evaluations=1, target="own")
    sizes = {"base": str(own_model), "tuning": tuning, "lora": 2, "pathway": 16, "cells": 2, "hidden": 16}
    decoder = iv.train(model, inputs, "x0.post", config, tmp_path / "whole", **sizes)

    class CutError(Exception):
        pass

    def cut(done: float, row: dict) -> None:
        raise CutError

    with pytest.raises(CutError):
        iv.train(model, inputs, "x0.post", config, tmp_path / "cut", report=cut, **sizes)
    again = iv.train(model, inputs, "x0.post", config, tmp_path / "cut", **sizes)
    assert all(torch.equal(t, again.kept()[name]) for name, t in decoder.kept().items())
    losses = [json.loads(line)["loss"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert losses[1] < losses[0]
    before = dict(PretrainedDecoder.on(decoder.config, model.vocabulary).lm.named_parameters())
    changed = {name for name, p in decoder.lm.named_parameters() if name in before and not torch.equal(p, before[name])}
    if tuning == "frozen":
        assert not changed
    elif tuning == "lora":
        assert changed
        assert all("lora_" in name for name in changed)
    else:
        assert len(changed) >= 0.9 * len(before)
    np.testing.assert_equal(len(again.config.sites), 1)

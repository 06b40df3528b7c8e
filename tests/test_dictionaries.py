"""Sparse dictionaries: what is read from each library's files computes what the papers say; what is wrong is told at once.

Files are written here as the libraries lay them out (SAELens 6, sparsify 1.3, Gemma Scope, dictionary_learning 0.1), with
tiny random weights; the formulas are those of the papers that `dictionary.py` names.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from inversionview.core.errors import InversionViewError, SettingError, WeightsError
from inversionview.model.dictionaries.dictionary import Dictionary
from inversionview.model.dictionaries.loading import load_dictionary
from inversionview.studies.registry import shipped_inputs
from inversionview.studies.shipped import shipped_path

D, N, OUT = 6, 12, 5
Formula = Callable[[Tensor], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 100 * len(shape) + sum(shape)))


X = draw(3, 7, D, seed=5)


def weights(d_out: int = D, **others: Tensor) -> dict[str, Tensor]:
    """Those of SAELens and Gemma Scope."""
    return {
        "W_enc": draw(D, N), "b_enc": draw(N, seed=1), "W_dec": draw(N, d_out, seed=2), "b_dec": draw(d_out, seed=3),
    } | others  # fmt: skip


def saelens(folder: Path, tensors: dict[str, Tensor], **settings: Any) -> Path:
    """As ``SAE.save_model`` of version 6."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "d_in": D, "d_sae": N, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True, "architecture": "standard",
        "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.5.0", "model_name": "gpt2", "hook_name": "blocks.5.hook_resid_pre"},
    }  # fmt: skip
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(told | settings), encoding="utf-8")
    return folder


def sparsify(folder: Path, tensors: dict[str, Tensor] | None = None, **settings: Any) -> Path:
    """As ``SparseCoder.save_to_disk``."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "activation": "topk", "expansion_factor": 2, "normalize_decoder": True, "num_latents": 0, "k": 3, "multi_topk": False,
        "skip_connection": False, "transcode": False, "d_in": D,
    }  # fmt: skip
    save_file(tensors or linear(b_dec=draw(D, seed=3), W_dec=draw(N, D, seed=2)), folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(told | settings), encoding="utf-8")
    return folder


def linear(**others: Tensor) -> dict[str, Tensor]:
    return {"encoder.weight": draw(N, D), "encoder.bias": draw(N, seed=1)} | others


def learned(folder: Path, tensors: dict[str, Tensor], trainer: dict[str, Any] | None = None) -> Path:
    """As ``trainSAE`` of dictionary_learning."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "ae.pt")
    if trainer is not None:
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}), encoding="utf-8")
    return folder


def gemma(folder: Path, d_out: int = D, **others: Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{k: v.numpy() for k, v in weights(d_out, threshold=THETA, **others).items()})
    return folder


THETA = draw(N, seed=7).abs() / 2
W, B = weights(), weights()["b_dec"]


def relu(x: Tensor) -> Tensor:
    return torch.maximum(x, torch.zeros(()))


def top(pre: Tensor, k: int, by: Callable[[Tensor], Tensor] = lambda pre: pre) -> Tensor:
    """All but the k largest of each row set to 0: by sorting."""
    rank = by(pre).argsort(-1, descending=True).argsort(-1)
    return torch.where(rank < k, pre, torch.zeros(()))


def plain(x: Tensor) -> Tensor:
    return (x - B) @ W["W_enc"] + W["b_enc"]


GATE, MAGNITUDE, R = draw(N, seed=11), draw(N, seed=12), draw(N, seed=13) / 3
NORMS = W["W_dec"].norm(dim=1)


def layer_normed(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).sum(-1, keepdim=True).div(D - 1).sqrt() + 1e-5)


def without_encoder_bias() -> dict[str, Tensor]:
    return {name: each for name, each in W.items() if name != "b_enc"}


def grouped(pre: Tensor) -> Tensor:
    """The largest of each of three groups of four neighbours, the rest 0."""
    codes = torch.zeros_like(pre)
    for start in range(0, N, 4):
        block = pre[..., start : start + 4]
        codes[..., start : start + 4] = torch.where(block == block.amax(-1, keepdim=True), block, torch.zeros(()))
    return codes


CASES: dict[str, tuple[Callable[[Path], Path], Formula]] = {
    "saelens standard": (lambda p: saelens(p, weights()), lambda x: relu(plain(x))),
    "saelens standard, bias not subtracted": (
        lambda p: saelens(p, weights(), apply_b_dec_to_input=False),
        lambda x: relu(x @ W["W_enc"] + W["b_enc"]),
    ),
    "saelens gated": (
        lambda p: saelens(p, without_encoder_bias() | {"b_gate": GATE, "b_mag": MAGNITUDE, "r_mag": R}, architecture="gated"),
        lambda x: (((x - B) @ W["W_enc"] + GATE) > 0) * relu((x - B) @ (R.exp() * W["W_enc"]) + MAGNITUDE),
    ),
    "saelens topk": (
        lambda p: saelens(p, weights(), architecture="topk", k=3),
        lambda x: relu(top(plain(x), 3)),
    ),
    "saelens topk by the decoder's norms": (
        lambda p: saelens(p, weights(), architecture="topk", k=3, rescale_acts_by_decoder_norm=True),
        lambda x: relu(top(plain(x) * NORMS, 3)),
    ),
    "saelens abstopk": (
        lambda p: saelens(p, weights(), architecture="abstopk", k=3),
        lambda x: top(plain(x), 3, torch.abs),
    ),
    "saelens jumprelu": (
        lambda p: saelens(p, weights(threshold=THETA), architecture="jumprelu"),
        lambda x: torch.where(plain(x) > THETA, plain(x), torch.zeros(())),
    ),
    "saelens jumprelu, log": (
        lambda p: saelens(p, weights(log_threshold=THETA.log()), architecture="jumprelu"),
        lambda x: torch.where(plain(x) > THETA, plain(x), torch.zeros(())),
    ),
    "saelens checkpoint of batch top-k": (
        lambda p: saelens(
            p, weights(topk_threshold=torch.tensor(0.5).double()), architecture="batchtopk", rescale_acts_by_decoder_norm=True
        ),
        lambda x: torch.where(plain(x) * NORMS > 0.5, plain(x) * NORMS, torch.zeros(())),
    ),
    "saelens norm": (
        lambda p: saelens(p, weights(), normalize_activations="constant_norm_rescale"),
        lambda x: relu(plain(x * D**0.5 / x.norm(dim=-1, keepdim=True))),
    ),
    "saelens layer norm": (
        lambda p: saelens(p, weights(), normalize_activations="layer_norm"),
        lambda x: relu(plain(layer_normed(x))),
    ),
    "saelens before 6": (
        lambda p: old(p, {"activation_fn_str": "relu", "normalize_activations": False}),
        lambda x: relu(plain(x)),
    ),
    "saelens before 6, topk": (
        lambda p: old(p, {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}}),
        lambda x: relu(top(plain(x), 2)),
    ),
    "saelens transcoder": (
        lambda p: saelens(p, weights(OUT), architecture="transcoder", apply_b_dec_to_input=False, d_out=OUT),
        lambda x: relu(x @ W["W_enc"] + W["b_enc"]),
    ),
    "saelens jumprelu transcoder": (
        lambda p: saelens(
            p, weights(OUT, threshold=THETA, W_skip=draw(OUT, D)), architecture="jumprelu_skip_transcoder", d_out=OUT,
            apply_b_dec_to_input=False,
        ),
        lambda x: torch.where(x @ W["W_enc"] + W["b_enc"] > THETA, x @ W["W_enc"] + W["b_enc"], torch.zeros(())),
    ),
    "sparsify topk": (lambda p: sparsify(p), lambda x: top(relu(ours(x)), 3)),
    "sparsify groupmax": (lambda p: sparsify(p, activation="groupmax"), lambda x: grouped(relu(ours(x)))),
    "sparsify signed": (lambda p: sparsify(p, signed=True, num_latents=N), lambda x: top(ours(x), 3, torch.abs)),
    "sparsify transcoder": (
        lambda p: sparsify(p, transcode=True),
        lambda x: top(relu(x @ draw(N, D).T + draw(N, seed=1)), 3),
    ),
    "gemma scope": (
        lambda p: gemma(p),
        lambda x: torch.where(x @ W["W_enc"] + W["b_enc"] > THETA, relu(x @ W["W_enc"] + W["b_enc"]), torch.zeros(())),
    ),
    "learned": (
        lambda p: learned(p, linear(bias=B, **{"decoder.weight": W["W_dec"].T.contiguous()})),
        lambda x: relu(ours(x)) * NORMS,
    ),
    "learned, April": (
        lambda p: learned(p, linear(**{"decoder.weight": draw(D, N), "decoder.bias": B})),
        lambda x: relu(x @ draw(N, D).T + draw(N, seed=1)),
    ),
    "learned gated": (
        lambda p: learned(
            p,
            {
                "decoder_bias": B, "encoder.weight": draw(N, D), "r_mag": R, "gate_bias": GATE, "mag_bias": MAGNITUDE,
                "decoder.weight": draw(D, N),
            },
        ),
        lambda x: ((x - B) @ draw(N, D).T + GATE > 0) * relu(R.exp() * ((x - B) @ draw(N, D).T) + MAGNITUDE),
    ),
    "learned topk": (
        lambda p: learned(
            p,
            linear(b_dec=B, k=torch.tensor(3, dtype=torch.int), threshold=torch.tensor(0.5), **{"decoder.weight": draw(D, N)}),
            {"dict_class": "AutoEncoderTopK", "k": 3},
        ),
        lambda x: top(relu(ours(x)), 3),
    ),
    "learned topk, without threshold": (
        lambda p: learned(p, linear(b_dec=B, k=torch.tensor(4), **{"decoder.weight": draw(D, N)})),
        lambda x: top(relu(ours(x)), 4),
    ),
    "learned batch top-k": (
        lambda p: learned(
            p,
            linear(b_dec=B, k=torch.tensor(3, dtype=torch.int), threshold=torch.tensor(0.5), **{"decoder.weight": draw(D, N)}),
            {"dict_class": "BatchTopKSAE"},
        ),
        lambda x: torch.where(ours(x) > 0.5, ours(x), torch.zeros(())),
    ),
    "learned matryoshka": (
        lambda p: learned(
            p, weights(k=torch.tensor(3), threshold=torch.tensor(0.5), group_sizes=torch.tensor([4, 8]))
        ),
        lambda x: torch.where(plain(x) > 0.5, plain(x), torch.zeros(())),
    ),
    "learned jumprelu": (
        lambda p: learned(p, weights(threshold=THETA)),
        lambda x: torch.where(x @ W["W_enc"] + W["b_enc"] > THETA, x @ W["W_enc"] + W["b_enc"], torch.zeros(())),
    ),
}  # fmt: skip


def ours(x: Tensor) -> Tensor:
    """The pre-activations of a linear layer after the bias was subtracted."""
    return (x - B) @ draw(N, D).T + draw(N, seed=1)


def old(folder: Path, settings: dict[str, Any]) -> Path:
    """As SAELens 3 to 5 saved: no metadata, names of their own, factors of 1."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(scaling_factor=torch.ones(N)), folder / "sae_weights.safetensors")
    told = {
        "d_in": D, "d_sae": N, "dtype": "torch.float32", "hook_point": "blocks.5.hook_resid_pre", "hook_point_layer": 5,
        "model_name": "gpt2", "hook_point_head_index": None,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(told | settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_codes_are_those_of_the_paper(tmp_path: Path, name: str) -> None:
    write, formula = CASES[name]
    found = load_dictionary(write(tmp_path / "it"))
    codes = found.encode(X)
    torch.testing.assert_close(codes, formula(X), rtol=1e-5, atol=1e-6)
    assert codes.dtype == torch.float32
    assert 0 < int((codes != 0).sum()) < codes.numel(), "some fire, some do not"
    assert (found.d_in, found.d_latents) == (D, N)
    torch.testing.assert_close(found.encode(X[1, 2]), codes[1, 2])
    torch.testing.assert_close(found.encode_some(X, [7, 0, 7]), codes[..., [7, 0, 7]])


@pytest.mark.parametrize("name", CASES)
def test_a_latent_writes_along_its_direction(tmp_path: Path, name: str) -> None:
    """What a code of one more adds to what is decoded is the direction, times the spread where x is normalised by itself."""
    found = load_dictionary(CASES[name][0](tmp_path / "it"))
    codes = found.encode(X)
    more = codes.clone()
    more[..., 4] += 1
    spread = {"constant_norm_rescale": X.norm(dim=-1) / D**0.5, "layer_norm": X.std(-1)}.get(found.normalisation)
    wanted = found.direction(4).expand(*X.shape[:-1], -1) * (1 if spread is None else spread[..., None])
    torch.testing.assert_close(found.decode(more, X) - found.decode(codes, X), wanted, rtol=1e-4, atol=1e-5)
    assert found.direction(4).shape == (found.d_out,)


@pytest.mark.parametrize("name", ["saelens standard", "sparsify topk", "gemma scope", "saelens transcoder", "learned, April"])
def test_what_codes_decode_to(tmp_path: Path, name: str) -> None:
    found = load_dictionary(CASES[name][0](tmp_path / "it"))
    rows = {"sparsify": draw(N, D, seed=2), "learned,": draw(D, N).T}.get(name.split()[0], weights(found.d_out)["W_dec"])
    torch.testing.assert_close(found.decode(found.encode(X)), CASES[name][1](X) @ rows + weights(found.d_out)["b_dec"])
    torch.testing.assert_close(found.decode(torch.zeros(N)), found.bias)


def test_decoding_by_unit_rows(tmp_path: Path) -> None:
    """Where codes are multiplied by the decoder's norms, they are decoded by rows of length 1."""
    for name in ("saelens topk by the decoder's norms", "learned"):
        found = load_dictionary(CASES[name][0](tmp_path / name))
        torch.testing.assert_close(found.direction(3), W["W_dec"][3] / NORMS[3])
        torch.testing.assert_close(found.decode(found.encode(X)), found.encode(X) @ (W["W_dec"] / NORMS[:, None]) + B)


@pytest.mark.parametrize("normalisation", ["constant_norm_rescale", "layer_norm"])
def test_activations_that_are_normalised_by_themselves(tmp_path: Path, normalisation: str) -> None:
    found = load_dictionary(saelens(tmp_path, weights(), normalize_activations=normalisation))
    inner = found.encode(X) @ W["W_dec"] + B
    if normalisation == "layer_norm":
        wanted = inner * X.std(-1, keepdim=True) + X.mean(-1, keepdim=True)
    else:
        wanted = inner * X.norm(dim=-1, keepdim=True) / D**0.5
    torch.testing.assert_close(found.decode(found.encode(X), X), wanted)
    with pytest.raises(SettingError, match="give the activations that were encoded"):
        found.decode(found.encode(X))
    assert bool(torch.isfinite(found.encode(torch.zeros(D))).all())


def test_activations_times_a_factor(tmp_path: Path) -> None:
    folder = saelens(tmp_path, weights(), normalize_activations="expected_average_only_in")
    with pytest.raises(WeightsError, match="factor that its files do not hold"):
        load_dictionary(folder)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}', encoding="utf-8")
    found = load_dictionary(folder)
    torch.testing.assert_close(found.encode(X), relu(plain(X / 4)))
    torch.testing.assert_close(found.decode(found.encode(X)), 4 * (relu(plain(X / 4)) @ W["W_dec"] + B))


def test_fine_tuned_latents(tmp_path: Path) -> None:
    factors = draw(N, seed=9).abs()
    tensors = weights(scaling_factor=factors)
    found = load_dictionary(saelens(tmp_path, tensors, finetuning_scaling_factor=True))
    torch.testing.assert_close(found.decode(found.encode(X)), (relu(plain(X)) * factors) @ W["W_dec"] + B)
    with pytest.raises(WeightsError, match="does not say that it is used"):
        load_dictionary(saelens(tmp_path, tensors))


def test_what_files_name(tmp_path: Path) -> None:
    found = load_dictionary(saelens(tmp_path / "a", weights()))
    assert (found.hook, found.hook_out, found.model, found.form) == (
        "blocks.5.hook_resid_pre", "blocks.5.hook_resid_pre", "gpt2", "SAELens",
    )  # fmt: skip
    assert (found.transcoder, found.heads_flattened, found.centred, found.head) == (False, False, False, None)
    told = {
        "hook_name": "blocks.5.attn.hook_z", "hook_head_index": 3,
        "model_from_pretrained_kwargs": {"center_writing_weights": True},
    }  # fmt: skip
    found = load_dictionary(saelens(tmp_path / "b", weights(), metadata=told, reshape_activations="hook_z"))
    assert (found.hook, found.head, found.heads_flattened, found.centred) == ("blocks.5.attn.hook_z", 3, True, True)
    found = load_dictionary(old(tmp_path / "c", {"hook_point": "blocks.2.attn.hook_z"}))
    assert (found.hook, found.heads_flattened, found.model) == ("blocks.2.attn.hook_z", True, "gpt2")
    told = {"hook_name": "blocks.5.ln2.hook_normalized", "hook_name_out": "blocks.5.hook_mlp_out"}
    settings = {"architecture": "transcoder", "apply_b_dec_to_input": False, "d_out": OUT, "metadata": told}
    found = load_dictionary(saelens(tmp_path / "d", weights(OUT), **settings))
    assert (found.hook, found.hook_out, found.transcoder, found.d_out) == (*told.values(), True, OUT)


@pytest.mark.parametrize(
    ("folder", "hook"),
    [
        ("layers.10", "blocks.10.hook_resid_post"),
        ("h.3", "blocks.3.hook_resid_post"),
        ("gpt_neox.layers.4", "blocks.4.hook_resid_post"),
        ("layers.10.mlp", "blocks.10.hook_mlp_out"),
        ("transformer.h.7.attn", "blocks.7.hook_attn_out"),
        ("embed_tokens", "hook_embed"),
        ("best", None),
    ],
)
def test_what_folders_of_sparsify_name(tmp_path: Path, folder: str, hook: str | None) -> None:
    sparsify(tmp_path / "run" / folder)
    (tmp_path / "run" / "config.json").write_text('{"model": "HuggingFaceTB/SmolLM2-135M"}', encoding="utf-8")
    found = load_dictionary(tmp_path / "run" / folder)
    assert (found.hook, found.hook_out, found.model) == (hook, hook, "HuggingFaceTB/SmolLM2-135M")
    sparsify(tmp_path / "run" / folder, transcode=True)
    found = load_dictionary(tmp_path / "run" / folder)
    given = {"blocks.10.hook_mlp_out": "blocks.10.mlp.hook_in", "blocks.10.hook_resid_post": "blocks.10.hook_resid_pre"}
    assert (found.hook_out, found.hook) == (hook, given.get(hook or "", found.hook))


def test_what_folders_of_gemma_scope_name(tmp_path: Path) -> None:
    inner = "layer_20/width_16k/average_l0_71"
    names = {
        "gemma-scope-2b-pt-res": ("gemma-2-2b", "blocks.20.hook_resid_post"),
        "models--google--gemma-scope-9b-it-mlp": ("gemma-2-9b-it", "blocks.20.hook_mlp_out"),
        "gemma-scope-27b-pt-att": ("gemma-2-27b", "blocks.20.attn.hook_z"),
    }
    for name, (model, hook) in names.items():
        found = load_dictionary(gemma(tmp_path / name / inner))
        assert (found.model, found.hook, found.hook_out, found.transcoder) == (model, hook, hook, False)
        assert found.heads_flattened is name.endswith("att")
    found = load_dictionary(gemma(tmp_path / "gemma-scope-2b-pt-transcoders" / inner, OUT))
    assert (found.hook, found.hook_out) == ("blocks.20.ln2.hook_normalized", "blocks.20.hook_mlp_out")
    lower = {name.replace("W_", "w_"): each for name, each in np.load(gemma(tmp_path / "unnamed") / "params.npz").items()}
    np.savez(tmp_path / "unnamed" / "params.npz", **lower)
    found = load_dictionary(tmp_path / "unnamed" / "params.npz")
    assert (found.model, found.hook) == (None, None)


def test_what_dictionary_learning_names(tmp_path: Path) -> None:
    told = {
        "dict_class": "JumpReluAutoEncoder",
        "layer": 8,
        "lm_name": "EleutherAI/pythia-70m",
        "submodule_name": "resid_post_layer_8",
    }
    found = load_dictionary(learned(tmp_path, weights(threshold=THETA), told))
    assert (found.hook, found.model) == ("blocks.8.hook_resid_post", "EleutherAI/pythia-70m")


def test_half_precision_is_computed_in_fp32(tmp_path: Path) -> None:
    half = {name: each.bfloat16() for name, each in weights().items()}
    found = load_dictionary(saelens(tmp_path, half, dtype="bfloat16"))
    w = {name: each.float() for name, each in half.items()}
    wanted = relu((X.bfloat16().float() - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    torch.testing.assert_close(found.encode(X.bfloat16()), wanted)
    assert found.encode(X.double()).dtype == found.decode(wanted).dtype == found.direction(0).dtype == torch.float32


def test_what_does_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of fp32 are mapped from their file and need none; those of another precision, and archives, do."""
    whole = saelens(tmp_path / "a", weights())
    half = saelens(tmp_path / "b", {name: each.half() for name, each in weights().items()})
    packed = gemma(tmp_path / "c")
    monkeypatch.setattr("inversionview.core.memory.available", lambda: 100)
    assert load_dictionary(whole).encode(X).shape == (3, 7, N)
    with pytest.raises(SettingError, match=r"The encoder of .* in fp32 needs .* of memory"):
        load_dictionary(half).encode(X)
    with pytest.raises(SettingError, match=r"needs .* of memory"):
        load_dictionary(packed)


def test_fingerprints(tmp_path: Path) -> None:
    """One of the same numbers in other files is the same; another k, threshold or number is another."""
    jump = {"architecture": "jumprelu", "apply_b_dec_to_input": False}
    first = load_dictionary(saelens(tmp_path / "a", weights(threshold=THETA), **jump))
    assert first.fingerprint == load_dictionary(gemma(tmp_path / "b")).fingerprint
    assert re.fullmatch("[0-9a-f]{16}", first.fingerprint)
    others = [
        load_dictionary(sparsify(tmp_path / "c")),
        load_dictionary(sparsify(tmp_path / "d", k=4)),
        load_dictionary(saelens(tmp_path / "e", weights(threshold=THETA + 1e-3), **jump)),
    ]
    assert len({first.fingerprint, *(each.fingerprint for each in others)}) == 4


def said(path: Path | str) -> str:
    with pytest.raises(InversionViewError) as error:
        load_dictionary(path)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, WeightsError)
    return str(error.value)


def test_latents_that_are_not_there(tmp_path: Path) -> None:
    found = load_dictionary(sparsify(tmp_path))
    for ask in (lambda: found.direction(N), lambda: found.direction(-1), lambda: found.encode_some(X, [0, 99])):
        with pytest.raises(SettingError, match=f"has latents 0 to {N - 1}, not"):
            ask()
    with pytest.raises(SettingError, match=f"reads vectors of {D} numbers"):
        found.encode(X[..., :-1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architecture": "temporal"}, "architecture 'temporal', which is not known"),
        ({"architecture": ["x"]}, "architecture"),
        ({"activation_fn": "tanh-relu"}, "activation function 'tanh-relu'"),
        ({"architecture": "topk", "k": 0}, "k = 0, not a whole number"),
        ({"architecture": "topk", "k": N + 1}, f"up to {N}"),
        ({"architecture": "topk"}, "k = None"),
        ({"normalize_activations": "covariance_whitening"}, "fold_activation_whitening"),
        ({"normalize_activations": "softly"}, "'softly', which is not known"),
        ({"d_in": D + 1}, "W_dec in .* must be"),
        ({"d_sae": 2**40}, "must be"),
        ({"d_in": "six"}, "d_in = 'six'"),
        ({"architecture": "jumprelu"}, "lacks threshold"),
        ({"architecture": "gated"}, "lacks b_mag"),
    ],
)
def test_settings_of_saelens(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    assert re.search(words, said(saelens(tmp_path, weights(), **settings)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k": 0}, "k = 0"),
        ({"k": True}, "k = True"),
        ({"activation": "softmax"}, "'softmax', which is not known"),
        ({"activation": "groupmax", "k": 5}, "do not divide"),
        ({"expansion_factor": 3}, "must be"),
        ({"d_in": None}, "d_in = None"),
        ({"skip_connection": True}, "lacks W_skip"),
    ],
)
def test_settings_of_sparsify(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    assert words in said(sparsify(tmp_path, **settings))


def test_tensors_that_are_no_dictionary(tmp_path: Path) -> None:
    assert "holds a tensor 'post_enc'" in said(sparsify(tmp_path, linear(W_dec=draw(N, D), b_dec=B, post_enc=B.clone())))
    assert "has no decoder" in said(sparsify(tmp_path, linear(b_dec=B)))
    for bad in (torch.nan, torch.inf):
        broken = weights()
        broken["W_enc"][2, 3] = bad
        assert "sae_weights.safetensors holds NaN or infinite" in said(saelens(tmp_path / "b", broken))
    assert "holds torch.int64" in said(saelens(tmp_path / "c", weights(b_enc=torch.arange(N))))
    both = {"b_dec": B, "threshold": torch.tensor(0.5), "decoder.weight": draw(D, N)}
    assert "AutoEncoderTopK or BatchTopKSAE" in said(learned(tmp_path / "d", linear(**both)))
    assert "of no class that is known" in said(learned(tmp_path / "e", {"w": B}))
    assert "names the class 'Mine'" in said(learned(tmp_path / "f", linear(**both), {"dict_class": "Mine"}))
    lacking = {"encoder.weight": draw(N, D), "decoder.weight": draw(D, N), "b_dec": B}
    assert "lacks encoder.bias" in said(learned(tmp_path / "g", lacking, {"dict_class": "AutoEncoderTopK"}))
    assert "no matrix" in said(
        learned(tmp_path / "h", weights(threshold=THETA, W_enc=B), {"dict_class": "JumpReluAutoEncoder"})
    )


class Harm:
    """What a pickle could run."""

    path: Path

    def __reduce__(self) -> Any:
        return (open, (str(Harm.path), "w"))


def test_no_pickle_is_run(tmp_path: Path) -> None:
    Harm.path = tmp_path / "harmed"
    (tmp_path / "a").mkdir()
    for content in (Harm(), {"encoder.weight": Harm()}):
        torch.save(content, tmp_path / "a" / "ae.pt")
        assert "would need code to be run" in said(tmp_path / "a")
    torch.save([B], tmp_path / "a" / "ae.pt")
    assert "holds no tensors by their names" in said(tmp_path / "a")
    torch.save({"W_enc": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a" / "ae.pt")
    assert "states more numbers than" in said(tmp_path / "a")
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "b" / "params.npz", W_enc=np.array([Harm()], dtype=object))
    assert "pickled Python objects" in said(tmp_path / "b")
    assert not Harm.path.exists()


@pytest.mark.parametrize("name", ["saelens standard", "sparsify topk", "gemma scope", "learned"])
def test_files_that_are_damaged(tmp_path: Path, name: str) -> None:
    folder = CASES[name][0](tmp_path / "it")
    path = next(each for each in folder.iterdir() if each.suffix in (".safetensors", ".npz", ".pt"))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-9], whole[:20], b"", b"nothing of the kind", bytes(reversed(whole))):
        path.write_bytes(content)
        assert "copy or download them again" in (text := said(folder)) or "truncated" in text
    path.write_bytes(whole)
    if (folder / "cfg.json").exists():
        for content in (b"{", b"[1]", b"\xff\xfe", b"[" * 100_000):
            (folder / "cfg.json").write_bytes(content)
            assert "cannot be read" in said(folder)
        (folder / "cfg.json").unlink()
        assert "There is no cfg.json" in said(folder)


def test_arrays_that_are_stated_larger_than_they_are(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**7)})
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", header.getvalue() + bytes(64))
    assert "states [10000000, 10000000] numbers and ends before them" in said(tmp_path)


def test_places_without_a_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "There is no dictionary at" in said(tmp_path / "nowhere")
    assert "There is no dictionary at" in said("nowhere")
    assert "There is no dictionary at" in said("./a/b")
    assert "holds no dictionary" in said(tmp_path)
    sparsify(tmp_path / "layers.3")
    assert load_dictionary(tmp_path).hook == "blocks.3.hook_resid_post"
    sparsify(tmp_path / "layers.1")
    assert f"several dictionaries (layers.1, layers.3): name one, as in {tmp_path}/layers.1" in said(tmp_path)
    saelens(tmp_path / "layers.1", weights())
    assert "weights of two libraries" in said(tmp_path / "layers.1")
    (tmp_path / "x.txt").write_text("", encoding="utf-8")
    assert "is no file of a dictionary" in said(tmp_path / "x.txt")
    (tmp_path / "layers.3" / "sae.safetensors").unlink()
    monkeypatch.chdir(tmp_path)
    assert load_dictionary(sparsify(Path("here"))).source == "here"


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in its cache is found without a network; what is not is told."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert "There is no folder google/gemma-scope-2b-pt-res, and the hub cannot be reached" in said(
        "google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
    )
    repository = tmp_path / "models--google--gemma-scope-2b-pt-res"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    gemma(repository / "snapshots" / "abc" / "layer_20" / "width_16k" / "average_l0_71")
    found = load_dictionary("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    assert isinstance(found, Dictionary)
    assert (found.model, found.hook) == ("gemma-2-2b", "blocks.20.hook_resid_post")
    assert "of the hub holds no dictionary in layer_1: name another" in said("google/gemma-scope-2b-pt-res/layer_1")


@pytest.mark.parametrize(("study", "latents", "explained"), [("addition", 128, 0.9986), ("counting", 256, 0.9828)])
def test_autoencoders_that_the_package_carries(study: str, latents: int, explained: float) -> None:
    """They reconstruct what plain transformers computes behind block 0 as README.md says, by 8 latents a token."""
    found = load_dictionary(shipped_path(study, "model").parent / "sae-x0.post")
    assert (found.form, found.hook, found.model) == ("sparsify", "blocks.0.hook_resid_post", study)
    assert (found.d_latents, found.k) == (latents, 8)
    inputs = shipped_inputs(study)
    tokens = torch.from_numpy(inputs.tokens(inputs.split("test")[-500:]))
    with torch.no_grad():
        states = AutoModelForCausalLM.from_pretrained(shipped_path(study, "model"))(tokens, output_hidden_states=True)
    framing = torch.tensor([token for token in (inputs.pad, inputs.bos, inputs.eos) if token is not None])
    x = states.hidden_states[1][torch.isin(tokens, framing, invert=True)]
    codes = found.encode(x)
    unexplained = (x - found.decode(codes)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert 1 - float(unexplained) > explained - 0.002
    assert int((codes != 0).sum(-1).max()) <= 8
    assert sum(path.stat().st_size for path in Path(found.source).iterdir()) < 300_000

"""The plain GPT-2 and ``ProbedModel`` on it, against a Hugging Face model with hooks set here; and its weights files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from inversionview.core.errors import InputError, WeightsError
from inversionview.model.backend import Patch
from inversionview.model.gpt2 import GPT2Backend
from inversionview.model.measure import distance_to
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.kind import Counts
from inversionview.model.sites.site import Site, all_sites
from inversionview.model.tokens import character_tokenizer

torch.set_num_threads(1)

TOKENS = [*"abcdefgh", "B", "E", "P"]
BOS, EOS, PAD = 8, 9, 10
LAYERS, HEADS, WIDTH = 3, 2, 16
SITES = all_sites(Counts((HEADS,) * LAYERS))
TOLERANCE = 1e-4
LENGTHS = (9, 4, 6, 9, 3)


def hugging_face(**options: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(TOKENS),
        n_positions=12,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        initializer_range=0.3,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        attn_implementation="eager",
        **options,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(torch.randn_like(weight) * 0.3 + (".ln_" in name and name.endswith("weight")))
    return model


HF = hugging_face()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpt2")
    HF.save_pretrained(path)
    character_tokenizer(TOKENS).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> ProbedModel:
    model = ProbedModel.from_pretrained(folder)
    assert isinstance(model.backend, GPT2Backend)
    return model


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def inputs(side: str = "right", seed: int = 0) -> Tensor:
    """Random inputs of several lengths, BOS … EOS, padded on one side: ``[5, 9]``."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.full((len(LENGTHS), max(LENGTHS)), PAD)
    for row, length in zip(rows, LENGTHS, strict=True):
        body = torch.randint(0, 8, (length - 2,), generator=generator)
        ids = torch.cat([torch.tensor([BOS]), body, torch.tensor([EOS])])
        row[(slice(0, length) if side == "right" else slice(len(row) - length, None))] = ids
    return rows


def real_places(tokens: Tensor) -> Tensor:
    return tokens != PAD


@torch.no_grad()
def expected(tokens: Tensor, model: GPT2LMHeadModel = HF) -> tuple[dict[Site, Tensor], Tensor, list[Tensor]]:
    """Run Hugging Face's model with hooks; return each site's activations, the logits and the attention patterns."""
    seen: dict[Site, Tensor] = {}
    handles = []
    for layer, block in enumerate(model.transformer.h):

        def before(kind: str, layer: int = layer) -> Callable[..., None]:
            return lambda module, args: seen.__setitem__(Site(layer, kind), args[0].clone())  # type: ignore[arg-type]

        def after(kind: str, layer: int = layer) -> Callable[..., None]:
            def keep(module: Any, args: Any, out: Any) -> None:
                seen[Site(layer, kind)] = (out[0] if isinstance(out, tuple) else out).clone()  # type: ignore[arg-type]

            return keep

        def heads(module: Any, args: Any, layer: int = layer) -> None:
            size = WIDTH // HEADS
            for h in range(HEADS):
                part = slice(h * size, (h + 1) * size)
                seen[Site(layer, "head", h)] = args[0][..., part] @ module.weight[part]

        handles += [
            block.register_forward_pre_hook(before("pre")),
            block.attn.c_proj.register_forward_pre_hook(heads),
            block.ln_2.register_forward_pre_hook(before("mid")),
            block.mlp.register_forward_hook(after("mlp")),
            block.register_forward_hook(after("post")),
        ]
    mask = real_places(tokens)
    places = (mask.long().cumsum(1) - 1).clamp(min=0)
    out = model(tokens, attention_mask=mask.long(), position_ids=places, output_attentions=True)
    for handle in handles:
        handle.remove()
    return seen, out.logits, list(out.attentions)


def everywhere(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.size(1)).expand(len(tokens), -1)


# -- activations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_every_site_is_hugging_faces(model: ProbedModel, side: str) -> None:
    tokens = inputs(side)
    real = real_places(tokens)
    wanted, _, _ = expected(tokens)
    assert model.sites == SITES
    assert set(wanted) == set(SITES)
    found = model.activations(tokens, SITES)
    for site, values in zip(SITES, found, strict=True):
        assert (values - wanted[site])[real].abs().max() <= TOLERANCE, site
        assert wanted[site][real].abs().max() > 0.01, f"{site} is too small to test anything"


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_single_site_at_a_single_position_is_the_same(model: ProbedModel, side: str) -> None:
    """The last needed layer is computed at the asked positions only; the answer must not depend on that."""
    tokens = inputs(side)
    wanted, _, _ = expected(tokens)
    real = real_places(tokens)
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(tokens.shape, generator=generator).masked_fill(~real, -1)
    positions = scores.topk(2, dim=1).indices  # in no order
    for site in SITES:
        found = model.activations(tokens, [site], positions)
        rows = torch.arange(len(tokens))[:, None]
        assert found.shape == (1, len(tokens), 2, WIDTH)
        assert (found[0] - wanted[site][rows, positions]).abs().max() <= TOLERANCE, site


def test_sites_come_in_the_order_they_are_asked_for(model: ProbedModel) -> None:
    tokens = inputs()
    asked = [SITES[-1], SITES[3], SITES[0], SITES[7]]
    found, everything = model.activations(tokens, asked), model.activations(tokens, SITES)
    real = real_places(tokens)
    for site, values in zip(asked, found, strict=True):
        assert torch.allclose(values[real], everything[SITES.index(site)][real], atol=1e-6)


def test_heads_and_mlp_sum_up_the_residual_stream(model: ProbedModel) -> None:
    """x^mid = x^pre + Σ a^h + the bias of W_O, and x^post = x^mid + m."""
    tokens = inputs()
    real = real_places(tokens)
    z = dict(zip(SITES, model.activations(tokens, SITES), strict=True))
    for layer in range(LAYERS):
        bias = HF.transformer.h[layer].attn.c_proj.bias
        heads = sum(z[Site(layer, "head", h)] for h in range(HEADS))
        assert torch.allclose((z[Site(layer, "pre")] + heads + bias)[real], z[Site(layer, "mid")][real], atol=1e-4)
        assert torch.allclose((z[Site(layer, "mid")] + z[Site(layer, "mlp")])[real], z[Site(layer, "post")][real], atol=1e-4)


@pytest.mark.parametrize("options", [{"activation_function": "relu"}, {"n_inner": 24}, {"layer_norm_epsilon": 0.1}])
def test_options_of_the_configuration_count(tmp_path: Path, options: dict[str, Any]) -> None:
    other = hugging_face(**options)
    other.save_pretrained(tmp_path)
    tokens = inputs()
    wanted, logits, _ = expected(tokens, other)
    backend, real = GPT2Backend.from_folder(tmp_path), real_places(tokens)
    found = backend.activations(tokens, real, SITES, everywhere(tokens))
    for site, values in zip(SITES, found, strict=True):
        assert (values - wanted[site])[real].abs().max() <= TOLERANCE, site
    assert (backend.logits(tokens, real) - logits)[real].abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    "options",
    [{"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}, {"activation_function": "silu"}],
)
def test_a_gpt2_that_would_not_be_run_faithfully_is_not_claimed(tmp_path: Path, options: dict[str, Any]) -> None:
    hugging_face(**options).save_pretrained(tmp_path)
    assert not GPT2Backend.reads(tmp_path)


# -- harvest -----------------------------------------------------------------------------------------------------------


def row_by_row(model: ProbedModel, tokens: Tensor, positions: np.ndarray) -> Tensor:
    """What ``harvest`` must return: each input alone, without padding, through Hugging Face."""
    out = torch.empty(len(SITES), *positions.shape, WIDTH)
    for i, row in enumerate(tokens):
        alone, _, _ = expected(row[real_places(row)][None])
        for s, site in enumerate(SITES):
            out[s, i] = alone[site][0, positions[i]]
    return out


@pytest.mark.parametrize("budget", [6000, 20, 1])
def test_harvest_is_the_same_as_row_by_row(model: ProbedModel, monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr("inversionview.model.harvest.tokens_per_pass", lambda device, d_model=0: budget)
    tokens = inputs()
    rng = np.random.default_rng(0)
    positions = np.stack([rng.permutation(length)[:2] for length in LENGTHS])
    wanted = row_by_row(model, tokens, positions)
    found = model.harvest(tokens.numpy(), SITES, positions)
    assert found.dtype == torch.float32
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= TOLERANCE


def test_harvest_with_a_pick_reads_one_site_at_each_position(model: ProbedModel) -> None:
    tokens = inputs()
    rng = np.random.default_rng(1)
    positions = np.stack([rng.integers(0, length, size=3) for length in LENGTHS])
    pick = rng.integers(0, len(SITES), size=positions.shape)
    wanted = row_by_row(model, tokens, positions)
    found = model.harvest(tokens.numpy(), SITES, positions, pick)
    assert found.shape == (len(LENGTHS), 3, WIDTH)
    for i in range(len(LENGTHS)):
        for k in range(3):
            assert (found[i, k] - wanted[pick[i, k], i, k]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
def test_inputs_are_measured_as_the_definition_says(model: ProbedModel, kind: str) -> None:
    """D = min over BOS and all real positions but EOS; the other positions are at infinity."""
    tokens, site = inputs(), Site(1, "post")
    queries = torch.randn(len(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(6))
    per_token, nearest, position = distance_to(model, tokens, queries, site, kind)  # type: ignore[arg-type]
    activations = expected(tokens)[0][site].double()
    for i, length in enumerate(LENGTHS):
        q, z = queries[i].double(), activations[i, : length - 1]
        by_hand = (z - q).norm(dim=1) / q.norm() if kind == "euclidean" else 1 - (z @ q) / (z.norm(dim=1) * q.norm())
        assert torch.allclose(per_token[i, : length - 1].double(), by_hand, atol=1e-4)
        assert torch.isinf(per_token[i, length - 1 :]).all()
        assert float(nearest[i]) == pytest.approx(float(by_hand.min()), abs=1e-4)
        assert int(position[i]) == int(by_hand.argmin())


# -- logits and patching -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_are_hugging_faces(model: ProbedModel, side: str) -> None:
    tokens = inputs(side)
    _, wanted, _ = expected(tokens)
    assert (model.logits(tokens) - wanted)[real_places(tokens)].abs().max() <= TOLERANCE


def test_the_last_stream_normed_and_unembedded_is_the_logits(model: ProbedModel) -> None:
    tokens = inputs()
    activations, wanted, _ = expected(tokens)
    found = model.backend.unembed(model.backend.final_norm(activations[Site(LAYERS - 1, "post")]))
    assert (found - wanted)[real_places(tokens)].abs().max() <= TOLERANCE


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("site", SITES, ids=str)
def test_patching_with_own_values_changes_nothing(model: ProbedModel, side: str, site: Site) -> None:
    tokens = inputs(side)
    real = real_places(tokens)
    own = Patch(everywhere(tokens), model.activations(tokens, [site])[0])
    assert (model.logits(tokens, {site: own}) - model.logits(tokens))[real].abs().max() <= TOLERANCE


@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_whole_stream_of_another_input_gives_its_logits(model: ProbedModel, layer: int) -> None:
    tokens, other = inputs(seed=0), inputs(seed=5)
    real = real_places(tokens)
    for kind in ("pre", "post"):
        site = Site(layer, kind)  # type: ignore[arg-type]
        patch = Patch(everywhere(tokens), model.activations(other, [site])[0])
        patched = model.logits(tokens, {site: patch})
        assert (patched - model.logits(other))[real].abs().max() <= TOLERANCE
        assert (patched - model.logits(tokens))[real].abs().max() > 0.01


@torch.no_grad()
def intervened(tokens: Tensor, positions: Tensor, values: dict[Site, Tensor]) -> Tensor:
    """Hugging Face's logits where ``values`` replace activations at ``positions``, by hooks set here."""
    rows = torch.arange(len(tokens))[:, None]
    handles = []
    for site, value in values.items():
        block = HF.transformer.h[site.layer]

        def swap(x: Tensor, value: Tensor = value) -> Tensor:
            return x.index_put((rows, positions), value)

        def stream(module: Any, args: Any, swap: Any = swap) -> Any:
            return (swap(args[0]), *args[1:])

        def output(module: Any, args: Any, out: Any, swap: Any = swap) -> Any:
            return (swap(out[0]), *out[1:]) if isinstance(out, tuple) else swap(out)

        def head(module: Any, args: Any, out: Tensor, h: int = site.head or 0, swap: Any = swap) -> Tensor:
            part = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
            own = args[0][..., part] @ module.weight[part]
            return out - own + swap(own)

        if site.kind == "pre":
            handles.append(block.register_forward_pre_hook(stream))
        elif site.kind == "mlp":
            handles.append(block.mlp.register_forward_hook(output))
        elif site.kind == "post":
            handles.append(block.register_forward_hook(output))
        else:
            handles.append(block.attn.c_proj.register_forward_hook(head))
    out = HF(tokens, attention_mask=real_places(tokens).long()).logits
    for handle in handles:
        handle.remove()
    return out


@pytest.mark.parametrize("site", [s for s in SITES if s.kind != "mid"], ids=str)
def test_a_patch_is_the_intervention_in_hugging_face(model: ProbedModel, site: Site) -> None:
    tokens = inputs()
    positions = torch.tensor([[1, 2]] * len(LENGTHS))
    values = torch.randn(len(LENGTHS), 2, WIDTH, generator=torch.Generator().manual_seed(2))
    wanted = intervened(tokens, positions, {site: values})
    found = model.logits(tokens, {site: Patch(positions, values)})
    real = real_places(tokens)
    assert (found - wanted)[real].abs().max() <= TOLERANCE
    assert (found - model.logits(tokens))[real].abs().max() > 0.01
    assert torch.allclose(found[:, :1], model.logits(tokens)[:, :1], atol=1e-6), "an earlier position was changed"


def test_several_patches_act_together(model: ProbedModel) -> None:
    tokens = inputs()
    positions = torch.tensor([[1]] * len(LENGTHS))
    generator = torch.Generator().manual_seed(3)
    sites = [Site(0, "head", 1), Site(1, "head", 0), Site(1, "head", 1), Site(1, "mlp"), Site(2, "pre")]
    values = {site: torch.randn(len(LENGTHS), 1, WIDTH, generator=generator) for site in sites[:4]}
    found = model.logits(tokens, {site: Patch(positions, value) for site, value in values.items()})
    assert (found - intervened(tokens, positions, values))[real_places(tokens)].abs().max() <= TOLERANCE


def test_patching_between_attention_and_mlp_moves_the_stream_by_the_difference(model: ProbedModel) -> None:
    """x^mid and the sum of the heads differ by what a patch of one head adds, so the two patches must agree."""
    tokens = inputs()
    mid, head = Site(1, "mid"), Site(1, "head", 0)
    values = torch.randn(len(LENGTHS), tokens.size(1), WIDTH, generator=torch.Generator().manual_seed(4))
    z_mid, z_head = model.activations(tokens, [mid, head])
    by_head = model.logits(tokens, {head: Patch(everywhere(tokens), values)})
    by_mid = model.logits(tokens, {mid: Patch(everywhere(tokens), z_mid - z_head + values)})
    assert (by_head - by_mid)[real_places(tokens)].abs().max() <= TOLERANCE


@pytest.mark.parametrize("side", ["right", "left"])
def test_attention_patterns_are_hugging_faces(model: ProbedModel, side: str) -> None:
    tokens = inputs(side)
    _, _, wanted = expected(tokens)
    real = real_places(tokens)
    for layer in range(LAYERS):
        found = model.attention(tokens, layer).transpose(1, 2)[real]  # (real query, head, key)
        assert (found - wanted[layer].transpose(1, 2)[real]).abs().max() <= TOLERANCE
        assert torch.allclose(found.sum(-1), torch.ones(found.shape[:-1]), atol=1e-5)


# -- tokens of a model -------------------------------------------------------------------------------------------------


def test_distances_are_reached_anywhere_but_at_eos_and_padding(model: ProbedModel) -> None:
    tokens = torch.tensor([[BOS, 0, 1, EOS, PAD, PAD], [BOS, 3, EOS, PAD, PAD, PAD], [BOS, 0, 1, 2, 3, 4]])
    assert model.candidates(tokens).int().tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert model.mask(tokens).int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]


def test_bos_is_a_candidate_where_it_is_also_eos(copied: Path) -> None:
    path = copied / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bos_token": "E"}))
    tokenizer = json.loads((copied / "tokenizer.json").read_text())
    (copied / "tokenizer.json").write_text(json.dumps({**tokenizer, "post_processor": None}))
    both = ProbedModel.from_pretrained(copied)
    assert both.vocabulary.bos == both.vocabulary.eos == EOS
    tokens = torch.tensor([[EOS, 0, 1, EOS, PAD], [EOS, 2, EOS, PAD, PAD]])
    assert both.candidates(tokens).int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]


def test_texts_are_encoded_up_to_the_longest_the_model_reads(model: ProbedModel) -> None:
    assert model.shape.max_length == 12
    assert model.encode("abcd") == [BOS, 0, 1, 2, 3, EOS]
    assert len(model.encode("a" * 10)) == 12
    with pytest.raises(InputError, match=r"13 .*12"):
        model.encode("a" * 11)


def test_the_shape_is_the_configurations(model: ProbedModel) -> None:
    assert model.shape.heads == (HEADS,) * LAYERS
    assert (model.shape.d_model, model.shape.vocabulary, model.shape.parallel) == (WIDTH, len(TOKENS), False)


# -- fingerprint -------------------------------------------------------------------------------------------------------


def fingerprint(folder: Path) -> str:
    return ProbedModel.from_pretrained(folder).fingerprint


def as_pickle(folder: Path, content: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


def test_the_fingerprint_does_not_depend_on_the_file_format(model: ProbedModel, copied: Path) -> None:
    assert fingerprint(copied) == model.fingerprint
    as_pickle(copied, load_file(copied / "model.safetensors"))
    assert fingerprint(copied) == model.fingerprint


def test_the_fingerprint_of_a_state_dict_with_its_tied_head_is_the_same(model: ProbedModel, copied: Path) -> None:
    """``torch.save(model.state_dict())`` writes the tied output head once more; it is the same model."""
    as_pickle(copied, HF.state_dict())
    again = ProbedModel.from_pretrained(copied)
    assert torch.equal(again.logits(inputs()), model.logits(inputs()))
    assert again.fingerprint == model.fingerprint


def test_any_single_weight_changes_the_fingerprint(model: ProbedModel, copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    seen = {model.fingerprint}
    for name, weight in weights.items():
        changed = weight.clone()
        changed.view(-1)[-1] += 1e-3
        save_file({**weights, name: changed}, copied / "model.safetensors")
        seen.add(fingerprint(copied))
    assert len(seen) == len(weights) + 1
    assert all(len(each) == 16 and set(each) <= set("0123456789abcdef") for each in seen)


def test_an_output_head_of_its_own_is_used_and_fingerprinted(model: ProbedModel, copied: Path) -> None:
    other = hugging_face(tie_word_embeddings=False)
    other.save_pretrained(copied)
    untied = ProbedModel.from_pretrained(copied)
    tokens = inputs()
    _, wanted, _ = expected(tokens, other)
    assert (untied.logits(tokens) - wanted)[real_places(tokens)].abs().max() <= TOLERANCE
    assert untied.fingerprint != model.fingerprint


@pytest.mark.parametrize("stated", [True, None])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_head_that_differs_from_the_embedding_is_used_although_the_configuration_ties_them(
    copied: Path, stated: bool | None, pickled: bool
) -> None:
    """As transformers: where both are in the file, and not equal, the weights are believed."""
    other = hugging_face(tie_word_embeddings=False)
    other.save_pretrained(copied)
    config = json.loads((copied / "config.json").read_text())
    del config["tie_word_embeddings"]
    (copied / "config.json").write_text(json.dumps(config if stated is None else {**config, "tie_word_embeddings": stated}))
    if pickled:
        as_pickle(copied, load_file(copied / "model.safetensors"))
    plain = GPT2LMHeadModel.from_pretrained(copied, attn_implementation="eager").eval()
    assert not torch.equal(plain.lm_head.weight, plain.transformer.wte.weight)
    read, tokens = ProbedModel.from_pretrained(copied), inputs()
    assert isinstance(read.backend, GPT2Backend)
    real = real_places(tokens)
    sites, wanted, _ = expected(tokens, plain)
    assert (read.logits(tokens) - wanted)[real].abs().max() <= TOLERANCE
    assert (read.activations(tokens, [SITES[0]])[0] - sites[SITES[0]])[real].abs().max() <= TOLERANCE
    assert (wanted - expected(tokens)[1])[real].abs().max() > 0.1
    (copied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert read.fingerprint == fingerprint(copied)


# -- bad weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_truncated_weights_are_an_error(copied: Path, share: float) -> None:
    path = copied / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        ProbedModel.from_pretrained(copied)


def test_truncated_pickled_weights_are_an_error(copied: Path) -> None:
    as_pickle(copied, HF.state_dict())
    path = copied / "pytorch_model.bin"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
        ProbedModel.from_pretrained(copied)


@pytest.mark.parametrize("content", [{}, {"weight": torch.ones(2)}, {"model.embed_tokens.weight": torch.ones(11, 16)}])
def test_tensors_of_another_architecture_are_an_error(copied: Path, content: dict[str, Tensor]) -> None:
    save_file(content, copied / "model.safetensors")
    with pytest.raises(WeightsError):
        ProbedModel.from_pretrained(copied)


@pytest.mark.parametrize("missing", ["transformer.wte.weight", "transformer.ln_f.bias", "transformer.h.1.attn.c_attn.bias"])
def test_a_missing_tensor_is_named(copied: Path, missing: str) -> None:
    weights = load_file(copied / "model.safetensors")
    del weights[missing]
    save_file(weights, copied / "model.safetensors")
    with pytest.raises(WeightsError, match=missing.removeprefix("transformer.").replace(".", r"\.")):
        ProbedModel.from_pretrained(copied)


NAMES = sorted(HF.transformer.state_dict())


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith(("h.1", "h.2"))])
def test_a_tensor_of_the_wrong_size_is_an_error(copied: Path, name: str) -> None:
    weights = load_file(copied / "model.safetensors")
    weight = weights[f"transformer.{name}"]
    weights[f"transformer.{name}"] = torch.cat([weight, weight[..., :1]], dim=-1)
    save_file(weights, copied / "model.safetensors")
    with pytest.raises(WeightsError):
        ProbedModel.from_pretrained(copied)


@pytest.mark.parametrize(
    "setting",
    [{"n_embd": 32}, {"n_layer": 4}, {"n_layer": 2}, {"n_head": 3}, {"n_inner": 32}, {"vocab_size": 20}, {"n_positions": 6}],
    ids=str,
)
def test_weights_that_are_not_what_the_configuration_states_are_an_error(copied: Path, setting: dict[str, int]) -> None:
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    with pytest.raises(WeightsError):
        ProbedModel.from_pretrained(copied)


ALIASES = {v: k for k, v in GPT2Config.attribute_map.items()}
SIZES = {"vocab_size": len(TOKENS), "n_positions": 12, "n_embd": 12, "n_layer": 2, "n_head": 2}


@pytest.mark.parametrize("left_out", [["n_layer"], ["n_head", "n_positions"], ["vocab_size"], ["n_embd"], []])
@pytest.mark.parametrize("renamed", [[], ["n_layer", "n_embd"], list(ALIASES)])
def test_sizes_by_default_and_by_other_names(tmp_path: Path, left_out: list[str], renamed: list[str]) -> None:
    """A config.json as GPT2Config reads it: what it leaves out is GPT-2's, and an alias is as good as the name."""
    sizes = {key: value for key, value in SIZES.items() if key not in left_out}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3)).save_pretrained(tmp_path)
    character_tokenizer(TOKENS).save_pretrained(tmp_path)
    stated = {ALIASES[key] if key in renamed else key: value for key, value in sizes.items()}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **stated}), encoding="utf-8")
    plain = GPT2LMHeadModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tokens = torch.tensor([[BOS, 0, 1, 2, 3]])
    read = GPT2Backend.from_folder(tmp_path)
    assert (read.logits(tokens, None) - plain(tokens).logits).abs().max() <= TOLERANCE
    config = plain.config
    assert read.shape.heads == (config.n_head,) * config.n_layer
    assert (read.shape.d_model, read.shape.max_length) == (config.n_embd, config.n_positions)


def test_of_a_size_stated_twice_the_other_name_counts(copied: Path) -> None:
    path = copied / "config.json"
    stated = {**json.loads(path.read_text()), "n_head": 4, "num_attention_heads": HEADS}
    path.write_text(json.dumps(stated))
    assert GPT2LMHeadModel.from_pretrained(copied).config.n_head == HEADS
    tokens = inputs()
    assert ProbedModel.from_pretrained(copied).shape.heads == (HEADS,) * LAYERS
    assert (ProbedModel.from_pretrained(copied).logits(tokens) - expected(tokens)[1])[
        real_places(tokens)
    ].abs().max() <= TOLERANCE


@pytest.mark.parametrize("value", [None, "3", 2.5, [], -1, 0, 10**12])
@pytest.mark.parametrize("key", ["n_layer", "n_head", "num_attention_heads", "vocab_size", "layer_norm_epsilon"])
def test_a_size_that_is_none_is_said(copied: Path, key: str, value: Any) -> None:
    if (key, value) == ("layer_norm_epsilon", 0):
        return
    path = copied / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(WeightsError) as error:
        ProbedModel.from_pretrained(copied)
    assert "truncated" not in str(error.value)


@pytest.mark.parametrize("value", [None, [], {}, "gelu_none"])
def test_an_activation_function_that_is_none_is_an_error(copied: Path, value: Any) -> None:
    path = copied / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "activation_function": value}))
    with pytest.raises(WeightsError):
        ProbedModel.from_pretrained(copied)


@pytest.mark.parametrize(
    "more", [{"quantization_config": {"quant_method": "gptq", "bits": 4}}, {"auto_map": {"AutoModelForCausalLM": "m.M"}}]
)
def test_weights_in_another_form_or_with_their_own_code_are_not_run_plainly(copied: Path, more: dict[str, Any]) -> None:
    assert GPT2Backend.reads(copied)
    path = copied / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    assert not GPT2Backend.reads(copied)
    if "auto_map" in more:  # transformers runs its own GPT-2, where that code is not trusted
        tokens = inputs()
        assert (ProbedModel.from_pretrained(copied).logits(tokens) - expected(tokens)[1])[
            real_places(tokens)
        ].abs().max() <= 1e-3
    else:
        with pytest.raises(WeightsError):
            ProbedModel.from_pretrained(copied)


class Executes:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("hidden", [False, True])
def test_pickled_code_is_refused_not_run(copied: Path, hidden: bool) -> None:
    mark = copied / "executed"
    as_pickle(copied, {**HF.state_dict(), "extra": Executes(mark)} if hidden else Executes(mark))
    with pytest.raises(WeightsError):
        ProbedModel.from_pretrained(copied)
    assert not mark.exists()
    torch.load(copied / "pytorch_model.bin", weights_only=False)
    assert mark.exists(), "the file would have run code, had it been let"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"model_type": "gpt2"}'])
def test_a_garbled_configuration_is_an_error(copied: Path, content: str) -> None:
    (copied / "config.json").write_text(content)
    with pytest.raises(WeightsError):
        ProbedModel.from_pretrained(copied)

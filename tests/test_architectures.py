"""Every site of every supported architecture, against a plain Hugging Face forward pass with hooks set here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from inversionview.core.errors import WeightsError
from inversionview.model.backend import Patch
from inversionview.model.bridge import BridgeBackend
from inversionview.model.sites.site import Site
from inversionview.model.soundness import Soundness, soundness
from inversionview.model.tokens import character_tokenizer

CHARACTERS = [*"abcdefghijklmnopqrstuvwxyzACDFGHIJKLMNOQRSTUVWXYZ0123456789 .,;:!?", "B", "E", "P"]
VOCABULARY = len(CHARACTERS)
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": VOCABULARY - 3,
    "eos_token_id": VOCABULARY - 2,
    "pad_token_id": VOCABULARY - 1,
}
GPT2_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": VOCABULARY - 3,
    "eos_token_id": VOCABULARY - 2,
}
GROUPED = {"num_key_value_heads": 2}
OWN_HEAD = {"num_key_value_heads": 2, "head_dim": 16}
"""4 heads of 16 dimensions in a model of width 32."""
LENGTH = 9


@dataclass(frozen=True)
class Architecture:
    """Where an architecture's Hugging Face modules keep the quantities: names inside a block."""

    name: str
    options: dict[str, Any]
    blocks: str = "model.layers"
    output: str = "self_attn.o_proj"
    """The linear map W_O."""
    mid: str | None = "post_attention_layernorm"
    """Whose input is x.mid."""
    mlp: str = "mlp"
    """Whose output is added to the residual stream."""
    scale: float = 1.0
    """Times what attention and MLP give, it is what is added."""
    length: int = 64
    """Longest input; where the configuration knows none, TransformerLens' 2048."""

    def model(self) -> Any:
        """A random model with weights, biases and gains far from their defaults."""
        config = getattr(transformers, f"{self.name}Config")(**self.options)
        torch.manual_seed(0)
        suffix = "LMHeadModel" if self.name == "GPT2" else "ForCausalLM"
        model = getattr(transformers, self.name.removesuffix("Text") + suffix)(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(torch.randn_like(weight) * 0.2 + (weight if weight.ndim == 1 else 0))
        return model


_SANDWICH = {"mid": "pre_feedforward_layernorm", "mlp": "post_feedforward_layernorm"}
_NEOX = {"blocks": "gpt_neox.layers", "output": "attention.dense"}
_SLIDING = {**SIZES, **OWN_HEAD, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
_UNBOUNDED = 2048
_NAMED = {"bos_token_id": VOCABULARY - 3, "eos_token_id": VOCABULARY - 2, "vocab_size": VOCABULARY}
_BLOOM = {**_NAMED, "hidden_size": 32, "n_layer": 2, "n_head": 4}
_MPT = {**_NAMED, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "expansion_ratio": 2}
_OPT = {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": True}
_OPT_NAMES = {"blocks": "model.decoder.layers", "output": "self_attn.out_proj", "mid": "final_layer_norm", "mlp": "fc2"}
_FALCON = {**_NAMED, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "bias": True}
_FALCON_NAMES = {"blocks": "transformer.h", "output": "self_attention.dense", "length": _UNBOUNDED}
_EXPERTS = {"num_experts_per_tok": 2}
_QWEN_EXPERTS = {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 24, "decoder_sparse_step": 1}
_GPT_NEO = {
    **_NAMED, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
    "window_size": 4, "max_position_embeddings": 64, "intermediate_size": 48,
}  # fmt: skip
ARCHITECTURES = {
    "gpt2": Architecture("GPT2", GPT2_SIZES, "transformer.h", "attn.c_proj", "ln_2"),
    "llama": Architecture("Llama", {**SIZES, **GROUPED, "attention_bias": True, "mlp_bias": True}),
    "mistral": Architecture("Mistral", {**SIZES, **GROUPED, "sliding_window": 4}),
    "qwen2": Architecture("Qwen2", {**SIZES, **GROUPED}),
    "qwen3": Architecture("Qwen3", {**SIZES, **OWN_HEAD}),
    "gemma": Architecture("Gemma", {**SIZES, **OWN_HEAD}),
    "gemma2": Architecture("Gemma2", {**_SLIDING, "query_pre_attn_scalar": 16}, **_SANDWICH),
    "gemma3": Architecture("Gemma3Text", {**_SLIDING, "query_pre_attn_scalar": 16}, **_SANDWICH),
    "olmo2": Architecture("Olmo2", SIZES, mid="mlp", mlp="post_feedforward_layernorm"),
    "pythia": Architecture("GPTNeoX", {**SIZES, "use_parallel_residual": True}, **_NEOX, mid=None),
    "neox_unbiased": Architecture("GPTNeoX", {**SIZES, "attention_bias": False}, **_NEOX, mid=None),
    "neox_sequential": Architecture("GPTNeoX", {**SIZES, "use_parallel_residual": False}, **_NEOX),
    "gptj": Architecture("GPTJ", {**GPT2_SIZES, "rotary_dim": 4}, "transformer.h", "attn.out_proj", None),
    "bloom": Architecture(
        "Bloom", _BLOOM, "transformer.h", "self_attention.dense", mlp="mlp.dense_4h_to_h", length=_UNBOUNDED
    ),
    "mpt": Architecture("Mpt", _MPT, "transformer.blocks", "attn.out_proj", "norm_2", "ffn.down_proj"),
    "opt": Architecture("OPT", _OPT, **_OPT_NAMES),
    "opt_projected": Architecture("OPT", {**_OPT, "word_embed_proj_dim": 16}, **_OPT_NAMES),
    "stablelm": Architecture("StableLm", {**SIZES, **GROUPED, "partial_rotary_factor": 0.5}),
    "stablelm_parallel": Architecture("StableLm", {**SIZES, **GROUPED, "use_parallel_residual": True}, mid=None),
    "falcon_parallel": Architecture("Falcon", {**_FALCON, "multi_query": True}, **{**_FALCON_NAMES, "mid": None}),
    "falcon_sequential": Architecture("Falcon", {**_FALCON, "multi_query": False, "parallel_attn": False}, **_FALCON_NAMES),
    "falcon_alibi": Architecture(
        "Falcon", {**_FALCON, "multi_query": False, "parallel_attn": False, "alibi": True}, **_FALCON_NAMES
    ),
    "falcon_new": Architecture(
        "Falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}, **_FALCON_NAMES, mid=None
    ),
    "phi": Architecture("Phi", {**SIZES, "partial_rotary_factor": 0.5}, output="self_attn.dense", mid=None),
    "phi3": Architecture("Phi3", {**SIZES, **GROUPED}),
    "mixtral": Architecture("Mixtral", {**SIZES, **GROUPED, **_EXPERTS, "num_local_experts": 4}),
    "qwen2_windows": Architecture(
        "Qwen2", {**SIZES, **GROUPED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    ),
    "qwen2_moe": Architecture("Qwen2Moe", {**SIZES, **GROUPED, **_QWEN_EXPERTS, "shared_expert_intermediate_size": 24}),
    "qwen3_moe": Architecture("Qwen3Moe", {**SIZES, **OWN_HEAD, **_QWEN_EXPERTS}),
    "granite": Architecture(
        "Granite", {**SIZES, **GROUPED, "residual_multiplier": 0.22, "embedding_multiplier": 12.0,
                    "attention_multiplier": 0.3, "logits_scaling": 4.0}, scale=0.22,
    ),
    "olmo": Architecture("Olmo", {**SIZES, **GROUPED}),
    "olmo3": Architecture("Olmo3", {**SIZES, **GROUPED, "sliding_window": 4}, mid="mlp", mlp="post_feedforward_layernorm"),
    "gpt_neo": Architecture("GPTNeo", _GPT_NEO, "transformer.h", "attn.attention.out_proj", "ln_2"),
    "cohere": Architecture("Cohere", {**SIZES, **GROUPED, "logit_scale": 0.25}, mid=None),
    "starcoder2": Architecture("Starcoder2", {**SIZES, **GROUPED, "sliding_window": 4, "use_bias": True}),
    "gpt_bigcode": Architecture("GPTBigCode", {**GPT2_SIZES, "multi_query": True}, "transformer.h", "attn.c_proj", "ln_2"),
    "cohere2": Architecture("Cohere2", {**SIZES, **GROUPED, "sliding_window": 4, "logit_scale": 0.25}, mid=None),
    "glm4": Architecture("Glm4", {**SIZES, **GROUPED, "head_dim": 8}, mid="post_attention_layernorm", mlp="post_mlp_layernorm"),
    "exaone4": Architecture(
        "Exaone4", {**SIZES, **GROUPED, "sliding_window": 4, "sliding_window_pattern": 2}, mid="mlp",
        mlp="post_feedforward_layernorm",
    ),
    "granitemoe": Architecture(
        "GraniteMoe", {**SIZES, **GROUPED, **_EXPERTS, "num_local_experts": 4, "residual_multiplier": 0.3},
        mlp="block_sparse_moe", scale=0.3,
    ),
    "olmoe": Architecture("Olmoe", {**SIZES, **_EXPERTS, "num_experts": 4}),
    "smollm3": Architecture("SmolLM3", {**SIZES, **GROUPED}),
    "gpt_oss": Architecture("GptOss", {**SIZES, **OWN_HEAD, **_EXPERTS, "num_local_experts": 4, "sliding_window": 4}),
}  # fmt: skip
"""What users have, and what public reports name."""


@dataclass
class Loaded:
    """A checkpoint on disk, loaded twice: through the bridge and as plain Hugging Face."""

    architecture: Architecture
    folder: Path
    backend: BridgeBackend
    plain: Any

    def block(self, layer: int) -> nn.Module:
        return self.plain.get_submodule(f"{self.architecture.blocks}.{layer}")

    def head(self, z: Tensor, site: Site) -> Tensor:
        """The output of a head from the input ``z`` of W_O, written out from the definition."""
        output = self.block(site.layer).get_submodule(self.architecture.output)
        w_o = output.weight.T if isinstance(output, nn.Linear) else output.weight
        width = w_o.size(0) // 4
        mine = slice(site.head * width, (site.head + 1) * width)
        return z[..., mine] @ w_o[mine]

    def reference(self, tokens: Tensor) -> dict[Site, Tensor]:
        """Every activation ``[batch, pos, d_model]`` of a plain forward pass without padding."""
        found: dict[Site, Tensor] = {}
        with contextmanager(self._reading)(found, (*tokens.shape, -1)), torch.no_grad():
            self.plain(tokens)
        return found

    def _reading(self, found: dict[Site, Tensor], shape: tuple[int, ...]) -> Iterator[None]:
        handles = []
        for layer in range(2):
            block = self.block(layer)
            inputs = {"pre": block, "head": block.get_submodule(self.architecture.output)}
            if self.architecture.mid:
                inputs["mid"] = block.get_submodule(self.architecture.mid)

            def before(_: Any, args: tuple, kwargs: dict, layer: int, kind: Any) -> None:
                x = args[0] if args else kwargs["hidden_states"]
                for head in range(4) if kind == "head" else [None]:
                    site = Site(layer, kind, head)
                    found[site] = self.head(x, site) if kind == "head" else x.view(shape).clone()

            def after(_: Any, args: tuple, out: Any, layer: int, kind: Any) -> None:
                whole = (out[0] if isinstance(out, tuple) else out).view(shape).clone()  # some MLPs see rows of tokens
                found[Site(layer, kind)] = whole * (self.architecture.scale if kind == "mlp" else 1)

            for kind, module in inputs.items():
                hook = _bind(before, layer=layer, kind=kind)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            mlp = block.get_submodule(self.architecture.mlp)
            handles.append(mlp.register_forward_hook(_bind(after, layer=layer, kind="mlp")))
            handles.append(block.register_forward_hook(_bind(after, layer=layer, kind="post")))
        yield
        for handle in handles:
            handle.remove()


def _bind(function: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    return lambda *args: function(*args, **fixed)


def save(architecture: Architecture, folder: Path) -> Any:
    model = architecture.model()
    model.save_pretrained(folder)
    character_tokenizer(CHARACTERS).save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    torch.set_num_threads(1)
    architecture = ARCHITECTURES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    save(architecture, folder)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    backend, _ = BridgeBackend.from_pretrained(str(folder))
    return Loaded(architecture, folder, backend, plain)


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    save(ARCHITECTURES["gpt2"], tmp_path)
    return tmp_path


def inputs(seed: int = 1, batch: int = 3) -> Tensor:
    return torch.randint(VOCABULARY - 3, (batch, LENGTH), generator=torch.Generator().manual_seed(seed))


def everywhere(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.size(1)).expand(len(tokens), -1)


def padded(tokens: Tensor, side: str) -> tuple[Tensor, Tensor, list[slice]]:
    """Cut the rows to lengths 9, 5 and 2, pad with an id outside the embedding; also where the real tokens are."""
    out, mask, real = torch.full_like(tokens, VOCABULARY), torch.zeros_like(tokens, dtype=torch.bool), []
    for row, length in enumerate([LENGTH, 5, 2]):
        here = slice(LENGTH - length, LENGTH) if side == "left" else slice(0, length)
        out[row, here], mask[row, here] = tokens[row, :length], True
        real.append(here)
    return out, mask, real


def assert_near(a: Tensor, b: Tensor) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 1e-4, f"largest difference {(a - b).abs().max()}, largest value {b.abs().max()}"


def test_shape(loaded: Loaded) -> None:
    shape = loaded.backend.shape
    parallel = loaded.architecture.mid is None
    length = loaded.architecture.length
    assert (shape.heads, shape.d_model, shape.vocabulary, shape.max_length) == ((4, 4), 32, VOCABULARY, length)
    assert shape.parallel == parallel
    assert loaded.backend.device == torch.device("cpu")


def test_weights_are_the_checkpoint_bit_for_bit(loaded: Loaded) -> None:
    weights = dict(loaded.backend.weights())
    own = dict(loaded.plain.named_parameters())
    assert sorted(weights) == list(weights) == sorted(own)
    assert all(torch.equal(weights[name], own[name]) for name in own)


def test_every_site_at_all_positions(loaded: Loaded) -> None:
    tokens, sites = inputs(), loaded.backend.shape.sites
    reference = loaded.reference(tokens)
    assert set(sites) == set(reference)
    found = loaded.backend.activations(tokens, None, sites, everywhere(tokens))
    for site, z in zip(sites, found, strict=True):
        assert z.std() > 0.02, f"{site} hardly varies: the comparison would mean nothing"
        assert_near(z, reference[site])


def test_heads_and_bias_add_up_to_the_attention_output(loaded: Loaded) -> None:
    tokens, outputs = inputs(), []
    output = loaded.block(1).get_submodule(loaded.architecture.output)
    handle = output.register_forward_hook(lambda _, args, out: outputs.append(out))
    with torch.no_grad():
        loaded.plain(tokens)
    handle.remove()
    heads = loaded.backend.activations(tokens, None, [Site(1, "head", h) for h in range(4)], everywhere(tokens))
    bias = torch.zeros(32) if output.bias is None else output.bias.detach()
    assert_near(heads.sum(0) + bias, outputs[0])


def test_chosen_sites_and_positions_in_the_order_asked(loaded: Loaded) -> None:
    tokens = inputs()
    sites = [Site(1, "head", 2), Site(0, "post"), Site(1, "head", 0), Site(0, "pre")]
    positions = torch.tensor([[8, 0], [3, 3], [5, 7]])
    found = loaded.backend.activations(tokens, None, sites, positions)
    reference = loaded.reference(tokens)
    assert_near(found, torch.stack([reference[s][torch.arange(3)[:, None], positions] for s in sites]))
    assert not found.requires_grad
    assert not found.is_inference()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(loaded: Loaded, side: str) -> None:
    tokens, sites = inputs(), loaded.backend.shape.sites
    batch, mask, real = padded(tokens, side)
    found = loaded.backend.activations(batch, mask, sites, everywhere(batch))
    logits = loaded.backend.logits(batch, mask)
    pattern = loaded.backend.attention(batch, mask, 1)
    for row, here in enumerate(real):
        alone = tokens[row : row + 1, : here.stop - here.start]
        reference = loaded.reference(alone)
        for site, z in zip(sites, found, strict=True):
            assert_near(z[row, here], reference[site][0])
        with torch.no_grad():
            plain = loaded.plain(alone, output_attentions=True)
        assert_near(logits[row, here], plain.logits[0])
        assert_near(pattern[row][:, here, here], plain.attentions[1][0])


def test_logits_and_attention(loaded: Loaded) -> None:
    tokens = inputs()
    with torch.no_grad():
        plain = loaded.plain(tokens, output_attentions=True)
    assert_near(loaded.backend.logits(tokens, None), plain.logits)
    for layer in range(2):
        assert_near(loaded.backend.attention(tokens, None, layer), plain.attentions[layer])


def test_the_last_stream_normed_and_unembedded_is_the_logits(loaded: Loaded) -> None:
    """Up to Gemma 2's soft cap, c tanh(logit / c), and the scales of Cohere and Granite."""
    tokens, config = inputs(), loaded.plain.config
    with torch.no_grad():
        plain = loaded.plain(tokens).logits
    found = loaded.backend.unembed(loaded.backend.final_norm(loaded.reference(tokens)[Site(1, "post")]))
    found = found * (getattr(config, "logit_scale", None) or 1) / getattr(config, "logits_scaling", 1)
    cap = getattr(config, "final_logit_softcapping", None)
    assert_near(cap * torch.tanh(found / cap) if cap else found, plain)
    assert not found.requires_grad


def test_stops_after_the_last_needed_layer(loaded: Loaded) -> None:
    tokens, runs = inputs(), []
    block = loaded.backend.bridge.blocks[1].original_component
    handle = block.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        before = [s for s in loaded.backend.shape.sites if s.layer == 0] + [Site(1, "pre")]
        loaded.backend.activations(tokens, None, before, everywhere(tokens))
        loaded.backend.attention(tokens, None, 0)
        assert runs == []
        loaded.backend.activations(tokens, None, [Site(1, "head", 0)], everywhere(tokens))
        assert runs == [1]
    finally:
        handle.remove()


def test_a_stopped_run_leaves_no_trace(loaded: Loaded) -> None:
    tokens = inputs()
    before = loaded.backend.logits(tokens, None)
    for site in loaded.backend.shape.sites:
        loaded.backend.activations(tokens, None, [site], everywhere(tokens))
    assert torch.equal(loaded.backend.logits(tokens, None), before)


def test_own_values_patch_nothing(loaded: Loaded) -> None:
    tokens, sites = inputs(), loaded.backend.shape.sites
    own = loaded.backend.activations(tokens, None, sites, everywhere(tokens))
    patches = {site: Patch(everywhere(tokens), z) for site, z in zip(sites, own, strict=True)}
    logits = loaded.backend.logits(tokens, None)
    for each in (patches, *({site: patch} for site, patch in patches.items())):  # a later one alone would hide an earlier
        assert_near(loaded.backend.logits(tokens, None, each), logits)
    assert torch.equal(loaded.backend.logits(tokens, None), logits)


def test_a_patched_residual_stream_is_the_other_input(loaded: Loaded) -> None:
    tokens, other = inputs(1), inputs(2)
    wanted = loaded.backend.logits(other, None)
    for site in loaded.backend.shape.sites:
        if site.kind in ("pre", "mid", "post"):
            z = loaded.backend.activations(other, None, [site], everywhere(other))[0]
            assert_near(loaded.backend.logits(tokens, None, {site: Patch(everywhere(tokens), z)}), wanted)


def test_a_patch_reaches_its_position_and_the_later_ones_alone(loaded: Loaded) -> None:
    tokens = inputs()
    clean = loaded.backend.logits(tokens, None)
    at = torch.full((3, 1), 4)
    for site in loaded.backend.shape.sites:
        changed = loaded.backend.logits(tokens, None, {site: Patch(at, torch.ones(3, 1, 32))})
        assert_near(changed[:, :4], clean[:, :4])
        assert (changed[:, 4] - clean[:, 4]).abs().max() > 1e-2, site


def test_patched_heads_are_a_plain_intervention(loaded: Loaded) -> None:
    """Heads 1 and 3 of layer 0 at two positions, against a hook on the Hugging Face module W_O."""
    tokens, heads, positions = inputs(), (1, 3), torch.tensor([[2, 6]] * 3)
    values = torch.randn(2, 3, 2, 32, generator=torch.Generator().manual_seed(3))
    patches = {Site(0, "head", h): Patch(positions, v) for h, v in zip(heads, values, strict=True)}

    def intervene(_: nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
        out = out.clone()
        for h, v in zip(heads, values, strict=True):
            out[:, [2, 6]] += v - loaded.head(args[0], Site(0, "head", h))[:, [2, 6]]
        return out

    handle = loaded.block(0).get_submodule(loaded.architecture.output).register_forward_hook(intervene)
    with torch.no_grad():
        wanted = loaded.plain(tokens).logits
    handle.remove()
    assert_near(loaded.backend.logits(tokens, None, patches), wanted)


def test_a_patched_mlp_is_a_plain_intervention(loaded: Loaded) -> None:
    tokens, values = inputs(), torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(4))

    def intervene(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        whole = (out[0] if isinstance(out, tuple) else out).view(3, LENGTH, 32)
        changed = torch.cat([whole[:, :5], values / loaded.architecture.scale, whole[:, 6:]], dim=1)
        return (changed, *out[1:]) if isinstance(out, tuple) else changed.view_as(out)

    handle = loaded.block(0).get_submodule(loaded.architecture.mlp).register_forward_hook(intervene)
    with torch.no_grad():
        wanted = loaded.plain(tokens).logits
    handle.remove()
    assert_near(loaded.backend.logits(tokens, None, {Site(0, "mlp"): Patch(torch.full((3, 1), 5), values)}), wanted)


def test_what_enters_adds_up_to_the_stream(loaded: Loaded) -> None:
    """x.pre, what the attention gives as it enters, and the MLP are x.post: by reference alone but for ``entering``."""
    tokens, backend = inputs(), loaded.backend
    reference = loaded.reference(tokens)
    for layer, given in enumerate(backend.attention_outputs(tokens, None, range(2), everywhere(tokens))):
        heads, bias = sum(reference[Site(layer, "head", head)] for head in range(4)), backend.b_o(layer)
        assert_near(given, heads if bias is None else heads + bias)
        enters = backend.entering(layer)
        parts = reference[Site(layer, "pre")] + (given if enters is None else enters(given)) + reference[Site(layer, "mlp")]
        assert_near(parts, reference[Site(layer, "post")])


def test_goes_on_from_what_was_run(loaded: Loaded) -> None:
    tokens = inputs()
    with torch.no_grad():
        plain = loaded.plain(tokens).logits
    begun = loaded.backend.extend(tokens[:, :4], None, None)
    rest = loaded.backend.extend(tokens[:, 4:], begun.cache, Site(1, "post"))
    assert rest.logits is not None
    assert rest.activations is not None
    assert_near(rest.logits, plain[:, 4:])
    assert_near(rest.activations, loaded.reference(tokens)[Site(1, "post")][:, 4:])


def test_the_check_on_loading_finds_nothing(loaded: Loaded) -> None:
    assert soundness(loaded.backend, "it") == Soundness()


def test_from_memory_and_nothing_is_printed(gpt2: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backend, tokenizer = BridgeBackend.from_pretrained(str(gpt2))
    memory = BridgeBackend(ARCHITECTURES["gpt2"].model())
    assert tuple(capfd.readouterr()) == ("", "")
    assert tokenizer.encode("ab") == [VOCABULARY - 3, 0, 1, VOCABULARY - 2]
    assert torch.equal(memory.logits(inputs(), None), backend.logits(inputs(), None))


def test_dtype(gpt2: Path) -> None:
    backend, _ = BridgeBackend.from_pretrained(str(gpt2), dtype=torch.bfloat16)
    found = backend.activations(inputs(), None, [Site(1, "head", 0)], everywhere(inputs()))
    assert found.dtype == torch.bfloat16


def test_pickled_weights_without_code(gpt2: Path) -> None:
    safe, _ = BridgeBackend.from_pretrained(str(gpt2))
    torch.save(ARCHITECTURES["gpt2"].model().state_dict(), gpt2 / "pytorch_model.bin")
    (gpt2 / "model.safetensors").unlink()
    pickled, _ = BridgeBackend.from_pretrained(str(gpt2))
    assert torch.equal(pickled.logits(inputs(), None), safe.logits(inputs(), None))


class _Trap:
    """Leaves a file behind if it is unpickled without restrictions."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_pickled_code_is_not_run(gpt2: Path) -> None:
    weights = load_file(gpt2 / "model.safetensors")
    (gpt2 / "model.safetensors").unlink()
    torch.save(weights | {"transformer.wte.weight": _Trap(gpt2 / "mark")}, gpt2 / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"need code to be run: give them as model\.safetensors\.$"):
        BridgeBackend.from_pretrained(str(gpt2))
    assert not (gpt2 / "mark").exists()


def test_code_beside_the_weights_is_not_run(gpt2: Path) -> None:
    config = json.loads((gpt2 / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (gpt2 / "config.json").write_text(json.dumps(config))
    (gpt2 / "own.py").write_text(f"import os; os.mkdir({str(gpt2 / 'mark')!r})")
    with pytest.raises(WeightsError, match="Python code of its own: pass trust_remote_code=True"):
        BridgeBackend.from_pretrained(str(gpt2))
    assert not (gpt2 / "mark").exists()


def test_truncated_weights(gpt2: Path) -> None:
    file = gpt2 / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"truncated or not weights .*: copy or download them again\.$"):
        BridgeBackend.from_pretrained(str(gpt2))


def test_folder_without_weights(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no file named model\.safetensors.*: give a directory with config\.json"):
        BridgeBackend.from_pretrained(str(gpt2))


def test_foreign_weights(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    llama = tmp_path_factory.mktemp("foreign")
    save(ARCHITECTURES["llama"], llama)
    (gpt2 / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"not those of the GPT2LMHeadModel .*27 tensors .*: give both files"):
        BridgeBackend.from_pretrained(str(gpt2))


def test_weights_of_another_size(gpt2: Path) -> None:
    config = json.loads((gpt2 / "config.json").read_text()) | {"n_embd": 16}
    (gpt2 / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"28 tensors lack or differ in size"):
        BridgeBackend.from_pretrained(str(gpt2))


def test_folder_without_tokenizer(gpt2: Path) -> None:
    (gpt2 / "tokenizer.json").unlink()
    (gpt2 / "tokenizer_config.json").unlink()
    with pytest.raises(WeightsError, match=r"holds no tokenizer: put its tokenizer\.json"):
        BridgeBackend.from_pretrained(str(gpt2))


@pytest.mark.parametrize("name", ["{}/absent", "{}/absent.gguf", "./absent", "absent.gguf"])
def test_wrong_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=r"^There is no model at .*: give a Hugging Face directory"):
        BridgeBackend.from_pretrained(name.format(tmp_path))


def test_file_instead_of_folder(gpt2: Path) -> None:
    with pytest.raises(WeightsError, match="is a file: give the directory that holds it"):
        BridgeBackend.from_pretrained(str(gpt2 / "model.safetensors"))


def test_broken_gguf(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(WeightsError, match="truncated or not weights"):
        BridgeBackend.from_pretrained(str(tmp_path / "model.gguf"))


def test_architecture_without_these_sites() -> None:
    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(WeightsError, match=r"cannot lay open .* MambaForCausalLM .*: choose a causal LM"):
        BridgeBackend(transformers.MambaForCausalLM(config))

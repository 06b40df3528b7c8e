"""What single architectures need beside TransformerLens' adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge.generalized_components import NormalizationBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module


def opened(hf_model: Any, architecture: str) -> Any:
    """Return the ``TransformerBridge`` around a Hugging Face model, whose submodules become the bridge's.

    Raises:
        Exception: whatever TransformerLens raises where it has no adapter, or one that does not fit.
    """
    config = hf_model.config
    regrouped = bool(getattr(config, "new_decoder_architecture", False)) and config.model_type == "falcon"
    if regrouped:
        config.multi_query = False  # means nothing in this architecture, but TransformerLens goes by it

    def adapted(adapter: Any) -> None:
        parts = adapter.component_mapping
        if config.model_type == "opt" and hf_model.model.decoder.final_layer_norm is not None and "ln_final" not in parts:
            parts["ln_final"] = NormalizationBridge(name="model.decoder.final_layer_norm", config=adapter.cfg)
        if regrouped:
            groups = config.num_kv_heads
            parts["blocks"].submodules["attn"].split_qkv_matrix = _split(groups, config.num_attention_heads // groups)
        if config.model_type == "gpt_neox" and not config.attention_bias:  # TransformerLens counts on a bias
            parts["blocks"].submodules["attn"].split_qkv_matrix = _split(config.num_attention_heads, 1)

    return build_bridge_from_module(hf_model, architecture, hf_config=config, post_adapter_hook=adapted)


def _split(groups: int, each: int) -> Callable[[Any], tuple[nn.Linear, nn.Linear, nn.Linear]]:
    """Return what takes a fused matrix apart that holds, group by group, so many queries, a key and a value.

    As Falcon's in its new architecture; in GPT-NeoX's every head is a group.
    """

    def split(attention: Any) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        fused = attention.query_key_value
        weight = fused.weight.detach().unflatten(0, (groups, each + 2, -1))
        bias = None if fused.bias is None else fused.bias.detach().unflatten(0, (groups, each + 2, -1))
        parts = (slice(None, -2), slice(-2, -1), slice(-1, None))
        queries, keys, values = (
            _linear(weight[:, part].flatten(0, 2), None if bias is None else bias[:, part].flatten()) for part in parts
        )
        return queries, keys, values

    return split


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.size(1), weight.size(0), bias=bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear

"""A plain GPT-2 or Llama in memory, run by ``gpt2.py`` or ``llama.py`` on the model's own weights.

A bridge takes seconds to import and to open, and splits GPT-2's matrices into copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from inversionview.model.backend import Shape
from inversionview.model.gpt2 import GPT2Backend
from inversionview.model.gpt2_files import faithful
from inversionview.model.kept import KeptBackend
from inversionview.model.sites.site import Site
from inversionview.model.steady import steady_length

if TYPE_CHECKING:
    from inversionview.model.bridge import BridgeBackend

_PLAIN = frozenset({"Linear", "Embedding", "Dropout", "SiLU", "SiLUActivation", "LlamaRMSNorm", "LlamaRotaryEmbedding"})
_PLAIN |= {"Conv1D", "LayerNorm", "NewGELUActivation", "GELUTanh", "GELUActivation", "ReLU"}
"""The modules of a GPT-2 or Llama that hold no others."""
_NEAR = 1e-4


def plain_backend(tree: Any, tokens: Tensor, bridge: Callable[[], BridgeBackend]) -> Any | None:
    """Return a backend of a GPT-2 or Llama that has nothing of its own, and gives what the model gives; else ``None``.

    Args:
        tree: the model.
        tokens: on which both are run, ``[1, pos]``.
        bridge: opens what does the rest.
    """
    weights = dict(tree.named_parameters())
    single = all(type(weight) is nn.Parameter and weight.dtype == torch.float32 for weight in weights.values())
    if not single or not all(map(_is_plain, tree.modules())):
        return None
    detached = {name: weight.detach() for name, weight in weights.items()}
    made = _llama(tree, detached, bridge) or _gpt2(tree, detached)
    if made is None:
        return None
    with torch.no_grad():
        own = tree(tokens, output_hidden_states=True, use_cache=False)
        states = own.hidden_states
        places = torch.arange(tokens.size(1), device=tokens.device)[None]
        sites = [Site(layer, "pre") for layer in range(len(states) - 1)]
        ours = made.activations(tokens, None, sites, places)
        pairs = [*zip(ours, states[:-1], strict=True), (made.logits(tokens, None), own.logits)]
    return made if all(float((a - b).norm()) <= _NEAR * float(b.norm()) for a, b in pairs) else None


def _llama(tree: Any, weights: dict[str, Tensor], bridge: Callable[[], BridgeBackend]) -> Any | None:
    """Return a Llama over the weights of a model; ``None`` where it is no plain one."""
    if type(tree).__name__ != "LlamaForCausalLM":
        return None
    config = tree.config
    rotary = next((each for each in tree.modules() if type(each).__name__ == "LlamaRotaryEmbedding"), None)
    odd = config.hidden_act != "silu" or config.attention_bias or config.mlp_bias
    if rotary is None or odd or steady_length(tree) is not None:
        return None
    heads = (config.num_attention_heads,) * config.num_hidden_layers
    rows = tree.get_input_embeddings().weight.size(0)
    shape = Shape(heads, config.hidden_size, rows, config.max_position_embeddings)
    frequencies, scaling = rotary.inv_freq.float(), float(rotary.attention_scaling)
    return KeptBackend(shape, weights, frequencies, scaling, config.rms_norm_eps, bridge=bridge)


def _gpt2(tree: Any, weights: dict[str, Tensor]) -> GPT2Backend | None:
    """Return a GPT-2 over the weights of a model; ``None`` where it is no plain one."""
    if type(tree).__name__ != "GPT2LMHeadModel" or not faithful(config := tree.config.to_dict()):
        return None
    embedded = tree.get_input_embeddings().weight
    return GPT2Backend(config, weights, embedded.device, embedded.dtype)


def _is_plain(module: nn.Module) -> bool:
    """Return whether nothing was hung on a module or put in its place."""
    hung = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return not hung and (any(True for _ in module.children()) or type(module).__name__ in _PLAIN)

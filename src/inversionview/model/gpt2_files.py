"""The files of a GPT-2: ``config.json`` and ``model.safetensors`` (or ``pytorch_model.bin`` with ``weights_only``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inversionview.core.errors import WeightsError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}
"""By the names that config.json calls them."""
_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
_DEFAULTS: dict[str, Any] = {"n_embd": 768, "n_positions": 1024, "n_head": 12, "n_layer": 12, "vocab_size": 50257}
ADAPTER = "adapter_config.json"
"""By which a folder of PEFT is known: its weights are not those of the model alone."""


def readable(folder: Path) -> bool:
    """Return whether ``folder`` is a Hugging Face directory of a GPT-2 that ``gpt2.py`` runs faithfully."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(config, dict):
        return False
    if (folder / ADAPTER).exists():
        return False
    one_file = any((folder / name).exists() for name in ("model.safetensors", "pytorch_model.bin"))
    return faithful(config) and one_file


def faithful(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is that of a GPT-2 that ``gpt2.py`` runs faithfully."""
    plain = not config.get("scale_attn_by_inverse_layer_idx") and config.get("scale_attn_weights", True)
    known = config.get("activation_function", "gelu_new") in list(ACTIVATIONS)
    own = not config.get("quantization_config") and not config.get("auto_map")
    return config.get("model_type") == "gpt2" and bool(plain and known and own)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of weights; of a pickle nothing is run."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json with the sizes that it leaves to GPT-2's defaults, or states by the names other models have.

    Raises:
        WeightsError: one of them is no whole number.
    """
    found = {**_DEFAULTS, **config}
    found |= {own: config[other] for other, own in _ALIASES.items() if other in config}
    for key in _DEFAULTS:
        if not isinstance(found[key], int):
            raise WeightsError(f"Its config.json states a size of {found[key]!r} ({key}): it is damaged.")
    return found

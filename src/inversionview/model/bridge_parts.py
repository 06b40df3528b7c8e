"""Which inner parts of its layers a bridge lays open: queries, keys and values, neurons, the embedding and the last norm."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from inversionview.model.bridge_hooks import HookedBridge, Hooks
from inversionview.model.sites.kind import AFTER, Kind, Tap

_PARTS: dict[str, tuple[Kind, ...]] = {
    "attn_q": ("q",),
    "attn_k": ("k",),
    "attn_v": ("v",),
    "mlp_post": ("neurons", "neuron"),
    "embed": ("embed",),
    "ln_final": ("ln_final",),
}
"""Kinds of sites that are read at a tap which an architecture may hide."""
_WHY = {
    "attn_q": "this model does not make queries, keys and values by one matrix each in every layer",
    "mlp_post": "the MLPs of this model are not two matrices with neurons between them in every layer",
    "embed": "this model has no embedding that can be read by itself",
    "ln_final": "this model has no norm at its end",
}


def parts_of(model: HookedBridge) -> dict[str, Any]:
    """Return the fields of ``Shape`` that tell of a model's inner parts, from a run of one token."""
    found, size = _numbers(model), model.shape.widths.d_head
    keys = found.get("attn_k", 0)
    fits = {
        **{tap: tap in found for tap in _PARTS},
        "attn_q": found.get("attn_q") == model.shape.heads[0] * size,
        **{tap: keys > 0 and keys % size == 0 and found.get(tap) == keys for tap in ("attn_k", "attn_v")},
    }
    lacking = {kind: _WHY.get(tap, _WHY["attn_q"]) for tap, kinds in _PARTS.items() if not fits[tap] for kind in kinds}
    shared = keys // size if fits["attn_k"] else 0
    return {"shared": shared, "d_mlp": found.get("mlp_post", 0), "lacking": {**model.shape.lacking, **lacking}}


def _numbers(model: HookedBridge) -> dict[str, int]:
    """Return how many numbers pass each such tap, where they are as many in every layer."""
    seen: dict[str, list[int]] = defaultdict(list)
    hooks: Hooks = []
    layers = range(len(model.shape.heads))
    for name in _PARTS:
        for layer in layers if name not in ("embed", "ln_final") else [0 if name == "embed" else AFTER]:
            try:
                hooks.append((model.point(Tap(layer, name)), partial(_note, seen[name])))
            except AttributeError:
                seen[name].append(-1)

    model.run(torch.zeros(1, 1, dtype=torch.long, device=model.device), None, hooks)
    wanted = {name: 1 if name in ("embed", "ln_final") else len(layers) for name in _PARTS}
    return {name: n[0] for name, n in seen.items() if len(n) == wanted[name] and len(set(n)) == 1 and n[0] > 0}


def _note(found: list[int], value: Tensor, hook: Any) -> None:
    """Keep how many numbers pass a hook point for a token."""
    found.append(value[0, 0].numel())

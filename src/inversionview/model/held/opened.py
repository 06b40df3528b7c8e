"""The backend of a model in memory, over the weights of the user's object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inversionview.core.errors import WeightsError
from inversionview.model.backend import Backend
from inversionview.model.held.plain import plain_backend
from inversionview.model.held.shared import merge_adapters, shared
from inversionview.model.held.taken import is_adapted, is_bridge

if TYPE_CHECKING:
    from inversionview.model.bridge import BridgeBackend

_TRIED = 12
"""Tokens on which what is read is held against the model itself."""


def backend_of(model: Any, name: str) -> Backend:
    """Lay a model in memory open.

    Args:
        model: a causal LM of transformers, a ``PeftModel`` or a ``TransformerBridge``; it stays as it is.
        name: what it is called, for errors.

    Raises:
        WeightsError: its architecture cannot be laid open, or what is read is not what it computes.
    """
    if any(type(module).__name__ == "Linear8bitLt" for module in model.modules()):
        _settle(model)
    tree = shared(model).eval()
    device = next(tree.parameters()).device
    own = tree.original_model if is_bridge(tree) else tree
    rows = own.get_input_embeddings().weight.shape[0]
    tokens = torch.arange(_TRIED, device=device).remainder(rows)[None]
    plain = None if _has_adapters(tree) else plain_backend(tree, tokens, lambda: _bridge(tree))
    if plain is not None:
        return plain
    logits = _logits(tree, tokens)
    if _has_adapters(tree):
        backend = _adapted(tree, tokens, logits)
    else:
        backend = _bridge(tree.original_model, tree) if is_bridge(tree) else _bridge(tree)
    if not _same(backend.logits(tokens, None), logits):
        raise WeightsError(
            f"What is read of {name} is not what it computes: give the model without what changes its passes (prompts of PEFT, "
            "hooks)."
        )
    return backend


def _bridge(model: Any, opened: Any = None) -> BridgeBackend:
    """Return the bridge of a model; TransformerLens is imported where one is needed."""
    from inversionview.model.bridge import BridgeBackend

    return BridgeBackend(model, opened)


def _adapted(tree: Any, tokens: Tensor, logits: Tensor) -> Backend:
    """Return what reads a model through its adapters; where a bridge takes adapted matrices apart, these are merged."""
    base = tree.get_base_model() if is_adapted(tree) else tree
    spare = shared(base)
    try:
        made = _bridge(base)
        if _same(made.logits(tokens, None), logits):
            return made
    except WeightsError:
        pass
    merge_adapters(spare)
    return _bridge(spare)


def _has_adapters(tree: Any) -> bool:
    """Return whether layers of PEFT stand in a model, as in a ``PeftModel`` or after ``add_adapter`` of transformers."""
    return is_adapted(tree) or any(hasattr(module, "merged_adapters") for module in tree.modules())


@torch.no_grad()
def _logits(model: Any, tokens: Tensor) -> Tensor:
    out = model(tokens)
    found: Tensor = getattr(out, "logits", out)
    return found


def _same(ours: Tensor, theirs: Tensor) -> bool:
    near = torch.finfo(theirs.dtype).eps ** 0.5
    return ours.shape == theirs.shape and float((ours - theirs).norm()) <= near * float(theirs.norm())


@torch.no_grad()
def _settle(model: Any) -> None:
    """Run a model of 8-bit layers once: in their first pass these move their numbers from the weight into their state."""
    device = next(model.parameters()).device
    model(torch.zeros(1, 1, dtype=torch.long, device=device))

"""The last norm of a model, and the tokens that its logits are of."""

from __future__ import annotations

import torch

from inversionview.model.frozen_norm import FrozenNorm
from inversionview.model.probed import ProbedModel


def last_norm(model: ProbedModel) -> FrozenNorm:
    """Return the model's last norm."""
    return FrozenNorm(model.backend.final_norm, torch.empty(model.shape.d_model, device=model.device))


def token_count(model: ProbedModel) -> int:
    """Return how many tokens have logits; a model's vocabulary may have further rows that stand for no token."""
    return min(model.vocabulary.size, model.shape.vocabulary)

"""Up to which length of text a model's rotations of positions do not depend on that length: only the model itself can tell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SHORT = 16
"""Positions whose rotations are compared; no model scales them in so short a text."""


@torch.no_grad()
def steady_length(hf_model: Any) -> int | None:
    """Return up to which length of text the rotations of positions do not depend on that length; ``None``: up to any.

    Phi-3 (longrope) and models with dynamic scaling choose their frequencies by the length of the whole text. The model's own
    rotary embedding is asked: for a short text, for the longest, and where the answers differ, by bisection.
    """
    rotary = next((m for m in hf_model.modules() if type(m).__name__.endswith("RotaryEmbedding")), None)
    longest = getattr(hf_model.config, "max_position_embeddings", None)
    if rotary is None or longest is None:
        return None
    x = next(hf_model.parameters())

    def rotations(length: int) -> Tensor:
        return torch.stack(rotary(x, torch.arange(length, device=x.device)[None]))[:, :, :short]

    short = min(_SHORT, longest)
    try:
        wanted = rotations(short)
        low, high = short, longest + 1  # the same up to low, not known to be from high on
        if torch.equal(rotations(longest), wanted):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if torch.equal(rotations(middle), wanted) else (low, middle)
        rotations(short)  # leaves the frequencies of short texts
    except (
        TypeError,
        ValueError,
        AttributeError,
    ):  # asked otherwise, as those with several kinds of layers: none scales by length
        return None
    return low

"""The cross entropy of an output head, without a tensor of every token's logits over the whole vocabulary.

A language model's vocabulary makes the logits the widest tensor by far: 4,096 tokens × 49,152 × 4 bytes are 0.8 GB, and
as much again for the gradient. Here some rows at a time go through the head, the softmax and back, and only gradients
of the hidden states and of the head are kept.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

SMALL = 1024
"""Up to this vocabulary the logits are small, and PyTorch's own cross entropy is as quick (benchmarks/decoder_memory.py)."""
_LOGITS = 2**22
"""Logits that exist at once."""


def cross_entropy(
    hidden: Float[Tensor, "row width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, " row"] | Float[Tensor, "row vocabulary"],
    bias: Float[Tensor, " vocabulary"] | None = None,
) -> Float[Tensor, ""]:
    """Return −Σ log softmax(W h + b)[target], in nats; rows with a negative target do not count.

    Of a small vocabulary ``target`` may be a distribution for each row, or zeros.
    """
    if target.is_floating_point():
        return -(F.linear(hidden, weight, bias).float().log_softmax(-1) * target).sum()
    if len(weight) <= SMALL:
        return F.cross_entropy(F.linear(hidden, weight, bias).float(), target.clamp(min=-1), ignore_index=-1, reduction="sum")
    return chunked_cross_entropy(hidden, weight, target, bias)


def chunked_cross_entropy(
    hidden: Float[Tensor, "row width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, " row"],
    bias: Float[Tensor, " vocabulary"] | None = None,
    logits: int = _LOGITS,
) -> Float[Tensor, ""]:
    """Return the same as ``cross_entropy`` with about ``logits`` logits in memory at once, whatever the number of rows."""
    kept = target >= 0
    if not bool(kept.all()):
        hidden, target = hidden[kept], target[kept]
    loss: Tensor = _Chunked.apply(hidden, weight, bias, target, max(1, logits // len(weight)))
    return loss


class _Chunked(torch.autograd.Function):
    """The loss and, in the same sweep over chunks of rows, its gradients: d loss / d logits is softmax − one-hot."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, rows: int) -> Float[Tensor, ""]:
        wants = ctx.needs_input_grad
        exact = torch.promote_types(weight.dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        # one gradient for each input that needs it; that of the head is summed over chunks in full precision
        d_hidden = torch.empty_like(hidden) if wants[0] else None
        d_weight = torch.zeros_like(weight, dtype=exact) if wants[1] else None
        d_bias = torch.zeros_like(bias, dtype=exact) if bias is not None and wants[2] else None
        for start in range(0, len(hidden), rows):
            h, t = hidden[start : start + rows], target[start : start + rows, None]
            scores = F.linear(h, weight, bias).to(exact)
            norm = scores.logsumexp(1, keepdim=True)
            total += (norm - scores.gather(1, t)).sum()
            gap = scores.sub_(norm).exp_().scatter_add_(1, t, -torch.ones_like(norm))
            narrow = gap.to(weight.dtype)  # autocast takes what is wider
            if d_hidden is not None:
                d_hidden[start : start + rows] = narrow @ weight
            if d_weight is not None:
                d_weight += narrow.T @ h
            if d_bias is not None:
                d_bias += gap.sum(0)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.types = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        grads = (
            None if g is None else (g * outer[0].to(g.dtype)).to(kind)
            for g, kind in zip(ctx.saved_tensors, ctx.types, strict=True)
        )
        return (*grads, None, None)

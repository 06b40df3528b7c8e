"""The optimiser for both probed models and decoders: Muon for matrices, AdamW for the rest.

Muon (Jordan et al. 2024) replaces the momentum of each weight matrix by its nearest semi-orthogonal matrix. PyTorch's own
runs the Newton–Schulz iteration in bf16, which is emulated and slow on most CPUs; this one keeps the parameters' type and
iterates over all matrices of one shape as a single batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def orthogonalize(matrices: Float[Tensor, "batch rows cols"], steps: int = 5) -> Float[Tensor, "batch rows cols"]:
    """Return for each matrix approximately U Vᵀ of its SVD (singular values within about 0.7–1.2), by Newton–Schulz."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; for 2-D weights inside a network, not for embeddings or output heads."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update; matrices of one shape go through Newton–Schulz together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for shape, params in shapes.items():
                buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
                grads = [p.grad for p in params if p.grad is not None]
                torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
                moved = torch._foreach_lerp(grads, buffers, group["momentum"])
                update = orthogonalize(torch.stack(moved))
                if group["weight_decay"]:
                    torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_add_(params, list(update.unbind(0)), alpha=-group["lr"] * scale)


def build(model: nn.Module, *, muon_lr: float, adam_lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of hidden layers and AdamW for embeddings, the output head, gains and biases."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        outer = any(word in name for word in ("embed", "wte", "wpe", "lm_head", "sites"))
        (matrices if p.ndim == 2 and not outer else rest).append(p)
    return [
        Muon(matrices, lr=muon_lr, weight_decay=weight_decay),
        torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True),
    ]


def schedule(fraction: float, *, decay: float, warmup: float = 0.01) -> float:
    """Return the learning rate's multiplier at ``fraction`` of a run: short warm-up, constant, linear to 0 over ``decay``.

    >>> schedule(0.5, decay=0.4), schedule(0.8, decay=0.4)
    (1.0, 0.5)
    """
    rise = min(1.0, fraction / warmup) if warmup else 1.0
    fall = min(1.0, (1 - fraction) / decay) if decay else 1.0
    return round(max(0.0, min(rise, fall)), 12)


def rates(optimizers: Sequence[torch.optim.Optimizer]) -> list[list[float]]:
    """Return the learning rate of every parameter group."""
    return [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]


def set_rates(optimizers: Sequence[torch.optim.Optimizer], base: list[list[float]], factor: float) -> None:
    """Set every learning rate to ``factor`` times its base."""
    for optimizer, own in zip(optimizers, base, strict=True):
        for group, rate in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = rate * factor

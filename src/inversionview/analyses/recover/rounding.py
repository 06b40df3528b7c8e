"""How far a state may be from the one that its text gives: by the rounding of what was stored, and of what is computed.

A number rounded to the nearest of its type is off by at most u times itself (u = 2⁻²⁴, 2⁻¹¹, 2⁻⁸ for fp32, fp16, bf16), so a
vector rounded once is at D ≤ u from what it was. What is computed differs beside that by the order of its sums, which depends
on how many texts and tokens run together.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""From the coarsest."""
_UNIT = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}
_COMPUTED = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2, torch.float64: 1e-12}
"""D of the states of one text by runs of other batches and prefixes, by the type of the weights, with a margin: see
docs/recovery.md."""


def precision_of(states: Float[Tensor, "pos numbers"]) -> str:
    """Return the coarsest type that holds all numbers of some states as they are."""
    return next((name for name in ("bf16", "fp16") if torch.equal(rounded(states, name), states)), "fp32")


def rounded(states: Float[Tensor, "pos numbers"], precision: str) -> Float[Tensor, "pos numbers"]:
    """Return states as a file of a type holds them."""
    return states.to(TYPES[precision]).float()


def threshold(precision: str, weights: torch.dtype, noise: float, numbers: int) -> float:
    """Return the largest D at which a state is one that was rounded so, with noise of a relative size on it.

    Args:
        precision: of the states.
        weights: the type in which the model runs.
        noise: the length of what was added, relative to the state; normally distributed, it comes out longer at times.
        numbers: of a state.
    """
    return _UNIT[precision] + _COMPUTED[weights] + noise * (1 + 4 / (2 * numbers) ** 0.5)

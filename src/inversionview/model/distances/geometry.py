"""The two geometries that every distance between activations ends in, and the distance of an input to a query.

Pure functions on tensors; nothing here knows of models.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Geometry = Literal["euclidean", "cosine"]


def euclidean(query: Float[Tensor, "*#batch d_model"], z: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
    """Return the normalized Euclidean distance ‖z − z_q‖₂ / ‖z_q‖₂, in [0, ∞).

    Not symmetric: the scale is the query's. Scaling both vectors changes nothing. Computed from the difference itself,
    not from the expanded square, which would lose small distances to cancellation. A query of norm 0 is at 0 from itself
    and at infinity from all else. Huang et al. 2024, section 2.2.
    """
    gap = (z - query).norm(dim=-1)
    return torch.where(gap == 0, gap, gap / query.norm(dim=-1))


def cosine(query: Float[Tensor, "*#batch d_model"], z: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
    """Return 1 − cos(z_q, z), in [0, 2]; symmetric, blind to the vectors' lengths.

    Computed as ½‖ẑ − ẑ_q‖² with unit vectors, which stays accurate near 0, where 1 − ẑ·ẑ_q loses all digits.
    A vector of norm 0 is at ½ from any other. Huang et al. 2024, section 2.2.
    """
    unit, unit_query = (torch.nn.functional.normalize(v, dim=-1, eps=1e-30) for v in (z, query))
    return (unit - unit_query).norm(dim=-1).square() / 2


def between(
    geometry: Geometry, query: Float[Tensor, "*#batch d_model"], z: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch"]:
    """Return the distance of that geometry from the query activation to ``z``."""
    return (cosine if geometry == "cosine" else euclidean)(query, z)


def nearest_position(
    distances: Float[Tensor, "batch pos"], candidates: Bool[Tensor, "batch pos"]
) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Return D(z_q, x), the minimum over candidate positions, and the position where it is reached.

    Padding and EOS are never candidates, BOS and all other positions are (Huang et al. 2024, section 2.2). The first of
    equal positions wins. A row without candidates is at infinity.
    """
    masked = distances.masked_fill(~candidates, torch.inf)
    return torch.min(masked, dim=1)

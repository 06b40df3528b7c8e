"""Principal directions of some vectors, safe where they hardly differ."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def principal(
    z: Float[Tensor, "rows dim"],
) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"], Float[Tensor, "dim dim"]]:
    """Return the mean, the variances along the principal directions, ascending, and these directions as columns.

    In double precision: the covariance of vectors that are all but equal is denormal in single, on which LAPACK fails.
    """
    mean = z.double().mean(0)
    centred = z.double() - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(z))
    return mean.to(z.dtype), variances.clamp(min=0).to(z.dtype), directions.to(z.dtype)

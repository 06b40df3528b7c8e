"""Fit a decoder's whitening: the mean, principal directions and cells of each site's activations, before training."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core.principal import principal
from inversionview.decoder.pathway import Pathway, polar


@torch.no_grad()
def fit_site(pathway: Pathway, number: int, z: Float[Tensor, "rows d_model"], seed: int) -> None:
    """Set one site's mean and principal directions, its cells, and the whitening within each."""
    cells, rank = pathway.cells_mean.shape[1:]
    mean, variances, directions = principal(z)
    pathway.mean[number] = mean
    pathway.directions[number] = directions[:, -rank:].T
    pathway.rest[number] = variances[:-rank].mean().nan_to_num(0.0).sqrt() + _floor(z)
    pathway.cells_at[number], cell = clusters(polar(z), cells, seed)
    along = (z - mean) @ directions[:, -rank:]
    for c in cell.unique().tolist():
        mine = cell == c
        pathway.cells_mean[number, c], variances, axes = principal(along[mine])
        pathway.cells_whiten[number, c] = axes / (variances.sqrt() + _floor(z[mine])) @ axes.T


def _floor(z: Float[Tensor, "rows dim"]) -> Tensor:
    """Return 2 % of the mean norm, which is added to each standard deviation: what matters at ε = 0.1 is seen from the
    first step, what varies less is not blown up."""
    return 0.02 * z.norm(dim=-1).mean() + 1e-6


def clusters(
    points: Float[Tensor, "rows dim"], count: int, seed: int
) -> tuple[Float[Tensor, "count dim"], Int[Tensor, " rows"]]:
    """Return ``count`` centres by k-means (k-means++, 20 rounds), and the number of each point's nearest."""
    generator = torch.Generator().manual_seed(seed)
    centers = points[:1]
    while len(centers) < count:
        far = torch.cdist(points, centers).amin(1).square() + 1e-12
        centers = torch.cat([centers, points[torch.multinomial(far, 1, generator=generator)]])
    for _ in range(20):
        nearest = torch.cdist(points, centers).argmin(1)
        size = nearest.bincount(minlength=count)[:, None]
        total = torch.zeros_like(centers).index_add_(0, nearest, points)
        centers = torch.where(size > 0, total / size, centers)
    return centers, torch.cdist(points, centers).argmin(1)

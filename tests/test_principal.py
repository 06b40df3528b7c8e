"""Principal directions against their definition, and where vectors hardly differ."""

from __future__ import annotations

import pytest
import torch

from inversionview.core.principal import principal


@pytest.mark.parametrize("size", [1.0, 1e-22, 0.0])
@pytest.mark.parametrize("flush", [True, False])
def test_directions_diagonalise_the_covariance(size: float, flush: bool) -> None:
    x = 0.5 + size * torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2, 3, 4, 5, 6])
    torch.set_flush_denormal(flush)
    try:
        mean, variances, directions = principal(x)
        small = principal(size * 1e-20 * x)[2]  # a covariance far below the smallest normal number
    finally:
        torch.set_flush_denormal(False)
    torch.testing.assert_close(directions.T @ directions, torch.eye(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(small.T @ small, torch.eye(6), atol=1e-5, rtol=0)
    turned = (x - mean) @ directions
    torch.testing.assert_close(turned.T @ turned / 50, variances.diag(), atol=1e-4, rtol=1e-4)
    assert (variances.diff() >= 0).all()

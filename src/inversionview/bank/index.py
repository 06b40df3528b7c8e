"""The index of a slice of a bank (one site at one position): what is certainly farther than a radius, from few numbers.

Each vector is reduced to a *sketch* of ``WIDTH`` numbers: its coordinates along the slice's leading principal directions,
counted from the slice's mean, and the length of what is left. Two sketches are never farther apart than their vectors:
projecting on orthonormal directions shortens, and the lengths of two rests differ by no more than the rests do (reverse
triangle inequality). So a sketch outside the radius rules its vector out for sure; the others are measured themselves. The
sketches lie sorted along the first direction, so that a query looks at a window of them only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inversionview.core.principal import principal

WIDTH = 8
BLOCK = 4096
"""Sketches looked at together."""
_FEW = 4
"""Below so many queries a product of matrices does not pay."""
SLACK = 2e-3
"""Added to a radius, in units of the largest coordinate: rounding a sketch to fp16 moves it by at most √8 · 2⁻¹² = 7e-4,
and a squared distance between numbers up to 1 is off by some 1e-6 in fp32."""


class Index(NamedTuple):
    """The index of one slice; arrays may be memory-mapped."""

    sketches: npt.NDArray[np.float16]  # [rows, WIDTH], in units of ``scale``, sorted by the first column
    order: npt.NDArray[np.int32]  # [rows]: which row of the slice each is
    basis: npt.NDArray[np.float32]  # [WIDTH, d_model]: the mean, then orthonormal directions (zeros where there are fewer)
    scale: float
    """The largest coordinate."""
    present: int
    """How many rows have a vector at all; the others come last."""
    check: Callable[[int, int], None] | None = None
    """Raises unless the sketches from one row to before another are sound, and their ``order``; ``None``: they are."""


def sketch(x: Float[Tensor, "rows d_model"], basis: Float[Tensor, "width d_model"]) -> Float[Tensor, "rows width"]:
    """Return the sketch of each vector, not yet scaled."""
    centred = x - basis[0]
    along = centred @ basis[1:].T
    rest = (centred.square().sum(1) - along.square().sum(1)).clamp(min=0).sqrt()
    return torch.cat([along, rest[:, None]], dim=1)


def build(x: Float[Tensor, "rows d_model"], present: Bool[Tensor, " rows"]) -> Index:
    """Return the index of a slice; rows not ``present`` are never found."""
    basis = torch.zeros(WIDTH, x.size(1))
    some = x[present][:4096]
    if len(some):
        basis[0], _, directions = principal(some)
        count = min(WIDTH - 1, x.size(1))
        basis[1 : count + 1] = directions.T.flip(0)[:count]
    sketches = sketch(x, basis)
    scale = float(sketches[present].abs().max()) if len(some) else 0.0
    sketches = sketches / (scale or 1.0)
    key = sketches[:, 0].masked_fill(~present, torch.inf).numpy()
    order = np.argsort(key).astype(np.int32)
    halved = sketches.half().numpy()[order]
    return Index(halved, order, basis.numpy(), scale or 1.0, int(present.sum()))


def survivors(
    index: Index, queries: Float[Tensor, "query d_model"], radius: Float[Tensor, " query"]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield pairs (query, row of the slice) that the index cannot rule out; all pairs within ``radius`` are among them."""
    if not index.present or not len(queries):
        return
    wanted = sketch(queries, torch.from_numpy(index.basis)) / index.scale
    reach = radius / index.scale + SLACK
    first, last = _window(index, (wanted[:, 0] - reach).numpy(), (wanted[:, 0] + reach).numpy())
    step = int(last.max() - first.min()) if len(queries) < _FEW else 1  # few queries: their whole window at once
    lengths, limit = wanted.square().sum(1), reach.square()
    for block in range(int(first.min()), int(last.max()), max(step, 1)):
        active = torch.from_numpy(np.flatnonzero((first < block + step) & (last > block)))
        if not len(active):
            continue
        start, stop = block * BLOCK, min((block + step) * BLOCK, index.present)
        part = torch.from_numpy(index.sketches[start:stop]).float()
        if len(active) < _FEW:
            squared = torch.cdist(part, wanted[active], compute_mode="donot_use_mm_for_euclid_dist").square_()
        else:
            squared = torch.addmm(part.square().sum(1)[:, None] + lengths[active], part, wanted[active].T, alpha=-2)
        near = np.flatnonzero(squared.numpy() <= limit[active].numpy())
        rows, which = np.divmod(near, len(active))
        yield active.numpy()[which], index.order[start + rows].astype(np.int64)


def _window(
    index: Index, low: npt.NDArray[np.float32], high: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return for each query the range of blocks whose first coordinates may lie in its window; these are checked.

    And the block behind them: where first coordinates rise, one below the window and one above it, both sound, rule out all
    that lie before and behind.
    """
    edges = index.sketches[: index.present : BLOCK, 0].astype(np.float32)
    first, last = _blocks(edges, low, high)
    if index.check is not None:
        rising = bool((edges[1:] >= edges[:-1]).all())  # else one is damaged: which, is seen when all are checked
        start, stop = (int(first.min()), int(last.max()) + 1) if rising else (0, len(edges))
        index.check(start * BLOCK, min(stop * BLOCK, index.present))
    return first, last


def _blocks(
    edges: npt.NDArray[np.float32], low: npt.NDArray[np.float32], high: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return for each query the range of blocks, by their first coordinates."""
    first = np.maximum(np.searchsorted(edges, low, side="left") - 1, 0)
    return first, np.maximum(np.searchsorted(edges, high, side="right"), first)

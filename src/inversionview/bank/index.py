"""The index of a slice of a bank (one site at one position): each vector in few bytes, from which a search sees what is far.

A vector is reduced to a *sketch* at each of a few *levels*: its coordinates along the slice's leading principal directions V,
counted from the slice's mean, and the length of what is left, ρ = √(‖x‖² − ‖Vᵀx‖²). Two sketches are never farther apart than
their vectors: with ‖V‖ ≤ 1 (which is seen to; nothing else is asked of V) I − VVᵀ has no negative eigenvalue, ρ is a seminorm,
and ‖VᵀΔ‖² + (ρ(x) − ρ(q))² ≤ ‖VᵀΔ‖² + Δᵀ(I − VVᵀ)Δ = ‖Δ‖². So what is outside by its sketch is outside for sure.

Sketches are sorted by their first coordinate and cut into blocks of ``BLOCK``. In a block each coordinate is kept as a *plane*
of one byte per row, between the lowest and the highest value there. A block states by how much its rows' sketches are off:
what rounding to a byte moves, in full, and what fp32 does to the sketch at worst. ``scan.py`` tells how they are searched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inversionview.bank.measure import rounding
from inversionview.core.principal import principal
from inversionview.model.distances.metric import Metric

BLOCK = 128
"""Rows of a block."""
PLANE = BLOCK + 8
"""Bytes of a plane: a byte for each row, then step and lowest value in fp32: a row has ``step * byte + lowest``."""
EXTRA = 3
"""Planes of a level beside its coordinates: ρ, and half the squared length of the sketch, rounded down, in two bytes."""
EDGES = 6
"""Numbers of a block: lowest and highest first coordinate, a bound on all sketches, how far off these are at each level."""
UNIT = 2.0**-24
"""By how much rounding to fp32 moves a number, relative."""
_SAMPLE = 4096
"""Rows from which the principal directions are taken."""
_CHUNK = 32
"""Blocks indexed together."""


class Planes(NamedTuple):
    """How the planes of a slice are laid out: those of the first two levels of every block, then all blocks' of the third."""

    levels: tuple[int, ...]
    """Coordinates that each level has, of its own and of the levels before it."""
    near: int
    """Planes of a block of the first two levels."""
    far: int
    """And of the third."""

    @property
    def top(self) -> int:
        """The last of the levels that lie together."""
        return min(1, len(self.levels) - 1)

    def coordinates(self, level: int) -> slice:
        """Return which coordinates are a level's own."""
        return slice(self.levels[level - 1] if level else 0, self.levels[level])


def planes_of(width: int) -> Planes:
    """Return how vectors of ``width`` numbers are kept.

    Text's residual streams have 60 to 85 % of their variance in 64 directions; heads are searched well by half their numbers.
    """
    wanted = (7, 32) if width <= 128 else (7, 64, 128)
    levels = tuple(sorted({min(each, width) for each in wanted}))
    own = [count - before + EXTRA for count, before in zip(levels, (0, *levels), strict=False)]
    return Planes(levels, sum(own[:2]), sum(own[2:]))


def blocks_of(rows: int) -> int:
    """Return in how many blocks so many rows lie."""
    return -(-rows // BLOCK)


class Index(NamedTuple):
    """The index of one slice; arrays may be memory-mapped."""

    codes: npt.NDArray[np.uint8]  # [blocks * planes, PLANE], laid out as ``planes`` says
    edges: npt.NDArray[np.float32]  # [blocks, EDGES], in units of ``scale``
    order: npt.NDArray[np.int32]  # [rows]: which row of the slice each is
    basis: npt.NDArray[np.float32]  # [1 + coordinates, d_model]: the mean, then directions (zeros where there are fewer)
    scale: float
    """The largest distance from the mean."""
    present: int
    """How many rows have a vector at all; the others come last."""
    planes: Planes
    check: Callable[[str, int, int], None] | None = None
    """Raises unless ``codes`` or ``order`` are sound from one item to before another; ``None``: they are."""


def sketches(
    x: Float[Tensor, "rows d_model"], basis: Float[Tensor, "width d_model"], planes: Planes
) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows level"], Float[Tensor, "rows level"]]:
    """Return coordinates, ρ at each level, and by how much both together may be off; all in fp64, and not yet scaled.

    A product in fp32 sums d numbers one after the other at worst: each coordinate is off by d · 2⁻²⁴ · ‖x‖ at most (by next
    to nothing in fp64, which narrow vectors are taken in), their vector by √m times that, δ; ρ² by 2‖x‖δ + δ².
    """
    width, kind = x.size(1), torch.float64 if x.size(1) <= 256 or len(x) < 64 else torch.float32
    centred = x.to(kind) - basis[0].to(kind)
    along = (centred @ basis[1:].to(kind).T).double()
    square = centred.double().square().sum(1, keepdim=True)
    upto = along.square().cumsum(1)[:, [count - 1 for count in planes.levels]]
    rest = (square - upto).clamp(min=0).sqrt()
    length = square.sqrt()
    unit = UNIT if kind == torch.float32 else 2.0**-53
    off = length * (unit * (width + 4) * torch.tensor(planes.levels, dtype=torch.float64).sqrt())
    squared = 2 * length * off + off.square() + length.square() * unit * (width + 4)
    moved = torch.minimum(squared.sqrt(), squared / rest.clamp(min=1e-300))
    return along, rest, off + moved + length * UNIT  # in fp32 from here on


def build(
    stored: npt.NDArray[np.floating], present: npt.NDArray[np.bool_] | Bool[Tensor, " rows"], metric: Metric | None = None
) -> Index:
    """Return the index of a slice; rows not ``present`` are never found.

    Args:
        stored: the vectors.
        present: which rows have one.
        metric: how vectors are mapped before they are compared; of a cosine their directions alone are indexed. ``None``:
            they are compared as they are. Where rounding of the stored vectors weighs more after the map, the index allows
            for it.
    """
    metric = metric or Metric("euclidean")
    there = np.flatnonzero(np.asarray(present))
    rows, planes = len(stored), planes_of(stored.shape[1])
    basis = _basis(_vectors(stored, there[:_SAMPLE], metric)[0], planes.levels[-1])
    count = planes.levels[-1]
    table, off = np.zeros((len(there), count + len(planes.levels)), np.float32), np.zeros((len(there), len(planes.levels)))
    for start in range(0, len(there), _SAMPLE):
        part = slice(start, start + _SAMPLE)
        vectors, moved = _vectors(stored, there[part], metric)
        along, rest, error = sketches(vectors, basis, planes)
        table[part, :count], table[part, count:], off[part] = along, rest, error + moved
    lengths = np.sqrt(
        np.square(table[:, : planes.levels[0]], dtype=np.float64).sum(1) + np.square(table[:, count], dtype=np.float64)
    )
    scale = float(lengths.max(initial=0.0)) or 1.0
    order = np.argsort(table[:, 0], kind="stable")
    codes = np.zeros((blocks_of(rows) * (planes.near + planes.far), PLANE), np.uint8)
    edges = np.zeros((blocks_of(rows), EDGES), np.float32)
    far = blocks_of(rows) * planes.near
    for block in range(0, blocks_of(len(there)), _CHUNK):
        stop = min(block + _CHUNK, blocks_of(len(there)))
        own = order[np.arange(block * BLOCK, stop * BLOCK).clip(max=len(order) - 1)]  # the last row fills its block
        near, more, edges[block:stop] = _coded(table[own] / scale, off[own] / scale, planes)
        codes[block * planes.near : stop * planes.near] = near.reshape(-1, PLANE)
        codes[far + block * planes.far : far + stop * planes.far] = more.reshape(-1, PLANE)
    absent = np.flatnonzero(~np.asarray(present))
    numbers = np.concatenate([there[order], absent]).astype(np.int32)
    return Index(codes, edges, numbers, basis.numpy(), scale, len(there), planes)


def _vectors(
    stored: npt.NDArray[np.floating], rows: npt.NDArray[np.int64], metric: Metric
) -> tuple[Float[Tensor, "row width"], Float[Tensor, "row 1"] | float]:
    """Return what is indexed of some rows, and by how much a map makes the rounding of each weigh more than it did."""
    x = torch.from_numpy(np.asarray(stored[rows])).float()
    mapped = metric.mapped(x)
    moved = 0.0 if metric.elementwise else metric.moved(x, rounding(stored.dtype))[:, None].double()
    if not metric.cosine:
        return mapped, moved
    if not metric.elementwise:
        moved = 2 * moved / mapped.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    return torch.nn.functional.normalize(mapped, dim=-1, eps=1e-30), moved


def _basis(x: Float[Tensor, "rows d_model"], count: int) -> Float[Tensor, "width d_model"]:
    """Return mean and leading principal directions, as rows; none is longer than 1, nor is a sum of them longer than its
    coefficients."""
    out = torch.zeros(1 + count, x.size(1))
    if not len(x):
        return out
    if x.size(1) <= 2 * count:
        out[0], _, directions = principal(x)
        found = directions.T.flip(0)[:count].double()
    else:
        out[0] = x.double().mean(0)
        found = _leading(x - out[0], count)
    longest = float(torch.linalg.eigvalsh(found @ found.T).max()) ** 0.5 if len(found) else 1.0
    out[1 : 1 + len(found)] = found / (max(longest, 1.0) * (1 + 1e-6))
    return out


def _leading(centred: Float[Tensor, "rows d_model"], count: int) -> Float[Tensor, "count d_model"]:
    """Return about the leading principal directions: a random subspace, multiplied by the covariance twice."""
    scaled = centred / centred.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    space = torch.randn(centred.size(1), count + 8, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        space = torch.linalg.qr((scaled.T @ (scaled @ space)).double()).Q.float()
    within = (scaled @ space).double()
    _, turn = torch.linalg.eigh(within.T @ within)
    return (space.double() @ turn).T.flip(0)[:count]


def _coded(
    table: npt.NDArray[np.float32], off: npt.NDArray[np.float64], planes: Planes
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return the planes ``[block, plane, PLANE]`` of some blocks, of the first levels and of the last, and their edges."""
    count, number = planes.levels[-1], len(table) // BLOCK
    values = table.reshape(number, BLOCK, -1).transpose(0, 2, 1).astype(np.float64)
    off = off.reshape(number, BLOCK, -1)
    plane, decoded = _bytes(values)
    wrong, square, edges, parts = (decoded - values) ** 2, decoded**2, np.zeros((number, EDGES)), list[npt.NDArray[np.uint8]]()
    for level, upto in enumerate(planes.levels):
        rest = count + level
        half = (square[:, :upto].sum(1) + square[:, rest]) / 2
        parts += [plane[:, planes.coordinates(level)], plane[:, rest : rest + 1], _halves(half)]
        distance = np.sqrt(wrong[:, :upto].sum(1) + wrong[:, rest])
        edges[:, 3 + level] = (distance + off[:, :, level]).max(1)
    edges[:, 0] = (values[:, 0] - off[:, :, 0]).min(1)
    edges[:, 1] = (values[:, 0] + off[:, :, 0]).max(1)
    edges[:, 2] = np.sqrt(np.square(np.abs(decoded).max(2)).sum(1))
    edges[:, 1:] += np.abs(edges[:, 1:]) * 1e-6  # rounding to fp32 makes none too small
    edges[:, 0] -= np.abs(edges[:, 0]) * 1e-6
    together = np.concatenate(parts, axis=1)
    return together[:, : planes.near], together[:, planes.near :], edges.astype(np.float32)


def _bytes(values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Return planes of values ``[block, coordinate, BLOCK]``, and the values that these have."""
    lowest = values.min(2, keepdims=True).astype(np.float32)
    step = ((values.max(2, keepdims=True) - lowest) / 255).astype(np.float32)
    safe = np.where(step > 0, step, np.float32(1)).astype(np.float64)
    found = np.rint((values - lowest) / safe).clip(0, 255)
    return _packed(found, step, lowest), found * step.astype(np.float64) + lowest


def _halves(half: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return two planes ``[block, 2, PLANE]`` of numbers ``[block, BLOCK]``, whose sum is just below these."""
    lowest = np.nextafter(half.min(1, keepdims=True).astype(np.float32), np.float32(-np.inf))
    step = np.nextafter(((half.max(1, keepdims=True) - lowest) / 255).astype(np.float32), np.float32(np.inf))
    step = np.maximum(step, np.finfo(np.float32).tiny)
    high = np.floor((half - lowest) / step.astype(np.float64)).clip(0, 255)
    fine = (step / 256).astype(np.float32)
    low = np.floor((half - lowest - high * step) / np.maximum(fine, 1e-45).astype(np.float64)).clip(0, 255)
    return np.stack(
        [_packed(high[:, None], step[:, None], lowest[:, None])[:, 0],
         _packed(low[:, None], fine[:, None], np.zeros_like(fine[:, None]))[:, 0]], axis=1
    )  # fmt: skip


def _packed(
    found: npt.NDArray[np.float64], step: npt.NDArray[np.float32], lowest: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    out = np.empty((*found.shape[:2], PLANE), np.uint8)
    out[..., :BLOCK] = found
    out[..., BLOCK:] = np.concatenate([step, lowest], axis=2).view(np.uint8)
    return out

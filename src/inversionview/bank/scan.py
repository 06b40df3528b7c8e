"""The scan of an index: which rows cannot be ruled out, level by level.

A row is within reach of a query only if ‖ŝ − s_q‖ ≤ r + off, where ŝ is its sketch as kept, s_q the query's and ``off`` what its
block states: if ŝ·s_q − ½‖ŝ‖² ≥ ½(‖s_q‖² − (r + off)²). The left side is a sum over planes, each times a weight of the query's:
for one query the sum of "embeddings" kept as bytes, which torch has a kernel for; many queries share a product of matrices.
In fp32 a sum of n terms is off by n · 2⁻²⁴ times the sum of their absolute values at most, which the right side allows for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inversionview.bank.index import BLOCK, EXTRA, PLANE, UNIT, Index, Planes, sketches

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
FEW = 4
"""Below so many queries a product of matrices does not pay."""
_KERNEL = getattr(torch.ops.quantized, "embedding_bag_byte_rowwise_offsets", None)
_CHUNK = 32
"""Blocks that many queries look at together."""
_SUM, _MEASURE, _PRODUCT = 0.1, 4.0, 0.05
"""About what it takes, in ns: to sum one byte; to measure a vector, for each of its numbers; one number in a product."""


class _Asked(NamedTuple):
    """Queries as an index is asked."""

    weights: list[Float[Tensor, "query plane"]]
    """Of the planes of each level; the third's are added to the sums of the second."""
    square: Float[Tensor, "query level"]
    """Of the sketch's length."""
    reach: Float[Tensor, "query level"]
    """The radius and what the query's own sketch may be off."""
    size: Float[Tensor, " query"]
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    """Blocks in whose range of first coordinates the query's lies, within reach: from ``first`` to before ``last``."""

    def limits(self, index: Index, which: npt.NDArray[np.int64], level: int, blocks: slice | npt.NDArray[np.int64]) -> Tensor:
        """Return what the sums of a level must reach, ``[query, block]``, for some queries and blocks."""
        edges = torch.from_numpy(index.edges[blocks]).double()
        most, off = edges[:, 2], edges[:, 3 + level]
        square, reach, size = (each[which, None] for each in (self.square[:, level], self.reach[:, level], self.size))
        terms = 4 * (index.planes.levels[level] + 4 * EXTRA)
        wrong = terms * UNIT * (3 * size * most + 3 * most.square())
        limits = (square - (reach + off).square()) / 2 - wrong
        limits = limits - limits.abs() * 2 * UNIT
        return limits.masked_fill(size > 1e15, -torch.inf).float()  # beyond what fp32 sums: nothing is ruled out


def _asked(index: Index, queries: Float[Tensor, "query d_model"], radius: Float[Tensor, " query"]) -> _Asked:
    planes, minus = index.planes, torch.full((len(queries), 2), -1.0, dtype=torch.float64)
    along, rest, off = sketches(queries.double(), torch.from_numpy(index.basis), planes)
    along, rest, off = along / index.scale, rest / index.scale, off / index.scale
    # radius and unit vectors come in fp32
    reach = (radius.double() / index.scale * (1 + 1e-5))[:, None] + off
    reach = reach + queries.double().norm(dim=1, keepdim=True) / index.scale * UNIT * (queries.size(1) + 4)
    none, weights = torch.zeros(len(queries), EXTRA, dtype=torch.float64), []
    for level in range(len(planes.levels)):
        own = torch.cat([along[:, planes.coordinates(level)], rest[:, level : level + 1], minus], dim=1)
        if level == 1:
            own = torch.cat([along[:, planes.coordinates(0)], none, own], dim=1)
        if level == 2:
            own = torch.cat([-rest[:, 1:2], -minus, own], dim=1)
        weights.append(own.float())
    square = along.square().cumsum(1)[:, [count - 1 for count in planes.levels]] + rest.square()
    edges, used = index.edges.astype(np.float64), -(-index.present // BLOCK)
    low, high = ((along[:, 0] + sign * reach[:, 0]).numpy() for sign in (-1, 1))
    # lowest and highest rise but for what rounding does to them
    first = np.searchsorted(np.maximum.accumulate(edges[:used, 1]), low, side="left")
    last = np.searchsorted(np.minimum.accumulate(edges[:used, 0][::-1])[::-1], high, side="right")
    return _Asked(weights, square, reach, square.max(1).values.sqrt(), first, np.maximum(last, first))


def survivors(index: Index, queries: Float[Tensor, "query d_model"], radius: Float[Tensor, " query"]) -> Iterator[Pairs]:
    """Yield pairs (query, row of the slice) that the index cannot rule out; all pairs within ``radius`` are among them."""
    if not index.present or not len(queries):
        return
    asked = _asked(index, queries, radius)
    if len(queries) < FEW:
        for query in range(len(queries)):
            rows = _of_one(index, asked, query, queries.size(1))
            yield np.full(len(rows), query), rows
        return
    for start in range(int(asked.first.min()), int(asked.last.max()), _CHUNK):
        stop = min(start + _CHUNK, int(asked.last.max()))
        active = np.flatnonzero((asked.first < stop) & (asked.last > start))
        if len(active):
            yield _of_many(index, asked, active, slice(start, stop), queries.size(1))


def _of_one(index: Index, asked: _Asked, query: int, width: int) -> npt.NDArray[np.int64]:
    """Return the rows that one query cannot rule out."""
    planes, which = index.planes, np.array([query])
    blocks, level = np.arange(asked.first[query], asked.last[query]), planes.top
    if not len(blocks):
        return np.empty(0, dtype=np.int64)
    offsets = np.arange(planes.near)
    found = _sums(_codes(index, 0, blocks[0], blocks[-1] + 1), (blocks - blocks[0])[:, None] * planes.near + offsets,
                  asked.weights[level][query])  # fmt: skip
    keep = ~(found < asked.limits(index, which, level, slice(blocks[0], blocks[-1] + 1))[0, :, None])
    if planes.far:
        some = np.flatnonzero(keep.any(1).numpy())
        left = int(keep.sum())
        if left * width * _MEASURE / 10 > len(some) * BLOCK * planes.far * _SUM and len(some):
            more = blocks[some]
            near = _sums(_codes(index, 0, 0, blocks[-1] + 1), more[:, None] * planes.near + offsets[-EXTRA:],
                         asked.weights[2][query, :EXTRA])  # fmt: skip
            far = _sums(_codes(index, 1, more[0], more[-1] + 1), (more - more[0])[:, None] * planes.far + np.arange(planes.far),
                        asked.weights[2][query, EXTRA:])  # fmt: skip
            sums = found[some] + near + far
            keep[some] &= ~(sums < asked.limits(index, which, 2, more)[0, :, None])
    return _rows(index, int(blocks[0]), keep.numpy().reshape(-1).nonzero()[0])


def _of_many(index: Index, asked: _Asked, active: npt.NDArray[np.int64], blocks: slice, width: int) -> Pairs:
    """Return the pairs of some queries and the rows of some blocks that are left."""
    planes, count = index.planes, blocks.stop - blocks.start
    near = _codes(index, 0, blocks.start, blocks.stop).view(count, planes.near, PLANE)
    own = planes.levels[0] + EXTRA
    keep = ~(_product(near[:, :own], asked.weights[0][active]) < asked.limits(index, active, 0, blocks)[:, :, None])
    if planes.top and _pays(keep, planes.near, width):
        some = np.flatnonzero(keep.flatten(1).any(1).numpy())
        active, keep = active[some], keep[some]
        sums = _product(near, asked.weights[1][active])
        keep &= ~(sums < asked.limits(index, active, 1, blocks)[:, :, None])
        if planes.far and _pays(keep, planes.far, width):
            some = np.flatnonzero(keep.flatten(1).any(1).numpy())
            active, keep, sums = active[some], keep[some], sums[some]
            far = _codes(index, 1, blocks.start, blocks.stop).view(count, planes.far, PLANE)
            sums += _product(torch.cat([near[:, -EXTRA:], far], dim=1), asked.weights[2][active])
            keep &= ~(sums < asked.limits(index, active, 2, blocks)[:, :, None])
    which, places = np.divmod(np.flatnonzero(keep.numpy()), count * BLOCK)
    inside = places + blocks.start * BLOCK < index.present
    return active[which[inside]], _rows(index, blocks.start, places[inside])


def _pays(keep: Bool[Tensor, "query block row"], planes: int, width: int) -> bool:
    """Return whether it takes less to look at a level than to measure all that is left before it."""
    return int(keep.sum()) * width * _MEASURE > keep.numel() * planes * _PRODUCT


def _codes(index: Index, part: int, start: int, stop: int) -> Tensor:
    """Return the planes of some blocks, of the first two levels or of the third, ``[plane, PLANE]``; these are checked."""
    blocks, (_, near, far) = len(index.edges), index.planes
    first, each = (blocks * near, far) if part else (0, near)
    a, b = int(first + start * each), int(first + stop * each)
    if index.check is not None:
        index.check("codes", a, b)
    return torch.from_numpy(index.codes[a:b])


def _rows(index: Index, block: int, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return which rows of the slice lie at places counted from a block."""
    places = places + block * BLOCK
    places = places[places < index.present]
    if len(places) and index.check is not None:
        index.check("order", int(places.min()), int(places.max()) + 1)
    return index.order[places].astype(np.int64)


def _sums(codes: Tensor, which: npt.NDArray[np.int64], weights: Float[Tensor, " plane"]) -> Float[Tensor, "block row"]:
    """Return for each block the sum of its planes, ``which[block]`` of ``codes``, each times its weight."""
    if _KERNEL is None:
        return _product(codes[torch.from_numpy(which)], weights[None])[0]
    count, each = which.shape
    indices = torch.from_numpy(which.reshape(-1).astype(np.int32))
    offsets = torch.arange(0, count * each + 1, each, dtype=torch.int32)
    found: Tensor = _KERNEL(codes, indices, offsets, False, 0, False, weights.repeat(count), None, True)
    return found


def _product(planes: Tensor, weights: Float[Tensor, "query plane"]) -> Float[Tensor, "query block row"]:
    """Return the same of many queries, for all blocks of ``planes [block, plane, PLANE]``."""
    step, lowest = planes[:, :, BLOCK:].contiguous().view(torch.float32).unbind(2)
    values = torch.addcmul(lowest[:, :, None], planes[:, :, :BLOCK].float(), step[:, :, None])
    flat = values.transpose(0, 1).reshape(values.size(1), -1)
    return (weights @ flat).view(len(weights), len(planes), BLOCK)

"""The scan of an index: which rows cannot be ruled out, level by level.

A row is within reach of a query only if ‖ŝ − s_q‖ ≤ r + off, where ŝ is its sketch as kept, s_q the query's and ``off`` what
its block states: if ŝ·s_q − ½‖ŝ‖² ≥ ½(‖s_q‖² − (r + off)²). The left side is a sum over planes, each times a weight of the
query's: for one query the sum of "embeddings" kept as bytes, which torch has a kernel for; many share a product of matrices.
In fp32 a sum of n terms is off by n · 2⁻²⁴ times the sum of their absolute values at most, which the right side allows for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.bank.index import BLOCK, EXTRA, PLANE, UNIT, Index, Planes

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
FEW = 4
"""Below so many queries a product of matrices does not pay."""
_KERNEL = getattr(torch.ops.quantized, "embedding_bag_byte_rowwise_offsets", None)
_CHUNK = 32
"""Blocks that many queries look at together."""
_SUM, _PRODUCT, _ROW, _NUMBER = 0.09, 0.06, 150.0, 0.8
"""About what it takes, in ns: to add one byte to a sum; a number to one in a product; to measure a vector, and each number."""
_FAR = 1e15
"""A query so far out, in units of the farthest vector, that fp32 cannot tell: it rules nothing out."""


class _Asked(NamedTuple):
    """Queries as an index is asked."""

    weights: list[npt.NDArray[np.float32]]  # [query, plane]
    """Of the planes of each level; the third's are added to the sums of the second."""
    square: npt.NDArray[np.float64]  # [query, level]
    """Of the sketch's length."""
    reach: npt.NDArray[np.float64]  # [query]
    """The radius and what the query's own sketch may be off."""
    size: npt.NDArray[np.float64]  # [query]
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    """Blocks in whose range of first coordinates the query's lies, within reach: from ``first`` to before ``last``."""

    def limits(
        self, index: Index, which: npt.NDArray[np.int64], level: int, blocks: slice | npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Return what the sums of a level must reach, ``[query, block]``, for some queries and blocks."""
        edges = index.edges[blocks].astype(np.float64)
        most, off = edges[:, 2], edges[:, 3 + level]
        square, reach, size = (each[which, None] for each in (self.square[:, level], self.reach, self.size))
        terms = 4 * (index.planes.levels[level] + 4 * EXTRA)
        limits = (square - (reach + off) ** 2) / 2 - terms * UNIT * 3 * (size * most + most**2)
        limits -= np.abs(limits) * 2 * UNIT
        limits[size[:, 0] > _FAR] = -np.inf
        with np.errstate(over="ignore"):
            return limits.astype(np.float32)


def _asked(index: Index, queries: Float[Tensor, "query d_model"], radius: Float[Tensor, " query"]) -> _Asked:
    planes, z = index.planes, queries.numpy().astype(np.float64)
    along, rest = (each / index.scale for each in _sketches(z, index.basis.astype(np.float64), planes))
    square = np.square(along).cumsum(1)[:, [count - 1 for count in planes.levels]] + np.square(rest)
    size = np.sqrt(square.max(1))
    # radius and unit vectors come in fp32; ρ is the root of a difference in fp64, off by 2⁻²⁶ √d of the size at most
    reach = radius.numpy().astype(np.float64) / index.scale * (1 + 1e-5) + 2.0**-25 * z.shape[1] ** 0.5 * size
    reach = reach + np.sqrt(np.square(z).sum(1)) / index.scale * UNIT * (z.shape[1] + 4)
    minus, none, weights = np.full((len(z), 2), -1.0), np.zeros((len(z), EXTRA)), []
    for level in range(len(planes.levels)):
        own = [along[:, planes.coordinates(level)], rest[:, level : level + 1], minus]
        if level == 1:
            own = [along[:, planes.coordinates(0)], none, *own]
        if level == 2:
            own = [-rest[:, 1:2], -minus, *own]
        with np.errstate(over="ignore"):
            weights.append(np.concatenate(own, axis=1).astype(np.float32))
    for each in weights:
        each[size > _FAR] = 0
    used = -(-index.present // BLOCK)
    # lowest and highest rise but for what rounding does to them
    first = np.searchsorted(np.maximum.accumulate(index.edges[:used, 1]), along[:, 0] - reach, side="left")
    last = np.searchsorted(np.minimum.accumulate(index.edges[:used, 0][::-1])[::-1], along[:, 0] + reach, side="right")
    return _Asked(weights, square, reach, size, first, np.maximum(last, first))


def _sketches(
    z: npt.NDArray[np.float64], basis: npt.NDArray[np.float64], planes: Planes
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return coordinates and ρ at each level of queries, as ``index.sketches`` does."""
    centred = z - basis[0]
    along = centred @ basis[1:].T
    upto = np.square(along).cumsum(1)[:, [count - 1 for count in planes.levels]]
    return along, np.sqrt((np.square(centred).sum(1, keepdims=True) - upto).clip(min=0))


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
    first, last, level = int(asked.first[query]), int(asked.last[query]), index.planes.top
    if first == last:
        return np.empty(0, dtype=np.int64)
    codes, weights = _codes(index, 0, first, last), torch.from_numpy(asked.weights[level][query])
    found = _sums(codes, weights).numpy()
    left = found >= asked.limits(index, which, level, slice(first, last))[0, :, None]
    some = np.flatnonzero(left.any(1)) if planes.far else np.empty(0, dtype=np.int64)
    if np.count_nonzero(left) * (_ROW + width * _NUMBER) > len(some) * BLOCK * planes.far * _SUM > 0:
        weights = torch.from_numpy(asked.weights[2][query])
        near = _sums(codes, weights[:EXTRA], some[:, None] * planes.near + np.arange(planes.near)[-EXTRA:])
        codes = _codes(index, 1, first + int(some[0]), first + int(some[-1]) + 1)
        together = len(some) == some[-1] + 1 - some[0]
        far = _sums(
            codes, weights[EXTRA:], None if together else (some - some[0])[:, None] * planes.far + np.arange(planes.far)
        )
        here = slice(some[0], some[-1] + 1) if together else some
        left[here] &= found[here] + (near + far).numpy() >= asked.limits(index, which, 2, some + first)[0, :, None]
    return _rows(index, first, np.flatnonzero(left))


def _of_many(index: Index, asked: _Asked, active: npt.NDArray[np.int64], blocks: slice, width: int) -> Pairs:
    """Return the pairs of some queries and the rows of some blocks that are left."""
    planes, count = index.planes, blocks.stop - blocks.start
    near = _values(_codes(index, 0, blocks.start, blocks.stop).view(count, planes.near, PLANE))
    sums = _product(near[: planes.levels[0] + EXTRA], asked.weights[0][active])
    keep = sums >= asked.limits(index, active, 0, blocks)[:, :, None]
    if planes.top and _pays(keep, planes.near, width):
        active, keep, _ = _with_any(active, keep, sums)
        sums = _product(near, asked.weights[1][active])
        keep &= sums >= asked.limits(index, active, 1, blocks)[:, :, None]
        if planes.far and _pays(keep, planes.far, width):
            active, keep, sums = _with_any(active, keep, sums)
            far = _values(_codes(index, 1, blocks.start, blocks.stop).view(count, planes.far, PLANE))
            sums += _product(torch.cat([near[-EXTRA:], far]), asked.weights[2][active])
            keep &= sums >= asked.limits(index, active, 2, blocks)[:, :, None]
    which, places = np.divmod(np.flatnonzero(keep), count * BLOCK)
    inside = places + blocks.start * BLOCK < index.present
    return active[which[inside]], _rows(index, blocks.start, places[inside])


def _with_any(
    active: npt.NDArray[np.int64], keep: npt.NDArray[np.bool_], sums: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Return those queries that have any rows left."""
    some = keep.any((1, 2))
    return (active, keep, sums) if some.all() else (active[some], keep[some], sums[some])


def _pays(keep: npt.NDArray[np.bool_], planes: int, width: int) -> bool:
    """Return whether it takes less to look at a level than to measure all that is left before it."""
    return bool(np.count_nonzero(keep) * (_ROW + width * _NUMBER) > keep.size * planes * _PRODUCT)


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


def _sums(
    codes: Tensor, weights: Float[Tensor, " plane"], which: npt.NDArray[np.int64] | None = None
) -> Float[Tensor, "block row"]:
    """Return for each block the sum of its planes, each times its weight; ``which[block]`` of ``codes``, or all as they lie."""
    each = len(weights)
    if _KERNEL is None:
        planes = codes.view(-1, each, PLANE) if which is None else codes[torch.from_numpy(which)]
        return torch.from_numpy(_product(_values(planes), weights[None].numpy())[0])
    count = len(codes) // each if which is None else len(which)
    numbers = _counted(count * each, 1) if which is None else torch.from_numpy(which.astype(np.int32).reshape(-1))
    found: Tensor = _KERNEL(codes, numbers, _counted(count + 1, each), False, 0, False, weights.repeat(count), None, True)
    return found


@lru_cache(maxsize=32)
def _counted(count: int, step: int) -> Tensor:
    return torch.arange(count, dtype=torch.int32) * step


def _values(planes: Tensor) -> Float[Tensor, "plane row"]:
    """Return what planes ``[block, plane, PLANE]`` hold, rows of all blocks side by side."""
    step, lowest = planes[:, :, BLOCK:].contiguous().view(torch.float32).unbind(2)
    values = torch.addcmul(lowest[:, :, None], planes[:, :, :BLOCK].float(), step[:, :, None])
    return values.transpose(0, 1).reshape(values.size(1), -1)


def _product(values: Float[Tensor, "plane row"], weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return sums of planes for many queries, ``[query, block, row]``."""
    found: npt.NDArray[np.float32] = (torch.from_numpy(weights) @ values).view(len(weights), -1, BLOCK).numpy()
    return found

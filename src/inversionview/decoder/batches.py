"""Batches of training pairs, from pools of a few thousand pairs.

A pool is sorted by length, so that batches hold next to no padding, and is a pure function of (seed, pool number, weights). The
next one is made while the decoder is trained on the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.decoder.balls.balls import Balls
from inversionview.decoder.pairs import PairSource, nothing, pick_pairs
from inversionview.decoder.recipe import TrainConfig
from inversionview.decoder.spelling import Spelling


class Group(NamedTuple):
    """Some pairs of a batch, of about one length, on the CPU."""

    tokens: Tensor  # Int[rows, pos]
    z: Tensor  # Float[rows, d_model]
    site: Tensor  # Int[rows]
    others: Tensor | None = None  # Int[rows, member, pos]
    """Members of the same balls, the inputs themselves among them, where balls are learned."""

    def part(self, rows: slice) -> Group:
        """Return some of the pairs."""
        return Group(self.tokens[rows], self.z[rows], self.site[rows], None if self.others is None else self.others[rows])

    def to(self, device: torch.device) -> Group:
        """Return the pairs on a device."""
        tokens, z, site = (t.to(device, non_blocking=True) for t in (self.tokens, self.z, self.site))
        return Group(tokens, z, site, None if self.others is None else self.others.to(device, non_blocking=True))


class Batch(NamedTuple):
    """This process' slice of a batch."""

    groups: list[Group]
    predicted: int
    """Predicted tokens in the whole batch, over all processes."""


@dataclass(frozen=True, eq=False)
class PairPool:
    """Pairs that are drawn together, in the order in which they are trained on."""

    tokens: Ids
    """Inputs, ``[pair, pos]``."""
    z: Tensor
    """Activations, ``[query, d_model]``: one serves several pairs where balls are learned."""
    sites: npt.NDArray[np.int64]
    """Of each activation."""
    query: npt.NDArray[np.int64]
    """Of each pair, which activation."""
    lengths: npt.NDArray[np.int64]
    """Of the inputs, in tokens."""
    order: npt.NDArray[np.int64]
    """Numbers of pairs, ``[batch, group, place]``."""
    given: int
    """Tokens of an input that are not predicted: its BOS."""
    others: Ids | None = None
    """Members of each activation's ball, ``[query, member, pos]``."""
    alone: float = 0.0
    """Share of the activations for whose balls no other input was found."""

    def batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield a process' slices of the batches; ``rank`` is its number among ``world``."""
        for whole in self.order:
            mine = whole[:, rank::world]
            lengths = self.lengths[whole]
            groups = [self._group(pairs, length) for pairs, length in zip(mine, lengths.max(1), strict=True)]
            yield Batch(groups, int((lengths - self.given).sum()))

    def _group(self, pairs: npt.NDArray[np.int64], length: int) -> Group:
        query = self.query[pairs]
        others = None if self.others is None else torch.from_numpy(self.others[query, :, :length])
        tokens, sites = torch.from_numpy(self.tokens[pairs, :length]), torch.from_numpy(self.sites[query])
        return Group(tokens, self.z[torch.from_numpy(query)], sites, others)


def make_pool(
    source: PairSource,
    config: TrainConfig,
    number: int,
    weights: npt.NDArray[np.float64],
    balls: Balls | None = None,
    spelling: Spelling | None = None,
) -> PairPool:
    """Return pool ``number``; it depends on nothing but the arguments.

    ``weights`` say how likely a pair is drawn, ``[site, place]``. With ``balls`` the inputs are members of the activations'
    balls, several of each; else those that the activations are of. They are spelt as the decoder writes them.
    """
    per_input, each = config.pairs_per_input, 1 if balls is None else balls.each
    rng = np.random.default_rng((config.seed, 1, number))
    drawn = source.draw(-(-config.pool * config.batch // (per_input * each)), (config.seed, 2, number))
    places = source.inputs.places(drawn.tokens)
    picked = pick_pairs(places, drawn.allowed, rng, per_input, config.bos_share, weights, nothing(source.inputs))
    positions, sites = (x.ravel() for x in picked)
    rows = np.repeat(np.arange(len(drawn.tokens)), per_input)
    z, query = source.read(drawn, rows, positions, sites), np.repeat(np.arange(len(rows)), each)
    tokens, others, alone = drawn.tokens[rows], None, 0.0
    if balls is not None:
        found = balls.members(number, drawn, rows, positions, sites, z)
        others, alone = found.tokens, float(found.alone.mean())
        tokens = others[:, :each].reshape(len(query), -1)
    if spelling is not None:
        tokens = spelling.spelt(tokens)
        others = None if others is None else spelling.spelt(others.reshape(-1, others.shape[2])).reshape(*others.shape[:2], -1)
    lengths = source.inputs.lengths(tokens)
    order = rng.permutation(len(query))[: config.pool * config.batch]
    order = order[np.argsort(lengths[order], kind="stable")]  # by length, random within
    parts = order.reshape(-1, config.batch // config.groups)
    order = parts[rng.permutation(len(parts))].reshape(config.pool, config.groups, -1)
    return PairPool(tokens, z, sites, query, lengths, order, int(source.inputs.bos is not None), others, alone)


class Pools:
    """Pools one after the other: while a decoder is trained on one, a thread makes the next.

    Args:
        source: where pairs come from.
        config: how the decoder is trained.
        balls: draws members of balls, where they are learned.
        spelling: how the decoder writes inputs, where not as they are.
    """

    def __init__(self, source: PairSource, config: TrainConfig, balls: Balls | None, spelling: Spelling | None = None) -> None:
        self.source, self.config, self.balls, self.spelling = source, config, balls, spelling
        self._thread = ThreadPoolExecutor(1, "pools")
        self._ahead: tuple[int, npt.NDArray[np.float64], Future[PairPool]] | None = None

    def take(self, number: int, weights: npt.NDArray[np.float64]) -> PairPool:
        """Return pool ``number``, and begin to make the one after it as if the weights stayed."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == number and np.array_equal(ahead[1], weights):
            made = ahead[2].result()
        else:
            self._drop(ahead)
            made = self._begin(number, weights).result()
        self._ahead = number + 1, weights, self._begin(number + 1, weights)
        return made

    def wait(self) -> None:
        """Return when nothing is being made any more: the probed model runs for one at a time."""
        if self._ahead is not None:
            self._ahead[2].exception()

    def close(self) -> None:
        """End what is being made."""
        if self.balls is not None:
            self.balls.stop.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self, number: int, weights: npt.NDArray[np.float64]) -> Future[PairPool]:
        return self._thread.submit(make_pool, self.source, self.config, number, weights, self.balls, self.spelling)

    def _drop(self, ahead: tuple[int, npt.NDArray[np.float64], Future[PairPool]] | None) -> None:
        if ahead is not None and not ahead[2].cancel():
            ahead[2].exception()

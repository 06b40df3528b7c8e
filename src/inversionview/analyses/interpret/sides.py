"""Inputs on both sides of ε, for a statement to be made from and tested on.

Inputs inside ε are told from inputs *clearly* outside: D > gap · ε. Where an activation varies smoothly, ε cuts through a
continuum, and no sentence can tell D = 0.099 from D = 0.101. A gap of 1 asks for just that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.bank.store import ActivationBank
from inversionview.core.information import least, value
from inversionview.core.ranges import finite
from inversionview.core.scope import Distance, check_epsilon
from inversionview.model.sites.site import Site

Rows = npt.NDArray[np.int64]
GAP = 2.0
"""Outside begins at so many times ε."""
LEAST = 20
"""Inputs on each side that a statement needs at least, both to be made from and to be tested on."""
_MOST_ROWS = 2**20
"""Rows of a bank that are looked at: its first, a random sample."""
_MOST = 2**11
"""Of more inputs inside ε a part of the bank that holds about so many is looked at."""
_BLOCK = 2**15


@dataclass(frozen=True, eq=False)
class Half:
    """Rows of a bank on both sides of ε."""

    inside: Rows
    """D ≤ ε, the farthest first."""
    outside: Rows
    """D > gap · ε, the nearest first."""

    def matched(self, most: int | None = None) -> tuple[Rows, Rows]:
        """Return as many inside as outside, at matched ranks: with the i-th nearest outside the i-th farthest inside.

        With ``most`` so many pairs, their ranks spread evenly over all.
        """
        size = min(len(self.inside), len(self.outside))
        ranks = np.arange(size) if most is None or size <= most else np.arange(most) * size // most
        return self.inside[ranks], self.outside[ranks]

    @property
    def enough(self) -> bool:
        """There are inputs enough on both sides."""
        return min(len(self.inside), len(self.outside)) >= LEAST


@dataclass(frozen=True, eq=False)
class Sides:
    """One query's inputs on both sides of ε: even rows of the bank to make a statement from, odd ones to test it on."""

    bits: float
    """I_ε(q) among the rows that were looked at."""
    least: float
    """The least that these can be: another number than ``bits`` only where one other input is inside or none."""
    fit: Half
    test: Half
    line: Half
    """Of the rows to test on, with a gap of 1: those next to ε."""

    @property
    def usable(self) -> bool:
        """A statement can be made and tested."""
        return self.fit.enough and self.test.enough


def sides(
    bank: ActivationBank,
    site: str | Site,
    z: Float[Tensor, "query d_model"],
    own: Sequence[Rows],
    *,
    epsilon: float,
    distance: Distance = "euclidean",
    at: str | None = None,
    gap: float = GAP,
) -> Iterator[Sides]:
    """Yield for each query activation the inputs of a bank on both sides of ε, on stored distances.

    Args:
        bank: where inputs are taken from; its first 1,048,576 rows.
        site: of the queries.
        z: query activations.
        own: rows of the bank that are the query itself, for each query; they count on neither side.
        epsilon: threshold.
        distance: which distance.
        at: compare at this named position only; by default the minimum over all of the bank's.
        gap: outside begins at ``gap`` · ε.

    Raises:
        SettingError: ε or the gap is none.
        UnknownSiteError, UnknownPositionError: the bank does not hold them.
    """
    check_epsilon(epsilon)
    finite(gap, "The gap, by which outside begins outside ε,", 1)
    every = _measured(bank, site, z, distance, at)
    for near, rows in zip(every, own, strict=True):
        mine = rows[rows < len(near)]
        near[mine] = np.inf
        inside = np.flatnonzero(near <= epsilon)
        counts = len(inside), len(near) - len(mine)
        looked = len(near) if len(inside) <= _MOST else len(near) * _MOST // len(inside)
        part = near[:looked]
        far = [_sorted(part, np.flatnonzero(np.isfinite(part) & (part > epsilon * factor))) for factor in (gap, 1.0)]
        inside = _sorted(part, inside[inside < looked])[::-1]
        yield Sides(
            value(*counts),
            least(*counts),
            fit=Half(_of(bank, inside, 0), _of(bank, far[0], 0)),
            test=Half(_of(bank, inside, 1), _of(bank, far[0], 1)),
            line=Half(_of(bank, inside, 1), _of(bank, far[1], 1)),
        )


def _sorted(near: npt.NDArray[np.float32], rows: Rows) -> Rows:
    """Return the nearest rows by distance, more of them than both halves take."""
    if len(rows) > 5 * _MOST:
        rows = np.sort(rows[np.argpartition(near[rows], 5 * _MOST)[: 5 * _MOST]])
    return rows[np.argsort(near[rows], kind="stable")]


def _of(bank: ActivationBank, rows: Rows, parity: int) -> Rows:
    """Return some of those whose inputs have an even number, or an odd one; see ``ActivationBank.half``."""
    return rows[bank.places.inputs_of(rows) % 2 == parity][: 2 * _MOST]


def _measured(bank: ActivationBank, site: str | Site, z: Tensor, distance: Distance, at: str | None) -> npt.NDArray[np.float32]:
    """Return D of every row that is looked at, ``[query, row]``."""
    number, positions = bank.site_number(site), bank.position_numbers(at)
    size = min(len(bank), _MOST_ROWS)
    found = torch.full((len(z), size), torch.inf)
    metric = bank.model.metric(distance, bank.sites[number])
    query = metric.mapped(bank.compacted(number, z))
    unit = torch.nn.functional.normalize(query, dim=-1)
    for shard in bank.shards:
        stop = min(shard.rows.stop, size) - shard.rows.start
        if stop <= 0:
            break
        places, vectors = [shard.places(p) for p in positions], [shard.vectors(number, p, stop) for p in positions]
        for start in range(shard.rows.start, min(shard.rows.stop, size), _BLOCK):
            stop = min(start + _BLOCK, shard.rows.stop, size)
            rows = slice(start - shard.rows.start, stop - shard.rows.start)
            for place, slice_ in zip(places, vectors, strict=True):
                x = metric.mapped(torch.from_numpy(slice_[rows]).float())
                if metric.cosine:
                    d = 1 - unit @ torch.nn.functional.normalize(x, dim=-1).T
                else:
                    d = torch.cdist(query, x) / metric.lengths(query)[:, None].clamp(min=1e-30)
                there = torch.from_numpy(place[rows] >= 0)
                found[:, start:stop] = torch.minimum(found[:, start:stop], d.masked_fill(~there, torch.inf))
            bank.visit(len(positions) * x.numel() * vectors[0].itemsize)
    return found.numpy()

"""For each of many activations some inputs from its ε-ball, each member as likely as under the inputs' own distribution.

A decoder that learns to write x from z_q, with x drawn so, learns the preimage itself: p(x) restricted to D(z_q, x) ≤ ε.
Members are looked for among random candidates, ever more of them until enough are found: what is found in a random part is
random itself. Where many balls of a site and place hold none of the candidates, and the inputs declare moves, a chain walks.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import cached_property
from threading import Event

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.decoder.balls.candidates import Ball, Candidates
from inversionview.decoder.balls.chains import BallChains
from inversionview.decoder.balls.guide import Guide
from inversionview.decoder.pairs import Drawn, PairSource, nothing, pick_pairs
from inversionview.decoder.recipe import TrainConfig
from inversionview.model.probed import ProbedModel

CANDIDATES, _FEWEST = 2**14, 2**9
"""Inputs that members are looked for among; fewer, where a pool is smaller or their vectors would take more than ``_ROOM``; of
what a source holds on disk, all for which there is that room."""
_ROOM = 2**30
"""Bytes."""
_STAGES = (2**10, 2**12, CANDIDATES)
"""First among so many, then among more, then among all."""
KEPT = 32
"""Members of each ball that are looked for."""
_LIFE = 16
"""Pools that share candidates."""
_PILOT = 256
"""Queries of each site by which it is told where a search finds members."""
_EMPTY = 0.1
"""Share of a place's balls without a candidate up to which they are searched."""
_SEARCHED, _WALKED = 8, 32
"""Members of a ball that are trained on."""
_FORGET, _APART = 48, 6
"""Steps of a chain before its first member, and between two."""
_LED_FORGET, _LED_APART, _LEAPS = 24, 3, 4
"""The same of chains that leap before every member, and how often they leap before the first."""


@dataclass(frozen=True, eq=False)
class BallMembers:
    """Inputs from the balls of some activations."""

    tokens: Int[np.ndarray, "query member pos"]
    """``KEPT`` of each, with repetition where fewer were found."""
    alone: Bool[np.ndarray, " query"]
    """Nothing else was found than the input that the activation is of."""


class Balls:
    """Draws members.

    Args:
        source: where pairs come from.
        model: the probed model.
        config: how the decoder is trained.
        guide: what chains leap to is written by it.
    """

    def __init__(self, source: PairSource, model: ProbedModel, config: TrainConfig, guide: Guide | None = None) -> None:
        self.source, self.model, self.inputs, self.config, self.guide = source, model, source.inputs, config, guide
        self.balls = [
            Ball(
                model.metric(config.distance, site),
                config.epsilons.get(site.short, config.epsilon),
                model.width(site),
                model.frame(site),
            )
            for site in source.sites
        ]
        self.stop = Event()
        """Set, no more members are drawn: whoever waits for some gets ``CancelledError``."""
        self._kept: tuple[int, Candidates] | None = None

    @property
    def each(self) -> int:
        """How many members of a ball are trained on: where most are walked to more, for a chain is the better the longer."""
        if self.config.members is not None:
            return self.config.members
        return _SEARCHED if np.nanmean(self._empty <= _EMPTY) >= 0.5 else _WALKED

    @cached_property
    def searched(self) -> npt.NDArray[np.bool_]:
        """Where members are looked for among candidates, ``[site, place]``; elsewhere chains walk."""
        return np.isnan(self._empty) | (self._empty <= _EMPTY)

    @cached_property
    def _empty(self) -> npt.NDArray[np.float64]:
        """The share of balls that hold no candidate, ``[site, place]``; NaN where no activation is taken."""
        shape = len(self.source.sites), self.inputs.place_count
        if not self.inputs.moves:
            return np.zeros(shape)
        candidates = self._candidates(0, np.ones(shape[0], dtype=bool))
        count = min(_PILOT, max(16, self.config.pool * self.config.batch // 64))
        drawn = self.source.draw(count, (self.config.seed, 5, 1))
        places = self.inputs.places(drawn.tokens)
        rng, rows = np.random.default_rng((self.config.seed, 5, 2)), np.arange(count)
        out = np.full(shape, np.nan)
        for site in range(shape[0]):
            alike = np.ones((1, shape[1]))
            positions, _ = pick_pairs(places, _allowed(drawn, site), rng, 1, 0.0, alike, nothing(self.inputs))
            z = self.source.read(drawn, rows, positions[:, 0], np.full(count, site))
            empty = np.array([not len(found) for found in self._search(candidates, site, z, 0)])
            at = np.take_along_axis(places, positions.clip(min=0), axis=1)[:, 0]
            for place in np.unique(at):
                out[site, place] = empty[at == place].mean()
        return out

    def members(
        self, pool: int, drawn: Drawn, rows: Ids, positions: Ids, sites: Ids, z: Float[Tensor, "query d_model"], salt: int = 0
    ) -> BallMembers:
        """Return members for the activations of some pairs that were read for a pool; with another ``salt`` others."""
        rng = np.random.default_rng((self.config.seed, 5, 3, pool, salt))
        own, alone = drawn.tokens[rows], np.zeros(len(rows), dtype=bool)
        out = np.repeat(own[:, None], KEPT, axis=1)
        void = positions == nothing(self.inputs)  # what tells nothing of an input has all of them in its ball
        out[void] = drawn.tokens[rng.integers(len(drawn.tokens), size=(int(void.sum()), KEPT))]
        places = np.take_along_axis(self.inputs.places(own), positions[:, None].clip(min=0), axis=1)[:, 0]
        look = self.searched[sites, places]
        if len(some := np.flatnonzero(look & ~void)):
            candidates = self._candidates(pool // _LIFE, np.any(self.searched, axis=1))
            out[some], alone[some] = self._found(candidates, sites[some], z[torch.from_numpy(some)], rng, own[some])
        if len(some := np.flatnonzero(~look & ~void)):
            out[some] = self._walked(own[some], sites[some], z[torch.from_numpy(some)], rng)
            alone[some] = (out[some] == own[some][:, None]).all((1, 2))
        return BallMembers(out, alone)

    def _found(
        self, candidates: Candidates, sites: Ids, z: Float[Tensor, "query d_model"], rng: np.random.Generator, own: Ids
    ) -> tuple[Int[np.ndarray, "query member pos"], Bool[np.ndarray, " query"]]:
        """Return members that are found among candidates, and for which queries there are none but their ``own`` inputs.

        These are members, too, and stand for their share, one in so many as the ball seems to hold.
        """
        out, alone = np.repeat(own[:, None], KEPT, axis=1), np.zeros(len(sites), dtype=bool)
        start = int(rng.integers(len(candidates)))
        for site in np.unique(sites):
            queries = np.flatnonzero(sites == site)
            found = self._search(candidates, int(site), z[torch.from_numpy(queries)], start)
            for query, rows in zip(queries, found, strict=True):
                if len(rows) < KEPT:
                    rows = rows[(candidates.tokens[rows] != own[query]).any(1)]
                alone[query] = not len(rows)
                if len(rows):
                    picked = rng.permutation(rows)[:KEPT] if len(rows) >= KEPT else rng.choice(rows, KEPT)
                    others = rng.random(KEPT) >= self._share(len(rows), len(candidates))
                    out[query, others] = candidates.tokens[picked[others]]
        return out, alone

    def _share(self, hits: int, looked: int) -> float:
        """Return the share of a ball that is the input itself, where there are but so many inputs."""
        whole = self.source.population
        return 0.0 if whole is None or hits >= KEPT else 1 / (1 + hits * max(whole / looked, 1.0))

    def _search(
        self, candidates: Candidates, site: int, z: Float[Tensor, "query d_model"], start: int
    ) -> list[npt.NDArray[np.int64]]:
        """Return the candidates inside each query's ball: of more and more candidates, from ``start`` on, until enough are."""
        points = self.balls[site].vectors(z)
        limits, waiting = self.balls[site].limits(points), np.arange(len(z))
        found, last = [np.empty(0, dtype=np.int64) for _ in range(len(z))], 0
        for stage in (min(stage, len(candidates)) for stage in (*_STAGES, len(candidates))):
            self._go_on()
            for part in _slices(start + last, stage - last, len(candidates)):
                which = torch.from_numpy(waiting)
                query, row = candidates.inside(site, points[which], limits[which], part)
                cuts = np.searchsorted(query, np.arange(1, len(waiting)))
                for number, rows in zip(waiting, np.split(row, cuts), strict=True):
                    found[number] = np.concatenate([found[number], rows])
            last, waiting = stage, np.array([n for n in waiting if len(found[n]) < KEPT], dtype=np.int64)
            if not len(waiting):
                break
        return found

    def _walked(
        self, tokens: Ids, sites: Ids, z: Float[Tensor, "query d_model"], rng: np.random.Generator
    ) -> Int[np.ndarray, "query member pos"]:
        """Return members that chains visit which start at the inputs themselves, each as often as the others."""
        epsilons = [ball.epsilon for ball in self.balls]
        chains = BallChains(
            self.model, self.inputs, self.source.sites, epsilons, self.config.distance, tokens, z, sites, rng, self.guide
        )
        forget, apart = ([_FORGET], _APART) if self.guide is None else ([_LED_FORGET // _LEAPS] * _LEAPS, _LED_APART)
        visited = []
        for steps in (*forget, *[apart] * self.each):
            for _ in range(steps):
                self._go_on()
                chains.step()
            if self.guide is not None:
                chains.leap()
            visited.append(chains.tokens.copy())
        return np.stack(visited[len(forget) :], axis=1)[:, np.arange(KEPT) % self.each]

    def _go_on(self) -> None:
        """Raise ``CancelledError`` where members are not wanted any more."""
        if self.stop.is_set():
            raise CancelledError

    def _candidates(self, number: int, asked: npt.NDArray[np.bool_]) -> Candidates:
        """Return the candidates of that number, drawn anew where they are not at hand."""
        if (
            self._kept is None
            or self._kept[0] != number
            or any(wanted and held is None for wanted, held in zip(asked, self._kept[1].vectors, strict=True))
        ):
            self._kept = None  # the memory of the last is free before that of the next is taken
            each = 2 * self.source.places * sum(ball.width for ball, wanted in zip(self.balls, asked, strict=True) if wanted)
            most = _ROOM // each if self.source.held else min(CANDIDATES, _ROOM // each, self.config.pool * self.config.batch)
            count = max(_FEWEST, most)
            self._kept = number, self.source.candidates(self.balls, count, (self.config.seed, 5, 4, number), asked)
        return self._kept[1]


def _allowed(drawn: Drawn, site: int) -> npt.NDArray[np.bool_]:
    """Return at which positions an activation of a site may be taken, ``[row, pos]``."""
    return drawn.allowed[:, :, site] if drawn.allowed.ndim == 3 else drawn.allowed


def _slices(start: int, count: int, size: int) -> list[slice]:
    """Return ``count`` numbers from ``start`` on, after the last of which comes 0 again."""
    first = start % size
    head = min(count, size - first)
    return [part for part in (slice(first, first + head), slice(0, count - head)) if part.stop > part.start]

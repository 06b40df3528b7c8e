"""Exact recovery: token by token, which tokens give the state at hand after the prefix that was recovered so far.

Each candidate is run on the prefix's keys and values through the layers below the site alone, and taken where its state is the
given one within rounding. That is SipIt (Nikolaou et al. 2025, arXiv 2510.15511), which tries all tokens in some order; here
the order is learned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.analyses.recover.order import MOST, Order, Ordering
from inversionview.analyses.recover.state_map import StateMap, embeddings_of, usable
from inversionview.model.cache import KeysValues
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

BEAM = 64
"""So many texts are followed at once; where more fit, those nearest to the states."""
_NOISY = 64
"""With noise so many tokens are tried at least, of which the nearest is taken: the first that fits need not be it."""
_ALIKE = 16.0
"""Tokens are tried beside one that fits where their embeddings differ by so many thresholds or less."""
_NEAREST, _FURTHEST = 4, 32
"""So many tokens are guessed ahead and run as one text, twice as many as fitted the last time."""
_ELSEWHERE = 8
"""Where several texts are followed and one goes on, the others are given up after so many times as many tokens as it took."""


@dataclass(frozen=True)
class TokenFound:
    """A token that gives the state at its position."""

    token: int
    rank: int
    """In the order in which tokens were tried, from 0."""
    tried: int
    """So many tokens were run at this position."""
    distance: float
    seconds: float
    """Of the position, all that was tried for all texts that are followed."""
    runner_up: float | None
    """Distance of the nearest other token that was run; ``None`` where there was none."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """The beginning of a text whose states are those at hand."""

    ids: tuple[int, ...]
    cache: KeysValues | None
    found: tuple[TokenFound, ...] = ()

    @property
    def off(self) -> float:
        """The sum of squared distances."""
        return sum(each.distance**2 for each in self.found)


@dataclass(frozen=True)
class Miss:
    """No token fits at a position."""

    position: int
    """Row of the states."""
    token: int
    """The nearest that was run."""
    distance: float
    tried: int
    after: tuple[int, ...]
    """The tokens before it."""


@dataclass(frozen=True)
class Matching:
    """What counts as a hit, and what is tried."""

    threshold: float
    """Largest D of a token that fits."""
    noisy: bool = False
    """The states are off by more than rounding: the nearest token is taken."""
    ordering: Ordering = "mixed"
    tries: int | None = None
    """Tokens that are tried at a position at most; ``None``: all."""
    exhaustive: bool = False
    """All are tried even where one fits, so that it is known whether others do."""


class Engine:
    """Recovers texts from the states of a site.

    Args:
        model: the probed model.
        site: whose states.
        states: of consecutive positions; the first follows ``begun`` tokens, or is the first of all.
        mapped: the map of the site; ``None`` where the order needs none.
        settings: see there.

    Attributes:
        allowed: ids of the tokens that there are.
        all_fitted: all that was last guessed ahead did.
        crowded: more fitted at the last step than are followed.
    """

    def __init__(
        self, model: ProbedModel, site: Site, states: Float[Tensor, "pos numbers"], mapped: StateMap | None, settings: Matching
    ) -> None:
        self.model, self.site, self.states, self.map, self.settings = model, site, states, mapped, settings
        self._reach = _FURTHEST // 2
        self._scored: dict[int, Float[Tensor, " vocabulary"]] = {}
        self.crowded = self.all_fitted = False
        self._said: tuple[tuple[int, ...], KeysValues] | None = None
        self.allowed = usable(model)
        self._allowed = torch.zeros(model.shape.vocabulary, dtype=torch.bool)
        self._allowed[self.allowed] = True

    @cached_property
    def embeddings(self) -> Float[Tensor, "vocabulary embedded"]:
        """Of all tokens, in float32."""
        return embeddings_of(self.model)

    def begun(self, ids: Sequence[int]) -> Prefix:
        """Return the prefix of tokens that are known."""
        if not ids:
            return Prefix((), None)
        out = self.model.extend(torch.tensor([list(ids)]), None, self.site, logits=False)
        return Prefix(tuple(ids), out.cache)

    def step(self, prefixes: Sequence[Prefix], row: int) -> list[Prefix] | Miss:
        """Return the prefixes that fit one state more, the nearest first, or how near the nearest token comes.

        Where several are followed they are tried in turn, and given up where another went on far sooner.
        """
        began = time.perf_counter()
        trials = [Tries(self, prefix, row) for prefix in prefixes]
        open_trials, most = list(trials), None
        while open_trials:
            for trial in list(open_trials):
                if not trial.run() or (most is not None and trial.tried >= most):
                    open_trials.remove(trial)
                if trial.done and most is None:
                    most = max(_NOISY, _ELSEWHERE * trial.tried)
        seconds = time.perf_counter() - began
        children = [child for trial in trials for child in trial.children(seconds)]
        if not children:
            nearest = min(trials, key=lambda trial: trial.nearest[0])
            return Miss(row, nearest.nearest[1], nearest.nearest[0], sum(t.tried for t in trials), nearest.prefix.ids)
        self.crowded = sum(trial.fitting for trial in trials) > BEAM
        return sorted(children, key=lambda child: child.off)[:BEAM]

    def ahead(self, prefix: Prefix, row: int) -> Prefix:
        """Return a prefix that goes on with the map's first guesses as far as these fit, all run as one text.

        A token that shares its embedding with others is left to ``step``, which tries these, too.
        """
        if self.settings.ordering != "mixed" or self.settings.noisy or self.settings.exhaustive or row == len(self.states):
            return prefix
        began = time.perf_counter()
        rows = range(row, min(row + self._reach, len(self.states), row + self.model.shape.max_length - len(prefix.ids)))
        guesses = [int(self.scored(each).masked_fill(~self._allowed, -torch.inf).argmax()) for each in rows]
        out = self.model.extend(torch.tensor([guesses]), prefix.cache, self.site, logits=False)
        assert out.activations is not None
        states = self.model.own(out.activations[0].float().cpu(), self.site)
        gaps = [float(self.distances(states[i : i + 1], each)) for i, each in enumerate(rows)]
        fits = 0
        while fits < len(rows) and gaps[fits] <= self.settings.threshold and not len(self.alike(guesses[fits])):
            fits += 1
        self.all_fitted = fits == len(rows)
        self._reach = min(_FURTHEST, 2 * self._reach) if fits == len(rows) else max(_NEAREST, 2 * fits)
        each = (time.perf_counter() - began) / max(1, fits)
        found = tuple(TokenFound(guesses[i], 0, 1, gaps[i], each, None) for i in range(fits))
        ids = (*prefix.ids, *guesses[:fits])
        return Prefix(ids, out.cache.cut(len(ids)), (*prefix.found, *found)) if fits else prefix

    def distances(self, states: Float[Tensor, "token numbers"], row: int) -> Float[Tensor, " token"]:
        """Return D of states from the one at hand: the normalized Euclidean distance (Huang et al. 2024, section 2.2)."""
        z = self.states[row]
        gap = (states - z).norm(dim=1)
        return torch.where(gap == 0, gap, gap / z.norm())

    def scored(self, row: int) -> Float[Tensor, " vocabulary"]:
        """Return the map's scores at a position; those of several are computed together."""
        if row not in self._scored:
            assert self.map is not None
            some = range(row, min(row + _FURTHEST, len(self.states)))
            self._scored = dict(zip(some, self.map.scores(self.states[some.start : some.stop], self.embeddings), strict=True))
        return self._scored[row]

    def next_token(self, ids: tuple[int, ...]) -> Float[Tensor, " vocabulary"]:
        """Return the model's log p of what comes after tokens; of what was run before only the rest is."""
        same, cache = 0, None
        if self._said is not None:
            before, kept = self._said
            same = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids)))
            same = min(same, len(ids) - 1)
            cache = kept.cut(same) if same else None
        out = self.model.extend(torch.tensor([ids[same:]]), cache)
        assert out.logits is not None
        self._said = ids, out.cache
        return out.logits[0, -1].float().cpu().log_softmax(-1)

    def gradient(self, ids: tuple[int, ...], row: int) -> Float[Tensor, " embedded"]:
        """Return the gradient of D² at the last of some tokens with respect to its embedding."""
        z = self.states[row].to(self.model.device)

        def loss(states: Float[Tensor, "batch pos numbers"]) -> Float[Tensor, " batch"]:
            return (states[:, -1].float() - z).square().sum(-1) / z.square().sum()

        return self.model.pull(torch.tensor([ids]), self.site, loss)[1][0, -1].float().cpu()

    def alike(self, token: int) -> Int[Tensor, " token"]:
        """Return the other tokens whose embeddings are all but those of one, so that their states may be the same."""
        own, reach = self.embeddings[token], _ALIKE * self.settings.threshold * float(self.embeddings[token].norm())
        shadow, direction = self._shadows
        near = ((shadow - own @ direction).abs() <= reach).nonzero()[:, 0]  # no two are nearer than their shadows
        close = near[(self.embeddings[near] - own).norm(dim=1) <= reach]
        return close[(close != token) & self._allowed[close]]

    @cached_property
    def _shadows(self) -> tuple[Float[Tensor, " vocabulary"], Float[Tensor, " embedded"]]:
        """All embeddings along one direction of length 1."""
        direction = torch.randn(self.embeddings.size(1), generator=torch.Generator().manual_seed(0))
        direction = direction / direction.norm()
        return self.embeddings @ direction, direction

    def order(self, prefix: Prefix, row: int) -> Order:
        """Return the order of tokens at a position after a prefix."""
        return Order(
            self.settings.ordering,
            self._allowed,
            lambda: self.scored(row),
            self.states[row],
            self.map,
            self.embeddings,
            (lambda: self.next_token(prefix.ids)) if prefix.ids else None,
            lambda token: self.gradient((*prefix.ids, token), row),
        )


class Tries:
    """What is tried at one position after one prefix.

    Attributes:
        tried: so many tokens.
        nearest: the least distance, and of which token.
    """

    def __init__(self, engine: Engine, prefix: Prefix, row: int) -> None:
        self.engine, self.prefix, self.row = engine, prefix, row
        self.tried, self.nearest = 0, (float("inf"), -1)
        self._order = engine.order(prefix, row)
        self._batches = self._order.batches()
        self._hits: list[tuple[float, int, int, Callable[[], KeysValues]]] = []
        self._second = float("inf")

    @property
    def done(self) -> bool:
        """Whether a token fits."""
        return bool(self._hits)

    @property
    def fitting(self) -> int:
        """So many tokens fit."""
        return len(self._hits)

    def run(self) -> bool:
        """Run one batch more; return whether to go on."""
        settings = self.engine.settings
        if settings.tries is not None and self.tried >= settings.tries:
            return False
        batch = next(self._batches, None)
        if batch is None:
            return False
        if settings.tries is not None:
            batch = batch[: settings.tries - self.tried]
        self._try(batch)
        if not self._hits or settings.exhaustive:
            return True
        if len(self._hits) > 1 and not settings.noisy and not self._twins():
            return True  # the site does not tell tokens apart here: all that fit are wanted
        if settings.noisy:
            return self.tried < _NOISY
        for _, token, _, _ in list(self._hits):
            others = self.engine.alike(token)
            others = others[self._order.left[others]]
            for some in others.split(MOST) if len(others) else ():
                self._order.left[some] = False
                self._try(some)
        return False

    def _twins(self) -> bool:
        """Return whether all that fit have all but the same embedding."""
        first, *others = [token for _, token, _, _ in self._hits]
        alike = set(self.engine.alike(first).tolist())
        return alike.issuperset(others)

    def _try(self, batch: Int[Tensor, " token"]) -> None:
        engine = self.engine
        out = engine.model.alternatives(batch, self.prefix.cache, engine.site)
        states = engine.model.own(out.activations.float().cpu(), engine.site)
        distances = engine.distances(states, self.row)
        self._order.told(batch, states)
        for i, distance in enumerate(distances.tolist()):
            if distance <= engine.settings.threshold:
                self._hits.append((distance, int(batch[i]), self.tried + i, partial(out.after, i)))
            if distance < self.nearest[0]:
                self._second, self.nearest = self.nearest[0], (distance, int(batch[i]))
            elif distance < self._second:
                self._second = distance
        self.tried += len(batch)

    def children(self, seconds: float) -> list[Prefix]:
        """Return the prefixes that go on with what fits."""
        made = []
        for distance, token, rank, after in sorted(self._hits, key=lambda hit: hit[0])[:BEAM]:
            other = self._second if token == self.nearest[1] else self.nearest[0]
            found = TokenFound(token, rank, self.tried, distance, seconds, None if other == float("inf") else other)
            made.append(Prefix((*self.prefix.ids, token), after(), (*self.prefix.found, found)))
        return made

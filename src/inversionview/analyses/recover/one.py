"""Texts whose last token's state comes near one vector: corpus neighbours, changed token by token, ever nearer.

What a text may become is proposed by linear maps from the vector to the last token, the one before it and so on, by the
model's own next tokens, by the gradient of D, and by other texts' ends; every proposal is run in the model. Of all texts the
nearest stay, so that ε, the distance of the farthest that stays, falls from round to round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.analyses.recover.state_map import MomentSums, embeddings_of, usable
from inversionview.core.arrays import Ids
from inversionview.core.progress import Progress
from inversionview.model.harvest import tokens_per_pass
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site
from inversionview.model.tokens import control

_BACK = 12
"""So many tokens from the last one on have a map of their own."""
_LIKELY = 48
"""Tokens that a map proposes at a place."""
_SHARPNESS = 0.3
"""Scores of the maps are log-likelihoods of a Gaussian that is too narrow: so much of them is believed."""
_STEEPEST = 64
"""Changes of one token among which the gradient's proposals are drawn."""
_AT_ONCE = 32
Text = tuple[int, ...]


@dataclass(frozen=True)
class Near:
    """A text, without what is run before it, and how near its last state is."""

    ids: Text
    distance: float
    came: str
    """From what: ``corpus``, ``given``, or the proposal that made it."""


@dataclass(frozen=True, eq=False)
class OccurrenceStates:
    """OccurrenceStates of text and their states at a site."""

    windows: Ids
    where: Int[Tensor, "occurrence 2"]
    """Row and position."""
    states: Float[Tensor, "occurrence numbers"]


def sampled_states(model: ProbedModel, windows: Ids, site: Site, report: Progress | None = None) -> OccurrenceStates:
    """Return the states of all occurrences in windows of text."""
    v, front = model.vocabulary, len(model.vocabulary.front)
    found, places = [], []
    for start in range(0, len(windows), _AT_ONCE):
        tokens = torch.from_numpy(windows[start : start + _AT_ONCE])
        there = (tokens != v.pad) & (tokens != v.eos)
        there[:, :front] = False
        found.append(model.own(model.activations(tokens, [site])[0].float().cpu(), site)[there])
        places.append(there.nonzero() + torch.tensor([start, 0]))
        if report is not None:
            report(min(1.0, (start + _AT_ONCE) / len(windows)), "states of the corpus")
    return OccurrenceStates(windows, torch.cat(places), torch.cat(found))


class VectorSearch:
    """Searches texts for one vector.

    Args:
        model: the probed model.
        site: whose vector.
        z: the vector.
        sample: what neighbours are taken from, and the maps are learned on.
        longest: tokens of a text at most.
        seed: of all draws.
    """

    def __init__(
        self,
        model: ProbedModel,
        site: Site,
        z: Float[Tensor, " numbers"],
        sample: OccurrenceStates,
        longest: int,
        seed: int = 0,
    ) -> None:
        self.model, self.site, self.z, self.sample, self.longest = model, site, z.float(), sample, longest
        self.rng, self.front = np.random.default_rng((seed, 29)), model.vocabulary.front
        self.run: dict[Text, Near] = {}
        barred = torch.zeros(model.shape.vocabulary, dtype=torch.bool)
        barred[[i for i in control(model.vocabulary) if i < len(barred)]] = True
        allowed = torch.zeros_like(barred)
        allowed[usable(model)] = True
        self._allowed = allowed & ~barred

    def neighbours(self, count: int) -> list[Near]:
        """Return the nearest occurrences of the corpus, each with the tokens before it."""
        gaps = (self.sample.states - self.z).norm(dim=1)
        texts = []
        for i in gaps.argsort()[: 4 * count].tolist():
            row, at = self.sample.where[i].tolist()
            texts.append(tuple(self.sample.windows[row, len(self.front) : at + 1].tolist())[-self.longest :])
        return self.measured(list(dict.fromkeys(texts))[:count], "corpus")

    def measured(self, texts: Sequence[Text], came: str | Sequence[str]) -> list[Near]:
        """Return texts with their D, each run once."""
        names = [came] * len(texts) if isinstance(came, str) else came
        fresh = {text: name for text, name in zip(texts, names, strict=True) if text and text not in self.run}
        waiting = sorted(fresh, key=len)
        most = max(1, tokens_per_pass(self.model.device) // (self.longest + len(self.front)))
        for start in range(0, len(waiting), most):
            some = waiting[start : start + most]
            ends = torch.tensor([len(self.front) + len(text) - 1 for text in some])
            rows = torch.full((len(some), int(ends.max()) + 1), self.model.vocabulary.pad)
            for row, text in zip(rows, some, strict=True):
                row[: len(self.front) + len(text)] = torch.tensor([*self.front, *text])
            z = self.model.own(self.model.activations(rows, [self.site], ends[:, None])[0, :, 0].float().cpu(), self.site)
            gaps = (z - self.z).norm(dim=1) / self.z.norm()
            for text, gap in zip(some, gaps.tolist(), strict=True):
                self.run[text] = Near(text, gap, fresh[text])
        return [self.run[text] for text in dict.fromkeys(texts) if text]

    def walk(self, starts: Sequence[Near], population: int, rounds: int, seconds: float, report: Progress | None) -> list[Near]:
        """Return the nearest texts after so many rounds, or so much time, the nearest first."""
        began, pool = time.perf_counter(), _best(starts, population)
        for number in range(rounds):
            share = max(number / rounds, (time.perf_counter() - began) / seconds)
            if share >= 1 or pool[0].distance == 0:
                break
            if report is not None:
                report(share, f"D ≤ {pool[-1].distance:.3g}, nearest {pool[0].distance:.3g}")
            proposals = [each for near in pool for each in self._proposals(near.ids, pool)]
            proposals += self._by_gradient(pool[: max(1, population // 2)])
            made = self.measured([text for text, _ in proposals], [name for _, name in proposals])
            pool = _best([*pool, *made], population)
        return pool

    def _proposals(self, ids: Text, pool: Sequence[Near]) -> list[tuple[Text, str]]:
        """Return what one text may become, and how."""
        rng, n, made = self.rng, len(ids), list[tuple[Text, str]]()
        for _ in range(4):
            back = int(rng.integers(min(n, _BACK)))
            made.append((_put(ids, n - 1 - back, self._likely(back)), "map"))
        said = self._said(ids)
        for _ in range(3):
            at = int(rng.integers(n))
            made.append((_put(ids, at, self._drawn(said[at])), "next"))
        at = int(rng.integers(n))
        if n < self.longest:
            made.append(((*ids[:at], self._drawn(said[at]), *ids[at:]), "longer"))
        if n > 1:
            made.append(((*ids[:at], *ids[at + 1 :]), "shorter"))
        other = pool[int(rng.integers(len(pool)))].ids
        cut = int(rng.integers(1, min(n, len(other)) + 1))
        made.append((other[: len(other) - cut] + ids[n - cut :], "crossed"))
        return made

    def _by_gradient(self, pool: Sequence[Near]) -> list[tuple[Text, str]]:
        """Return texts with one token replaced, of those whose D² falls most at first order; some of them by lot."""
        made = list[tuple[Text, str]]()
        for near in pool:
            tokens = torch.tensor([[*self.front, *near.ids]])
            _, gradient = self.model.pull(tokens, self.site, self._loss)
            own = gradient[0, len(self.front) :].float().cpu()
            change = own @ self._embeddings.T
            change -= change.gather(1, torch.tensor(near.ids)[:, None])
            change[:, ~self._allowed] = torch.inf
            some = min(_STEEPEST, int(change.isfinite().sum()))
            first = change.flatten().topk(some, largest=False).indices.tolist()
            for i in self.rng.choice(first, size=min(8, len(first)), replace=False).tolist():
                made.append((_put(near.ids, i // change.size(1), i % change.size(1)), "gradient"))
        return made

    def _loss(self, states: Float[Tensor, "batch pos numbers"]) -> Float[Tensor, " batch"]:
        """Return D² of the last states."""
        z = self.z.to(states.device)
        return (states[:, -1].float() - z).square().sum(-1) / z.square().sum()

    @cached_property
    def _embeddings(self) -> Float[Tensor, "vocabulary embedded"]:
        return embeddings_of(self.model)

    @cached_property
    def _maps(self) -> list[tuple[list[int], list[float]]]:
        """For the last token, the one before it and so on: what the vector tells of it, and how likely each is."""
        found = []
        rows, at = self.sample.where.unbind(1)
        tokens = torch.from_numpy(self.sample.windows)
        for back in range(_BACK):
            there = at - back >= len(self.front)
            moments = MomentSums(self.z.numel(), self._embeddings.size(1))
            moments.add(self._embeddings[tokens[rows[there], at[there] - back]], self.sample.states[there])
            scores = moments.solved(self._embeddings).scores(self.z[None], self._embeddings)[0]
            top = scores.masked_fill(~self._allowed, -torch.inf).topk(min(_LIKELY, int(self._allowed.sum())))
            found.append((top.indices.tolist(), (_SHARPNESS * top.values).softmax(0).double().tolist()))
        return found

    def _likely(self, back: int) -> int:
        ids, chances = self._maps[back]
        return int(self.rng.choice(ids, p=np.array(chances) / np.sum(chances)))

    def _said(self, ids: Text) -> Float[Tensor, "pos vocabulary"]:
        """Return the model's log p of the token at each place, given those before it; alike where none is."""
        out = self.model.logits(torch.tensor([[*self.front, *ids]]))[0].float().cpu()
        out = out[len(self.front) - 1 :] if self.front else torch.cat([torch.zeros_like(out[:1]), out])
        return out[: len(ids)].masked_fill(~self._allowed, -torch.inf).log_softmax(-1)

    def _drawn(self, log_p: Float[Tensor, " vocabulary"]) -> int:
        noise = torch.from_numpy(self.rng.gumbel(size=len(log_p))).float()
        return int((log_p + noise).argmax())


def _put(ids: Text, at: int, token: int) -> Text:
    return (*ids[:at], token, *ids[at + 1 :])


def _best(texts: Sequence[Near], count: int) -> list[Near]:
    return sorted({near.ids: near for near in texts}.values(), key=lambda near: near.distance)[:count]


def agreed(pool: Sequence[Near]) -> list[bool]:
    """Return of which tokens of the nearest text, from its first on, all texts agree, counted from their ends."""
    ids = pool[0].ids
    ends = [[near.ids[-back] if back <= len(near.ids) else None for near in pool] for back in range(len(ids), 0, -1)]
    return [len(set(here)) == 1 for here in ends]

"""The kernel for texts that end at the token that is read: each step tries several fillings of one slot of each text.

A chain's text is seen as what stands around a slot before position t, and what fills it: a token, two, or nothing. K fillings
are drawn from a q that knows the text around the slot alone, so that its probabilities cost no run of the model:

    q(w) ∝ p(w ∣ x_<t) · c(next ∣ w)^0.8 · c(next but one ∣ w)^0.3

with the model's own p, which is kept for every position of the chains' texts, and c from the counts of a corpus, which says how
well the kept text would go on. The K and the chain's own filling are an unordered set with m(w) times w, to which the chain's
own belongs as any of it does: it is w with probability ∝ m(w) π(w) / q(w) (Tjelmeland 2004; Calderhead 2014). All are run,
and the chain steps about in the set by the Metropolised Gibbs sampler (Liu 1996). Nothing in the slot is one filling more, of
weight (K + 1) π, where K + 1 are drawn as long as the slot is empty; a coin tells whether it is seen as empty or filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.markov.bigrams import Bigrams
from inversionview.markov.kernel import States, Trial
from inversionview.markov.language import LanguageKernel
from inversionview.markov.texts import at, draws
from inversionview.model.cache import KeysValues

DRAWN = 4
"""Fillings that are drawn for each chain."""
_FILLED = 0.75
"""How often a chain's slot is taken to be filled, where a text may grow."""
_AHEAD = (0.8, 0.3)
"""Exponents of what the corpus says of the next token and of the one after it."""
_VISITS = 5
"""Steps in one set."""
_PASS = 30
"""What a run costs beside the tokens that it runs, in tokens."""
_MOVES = {"fill": 1, "pair": 2}
"""Tokens in the slot."""
_COSTS = (1.0, 4.0)
"""Of a step with each."""


class Set(NamedTuple):
    """Fillings of each chain's slot, ``[chain, filling]``; the first is the chain's own."""

    tokens: Int[np.ndarray, "chain filling pos"]
    """The texts that they make."""
    log_q: Float[np.ndarray, "chain filling"]
    """What is taken off log π for their weights: log q, and what else is not π; ∞ where there is none."""


class Part(NamedTuple):
    """Texts that were run together."""

    texts: Ids
    """Which."""
    scores: Float[Tensor, "row pos vocabulary"]
    """Of the tokens behind the first that was run."""
    norm: Float[Tensor, "row pos"]
    """Their logsumexp."""
    cache: KeysValues


class Run(NamedTuple):
    """Texts that were run."""

    distance: Float[np.ndarray, " text"]
    log_p: Float[np.ndarray, "text pos"]
    """Of every token given those before it."""
    parts: list[Part]


class EndedKernel(LanguageKernel):
    """See the module's text.

    Args:
        args: those of ``LanguageKernel``.
        options: likewise.
        ahead: what follows what in a corpus, at distances 1, 2, …
    """

    def __init__(self, *args: Any, ahead: Sequence[Bigrams] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self._ahead = ahead
        self.moves, self.local = tuple(_MOVES), len(_MOVES)
        self.costs = _COSTS
        self._scores: Tensor
        """Of every token at every position of the chains' texts, given those before it, ``[chain, pos, vocabulary]``."""
        self._norm: Tensor
        """Their logsumexp, ``[chain, pos]``."""

    # -- states -------------------------------------------------------------------------------------------------------

    def _attach(self, states: States) -> None:
        """Run the chains' texts, where they are not those of the last step."""
        if self._of is states:
            return
        count, width = states.tokens.shape
        texts, which = np.unique(states.tokens, axis=0, return_inverse=True)
        out = self._extend(texts, None, logits=True)
        assert out.logits is not None
        scores = out.logits.float() + self.texts.banned
        rows = torch.from_numpy(which.reshape(-1))
        self._cache, self._of = out.cache.rows(rows), states
        self._scores = scores.roll(1, 1)[rows]
        self._norm = self._scores.logsumexp(-1)
        self._token_log_p = np.zeros((count, width))
        each = at(self._scores, states.tokens) - self._norm.double().numpy(force=True)
        there = self.texts.inside(states.tokens)
        there[:, : len(self.texts.given)] = False
        self._token_log_p[there] = each[there]

    # -- a step -------------------------------------------------------------------------------------------------------

    def step(
        self, states: States, epsilon: Float[np.ndarray, " chain"], which: Int[np.ndarray, " chain"], rng: np.random.Generator
    ) -> Trial:
        """See ``Kernel.step``."""
        self._attach(states)
        t = int(rng.choice(self.texts.free, p=self._chances))
        made = self._fillings(states, t, tuple(_MOVES.values())[int(which[0])], rng)
        return self._go_on(states, t, made, epsilon, rng)

    def _fillings(self, states: States, t: int, length: int, rng: np.random.Generator) -> Set:
        """Draw fillings of the slot at ``t``."""
        tokens, texts = states.tokens, self.texts
        ends, count = texts.ends(tokens), len(tokens)
        resized = length == 1 and not texts.kept[t:].any()
        room = resized & (ends < texts.longest)
        empty = room & (rng.random(count) >= _FILLED)
        possible = np.where(empty, t < ends, (t + length < ends) | ((length == 1) & (t + 1 == ends)))
        possible &= not texts.kept[t : t + length].any()
        out = np.repeat(tokens[:, None], DRAWN + 3, axis=1)
        log_q = np.full(out.shape[:2], np.inf)
        chains = np.flatnonzero(possible)
        if not len(chains):
            return Set(out, log_q)
        empty, room, ends, own = empty[chains], room[chains], ends[chains], tokens[chains]
        behind = np.where(empty, t, t + length)
        words, q = self._drawn(own, chains, t, behind, ends, length, rng)
        seen = np.log(np.where(room, _FILLED, 1.0))  # how often the slot of a text as long is taken to be filled
        shorter = np.pad(np.delete(own, t, axis=1), ((0, 0), (0, 1)), constant_values=self.model.vocabulary.pad)
        longer = np.insert(own[:, :-1], t, 0, axis=1)
        grown = np.log(np.where(ends + 1 < texts.longest, _FILLED, 1.0))
        base = np.where(empty[:, None], longer, own)
        new = np.repeat(base[:, None], DRAWN + 1, axis=1)
        new[:, :, t : t + length] = words[:, 1:]
        out[chains, 1 : DRAWN + 2] = new
        log_q[chains, 1 : DRAWN + 2] = q[:, 1:] - np.where(empty, grown, seen)[:, None]
        log_q[chains[~empty], DRAWN + 1] = np.inf  # one more is drawn where the slot is empty
        nothing = -np.log(DRAWN + 1) - np.log(1 - _FILLED)
        log_q[chains, 0] = np.where(empty, nothing, q[:, 0] - seen)
        gone = ~empty & resized & (ends - 1 >= texts.shortest) & (t + 1 < ends)
        out[chains[gone], DRAWN + 2] = shorter[gone]
        log_q[chains[gone], DRAWN + 2] = nothing
        return Set(out, log_q)

    def _drawn(
        self, own: Ids, chains: Ids, t: int, behind: Ids, ends: Ids, length: int, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "chain filling new"], Float[np.ndarray, "chain filling"]]:
        """Return what stands in the slot of each chain and ``DRAWN`` + 1 draws from q, and log q of each."""
        count, many = len(chains), DRAWN + 2
        words = np.zeros((count, many, length), dtype=np.int64)
        words[:, 0] = own[:, t : t + length]
        log_q = np.zeros((count, many))
        scores, cache = self._scores[torch.from_numpy(chains), t], None
        for s in range(length):
            guess = self._guess(own, behind, ends, length - s)
            if s == 0:
                log_p = (self.beta * scores + guess).log_softmax(-1)
                words[:, 1:, 0] = draws(log_p, many - 1, rng)
                log_q += at(log_p, words[:, :, 0])
                continue
            mine = (self.beta * self._scores[torch.from_numpy(chains), t + s] + guess).log_softmax(-1)
            log_q[:, 0] += at(mine, words[:, 0, s])
            if cache is None:
                cache = self._cache.cut(t).rows(torch.from_numpy(np.repeat(chains, many - 1)))
            run = self.model.extend(torch.from_numpy(words[:, 1:, s - 1].reshape(-1, 1)), cache, None)
            assert run.logits is not None
            cache = run.cache
            next_ = self.beta * (run.logits[:, -1].float() + self.texts.banned) + guess.repeat_interleave(many - 1, 0)
            log_p = next_.log_softmax(-1)
            drawn = draws(log_p, 1, rng)
            words[:, 1:, s] = drawn.reshape(count, -1)
            log_q[:, 1:] += at(log_p, drawn).reshape(count, -1)
        return words, log_q

    def _guess(self, own: Ids, behind: Ids, ends: Ids, away: int) -> Float[Tensor, "chain vocabulary"]:
        """Return what the corpus says of how the kept text goes on, ``away`` tokens after the one that is drawn."""
        out = torch.zeros(len(own), len(self.texts.banned))
        for gap, (table, weight) in enumerate(zip(self._ahead, _AHEAD, strict=False), start=1):
            where = behind + gap - away
            for row in np.flatnonzero((where >= behind) & (where < ends)):
                out[row] += self.beta * weight * torch.from_numpy(table.following(int(own[row, where[row]])))
        return out.to(self.model.device)

    def _go_on(self, states: States, t: int, made: Set, epsilon: npt.NDArray[np.float64], rng: np.random.Generator) -> Trial:
        """Run the fillings from ``t`` on and let each chain step about in its set."""
        own = (made.tokens == states.tokens[:, None]).all(2)
        other = ~own & np.isfinite(made.log_q)
        texts, once, which = np.unique(made.tokens[other], axis=0, return_index=True, return_inverse=True)
        number = np.full(other.shape, len(texts))  # the last is the chain's own
        number[other] = which.reshape(-1)
        run = self._run_all(texts, np.nonzero(other)[0][once], t)
        log_prior, distance = self.beta * run.log_p.sum(1), np.append(run.distance, np.nan)
        inside = distance[number] <= epsilon[:, None]
        weight = np.where(other, np.where(inside, np.append(log_prior, 0.0)[number], -np.inf), states.log_prior[:, None])
        weight, ends, seen = weight - made.log_q, self.texts.ends(texts) - 1, np.zeros(len(texts) + 1, dtype=bool)
        at_, tried = np.full(len(number), len(texts)), np.full(len(number), len(texts))
        for _ in range(_VISITS):
            chosen, taken = chosen_of(weight, number, at_, rng)
            at_ = np.where(taken, chosen, at_)
            tried = np.where((chosen >= 0) & (chosen < len(texts)), chosen, tried)
            seen[at_] = True
        moved = at_ < len(texts)
        tried = np.where(moved, at_, tried)
        real = tried < len(texts)
        trial = Trial(states.tokens.copy(), distance[tried], np.append(ends, 0)[tried], real, moved)
        trial.tokens[real] = texts[tried[real]]
        self.aside = Trial(texts, run.distance, ends, np.ones(len(texts), dtype=bool), seen[:-1]) if len(texts) else None
        chains = np.flatnonzero(moved)
        states.copy_from(States(texts, run.distance, ends, log_prior), chains, at_[chains])
        self._token_log_p[chains] = run.log_p[at_[chains]]
        self._keep(chains, at_[chains], t, run)
        return trial

    def _run_all(self, texts: Ids, chain: Ids, t: int) -> Run:
        """Run texts from ``t`` on, up to where they are those of these chains."""
        ends, distance, log_p, parts = self.texts.ends(texts), np.zeros(len(texts)), np.zeros(texts.shape), []
        log_p[:, :t] = self._token_log_p[chain, :t]
        rows, metric = torch.from_numpy(chain), self.model.metric(self.target.kind, self.target.site)
        log_p[:, t] = at(self._scores[rows, t], texts[:, t]) - self._norm[rows, t].double().numpy(force=True)
        for here in together(ends - t):
            stop = int(ends[here].max())
            cache, tokens = self._cache.cut(t).rows(rows[here]), torch.from_numpy(texts[here, t:stop])
            out = self.model.extend(tokens, cache, self.target.site, logits=stop > t + 1)
            assert out.activations is not None
            z = out.activations[torch.arange(len(here)), torch.from_numpy(ends[here] - 1 - t)]
            distance[here] = metric.between(self.target.z, z.float().cpu()).double().numpy()
            if out.logits is not None:
                scores = out.logits[:, :-1].float().add_(self.texts.banned)
                norm = scores.logsumexp(-1)
                each = at(scores, texts[here, t + 1 : stop]) - norm.double().numpy(force=True)
                log_p[here, t + 1 : stop] = np.where(self.texts.inside(texts[here])[:, t + 1 : stop], each, 0.0)
                parts.append(Part(here, scores, norm, out.cache))
        return Run(distance, log_p, parts)

    def _keep(self, chains: Ids, texts: Ids, t: int, run: Run) -> None:
        """Keep what the model gave of the texts that chains have gone to, from ``t`` on; of a last token nothing is needed."""
        for part in run.parts:
            row = np.full(len(run.distance), -1)
            row[part.texts] = np.arange(len(part.texts))
            mine = row[texts] >= 0
            here, there, stop = torch.from_numpy(chains[mine]), torch.from_numpy(row[texts[mine]]), part.cache.length
            if len(here):
                self._cache.cut(stop).put(here, part.cache.rows(there), t)
                self._scores[here, t + 1 : stop], self._norm[here, t + 1 : stop] = part.scores[there], part.norm[there]


def together(lengths: Ids) -> list[Ids]:
    """Return which texts to run together, by their lengths: shorter ones apart where that saves more than a run costs."""
    order = np.argsort(lengths, kind="stable")
    ordered, parts, start = lengths[order], [], 0
    for i in range(1, len(order)):
        if (i - start) * (ordered[i] - ordered[i - 1]) > _PASS:
            parts.append(order[start:i])
            start = i
    return [*parts, order[start:]] if len(order) else []


def chosen_of(
    weight: Float[np.ndarray, "chain filling"],
    number: Int[np.ndarray, "chain filling"],
    own: Int[np.ndarray, " chain"],
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " chain"], Bool[np.ndarray, " chain"]]:
    """Choose another text for each chain, and whether it is taken (Metropolised Gibbs).

    Args:
        weight: log weights.
        number: of the text that a filling makes; several may make one.
        own: number of the chain's own.
        rng: what draws.

    Returns:
        the number of the text that is tried, −1 where there is no other; which are taken.
    """
    every = np.exp(weight - weight.max(1, keepdims=True).clip(min=-1e300))
    others = np.where(number != own[:, None], every, 0.0)
    rest, steps = others.sum(1), others.cumsum(1)
    some = rest > 0
    column = (steps <= (rng.random(len(weight)) * steps[:, -1])[:, None]).sum(1).clip(max=weight.shape[1] - 1)
    chosen = np.where(some, number[np.arange(len(weight)), column], -1)
    same = np.where(number == chosen[:, None], every, 0.0).sum(1)
    taken: npt.NDArray[np.bool_] = some & (rng.random(len(weight)) * (every.sum(1) - same) < rest)
    return chosen, taken

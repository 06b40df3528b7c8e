"""The kernel for texts that end at the token that is read: each step looks at several texts that differ in one slot, and goes on with one.

At a slot before position t a chain's text is seen as what stands around the slot, and what fills it: one token, nothing, or a phrase.
K fillings are drawn from a distribution q that knows the text around the slot alone:

    q(w) ∝ (p(w ∣ x_<t) · c(x_next ∣ w))^…

with the model's own probabilities, which are kept of every chain's text and cost nothing, and the counts c of a corpus, which tell how
well the kept text goes on. The K drawn and the chain's own filling are one unordered set M, to which the chain's own belongs as
any other does with probability ∝ m(w) π(w) / q(w), m(w) the times w is in M (Tjelmeland 2004): so the chain goes on with one of
them, by the Metropolised Gibbs sampler (Liu 1996), which leaves its own more often. Nothing in the slot is one more filling, with weight
(K + 1) π: K + 1 are drawn where the slot is empty. What was run is measured, whether it is chosen or not.
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
from inversionview.markov.texts import draws
from inversionview.model import distances
from inversionview.model.cache import KeysValues

DRAWN = 4
"""Fillings that are drawn for each chain."""
_FILLED = 0.7
"""How often a chain's slot is taken to be filled, where a text may grow."""
_AHEAD = (0.8, 0.3)
"""Exponents of what the corpus says of the next token and of the one after it."""
_MOVES = {"fill": 1, "pair": 2, "phrase": 3}
"""Tokens in the slot."""


class Set(NamedTuple):
    """Fillings of each chain's slot, ``[chain, filling]``; the first is the chain's own."""

    tokens: Int[np.ndarray, "chain filling pos"]
    """The texts that they make."""
    log_q: Float[np.ndarray, "chain filling"]
    """What is taken off log π for their weights: log q, and what else is not π; ∞ where there is none."""


class EndedKernel(LanguageKernel):
    """See the module's text.

    Args:
        model: as for ``LanguageKernel``, as are all others.
        ahead: what follows what in a corpus, at distances 1, 2, …
    """

    def __init__(self, *args: Any, ahead: Sequence[Bigrams] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self._ahead = ahead
        self.moves = tuple(_MOVES)
        self.costs = (1.0, 2.0, 3.0)
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
        at = torch.from_numpy(states.tokens).clamp(max=len(self.texts.banned) - 1)
        each = (self._scores.gather(-1, at[..., None].to(self.model.device))[..., 0] - self._norm).cpu().double().numpy()
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
        ends, count, width = texts.ends(tokens), *tokens.shape
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
        scores, cache, row = self._scores[torch.from_numpy(chains), t], None, None
        for s in range(length):
            guess = self._guess(own, behind, ends, length - s)
            if s == 0:
                log_p = (self.beta * scores + guess).log_softmax(-1)
                words[:, 1:, 0] = draws(log_p, many - 1, rng)
                log_q += log_p.gather(1, torch.from_numpy(words[:, :, 0]).to(log_p.device)).cpu().double().numpy()
                continue
            mine = (self.beta * self._scores[torch.from_numpy(chains), t + s] + guess).log_softmax(-1)
            log_q[:, 0] += mine[torch.arange(count), torch.from_numpy(words[:, 0, s])].cpu().double().numpy()
            if cache is None:
                cache = self._cache.cut(t).rows(torch.from_numpy(np.repeat(chains, many - 1)))
            run = self.model.extend(torch.from_numpy(words[:, 1:, s - 1].reshape(-1, 1)), cache, None)
            assert run.logits is not None
            cache = run.cache
            next_ = self.beta * (run.logits[:, -1].float() + self.texts.banned) + guess.repeat_interleave(many - 1, 0)
            log_p = next_.log_softmax(-1)
            drawn = draws(log_p, 1, rng)
            words[:, 1:, s] = drawn.reshape(count, -1)
            log_q[:, 1:] += log_p.gather(1, torch.from_numpy(drawn)).cpu().double().numpy().reshape(count, -1)
        return words, log_q

    def _guess(self, own: Ids, behind: Ids, ends: Ids, away: int) -> Float[Tensor, "chain vocabulary"] | float:
        """Return what the corpus says of how the kept text goes on, ``away`` tokens after the one that is drawn."""
        out = torch.zeros(len(own), len(self.texts.banned))
        for gap, (table, weight) in enumerate(zip(self._ahead, _AHEAD, strict=False), start=1):
            where = behind + gap - away
            for row in np.flatnonzero((where >= behind) & (where < ends)):
                out[row] += self.beta * weight * torch.from_numpy(table.following(int(own[row, where[row]])))
        return out.to(self.model.device)

    def _go_on(
        self, states: States, t: int, made: Set, epsilon: npt.NDArray[np.float64], rng: np.random.Generator
    ) -> Trial:
        """Run the fillings from ``t`` on and let each chain go on with one."""
        count, many, width = made.tokens.shape
        flat = made.tokens.reshape(-1, width)
        real = (made.tokens != states.tokens[:, None]).any(2) & np.isfinite(made.log_q)
        texts, once, which = np.unique(flat[real.reshape(-1)], axis=0, return_index=True, return_inverse=True)
        trial = Trial(
            states.tokens.copy(), np.full(count, np.nan), np.zeros(count, dtype=np.int64), np.zeros(count, bool), np.zeros(count, bool)
        )
        self.aside = None
        if not len(texts):
            return trial
        rows, columns = np.nonzero(real)
        chain = rows[once]
        stop = int(self.texts.ends(texts).max())
        run = self._extend(texts[:, t:stop], self._cache.cut(t).rows(torch.from_numpy(chain)), logits=True)
        assert run.activations is not None
        assert run.logits is not None
        scores = run.logits.float().add_(self.texts.banned)
        norm = scores.logsumexp(-1)
        log_p = self._log_p(texts, chain, t, stop, scores, norm)
        last = self.texts.ends(texts) - 1
        z = run.activations[torch.arange(len(texts)), torch.from_numpy(last - t)]
        distance = distances.between(self.target.kind, self.target.z, z.float().cpu()).double().numpy()
        log_prior = self.beta * log_p.sum(1)
        number = np.full((count, many), -1)
        number[real] = which.reshape(-1)
        weight = np.where(np.isfinite(made.log_q), states.log_prior[:, None], -np.inf)
        inside = distance[number] <= epsilon[:, None]
        weight = np.where(real, np.where(inside, log_prior[number], -np.inf), weight) - made.log_q
        chosen, taken = chosen_of(weight, number, rng)
        some = np.flatnonzero(chosen >= 0)
        trial.tokens[some], trial.distance[some] = texts[chosen[some]], distance[chosen[some]]
        trial.position[some], trial.real[some] = last[chosen[some]], True
        trial.accepted[:] = taken
        chains = np.flatnonzero(taken)
        into = chosen[chains]
        states.copy_from(States(texts, distance, last, log_prior), chains, into)
        self._token_log_p[chains] = log_p[into]
        here, there = torch.from_numpy(chains), torch.from_numpy(into)
        self._cache.cut(stop).put(here, run.cache.rows(there), t)
        self._scores[here, t + 1 : stop], self._norm[here, t + 1 : stop] = scores[there, :-1], norm[there, :-1]
        none = np.zeros(len(texts), dtype=bool)
        self.aside = Trial(texts, distance, last, ~none, none)
        return trial

    def _log_p(
        self, texts: Ids, chain: Ids, t: int, stop: int, scores: Tensor, norm: Tensor
    ) -> Float[np.ndarray, "row pos"]:
        """Return log p of every token given those before it."""
        out = np.zeros(texts.shape)
        out[:, :t] = self._token_log_p[chain, :t]
        rows, first = torch.from_numpy(chain), torch.from_numpy(texts[:, t]).to(scores.device)
        out[:, t] = (self._scores[rows, t, first] - self._norm[rows, t]).cpu().double().numpy()
        later = torch.from_numpy(texts[:, t + 1 : stop]).to(scores.device).clamp(max=scores.size(-1) - 1)
        each = (scores[:, :-1].gather(-1, later[..., None])[..., 0] - norm[:, :-1]).cpu().double().numpy()
        out[:, t + 1 : stop] = np.where(self.texts.inside(texts)[:, t + 1 : stop], each, 0.0)
        return out


def chosen_of(
    weight: Float[np.ndarray, "chain filling"], number: Int[np.ndarray, "chain filling"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, " chain"], Bool[np.ndarray, " chain"]]:
    """Choose another text for each chain and whether it is taken (Metropolised Gibbs).

    Args:
        weight: log weights.
        number: of the text; −1 for the chain's own.
        rng: what draws.

    Returns:
        the number of the text that is tried, −1 where there is none; which are taken.
    """
    every = np.exp(weight - weight.max(1, keepdims=True).clip(min=-1e300))
    others = np.where(number >= 0, every, 0.0)
    total, rest = every.sum(1), others.sum(1)
    some = rest > 0
    steps = others.cumsum(1)
    column = np.where(some, (steps <= (rng.random(len(weight)) * steps[:, -1])[:, None]).sum(1), 0)
    column = column.clip(max=weight.shape[1] - 1)
    chosen = np.where(some, number[np.arange(len(weight)), column], -1)
    same = np.where(number == chosen[:, None], every, 0.0).sum(1)
    taken = some & (rng.random(len(weight)) * np.maximum(total - same, 0.0) < rest)
    return chosen, taken

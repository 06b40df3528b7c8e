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
from inversionview.markov.texts import at, draws
from inversionview.model import distances
from inversionview.model.cache import Extended, KeysValues

DRAWN = 4
"""Fillings that are drawn for each chain."""
_FILLED = 0.7
"""How often a chain's slot is taken to be filled, where a text may grow."""
_AHEAD = (0.8, 0.3)
"""Exponents of what the corpus says of the next token and of the one after it."""
_PASS = 30
"""What a run costs beside the tokens that it runs, in tokens."""
_MOVES = {"fill": 1, "pair": 2, "phrase": 3}
"""Tokens in the slot."""


class Slot(NamedTuple):
    """A slot in some chains' texts, before the token at ``t``."""

    t: int
    length: int
    """Tokens that it takes."""
    chains: Ids
    """Which of all chains have one."""
    empty: Bool[np.ndarray, " chain"]
    """Nothing is in it, so far."""
    without: Int[np.ndarray, "chain pos"]
    """The texts with nothing in it."""
    left: Ids
    """How many tokens follow it."""
    goes: Bool[np.ndarray, " chain"]
    """There are texts with nothing in it, too."""
    seen: Float[np.ndarray, " chain"]
    """Log of how often it is seen as filled, where it is."""

    def text(self, chain: Ids, words: Int[np.ndarray, "row new"]) -> Int[np.ndarray, "row pos"]:
        """Return texts with the slot filled."""
        around = self.without[chain]
        made: Ids = np.concatenate([around[:, : self.t], words, around[:, self.t :]], axis=1)[:, : around.shape[1]]
        return made


class Drawn(NamedTuple):
    """Fillings that were drawn."""

    words: Int[np.ndarray, "chain filling new"]
    log_q: Float[np.ndarray, "chain filling"]
    log_p: Float[np.ndarray, "chain filling new_and_next"]
    """Of each token given those before it, and of the kept one that follows."""
    row: Int[np.ndarray, "chain filling"]
    """Which row of what follows is the filling's; −1 where it was not run."""
    scores: list[Tensor]
    """Of the token behind each token of the filling, ``[row, vocabulary]``."""
    cache: KeysValues | None


class Run(NamedTuple):
    """Texts run to their end."""

    distance: Float[np.ndarray, " text"]
    log_p: Float[np.ndarray, "text pos"]
    """Of the kept tokens but the first, 0 elsewhere."""
    parts: list[tuple[Ids, int, Extended]]
    """Which texts were run together, and from where on."""


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
        slot = self._slot(states, t, tuple(_MOVES.values())[int(which[0])], rng)
        nan, no = np.full(len(which), np.nan), np.zeros((3, len(which)), dtype=bool)
        trial = Trial(states.tokens.copy(), nan, no[0].astype(np.int64), no[1], no[2])
        self.aside = None
        if len(slot.chains):
            self._go_on(states, slot, self._drawn(states, slot, rng), trial, epsilon, rng)
        return trial

    def _slot(self, states: States, t: int, length: int, rng: np.random.Generator) -> Slot:
        """Take what stands at ``t`` to fill a slot, or see an empty one before it, where that is possible."""
        texts, ends = self.texts, self.texts.ends(states.tokens)
        resized = length == 1 and not texts.kept[t:].any()
        empty = resized & (ends < texts.longest) & (rng.random(len(ends)) >= _FILLED)
        possible = np.where(empty, t < ends, (t + length < ends) | ((length == 1) & (t + 1 == ends)))
        chains = np.flatnonzero(possible & (not texts.kept[t : t + length].any()))
        empty, ends, own = empty[chains], ends[chains], states.tokens[chains]
        pad = np.full((len(own), length), self.model.vocabulary.pad)
        without = np.where(empty[:, None], own, np.concatenate([own[:, :t], own[:, t + length :], pad], axis=1)[:, : own.shape[1]])
        left = ends - t - np.where(empty, 0, length)
        goes = resized & (t + left >= texts.shortest) & (left > 0)
        seen = np.log(np.where(resized & (t + left + length < texts.longest), _FILLED, 1.0))
        return Slot(t, length, chains, empty, without, left, goes, seen)

    def _drawn(self, states: States, slot: Slot, rng: np.random.Generator) -> Drawn:
        """Draw fillings from q, and run those that a kept text follows; the first is the chain's own."""
        t, length, count, many = slot.t, slot.length, len(slot.chains), DRAWN + 1
        chains, own = torch.from_numpy(slot.chains), states.tokens[slot.chains]
        words = np.repeat(own[:, None, t : t + length], many + 1, axis=1)
        log_q, log_p = np.zeros((count, many + 1)), np.zeros((count, many + 1, length + 1))
        log_p[:, 0] = self._token_log_p[slot.chains, t : t + length + 1]
        scores = self._scores[chains, t].repeat_interleave(many, 0) if length > 1 else self._scores[chains, t]
        owner, seen, cache = np.repeat(np.arange(count), many), [], None
        for s in range(length):
            guess = self._guess(slot, length - s)
            mine = (self.beta * self._scores[chains, t + s] + guess).log_softmax(-1)
            log_q[:, 0] += at(mine, own[:, t + s])
            if s == 0:
                words[:, 1:, 0] = draws(mine, many, rng)
                log_q[:, 1:] = at(mine, words[:, 1:, 0])
                log_p[:, 1:, 0] = at(self._scores[chains, t], words[:, 1:, 0]) - self._norm[chains, t].numpy(force=True)[:, None]
            else:
                there = (self.beta * scores + guess.repeat_interleave(many, 0)).log_softmax(-1)
                drawn = draws(there, 1, rng)
                words[:, 1:, s], log_q[:, 1:] = drawn.reshape(count, many), log_q[:, 1:] + at(there, drawn).reshape(count, many)
                log_p[:, 1:, s] = (at(scores, drawn)[:, 0] - scores.logsumexp(-1).numpy(force=True)).reshape(count, many)
            run, row = np.arange(len(owner)), np.arange(len(owner)).reshape(count, many)
            if length == 1:
                run, row = self._once(own, slot, words)
            if not len(run):
                break
            if cache is None:
                cache = self._cache.cut(t).rows(chains[owner[run]])
            out = self.model.extend(torch.from_numpy(words[:, 1:, s].reshape(-1, 1)[run]), cache, None)
            assert out.logits is not None
            scores, cache = out.logits[:, -1].float() + self.texts.banned, out.cache
            seen.append(scores)
        rows = np.concatenate([np.full((count, 1), -1), row], axis=1)
        if seen:
            then = np.repeat(slot.without[:, t], many + 1).reshape(count, -1)
            norm, there = scores.logsumexp(-1), torch.from_numpy(rows.clip(min=0))
            next_ = (scores[there, torch.from_numpy(then).clamp(max=scores.size(1) - 1)] - norm[there]).numpy(force=True)
            log_p[:, 1:, length] = np.where(rows >= 0, next_, 0.0)[:, 1:]
        return Drawn(words, log_q, log_p, rows, seen, cache)

    def _once(self, own: Ids, slot: Slot, words: Ids) -> tuple[Ids, Int[np.ndarray, "chain filling"]]:
        """Return which single words to run, equal ones once, and which of these each is; −1 for what need not be run."""
        _, prefix = np.unique(own[:, : slot.t], axis=0, return_inverse=True)
        keys = prefix.reshape(-1, 1) * 2**32 + words[:, 1:, 0]
        wanted = (slot.left > 0)[:, None] & ((words[:, 1:, 0] != words[:, :1, 0]) | slot.empty[:, None])
        wanted[~slot.empty, -1] = False
        _, first, which = np.unique(keys[wanted], return_index=True, return_inverse=True)
        row = np.full(keys.shape, -1)
        row[wanted] = which.reshape(-1)
        return np.flatnonzero(wanted.reshape(-1))[first], row

    def _guess(self, slot: Slot, away: int) -> Float[Tensor, "chain vocabulary"]:
        """Return what the corpus says of how the kept text goes on, ``away`` tokens after the one that is drawn."""
        out = torch.zeros(len(slot.chains), len(self.texts.banned))
        for gap, (table, weight) in enumerate(zip(self._ahead, _AHEAD, strict=False), start=1):
            for row in np.flatnonzero(slot.left > gap - away) if gap >= away else ():
                out[row] += self.beta * weight * torch.from_numpy(table.following(int(slot.without[row, slot.t + gap - away])))
        return out.to(self.model.device)

    def _go_on(
        self,
        states: States,
        slot: Slot,
        drawn: Drawn,
        trial: Trial,
        epsilon: npt.NDArray[np.float64],
        rng: np.random.Generator,
    ) -> None:
        """Choose another filling for each chain by what is known of them, run it to the end, and take it or leave it."""
        chains, count = slot.chains, len(slot.chains)
        bare = np.where(slot.left > 0, self._bare(slot), 0.0)
        nothing = -np.log(DRAWN + 1) - np.log(1 - _FILLED)
        known = np.concatenate([drawn.log_p.sum(2), bare[:, None]], axis=1)
        known[slot.empty, 0] = bare[slot.empty]
        same = (drawn.words == drawn.words[:, :1]).all(2) & ~slot.empty[:, None]  # as often drawn as it may be
        known[:, :-1] = np.where(same, known[:, :1], known[:, :-1])
        less = np.concatenate([drawn.log_q - slot.seen[:, None], np.full((count, 1), nothing)], axis=1)
        less[slot.empty, 0] = nothing
        less[~slot.empty, -2] = np.inf
        less[slot.empty | ~slot.goes, -1] = np.inf
        texts, number, cell = self._texts(states, slot, drawn, less)
        weight, distance = self.beta * known - less, np.full(len(texts) + 1, np.nan)
        late = np.flatnonzero(slot.left[cell[0]] <= 1)
        if len(late):
            distance[late] = self._run_on(slot, drawn, texts[late], cell[:, late]).distance
            weight[distance[number] > epsilon[chains][:, None]] = -np.inf
        chosen, passed = chosen_of(weight, number, rng)
        some, none = np.flatnonzero(chosen >= 0), np.zeros(len(late), dtype=bool)
        trial.tokens[chains[some]], trial.real[chains[some]] = texts[chosen[some]], True
        trial.distance[chains[some]], trial.position[chains[some]] = distance[chosen[some]], self.texts.ends(texts[chosen[some]]) - 1
        if len(late):
            self.aside = Trial(texts[late], distance[late], self.texts.ends(texts[late]) - 1, ~none, none)
        go = np.flatnonzero(passed)
        if len(go):
            column = (number[go] == chosen[go, None]).argmax(1)
            self._take(states, slot, drawn, trial, go, column, known[go, column], epsilon, rng)

    def _texts(
        self, states: States, slot: Slot, drawn: Drawn, less: npt.NDArray[np.float64]
    ) -> tuple[Ids, Int[np.ndarray, "chain filling"], Int[np.ndarray, "2 text"]]:
        """Return the other texts that the fillings make, which of them each is (−1: the chain's own), and a filling of each."""
        count, many = drawn.log_q.shape
        filled = slot.text(np.repeat(np.arange(count), many), drawn.words.reshape(-1, slot.length)).reshape(count, many, -1)
        texts = np.concatenate([filled, slot.without[:, None]], axis=1)
        other = (texts != states.tokens[slot.chains][:, None]).any(2) & np.isfinite(less)
        other[:, 0] = False
        late = np.broadcast_to((slot.left <= 1)[:, None], other.shape)[other]  # what some chains have run, others have yet to
        keys = np.concatenate([texts[other], late[:, None]], axis=1)
        made, once, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        number = np.full(other.shape, -1)
        number[other] = which.reshape(-1)
        return made[:, :-1], number, np.stack(np.nonzero(other))[:, once]

    def _bare(self, slot: Slot) -> npt.NDArray[np.float64]:
        """Return log p of the token that follows the slot, if nothing is in it."""
        rows = torch.from_numpy(slot.chains)
        return at(self._scores[rows, slot.t], slot.without[:, slot.t]) - self._norm[rows, slot.t].double().numpy(force=True)

    def _run_on(self, slot: Slot, drawn: Drawn, texts: Ids, cell: Int[np.ndarray, "2 text"]) -> Run:
        """Run texts from behind the filling to their end: those as long together."""
        chain, column = cell
        ends, distance, log_p = self.texts.ends(texts), np.zeros(len(texts)), np.zeros(texts.shape)
        written, parts = (drawn.row[chain, np.minimum(column, DRAWN + 1)] >= 0) & (column < DRAWN + 2), []
        for after in (False, True):
            start = slot.t + after * slot.length
            rows = np.flatnonzero(written == after)
            for part in together(ends[rows] - start):
                here = rows[part]
                stop, tokens = int(ends[here].max()), torch.from_numpy(texts[here, start : int(ends[here].max())])
                if after:
                    assert drawn.cache is not None
                    cache = drawn.cache.rows(torch.from_numpy(drawn.row[chain[here], column[here]]))
                else:
                    cache = self._cache.cut(start).rows(torch.from_numpy(slot.chains[chain[here]]))
                out = self.model.extend(tokens, cache, self.target.site, logits=stop > start + 1)
                assert out.activations is not None
                z = out.activations[torch.arange(len(here)), torch.from_numpy(ends[here] - 1 - start)]
                distance[here] = distances.between(self.target.kind, self.target.z, z.float().cpu()).double().numpy()
                if out.logits is not None:
                    scores = out.logits[:, :-1].float().add_(self.texts.banned)
                    each = at(scores, texts[here, start + 1 : stop]) - scores.logsumexp(-1).double().numpy(force=True)
                    log_p[here, start + 1 : stop] = np.where(self.texts.inside(texts[here])[:, start + 1 : stop], each, 0.0)
                    out = Extended(None, scores, out.cache)
                parts.append((here, start, out))
        return Run(distance, log_p, parts)

    def _take(
        self,
        states: States,
        slot: Slot,
        drawn: Drawn,
        trial: Trial,
        go: Ids,
        column: Ids,
        known: npt.NDArray[np.float64],
        epsilon: npt.NDArray[np.float64],
        rng: np.random.Generator,
    ) -> None:
        """Run what was chosen for the chains ``go`` of the slot to the end, and take what prior and ε let pass."""
        chains, t, length = slot.chains[go], slot.t, slot.length
        tokens = trial.tokens[chains]
        early = np.flatnonzero(slot.left[go] > 1)
        run = self._run_on(slot, drawn, tokens[early], np.stack([go[early], column[early]]))
        trial.distance[chains[early]] = run.distance
        log_p, first = self._token_log_p[chains].copy(), t + length * ~slot.empty[go]
        before = np.where(np.arange(log_p.shape[1]) > first[:, None], log_p, 0.0).sum(1)
        log_p[:, t:] = 0.0
        log_p[early] += run.log_p
        gain = self.beta * (log_p[:, t:].sum(1) - before)
        words = column < DRAWN + 2
        log_p[words, t : t + length + 1] = drawn.log_p[go[words], column[words]]
        log_p[~words, t] = known[~words]
        with np.errstate(divide="ignore"):
            taken = (np.log(rng.random(len(go))) < gain) & (trial.distance[chains] <= epsilon[chains])
        trial.accepted[chains[taken]] = True
        log_prior = self.beta * log_p.sum(1)
        part = States(tokens, trial.distance[chains], trial.position[chains], log_prior)
        states.copy_from(part, chains[taken], np.flatnonzero(taken))
        self._token_log_p[chains[taken]] = log_p[taken]
        self._keep(slot, drawn, chains, np.where(words, drawn.row[go, np.minimum(column, DRAWN + 1)], -1), taken)
        for rows, start, out in run.parts:
            mine = early[rows]
            here, there = torch.from_numpy(chains[mine[taken[mine]]]), torch.from_numpy(np.flatnonzero(taken[mine]))
            if out.logits is not None and len(here):
                stop = out.cache.length
                self._cache.cut(stop).put(here, out.cache.rows(there), start)
                self._scores[here, start + 1 : stop] = out.logits[there]
                self._norm[here, start + 1 : stop] = out.logits[there].logsumexp(-1)

    def _keep(self, slot: Slot, drawn: Drawn, chains: Ids, row: Ids, taken: npt.NDArray[np.bool_]) -> None:
        """Keep what the model gave of the fillings that were taken."""
        kept = taken & (row >= 0)
        here, there = torch.from_numpy(chains[kept]), torch.from_numpy(row[kept])
        if not len(here) or drawn.cache is None:
            return
        self._cache.cut(drawn.cache.length).put(here, drawn.cache.rows(there), slot.t)
        for s, scores in enumerate(drawn.scores, start=slot.t + 1):
            self._scores[here, s], self._norm[here, s] = scores[there], scores[there].logsumexp(-1)


def together(lengths: Ids) -> list[Ids]:
    """Return which texts to run together, by their lengths: shorter ones apart where that saves more than a run costs."""
    if not len(lengths):
        return []
    order = np.argsort(lengths, kind="stable")
    ordered, parts, start = lengths[order], [], 0
    for i in range(1, len(order)):
        if ordered[i] > ordered[i - 1] and (i - start) * (ordered[i] - ordered[i - 1]) > _PASS:
            parts.append(order[start:i])
            start = i
    return [*parts, order[start:]]


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

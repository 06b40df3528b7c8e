"""The kernel for sequences of a language model: any tokens, under the model's own p(x)^β.

The prior is p(x₁ … xₙ)^β of the model, special tokens left out: for β = 1 uniform over lengths, as it is for β = 0, where all
texts of a length are alike. The first token, nearly always BOS, is given: no model predicts it. Where texts are run without
a BOS it is the query's own, and stays.

In one step all chains edit at the same position t, drawn by lot whatever the states are; so what comes before t need not be run
again, its keys and values are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview import distances
from inversionview.cache import Extended, KeysValues
from inversionview.errors import SettingError
from inversionview.harvest import tokens_per_pass
from inversionview.inputs import Ids
from inversionview.probed import ProbedModel
from inversionview.walk.kernel import States, Target, Trial

_NEIGHBOUR = 0.04
"""Temperature of the cosine between embeddings, by which neighbours are drawn."""
_LONGEST_SUFFIX = 8
_SPAN = 4
_OVERHEAD = 4
"""What a step costs beside the tokens that it runs, in tokens."""
_STAY = 3
"""Steps at one position, before another is drawn: the distribution of its token is computed once."""
_COSTS = {"span": 1.5, "suffix": 2.0, "guided": 5.0}
"""Of a step, in steps that replace a token."""
_PULL = 0.05
"""Temperature of the first-order change of D, by which guided replacements are drawn."""


class LanguageKernel:
    """See the module's text.

    Args:
        model: the probed model, whose own distribution is the prior.
        target: what D is measured against.
        lengths: the fewest and the most tokens of an input, BOS counted and EOS not.
        given: the tokens that every input begins with, by default what stands before a text (BOS).
        beta: the prior is p(x)^β.
        keep: positions of tokens that stay.
        guided: add the move that follows the gradient of D.

    Raises:
        SettingError: β is negative, or nothing is left to change.
    """

    redraw: int | None = None

    def __init__(
        self,
        model: ProbedModel,
        target: Target,
        lengths: tuple[int, int],
        *,
        given: Sequence[int] = (),
        beta: float = 1.0,
        keep: Sequence[int] = (),
        guided: bool = False,
    ) -> None:
        if not 0 <= beta < float("inf"):
            raise SettingError(f"β must be 0 or more, but is {beta}.")
        self.model, self.target, self.beta = model, target, beta
        self.given = np.array(list(given) or model.vocabulary.front, dtype=np.int64)
        least = len(model.vocabulary.front) + 1
        self.shortest, self.longest = (
            max(least, lengths[0]),
            min(lengths[1], (model.shape.steady or model.shape.max_length) - 1),
        )
        self.kept = np.isin(np.arange(self.longest + 1), keep)
        begun = len(self.given)
        self.free = np.flatnonzero(~self.kept[begun : self.longest]) + begun
        if not len(self.free):
            raise SettingError("Every token is kept: leave some to change, or give a longer text.")
        chances = 1 / (self.longest - self.free + _OVERHEAD)
        self._chances = chances / chances.sum()
        """Of the positions: each gets as much time, and what comes before it costs none."""
        v = model.vocabulary
        banned = torch.zeros(model.shape.vocabulary)
        banned[[i for i in {*v.special, *range(v.size, len(banned))} if i < len(banned)]] = -torch.inf
        self._banned = banned.to(model.device)
        self._moves = {"replace": self._replace, "neighbour": self._neighbour, "swap": self._swap, "resize": self._resize}
        if beta:
            self._moves |= {"span": self._span, "suffix": self._suffix}
        if guided:
            self._moves["guided"] = self._guided
        self.moves = tuple(self._moves)
        self.costs: tuple[float, ...] | None = tuple(_COSTS.get(name, 1.0) for name in self.moves)
        self._depth = (target.site.layer + 1) / len(model.shape.heads) if beta else 1.0
        """Share of the layers that D takes."""
        self._share = 0.5
        """Share of the proposals inside ε, of late."""
        self._steps, self._t = 0, 1
        self._first: Tensor | None = None
        """log p of every token at t given what comes before it, which a step at t leaves as it is."""
        self._of: States | None = None
        self._cache: KeysValues
        self._per_token: npt.NDArray[np.float64]
        self._token_log_p: npt.NDArray[np.float64]
        self._embeddings: tuple[Tensor, Tensor] | None = None

    # -- states -------------------------------------------------------------------------------------------------------

    def begin(self, tokens: Ids) -> States:
        """See ``Kernel.begin``."""
        rows = max(1, tokens_per_pass(self.model.device) // tokens.shape[1])
        parts = [self._run(part, None, 0, np.zeros((len(part), 0)))[1:] for part in _split(tokens, rows)]
        per_token, log_p = (np.concatenate(part) for part in zip(*parts, strict=True))
        distance, position = self._nearest(tokens, per_token)
        odd = np.isin(tokens, np.flatnonzero(np.isinf(self._banned.cpu().numpy()))) & self._inside(tokens)
        odd[:, : len(self.given)] = tokens[:, : len(self.given)] != self.given
        return States(tokens.copy(), distance, position, np.where(odd.any(1), -np.inf, self._log_prior(tokens, log_p)))

    def _log_prior(self, tokens: Ids, log_p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return log p(x)^β, that of the lengths left out; all texts of a length alike where β is 0."""
        if self.beta:
            return self.beta * log_p.sum(1)
        return -np.log(float(torch.isfinite(self._banned).sum())) * (self._ends(tokens) - 1)

    def fresh(self, count: int, rng: np.random.Generator) -> States:
        """See ``Kernel.fresh``: lengths by lot, then token by token.

        Raises:
            SettingError: some tokens are kept or β is neither 0 nor 1, for which nothing can be drawn at once.
        """
        if self.kept.any() or self.beta not in (0, 1):
            raise SettingError("With --keep, or β other than 0 and 1, no text can be drawn at once: walk without --exchange.")
        v, ends = self.model.vocabulary, rng.integers(self.shortest, self.longest + 1, size=count)
        tokens = np.full((count, self.longest + 1), v.pad, dtype=np.int64)
        tokens[:, : len(self.given)], cache = self.given, None
        for t in range(len(self.given), self.longest):
            new = tokens[:, 0 if cache is None else t - 1 : t]
            out = self._extend(new, cache, logits=bool(self.beta)) if self.beta else None
            cache = None if out is None else out.cache
            tokens[:, t] = _draw(self._log_probs(out, count), rng)
        cells = np.arange(self.longest + 1)
        tokens = np.where(cells < ends[:, None], tokens, np.where(cells == ends[:, None], v.eos, v.pad))
        return self.begin(tokens)

    def _attach(self, states: States) -> None:
        """Make keys, values, distances and probabilities of the chains, where they are not those of the last step."""
        if self._of is not states:
            self._steps = 0
            tokens, which = np.unique(states.tokens, axis=0, return_inverse=True)  # all may stand at the query
            out, per_token, log_p = self._run(tokens, None, 0, np.zeros((len(tokens), 0)))
            self._per_token, self._token_log_p = per_token[which], log_p[which]
            self._cache, self._of = out.cache.rows(torch.from_numpy(which)), states

    # -- a step -------------------------------------------------------------------------------------------------------

    def step(
        self, states: States, epsilon: Float[np.ndarray, " chain"], which: Int[np.ndarray, " chain"], rng: np.random.Generator
    ) -> Trial:
        """See ``Kernel.step``."""
        self._attach(states)
        if self._steps % _STAY == 0:
            self._t, self._first = int(rng.choice(self.free, p=self._chances)), None
        self._steps, t = self._steps + 1, self._t
        new, ratio = states.tokens.copy(), np.full(len(which), -np.inf)
        if self.beta and self._first is None:
            self._first = self._next(states, t)
        first = self._first
        for number, move in enumerate(self._moves.values()):
            chains = np.flatnonzero((which == number) & (self._ends(states.tokens) >= t))
            if len(chains):
                log_p = self._log_probs(None, len(chains)) if first is None else first[torch.from_numpy(chains)]
                new[chains], ratio[chains] = move(chains, states.tokens[chains], t, log_p, rng)
        new = np.where(np.isfinite(ratio)[:, None], new, states.tokens)
        real = (new != states.tokens).any(1)
        trial = Trial(new, np.full(len(which), np.nan), np.zeros(len(which), dtype=np.int64), real, np.zeros_like(real))
        rows = np.flatnonzero(real)
        if len(rows):
            self._judge(states, trial, rows, t, ratio, epsilon, rng)
        return trial

    def _judge(
        self, states: States, trial: Trial, rows: Ids, t: int, ratio: npt.NDArray[np.float64],
        epsilon: npt.NDArray[np.float64], rng: np.random.Generator,
    ) -> None:  # fmt: skip
        """Run the proposals from ``t`` on, and take those that the prior and ε let pass."""
        screened = self._depth + self._share < 1
        if screened:
            rows = self._screened(trial, rows, t, epsilon)
            if not len(rows):
                return
        index = torch.from_numpy(rows)
        out, per_token, log_p = self._run(trial.tokens[rows], self._cache.cut(t).rows(index), t, self._per_token[rows, :t])
        log_p[:, :t] = self._token_log_p[rows, :t]
        if self._first is not None:
            log_p[:, t] = np.where(self._ends(trial.tokens[rows]) > t, _at(self._first[index], trial.tokens[rows, t]), 0.0)
        trial.distance[rows], trial.position[rows] = self._nearest(trial.tokens[rows], per_token)
        if not screened:
            self._inside_of(trial, rows, epsilon)
        log_prior = self._log_prior(trial.tokens[rows], log_p)
        with np.errstate(divide="ignore"):
            passed = np.log(rng.random(len(rows))) < log_prior - states.log_prior[rows] + ratio[rows]
        taken = passed & (trial.distance[rows] <= epsilon[rows])
        chains = rows[taken]
        trial.accepted[chains] = True
        part = States(trial.tokens[chains], trial.distance[chains], trial.position[chains], log_prior[taken])
        states.copy_from(part, chains, np.arange(len(chains)))
        self._per_token[chains], self._token_log_p[chains] = per_token[taken], log_p[taken]
        self._cache.put(index[taken], out.cache.rows(torch.from_numpy(taken)), t)

    def _screened(self, trial: Trial, rows: Ids, t: int, epsilon: npt.NDArray[np.float64]) -> Ids:
        """Measure the proposals, running no more layers than that takes, and return those inside ε; the prior is for these."""
        cache = self._cache.cut(t).rows(torch.from_numpy(rows))
        _, per_token, _ = self._run(trial.tokens[rows], cache, t, self._per_token[rows, :t], prior=False)
        trial.distance[rows], trial.position[rows] = self._nearest(trial.tokens[rows], per_token)
        return rows[self._inside_of(trial, rows, epsilon)]

    def _inside_of(self, trial: Trial, rows: Ids, epsilon: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Return which proposals lie inside ε, and keep count of it."""
        inside: npt.NDArray[np.bool_] = trial.distance[rows] <= epsilon[rows]
        self._share += (inside.mean() - self._share) / 10
        return inside

    def _run(
        self, tokens: Ids, cache: KeysValues | None, t: int, before: npt.NDArray[np.float64], prior: bool = True
    ) -> tuple[Extended, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Run sequences from position ``t`` on.

        Returns:
            what the model gave; the distance at every position, ``before`` holding those up to ``t``; log p of every token
            after ``t`` given those before it, 0 elsewhere.
        """
        out = self._extend(tokens[:, t:], cache, logits=prior and bool(self.beta))
        assert out.activations is not None
        here = distances.between(self.target.kind, self.target.z, out.activations.float().cpu())
        per_token = np.concatenate([before, here.double().numpy()], axis=1)
        log_p = np.zeros(tokens.shape)
        if out.logits is not None:
            later = torch.from_numpy(tokens[:, t + 1 :]).to(self.model.device).clamp(max=len(self._banned) - 1)
            scores = out.logits[:, :-1].float().add_(self._banned)
            each = scores.gather(-1, later[..., None])[..., 0] - scores.logsumexp(-1)
            log_p[:, t + 1 :] = np.where(self._inside(tokens)[:, t + 1 :], each.cpu().double().numpy(), 0.0)
            log_p[:, : len(self.given)] = 0.0
        return out, per_token, log_p

    def _extend(self, tokens: Ids, cache: KeysValues | None, logits: bool) -> Extended:
        return self.model.extend(torch.from_numpy(tokens), cache, self.target.site, logits=logits)

    def _next(self, states: States, t: int) -> Float[Tensor, "chain vocabulary"]:
        """Return log p of every token at ``t`` ≥ 1 given the states' tokens before it."""
        out = self.model.extend(torch.from_numpy(states.tokens[:, t - 1 : t]), self._cache.cut(t - 1) if t > 1 else None)
        return self._log_probs(out, len(states.tokens))

    def _log_probs(self, out: Extended | None, count: int) -> Float[Tensor, "row vocabulary"]:
        """Return log p of the next token, special tokens left out; all alike where β is 0."""
        scores = self._banned.expand(count, -1) if out is None or out.logits is None else out.logits[:, -1] + self._banned
        return scores.float().log_softmax(-1)

    def _ends(self, tokens: Ids) -> Ids:
        """Return where EOS stands."""
        ends: Ids = (tokens != self.model.vocabulary.pad).sum(1) - 1
        return ends

    def _inside(self, tokens: Ids) -> npt.NDArray[np.bool_]:
        """Return which tokens are those of the text or BOS."""
        return np.arange(tokens.shape[1]) < self._ends(tokens)[:, None]

    def _nearest(self, tokens: Ids, per_token: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], Ids]:
        """Return D and where it is reached."""
        masked = np.where(self._inside(tokens), per_token, np.inf)
        position = masked.argmin(1) if self.target.fixed is None else self.target.fixed(tokens)
        distance = masked[np.arange(len(tokens)), position]
        return np.where(position < 0, np.inf, distance), position

    # -- moves: (chains, their tokens, t, log p of each token at t) to new tokens and log q(x | x') - log q(x' | x) ---------

    def _replace(
        self, chains: Ids, tokens: Ids, t: int, log_p: Tensor, rng: np.random.Generator
    ) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Draw the token anew from the model's next-token distribution."""
        return self._put(tokens, t, _draw(log_p, rng), log_p, log_p)

    def _neighbour(
        self, chains: Ids, tokens: Ids, t: int, log_p: Tensor, rng: np.random.Generator
    ) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Take a token whose embedding is alike."""
        there = self._alike(tokens[:, t])
        drawn = _draw(there, rng)
        return self._put(tokens, t, drawn, there, self._alike(drawn))

    def _guided(
        self, chains: Ids, tokens: Ids, t: int, log_p: Tensor, rng: np.random.Generator
    ) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Draw from p(v ∣ x_<t) exp(−ΔD(v) / τ), ΔD to first order from the gradient, here and for the way back there.

        A discrete Langevin proposal (Grathwohl et al. 2021; Zhang, Liu and Liu 2022).
        """
        there = self._towards(tokens, t, log_p)
        drawn = _draw(there, rng)
        new, _ = self._put(tokens, t, drawn, there, there)
        return self._put(tokens, t, drawn, there, self._towards(new, t, log_p))

    def _put(self, tokens: Ids, t: int, drawn: Ids, there: Tensor, back: Tensor) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Put tokens in at ``t``, drawn from ``there``, and back from ``back``; not possible behind the end."""
        new, possible = tokens.copy(), self._ends(tokens) > t
        new[possible, t] = drawn[possible]
        ratio = _at(back, np.where(possible, tokens[:, t], drawn)) - _at(there, drawn)
        return new, np.where(possible, ratio, -np.inf)

    def _swap(
        self, chains: Ids, tokens: Ids, t: int, log_p: Tensor, rng: np.random.Generator
    ) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Let the token change places with a later one."""
        cells = np.arange(tokens.shape[1])
        later = self._inside(tokens) & (cells > t) & ~self.kept
        other, each, new = np.where(later, rng.random(later.shape), -1).argmax(1), np.arange(len(tokens)), tokens.copy()
        new[:, t], new[each, other] = tokens[each, other], tokens[:, t]
        return new, np.where(later.any(1), 0.0, -np.inf)

    def _resize(
        self, chains: Ids, tokens: Ids, t: int, log_p: Tensor, rng: np.random.Generator
    ) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Put a token in before ``t``, drawn from the model, or take the one at ``t`` out; only behind all that is kept."""
        ends, grow = self._ends(tokens), rng.random(len(tokens)) < 0.5
        drawn = _draw(log_p, rng)
        longer, shorter = np.insert(tokens[:, :-1], t, drawn, axis=1), np.delete(tokens, t, axis=1)
        shorter = np.pad(shorter, ((0, 0), (0, 1)), constant_values=self.model.vocabulary.pad)
        possible = np.where(grow, ends < self.longest, (ends > self.shortest) & (ends > t)) & (not self.kept[t:].any())
        chance = _at(log_p, np.where(grow | ~possible, drawn, tokens[:, t]))
        return np.where(grow[:, None], longer, shorter), np.where(possible, np.where(grow, -chance, chance), -np.inf)

    def _span(
        self, chains: Ids, tokens: Ids, t: int, log_p: Tensor, rng: np.random.Generator
    ) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Let the model write two to four tokens anew."""
        stops = t + rng.integers(2, _SPAN + 1, size=len(tokens))
        return self._rewrite(chains, tokens, t, np.where(stops <= self._ends(tokens), stops, t), log_p, rng)

    def _suffix(
        self, chains: Ids, tokens: Ids, t: int, log_p: Tensor, rng: np.random.Generator
    ) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Let the model write the rest anew, where that is short."""
        ends = self._ends(tokens)
        return self._rewrite(chains, tokens, t, np.where(ends - t <= _LONGEST_SUFFIX, ends, t), log_p, rng)

    def _rewrite(
        self, chains: Ids, tokens: Ids, t: int, stops: Ids, log_p: Tensor, rng: np.random.Generator
    ) -> tuple[Ids, npt.NDArray[np.float64]]:
        """Write tokens ``t`` to ``stops`` (not included) anew, one after the other; nothing to do where both are equal."""
        new, ratio = tokens.copy(), np.where(stops > t, 0.0, -np.inf)
        cache = self._cache.cut(t).rows(torch.from_numpy(chains)) if stops.max() > t + 1 else None
        for s in range(t, int(stops.max())):
            here = np.flatnonzero((stops > s) & np.isfinite(ratio))
            drawn = _draw(log_p, rng)
            new[here, s] = drawn[here]
            old = _at(log_p, tokens[:, t]) if s == t else self._token_log_p[chains, s]
            ratio[here] += old[here] - _at(log_p, drawn)[here]
            if self.kept[s]:
                ratio[here] = -np.inf
            if s + 1 < stops.max():
                out = self.model.extend(torch.from_numpy(new[:, s : s + 1]), cache, None)
                cache, log_p = out.cache, self._log_probs(out, len(chains))
        return new, ratio

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Return the embeddings as they are, and of length 1."""
        if self._embeddings is None:
            table = self.model.embeddings().float()
            self._embeddings = table, torch.nn.functional.normalize(table, dim=-1)
        return self._embeddings

    def _alike(self, token: Ids) -> Float[Tensor, "row vocabulary"]:
        """Return the log probabilities of a token's neighbours, itself and special tokens left out."""
        _, unit = self._tables()
        ids = torch.from_numpy(token).to(unit.device).clamp(max=len(unit) - 1)
        scores = unit[ids] @ unit.T / _NEIGHBOUR + self._banned
        return scores.scatter(1, ids[:, None], -torch.inf).log_softmax(-1)

    def _towards(self, tokens: Ids, t: int, log_p: Tensor) -> Float[Tensor, "row vocabulary"]:
        """Return log p(v ∣ x_<t) − ΔD(v) / τ, normalised."""
        table, _ = self._tables()
        ids = torch.from_numpy(tokens)
        inside = torch.from_numpy(self._inside(tokens)).to(self.model.device)
        fixed = None if self.target.fixed is None else torch.from_numpy(self.target.fixed(tokens)).to(self.model.device)
        z = self.target.z.to(self.model.device)

        def loss(activations: Tensor) -> Tensor:
            each = distances.between(self.target.kind, z, activations.float())
            if fixed is not None:
                return each.gather(1, fixed.clamp(min=0)[:, None])[:, 0]
            return each.masked_fill(~inside, torch.inf).amin(1)

        _, gradient = self.model.pull(ids, self.target.site, loss)
        pull = gradient[:, t].float()
        own = ids[:, t].to(table.device).clamp(max=len(table) - 1)
        change = pull @ table.T - (pull * table[own]).sum(-1, keepdim=True)
        return (log_p - change / _PULL).log_softmax(-1)


def _split(tokens: Ids, rows: int) -> list[Ids]:
    """Return parts of so many rows at most, at least one."""
    return [tokens[start : start + rows] for start in range(0, max(1, len(tokens)), rows)]


def _at(log_p: Float[Tensor, "row vocabulary"], token: Ids) -> npt.NDArray[np.float64]:
    """Return log p of one token of each row; for padding, which has none, any value."""
    ids = torch.from_numpy(token).to(log_p.device).clamp(max=log_p.size(1) - 1)
    return log_p.gather(1, ids[:, None])[:, 0].cpu().double().numpy()


def _draw(log_p: Float[Tensor, "row vocabulary"], rng: np.random.Generator) -> Ids:
    """Draw a token of each row."""
    steps = log_p.double().exp().cumsum(-1)
    where = torch.from_numpy(rng.random((len(log_p), 1))).to(steps) * steps[:, -1:]
    drawn: Ids = torch.searchsorted(steps, where, right=True)[:, 0].clamp(max=log_p.size(1) - 1).cpu().numpy()
    return drawn

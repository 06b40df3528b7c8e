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

from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.markov.kernel import States, Target, Trial
from inversionview.markov.proposals import Edit, Proposals, Proposed
from inversionview.markov.texts import Texts, at, draw
from inversionview.model.cache import Extended, KeysValues
from inversionview.model.harvest import tokens_per_pass
from inversionview.model.probed import ProbedModel

_OVERHEAD = 2
"""What a step costs beside the tokens that it runs, in tokens."""
_BEHIND = 0.3
"""How much less often the last token of a text of middling length, or one behind it, is edited, where that one is compared."""
_STAY = 3
"""Steps at one position, before another is drawn: the distribution of its token is computed once."""
_COSTS = {"span": 1.5, "suffix": 2.0, "guided": 5.0, "neighbour": 0.5}
"""Of a step, in steps that replace a token."""


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
        query: the input at which a walk begins; see ``Texts``.

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
        query: Sequence[int] = (),
    ) -> None:
        if not 0 <= beta < float("inf"):
            raise SettingError(f"β must be 0 or more, but is {beta}.")
        self.model, self.target, self.beta = model, target, beta
        self.texts = Texts(model, lengths, given, keep, query)
        chances = 1 / (self.texts.longest - self.texts.free + _OVERHEAD)
        if target.ended:  # behind what most texts have there is little to edit
            chances[self.texts.free >= (self.texts.shortest + self.texts.longest) / 2 - 1] *= _BEHIND
        self._chances = chances / chances.sum()
        """Of the positions: each gets as much time, and what comes before it costs none."""
        self._moves = Proposals(model, target, self.texts).moves(beta, guided)
        self.moves = tuple(self._moves)
        self.local = len(self.moves)
        self.costs: tuple[float, ...] | None = tuple(_COSTS.get(name, 1.0) for name in self.moves)
        self._depth = (target.site.layer + 1) / len(model.shape.heads) if beta else 1.0
        """Share of the layers that D takes."""
        self._share = 0.5
        """Share of the proposals inside ε, of late."""
        self._steps, self._t = 0, 1
        self._first: Tensor | None = None
        """log p of every token at t given what comes before it, which a step at t leaves as it is."""
        self.aside: Trial | None = None
        """See ``Kernel``: nothing here."""
        self._of: States | None = None
        self._cache: KeysValues
        self._per_token: npt.NDArray[np.float64]
        self._token_log_p: npt.NDArray[np.float64]

    @property
    def longest(self) -> int:
        """Tokens of the longest text, BOS counted and EOS not."""
        return self.texts.longest

    # -- states -------------------------------------------------------------------------------------------------------

    def begin(self, tokens: Ids) -> States:
        """See ``Kernel.begin``."""
        rows = max(1, tokens_per_pass(self.model.device) // tokens.shape[1])
        parts = [self._run(part, None, 0, np.zeros((len(part), 0)))[1:] for part in _split(tokens, rows)]
        per_token, log_p = (np.concatenate(part) for part in zip(*parts, strict=True))
        distance, position = self.texts.nearest(tokens, per_token, self.target.fixed)
        odd = np.isin(tokens, np.flatnonzero(np.isinf(self.texts.banned.cpu().numpy()))) & self.texts.inside(tokens)
        odd[:, : len(self.texts.given)] = tokens[:, : len(self.texts.given)] != self.texts.given
        return States(tokens.copy(), distance, position, np.where(odd.any(1), -np.inf, self._log_prior(tokens, log_p)))

    def _log_prior(self, tokens: Ids, log_p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return log p(x)^β, that of the lengths left out; all texts of a length alike where β is 0."""
        if self.beta:
            return self.beta * log_p.sum(1)
        return -np.log(float(torch.isfinite(self.texts.banned).sum())) * (self.texts.ends(tokens) - 1)

    def fresh(self, count: int, rng: np.random.Generator) -> States:
        """See ``Kernel.fresh``: lengths by lot, then token by token.

        Raises:
            SettingError: some tokens are kept or β is neither 0 nor 1, for which nothing can be drawn at once.
        """
        if self.texts.kept.any() or self.beta not in (0, 1):
            raise SettingError("With --keep, or β other than 0 and 1, no text can be drawn at once: walk without --exchange.")
        v, ends = self.model.vocabulary, rng.integers(self.texts.shortest, self.texts.longest + 1, size=count)
        tokens = np.full((count, self.texts.longest + 1), v.pad, dtype=np.int64)
        tokens[:, : len(self.texts.given)], cache = self.texts.given, None
        for t in range(len(self.texts.given), self.texts.longest):
            new = tokens[:, 0 if cache is None else t - 1 : t]
            out = self._extend(new, cache, logits=bool(self.beta)) if self.beta else None
            cache = None if out is None else out.cache
            tokens[:, t] = draw(self.texts.log_probs(out, count), rng)
        cells = np.arange(self.texts.longest + 1)
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

    def elsewhere(self, count: int, epsilon: float, rng: np.random.Generator) -> States | None:
        """See ``Kernel.elsewhere``: moves are all there is."""
        return None

    def step(
        self, states: States, epsilon: Float[np.ndarray, " chain"], which: Int[np.ndarray, " chain"], rng: np.random.Generator
    ) -> Trial:
        """See ``Kernel.step``."""
        self._attach(states)
        if self._steps % _STAY == 0:
            self._t, self._first = int(rng.choice(self.texts.free, p=self._chances)), None
        self._steps, t = self._steps + 1, self._t
        if self.beta and self._first is None:
            self._first = self._next(states, t)
        made = self._proposed(states, which, rng)
        new = np.where(np.isfinite(made.ratio)[:, None], made.tokens, states.tokens)
        real = (new != states.tokens).any(1)
        trial = Trial(new, np.full(len(which), np.nan), np.zeros(len(which), dtype=np.int64), real, np.zeros_like(real))
        assert made.first is not None
        with np.errstate(divide="ignore"):
            rows = np.flatnonzero(real & (np.log(rng.random(len(which))) < made.first))
        if len(rows):
            self._judge(states, trial, rows, made, epsilon, rng)
        return trial

    def _proposed(self, states: States, which: Ids, rng: np.random.Generator) -> Proposed:
        """Return what the moves propose to all chains."""
        t, known = self._t, self._first
        new, ratio, first = states.tokens.copy(), np.full(len(which), -np.inf), np.zeros(len(which))
        for number, move in enumerate(self._moves.values()):
            chains = np.flatnonzero((which == number) & (self.texts.ends(states.tokens) >= t))
            if len(chains):
                log_p = self.texts.log_probs(None, len(chains)) if known is None else known[torch.from_numpy(chains)]
                made = move(Edit(chains, states.tokens[chains], t, log_p, self._cache, self._token_log_p, rng))
                new[chains], ratio[chains] = made.tokens, made.ratio
                if made.first is not None:
                    first[chains] = made.first
        return Proposed(new, ratio, first)

    def _judge(
        self,
        states: States,
        trial: Trial,
        rows: Ids,
        made: Proposed,
        epsilon: npt.NDArray[np.float64],
        rng: np.random.Generator,
    ) -> None:
        """Run the proposals from t on and take those that prior and ε let pass."""
        t, first = self._t, made.first
        assert first is not None
        screened = self._depth + self._share < 1
        if screened:
            rows = self._screened(trial, rows, t, epsilon)
            if not len(rows):
                return
        index, tokens = torch.from_numpy(rows), trial.tokens[rows]
        _, once, which = np.unique(tokens, axis=0, return_index=True, return_inverse=True)
        which = which.reshape(-1)
        out, per_token, log_p = self._run(tokens[once], *self._begun(rows[once], t))
        per_token, log_p = per_token[which], log_p[which]
        log_p[:, :t] = self._token_log_p[rows, :t]
        if self._first is not None:
            log_p[:, t] = np.where(self.texts.ends(tokens) > t, at(self._first[index], tokens[:, t]), 0.0)
        trial.distance[rows], trial.position[rows] = self.texts.nearest(tokens, per_token, self.target.fixed)
        if not screened:
            self._inside_of(trial, rows, epsilon)
        log_prior = self._log_prior(tokens, log_p)
        with np.errstate(divide="ignore"):
            passed = np.log(rng.random(len(rows))) < log_prior - states.log_prior[rows] + made.ratio[rows] - first[rows]
        taken = passed & (trial.distance[rows] <= epsilon[rows])
        chains = rows[taken]
        trial.accepted[chains] = True
        part = States(trial.tokens[chains], trial.distance[chains], trial.position[chains], log_prior[taken])
        states.copy_from(part, chains, np.arange(len(chains)))
        self._per_token[chains], self._token_log_p[chains] = per_token[taken], log_p[taken]
        self._cache.put(index[taken], out.cache.rows(torch.from_numpy(which[taken])), t)

    def _begun(self, rows: Ids, t: int) -> tuple[KeysValues, int, npt.NDArray[np.float64]]:
        """Return keys and values of the beginnings of proposals, how long these are, and their distances."""
        return self._cache.cut(t).rows(torch.from_numpy(rows)), t, self._per_token[rows, :t]

    def _screened(self, trial: Trial, rows: Ids, t: int, epsilon: npt.NDArray[np.float64]) -> Ids:
        """Measure the proposals, running no more layers than that takes, and return those inside ε; the prior is for these."""
        tokens = trial.tokens[rows]
        _, per_token, _ = self._run(tokens, *self._begun(rows, t), prior=False)
        trial.distance[rows], trial.position[rows] = self.texts.nearest(tokens, per_token, self.target.fixed)
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
        here = self.model.metric(self.target.kind, self.target.site).between(self.target.z, out.activations.float().cpu())
        per_token = np.concatenate([before, here.double().numpy()], axis=1)
        log_p = np.zeros(tokens.shape)
        if out.logits is not None:
            later = torch.from_numpy(tokens[:, t + 1 :]).to(self.model.device).clamp(max=len(self.texts.banned) - 1)
            scores = out.logits[:, :-1].float().add_(self.texts.banned)
            each = scores.gather(-1, later[..., None])[..., 0] - scores.logsumexp(-1)
            log_p[:, t + 1 :] = np.where(self.texts.inside(tokens)[:, t + 1 :], each.cpu().double().numpy(), 0.0)
            log_p[:, : len(self.texts.given)] = 0.0
        return out, per_token, log_p

    def _extend(self, tokens: Ids, cache: KeysValues | None, logits: bool) -> Extended:
        return self.model.extend(torch.from_numpy(tokens), cache, self.target.site, logits=logits)

    def _next(self, states: States, t: int) -> Float[Tensor, "chain vocabulary"]:
        """Return log p of every token at ``t`` ≥ 1 given the states' tokens before it."""
        _, first, which = np.unique(states.tokens[:, :t], axis=0, return_index=True, return_inverse=True)
        before = self._cache.cut(t - 1).rows(torch.from_numpy(first)) if t > 1 else None
        out = self.model.extend(torch.from_numpy(states.tokens[first, t - 1 : t]), before)
        return self.texts.log_probs(out, len(first))[torch.from_numpy(which.reshape(-1))]


def _split(tokens: Ids, rows: int) -> list[Ids]:
    """Return parts of so many rows at most, at least one."""
    return [tokens[start : start + rows] for start in range(0, max(1, len(tokens)), rows)]

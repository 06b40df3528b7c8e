"""Moves that look ahead: of several drafts that the model writes at t, one that the kept text goes on from well is proposed.

A draft y of some tokens is drawn from p(y ∣ x_<t). What follows it is kept, and a draft after which its first token w is
improbable would be refused; so of K drafts one is chosen in proportion to ω(y) = p(y)^(β−1) p(w ∣ x_<t y)^β. That costs no more
than running the drafts themselves, and only the one chosen is measured. Multiple-try Metropolis (Liu, Liang and Wong 2000),
where the drafts are independent of the state, so that those that were not chosen serve for the way back too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int

from inversionview.core.arrays import Ids
from inversionview.markov.proposals import Edit, Move, Proposed
from inversionview.markov.texts import Texts, at, draws
from inversionview.model.probed import ProbedModel

DRAFTS = 8
_PHRASE = 3
"""Tokens that are written anew together, at most."""


@dataclass(frozen=True)
class Drafts:
    """What the model might have written at t, for each chain."""

    tokens: Int[np.ndarray, "chain draft pos"]
    log_p: Float[np.ndarray, "chain draft"]
    """log p(y ∣ x_<t)."""
    weight: Float[np.ndarray, "chain draft"]
    """log ω(y)."""


class Informed:
    """The moves; ``beta`` is the prior's and above 0."""

    def __init__(self, model: ProbedModel, texts: Texts, beta: float) -> None:
        self.model, self.texts, self.beta = model, texts, beta

    def moves(self) -> dict[str, Move]:
        """Return them by name."""
        return {"choose": self.choose, "phrase": self.phrase, "fit": self.fit}

    def choose(self, edit: Edit) -> Proposed:
        """Write one token anew."""
        return self._rewritten(edit, 1)

    def phrase(self, edit: Edit) -> Proposed:
        """Write two or three tokens anew."""
        return self._rewritten(edit, int(edit.rng.integers(2, _PHRASE + 1)))

    def fit(self, edit: Edit) -> Proposed:
        """Put a token in before ``t``, or take the one at ``t`` out; the last stays the last, and what is kept in its place."""
        tokens, t, texts, rng = edit.tokens, edit.t, self.texts, edit.rng
        ends, grow, each = texts.ends(tokens), edit.rng.random(len(edit.tokens)) < 0.5, np.arange(len(edit.tokens))
        possible = np.where(grow, (ends < texts.longest) & (ends > t), (ends > texts.shortest) & (ends > t + 1))
        possible &= not texts.kept[t:].any()
        if not possible.any():
            return tokens.copy(), np.full(len(tokens), -np.inf)
        follows = np.where(grow, tokens[:, t], tokens[:, min(t + 1, tokens.shape[1] - 1)])
        drafts = self._drafts(edit, 1, follows, possible)
        own = at(edit.log_p, tokens[:, t])
        own_weight = (self.beta - 1) * own + self.beta * edit.token_log_p[edit.chains, min(t + 1, tokens.shape[1] - 1)]
        weight, log_p = drafts.weight.copy(), drafts.log_p.copy()
        weight[~grow, 0], log_p[~grow, 0] = own_weight[~grow], own[~grow]  # the way back draws the others alone
        mean = np.logaddexp.reduce(weight, axis=1) - np.log(weight.shape[1])
        chosen = np.where(grow, _draw(weight, rng), 0)
        longer = np.insert(tokens[:, :-1], t, drafts.tokens[each, chosen, 0], axis=1)
        shorter = np.pad(np.delete(tokens, t, axis=1), ((0, 0), (0, 1)), constant_values=self.model.vocabulary.pad)
        ratio = mean - log_p[each, chosen] - weight[each, chosen]
        return np.where(grow[:, None], longer, shorter), np.where(possible, np.where(grow, ratio, -ratio), -np.inf)

    def _rewritten(self, edit: Edit, length: int) -> Proposed:
        """Put a draft of some tokens in the place of as many."""
        tokens, t, stop, each = edit.tokens, edit.t, edit.t + length, np.arange(len(edit.tokens))
        ends, new = self.texts.ends(tokens), tokens.copy()
        possible = (ends >= stop) & (not self.texts.kept[t:stop].any())
        if not possible.any():
            return new, np.full(len(tokens), -np.inf)
        follows = np.where(ends > stop, tokens[:, min(stop, tokens.shape[1] - 1)], -1)
        drafts = self._drafts(edit, length, follows, possible)
        known = edit.token_log_p[edit.chains]
        own = at(edit.log_p, tokens[:, t]) + known[:, t + 1 : stop].sum(1)
        ahead = np.where(follows >= 0, known[:, min(stop, tokens.shape[1] - 1)], 0.0)
        own_weight = (self.beta - 1) * own + self.beta * ahead
        chosen = _draw(drafts.weight, edit.rng)
        log_p, weight = drafts.log_p[each, chosen], drafts.weight[each, chosen]
        others = np.where(np.arange(drafts.weight.shape[1]) == chosen[:, None], own_weight[:, None], drafts.weight)
        there, back = (np.logaddexp.reduce(w, axis=1) for w in (drafts.weight, others))
        new[possible, t:stop] = drafts.tokens[each, chosen][possible]
        return new, np.where(possible, (own - log_p) + (own_weight - weight) + (there - back), -np.inf)

    def _drafts(self, edit: Edit, length: int, follows: Ids, possible: npt.NDArray[np.bool_]) -> Drafts:
        """Let the model write drafts where that is ``possible``, and look at the token that follows, −1 where none does."""
        chains = np.flatnonzero(possible)
        written = np.zeros((len(follows), DRAFTS, length), dtype=np.int64)
        log_p, ahead = np.zeros((len(follows), DRAFTS)), np.zeros((len(follows), DRAFTS))
        first = draws(edit.log_p[torch.from_numpy(chains)], DRAFTS, edit.rng)
        written[chains, :, 0] = first
        log_p[chains] = _gathered(edit.log_p[torch.from_numpy(chains)], first)
        looked = chains if length > 1 else chains[follows[chains] >= 0]
        if len(looked):
            self._written_on(edit, written, log_p, ahead, looked, follows)
        return Drafts(written, log_p, (self.beta - 1) * log_p + self.beta * ahead)

    def _written_on(
        self,
        edit: Edit,
        written: Ids,
        log_p: npt.NDArray[np.float64],
        ahead: npt.NDArray[np.float64],
        chains: Ids,
        follows: Ids,
    ) -> None:
        """Run the drafts' first tokens, write the others, and look at what follows; equal drafts are run once."""
        length = written.shape[2]
        row, draft = np.repeat(chains, DRAFTS), np.tile(np.arange(DRAFTS), len(chains))
        run, where = np.arange(len(row)), np.arange(len(row))
        if length == 1:
            _, run, where = np.unique(row * 2**32 + written[row, draft, 0], return_index=True, return_inverse=True)
        cache = edit.cache.cut(edit.t).rows(torch.from_numpy(edit.chains[row[run]]))
        for s in range(length):
            if s == length - 1 and (follows[chains] < 0).all():
                return  # nothing follows any of them
            out = self.model.extend(torch.from_numpy(written[row[run], draft[run], s : s + 1]), cache)
            chances, cache = self.texts.log_probs(out, len(run)), out.cache
            if s + 1 < length:
                drawn = draws(chances, 1, edit.rng)[:, 0]
                written[row, draft, s + 1] = drawn
                log_p[row, draft] += at(chances, drawn)
            else:
                looked = at(chances, np.maximum(follows[row[run]], 0))[where]
                ahead[row, draft] = np.where(follows[row] >= 0, looked, 0.0)


def _gathered(log_p: torch.Tensor, tokens: Int[np.ndarray, "row draft"]) -> Float[np.ndarray, "row draft"]:
    found: npt.NDArray[np.float64] = log_p.gather(1, torch.from_numpy(tokens).to(log_p.device)).cpu().double().numpy()
    return found


def _draw(weight: Float[np.ndarray, "chain draft"], rng: np.random.Generator) -> Ids:
    """Draw one draft of each chain in proportion to exp(weight)."""
    drawn: Ids = (weight + rng.gumbel(size=weight.shape)).argmax(1)
    return drawn

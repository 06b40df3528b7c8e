"""Moves that look ahead: of several drafts that the model writes at t, one that the kept text goes on from well is proposed.

A draft y of some tokens is drawn from p(y ∣ x_<t). What follows it is kept, and a draft after which its first token w is
improbable would be refused; so of K drafts one is chosen in proportion to ω(y) = p(y)^(β−1) p(w ∣ x_<t y)^β. Multiple-try
Metropolis (Liu, Liang and Wong 2000), where the drafts are independent of the state, so that those that were not chosen serve
for the way back too. What ω says of the ratio is a first stage (delayed acceptance: Christen and Fox 2005): only what passes it
is run to its end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int

from inversionview.core.arrays import Ids
from inversionview.markov.kernel import Target, Trial
from inversionview.markov.proposals import Edit, Move, Proposed, Written
from inversionview.markov.texts import Texts, at, draws
from inversionview.model.cache import KeysValues
from inversionview.model.probed import ProbedModel

DRAFTS = 4
_SHORT = 3
"""A phrase is written anew up to the last token of a text or, as often, has at most so many tokens."""
_LONG = 8
"""Its tokens at most."""


class Drafts(NamedTuple):
    """What the model might have written at t, for each chain."""

    tokens: Int[np.ndarray, "chain draft pos"]
    each: Float[np.ndarray, "chain draft pos_and_next"]
    """log p of each token given those before it, the last that of the kept token that follows."""
    cache: KeysValues
    """Keys and values up to the end of the drafts."""
    row: Int[np.ndarray, "chain draft"]
    """Which row of the cache is the draft's, −1 where there is none."""

    def log_p(self) -> Float[np.ndarray, "chain draft"]:
        """Return log p(y ∣ x_<t)."""
        total: npt.NDArray[np.float64] = self.each[:, :, :-1].sum(-1)
        return total


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
        """Write several tokens anew, half of the time all up to the last token of one of the texts."""
        rng, ends = edit.rng, self.texts.ends(edit.tokens)
        most = int(ends[rng.integers(len(ends))]) - 1 - edit.t  # lengths stay: the way back is as likely
        length = min(max(2, most), _LONG) if rng.random() < 0.5 else int(rng.integers(2, _SHORT + 1))
        return self._rewritten(edit, length)

    def fit(self, edit: Edit) -> Proposed:
        """Put a token in before ``t``, or take the one at ``t`` out; the last stays the last, and what is kept in its place."""
        tokens, t, texts, rng = edit.tokens, edit.t, self.texts, edit.rng
        ends, grow, each = texts.ends(tokens), edit.rng.random(len(edit.tokens)) < 0.5, np.arange(len(edit.tokens))
        possible = np.where(grow, (ends < texts.longest) & (ends > t), (ends > texts.shortest) & (ends > t + 1))
        possible &= not texts.kept[t:].any()
        if not possible.any():
            return Proposed(tokens.copy(), np.full(len(tokens), -np.inf))
        after = tokens[:, min(t + 1, tokens.shape[1] - 1)]
        drafts = self._drafts(edit, 1, np.where(grow, tokens[:, t], after), possible)
        own = at(edit.log_p, tokens[:, t])
        own_weight = self._weight(own, edit.token_log_p[edit.chains, min(t + 1, tokens.shape[1] - 1)])
        log_p = drafts.log_p()
        weight = self._weight(log_p, drafts.each[:, :, -1])
        weight[~grow, 0], log_p[~grow, 0] = own_weight[~grow], own[~grow]  # the way back draws the others alone
        mean = np.logaddexp.reduce(weight, axis=1) - np.log(weight.shape[1])
        chosen = np.where(grow, _draw(weight, rng), 0)
        longer = np.insert(tokens[:, :-1], t, drafts.tokens[each, chosen, 0], axis=1)
        shorter = np.pad(np.delete(tokens, t, axis=1), ((0, 0), (0, 1)), constant_values=self.model.vocabulary.pad)
        ratio = mean - log_p[each, chosen] - weight[each, chosen]
        bare = at(edit.log_p, np.where(grow, tokens[:, t], after))  # log p of what follows, where nothing stands between
        first = np.where(grow, 1, -1) * (mean - self.beta * bare)
        ratio, first = (np.where(possible, part, -np.inf) for part in (np.where(grow, ratio, -ratio), first))
        return Proposed(np.where(grow[:, None], longer, shorter), ratio, None, first)

    def _weight(self, log_p: npt.NDArray[np.float64], ahead: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return log ω, from log p of a draft and of the token that follows."""
        return self.beta * ahead if self.beta == 1 else (self.beta - 1) * log_p + self.beta * ahead

    def _rewritten(self, edit: Edit, length: int) -> Proposed:
        """Put a draft of some tokens in the place of as many; the last token of a text stays."""
        tokens, t, stop, each = edit.tokens, edit.t, edit.t + length, np.arange(len(edit.tokens))
        new, possible = tokens.copy(), (self.texts.ends(tokens) > stop) & (not self.texts.kept[t:stop].any())
        if not possible.any():
            return Proposed(new, np.full(len(tokens), -np.inf))
        drafts, known = self._drafts(edit, length, tokens[:, stop], possible), edit.token_log_p[edit.chains]
        own, log_p = at(edit.log_p, tokens[:, t]) + known[:, t + 1 : stop].sum(1), drafts.log_p()
        weight, own_weight = self._weight(log_p, drafts.each[:, :, -1]), self._weight(own, known[:, stop])
        chosen = _draw(weight, edit.rng)
        others = np.where(np.arange(weight.shape[1]) == chosen[:, None], own_weight[:, None], weight)
        there, back = (np.logaddexp.reduce(w, axis=1) for w in (weight, others))
        new[possible, t:stop] = drafts.tokens[each, chosen][possible]
        ratio = own - log_p[each, chosen] + own_weight - weight[each, chosen] + there - back
        short = np.flatnonzero(possible & (self.texts.ends(tokens) == stop + 1))
        texts = np.repeat(tokens[short], DRAFTS, axis=0)
        texts[:, t:stop] = drafts.tokens[short].reshape(-1, length)
        row = drafts.row[each, chosen]
        written = Written(drafts.cache, row, drafts.each[each, chosen], texts, drafts.row[short].reshape(-1))
        ratio, first = (np.where(possible, part, -np.inf) for part in (ratio, there - back))
        return Proposed(new, ratio, written, first)

    def _drafts(self, edit: Edit, length: int, follows: Ids, possible: npt.NDArray[np.bool_]) -> Drafts:
        """Let the model write drafts where that is ``possible``, and look at the token that follows; equal ones run once."""
        chains = np.flatnonzero(possible)
        written = np.zeros((len(follows), DRAFTS, length), dtype=np.int64)
        each, rows = np.zeros((len(follows), DRAFTS, length + 1)), np.full((len(follows), DRAFTS), -1)
        first = draws(edit.log_p[torch.from_numpy(chains)], DRAFTS, edit.rng)
        written[chains, :, 0] = first
        each[chains, :, 0] = _gathered(edit.log_p[torch.from_numpy(chains)], first)
        row, draft = np.repeat(chains, DRAFTS), np.tile(np.arange(DRAFTS), len(chains))
        run, where = np.arange(len(row)), np.arange(len(row))
        if length == 1:
            _, prefix = np.unique(edit.tokens[:, : edit.t], axis=0, return_inverse=True)
            keys = prefix.reshape(-1)[row] * 2**32 + written[row, draft, 0]
            _, run, where = np.unique(keys, return_index=True, return_inverse=True)
        rows[row, draft] = where
        cache = edit.cache.cut(edit.t).rows(torch.from_numpy(edit.chains[row[run]]))
        for s in range(length):
            out = self.model.extend(torch.from_numpy(written[row[run], draft[run], s : s + 1]), cache)
            chances, cache = self.texts.log_probs(out, len(run)), out.cache
            if s + 1 < length:
                written[row, draft, s + 1] = draws(chances, 1, edit.rng)[:, 0]
            then = written[row, draft, s + 1] if s + 1 < length else follows[row]
            each[row, draft, s + 1] = chances[torch.from_numpy(where), torch.from_numpy(then)].cpu().double().numpy()
        return Drafts(written, each, cache, rows)


def drafted(model: ProbedModel, target: Target, written: Written) -> Trial | None:
    """Measure the texts that the model has written up to the last token: that takes but one token more of each."""
    texts, first = np.unique(written.texts, axis=0, return_index=True)
    if not len(texts):
        return None
    start, cache = written.cache.length, written.cache.rows(torch.from_numpy(written.texts_row[first]))
    out = model.extend(torch.from_numpy(texts[:, start : start + 1]), cache, target.site, logits=False)
    assert out.activations is not None
    distance = model.metric(target.kind, target.site).between(target.z, out.activations[:, 0].float().cpu()).double().numpy()
    none = np.zeros(len(texts), dtype=np.bool_)
    return Trial(texts, distance, np.full(len(texts), start), ~none, none)


def _gathered(log_p: torch.Tensor, tokens: Int[np.ndarray, "row draft"]) -> Float[np.ndarray, "row draft"]:
    found: npt.NDArray[np.float64] = log_p.gather(1, torch.from_numpy(tokens).to(log_p.device)).cpu().double().numpy()
    return found


def _draw(weight: Float[np.ndarray, "chain draft"], rng: np.random.Generator) -> Ids:
    """Draw one draft of each chain in proportion to exp(weight)."""
    drawn: Ids = (weight + rng.gumbel(size=weight.shape)).argmax(1)
    return drawn

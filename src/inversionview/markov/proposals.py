"""Proposals of the walk over a language model's texts: every move that edits at one position t.

A move makes new tokens of an ``Edit`` and says how much likelier the way back is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.markov.kernel import Target
from inversionview.markov.texts import Texts, at, draw
from inversionview.model.cache import KeysValues
from inversionview.model.probed import ProbedModel

_NEIGHBOUR = 0.04
"""Temperature of the cosine between embeddings, by which neighbours are drawn."""
_LONGEST_SUFFIX = 8
_SPAN = 4
_PULL = 0.05
"""Temperature of the first-order change of D, by which guided replacements are drawn."""


class Proposed(NamedTuple):
    """What a move makes of an edit."""

    tokens: Ids
    ratio: npt.NDArray[np.float64]
    """log q(x | x') − log q(x' | x) of each chain, −∞ where there is nothing to do."""
    first: npt.NDArray[np.float64] | None = None
    """The part of log π(x') / π(x) · q(x | x') / q(x' | x) that is known before x' is run: a first stage that few pass."""


@dataclass(frozen=True)
class Edit:
    """Chains that are to be edited at one position."""

    chains: Ids
    """Which of all chains they are."""
    tokens: Ids
    """Theirs, ``[chain, pos]``."""
    t: int
    log_p: Float[Tensor, "chain vocabulary"]
    """Of each token at ``t`` given what comes before it."""
    cache: KeysValues
    """Keys and values of all chains."""
    token_log_p: npt.NDArray[np.float64]
    """log p of all chains' tokens given those before them."""
    rng: np.random.Generator


Move = Callable[[Edit], Proposed]


class Proposals:
    """The moves over ``texts``, of which some need ``model`` and ``target``."""

    def __init__(self, model: ProbedModel, target: Target, texts: Texts) -> None:
        self.model, self.target, self.texts = model, target, texts
        self._embeddings: tuple[Tensor, Tensor] | None = None
        self.beta = 1.0

    def moves(self, beta: float, guided: bool) -> dict[str, Move]:
        """Return the moves by name: where β is 0 without those that the model writes, and the guided one where asked for."""
        self.beta = beta
        moves: dict[str, Move] = {
            "replace": self.replace,
            "neighbour": self.neighbour,
            "swap": self.swap,
            "resize": self.resize,
        }
        if beta:
            moves |= {"span": self.span, "suffix": self.suffix}
        return moves | ({"guided": self.guided} if guided else {})

    def replace(self, edit: Edit) -> Proposed:
        """Draw the token anew from the model's next-token distribution."""
        return self._put(edit, draw(edit.log_p, edit.rng), edit.log_p, edit.log_p)

    def neighbour(self, edit: Edit) -> Proposed:
        """Take a token whose embedding is alike."""
        there, own = self._alike(edit.tokens[:, edit.t]), edit.tokens[:, edit.t]
        drawn = draw(there, edit.rng)
        made = self._put(edit, drawn, there, self._alike(drawn))
        with np.errstate(invalid="ignore"):
            first = made.ratio + self.beta * (at(edit.log_p, drawn) - at(edit.log_p, own))
        return made._replace(first=np.where(np.isfinite(made.ratio), first, -np.inf))

    def guided(self, edit: Edit) -> Proposed:
        """Draw from p(v ∣ x_<t) exp(−ΔD(v) / τ), ΔD to first order from the gradient, here and for the way back there.

        A discrete Langevin proposal (Grathwohl et al. 2021; Zhang, Liu and Liu 2022).
        """
        there = self._towards(edit.tokens, edit.t, edit.log_p)
        drawn = draw(there, edit.rng)
        new = self._put(edit, drawn, there, there).tokens
        return self._put(edit, drawn, there, self._towards(new, edit.t, edit.log_p))

    def _put(self, edit: Edit, drawn: Ids, there: Tensor, back: Tensor) -> Proposed:
        """Put tokens in at ``t``, drawn from ``there``, and back from ``back``; not possible behind the end."""
        tokens, t = edit.tokens, edit.t
        new, possible = tokens.copy(), self.texts.ends(tokens) > t
        new[possible, t] = drawn[possible]
        ratio = at(back, np.where(possible, tokens[:, t], drawn)) - at(there, drawn)
        return Proposed(new, np.where(possible, ratio, -np.inf))

    def swap(self, edit: Edit) -> Proposed:
        """Let the token change places with a later one."""
        tokens, t = edit.tokens, edit.t
        later = self.texts.inside(tokens) & (np.arange(tokens.shape[1]) > t) & ~self.texts.kept
        other, each, new = np.where(later, edit.rng.random(later.shape), -1).argmax(1), np.arange(len(tokens)), tokens.copy()
        new[:, t], new[each, other] = tokens[each, other], tokens[:, t]
        return Proposed(new, np.where(later.any(1), 0.0, -np.inf))

    def resize(self, edit: Edit) -> Proposed:
        """Put a token in before ``t``, drawn from the model, or take the one at ``t`` out; only behind all that is kept."""
        tokens, t, texts = edit.tokens, edit.t, self.texts
        ends, grow = texts.ends(tokens), edit.rng.random(len(tokens)) < 0.5
        drawn = draw(edit.log_p, edit.rng)
        longer, shorter = np.insert(tokens[:, :-1], t, drawn, axis=1), np.delete(tokens, t, axis=1)
        shorter = np.pad(shorter, ((0, 0), (0, 1)), constant_values=self.model.vocabulary.pad)
        last = int(self.target.ended)  # the last token stays the last where it is what is compared
        possible = np.where(grow, (ends < texts.longest) & (ends >= t + last), (ends > texts.shortest) & (ends > t + last))
        possible &= not texts.kept[t:].any()
        chance = at(edit.log_p, np.where(grow | ~possible, drawn, tokens[:, t]))
        ratio = np.where(possible, np.where(grow, -chance, chance), -np.inf)
        return Proposed(np.where(grow[:, None], longer, shorter), ratio)

    def span(self, edit: Edit) -> Proposed:
        """Let the model write two to four tokens anew."""
        stops = edit.t + edit.rng.integers(2, _SPAN + 1, size=len(edit.tokens))
        return self._rewrite(edit, np.where(stops <= self.texts.ends(edit.tokens), stops, edit.t))

    def suffix(self, edit: Edit) -> Proposed:
        """Let the model write the rest anew, where that is short."""
        ends = self.texts.ends(edit.tokens)
        return self._rewrite(edit, np.where(ends - edit.t <= _LONGEST_SUFFIX, ends, edit.t))

    def _rewrite(self, edit: Edit, stops: Ids) -> Proposed:
        """Write tokens ``t`` to ``stops`` (not included) anew, one after the other; nothing to do where both are equal."""
        tokens, t, log_p = edit.tokens, edit.t, edit.log_p
        new, ratio = tokens.copy(), np.where(stops > t, 0.0, -np.inf)
        cache = edit.cache.cut(t).rows(torch.from_numpy(edit.chains)) if stops.max() > t + 1 else None
        for s in range(t, int(stops.max())):
            here = np.flatnonzero((stops > s) & np.isfinite(ratio))
            drawn = draw(log_p, edit.rng)
            new[here, s] = drawn[here]
            old = at(log_p, tokens[:, t]) if s == t else edit.token_log_p[edit.chains, s]
            ratio[here] += old[here] - at(log_p, drawn)[here]
            if self.texts.kept[s]:
                ratio[here] = -np.inf
            if s + 1 < stops.max():
                out = self.model.extend(torch.from_numpy(new[:, s : s + 1]), cache, None)
                cache, log_p = out.cache, self.texts.log_probs(out, len(edit.chains))
        return Proposed(new, ratio)

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
        scores = unit[ids] @ unit.T / _NEIGHBOUR + self.texts.banned
        return scores.scatter(1, ids[:, None], -torch.inf).log_softmax(-1)

    def _towards(self, tokens: Ids, t: int, log_p: Tensor) -> Float[Tensor, "row vocabulary"]:
        """Return log p(v ∣ x_<t) − ΔD(v) / τ, normalised."""
        table, _ = self._tables()
        ids = torch.from_numpy(tokens)
        inside = torch.from_numpy(self.texts.inside(tokens)).to(self.model.device)
        fixed = None if self.target.fixed is None else torch.from_numpy(self.target.fixed(tokens)).to(self.model.device)
        z, metric = self.target.z.to(self.model.device), self.model.metric(self.target.kind, self.target.site)

        def loss(activations: Tensor) -> Tensor:
            each = metric.between(z, activations.float())
            if fixed is not None:
                return each.gather(1, fixed.clamp(min=0)[:, None])[:, 0]
            return each.masked_fill(~inside, torch.inf).amin(1)

        _, gradient = self.model.pull(ids, self.target.site, loss)
        pull = gradient[:, t].float()
        own = ids[:, t].to(table.device).clamp(max=len(table) - 1)
        change = pull @ table.T - (pull * table[own]).sum(-1, keepdim=True)
        return (log_p - change / _PULL).log_softmax(-1)

"""The texts of a language model among which a walk moves, and the probabilities of their next tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.model.cache import Extended
from inversionview.model.measure import Finder
from inversionview.model.probed import ProbedModel
from inversionview.model.tokens import control


class Texts:
    """Texts of some lengths that begin alike and keep some tokens.

    Args:
        model: the probed model.
        lengths: the fewest and the most tokens of an input, BOS counted and EOS not.
        given: the tokens that every input begins with, by default what stands before a text (BOS).
        keep: positions of tokens that stay.
        query: the input at which a walk begins; control tokens that it holds may stand in others, too.

    Raises:
        SettingError: nothing is left to change.
    """

    def __init__(
        self,
        model: ProbedModel,
        lengths: tuple[int, int],
        given: Sequence[int],
        keep: Sequence[int],
        query: Sequence[int] = (),
    ) -> None:
        v = self.vocabulary = model.vocabulary
        self.given = np.array(list(given) or v.front, dtype=np.int64)
        self.shortest = max(len(v.front) + 1, lengths[0])
        self.longest = min(lengths[1], (model.shape.steady or model.shape.max_length) - 1)
        self.kept = np.isin(np.arange(self.longest + 1), keep)
        begun = len(self.given)
        self.free = np.flatnonzero(~self.kept[begun : self.longest]) + begun
        """Positions whose tokens may change."""
        if not len(self.free):
            raise SettingError("Every token is kept: leave some to change, or give a longer text.")
        banned = torch.zeros(model.shape.vocabulary)
        inner = query[len(v.front) : -1] if v.chat is not None else query  # in a chat, those of the frame may stand within
        unwritten = control(v) - ({*inner} - ({v.pad} if v.chat is not None else {*v.front, v.eos, v.pad}))
        banned[[i for i in {*unwritten, *range(v.size, len(banned))} if i < len(banned)]] = -torch.inf
        self.banned = banned.to(model.device)
        """−∞ at the tokens that stand in no text, 0 at the others."""

    def ends(self, tokens: Ids) -> Ids:
        """Return where EOS stands."""
        ends: Ids = (tokens != self.vocabulary.pad).sum(1) - 1
        return ends

    def inside(self, tokens: Ids) -> npt.NDArray[np.bool_]:
        """Return which tokens are those of the text or BOS."""
        return np.arange(tokens.shape[1]) < self.ends(tokens)[:, None]

    def nearest(
        self, tokens: Ids, per_token: Float[np.ndarray, "row pos"], fixed: Finder | None
    ) -> tuple[Float[np.ndarray, " row"], Ids]:
        """Return D and where it is reached, from the distance at every position: at the least, or the one that is fixed."""
        masked = np.where(self.inside(tokens), per_token, np.inf)
        position = masked.argmin(1) if fixed is None else fixed(tokens)
        distance = masked[np.arange(len(tokens)), position]
        return np.where(position < 0, np.inf, distance), position

    def log_probs(self, out: Extended | None, count: int) -> Float[Tensor, "row vocabulary"]:
        """Return log p of the next token, special tokens left out; all alike where β is 0."""
        scores = self.banned.expand(count, -1) if out is None or out.logits is None else out.logits[:, -1] + self.banned
        return scores.float().log_softmax(-1)


def last_of(tokens: Ids, pad: int) -> Ids:
    """Return where the last token of each text stands; EOS follows it."""
    found: Ids = (tokens != pad).sum(1) - 2
    return found


def at(log_p: Float[Tensor, "*row vocabulary"], token: Ids) -> npt.NDArray[np.float64]:
    """Return log p of one token of each row, or of several; for padding, which has none, any value."""
    ids = torch.from_numpy(token).to(log_p.device).clamp(max=log_p.size(-1) - 1)
    one = ids.ndim < log_p.ndim
    found = log_p.gather(-1, ids[..., None] if one else ids)
    return (found[..., 0] if one else found).cpu().double().numpy()


def draws(log_p: Float[Tensor, "row vocabulary"], count: int, rng: np.random.Generator) -> Int[np.ndarray, "row draw"]:
    """Draw so many tokens of each row, one independently of the other."""
    steps = log_p.double().exp().cumsum(-1)
    where = torch.from_numpy(rng.random((len(log_p), count))).to(steps) * steps[:, -1:]
    drawn: Ids = torch.searchsorted(steps, where, right=True).clamp(max=log_p.size(1) - 1).cpu().numpy()
    return drawn


def draw(log_p: Float[Tensor, "row vocabulary"], rng: np.random.Generator) -> Ids:
    """Draw a token of each row."""
    one: Ids = draws(log_p, 1, rng)[:, 0]
    return one

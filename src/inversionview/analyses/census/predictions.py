"""What the model itself expects next at every occurrence: its likeliest token, and how sure it is of that."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.corpora.token_features import NONE, TokenFeature, Windows
from inversionview.model.last_norm import token_count
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

_NUMBERS = 2**24
"""Logits in memory at once."""
_CLOSE = 1e-3
"""Log probabilities that differ by less are the same: those of the last stream, unembedded, and the model's own."""
_EDGES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
_SURE = ("below 0.05", *(f"{a:g}–{b:g}" for a, b in pairwise(_EDGES)), "0.9 or more")


def _unknown(windows: Windows) -> Ids:
    return np.full_like(windows.tokens, NONE)


EXPECTED = TokenFeature("model's next token", "the token that the model expects next", _unknown)
SURE = TokenFeature("model's certainty", "how probable the model holds the token that it expects next", _unknown, _SURE)
OWN = (EXPECTED, SURE)
"""What only a run of the model tells; the tokens alone say nothing of it."""


class Predictions:
    """Finds them from the last residual stream where that gives the model's own probabilities, else by runs of their own."""

    def __init__(self, model: ProbedModel, example: Ids) -> None:
        """Try on some windows which way holds for this model."""
        self.model, self.site = model, Site(len(model.shape.heads) - 1, "post")
        self.from_stream = self.site in model.sites
        if self.from_stream:
            tokens = torch.from_numpy(example)
            seen = model.candidates(tokens)
            stream = model.activations(tokens, [self.site])[0][seen.to(model.device)]
            ours = self._logits(stream).log_softmax(-1)
            theirs = model.logits(tokens)[..., : token_count(model)][seen.to(model.device)].float().log_softmax(-1)
            self.from_stream = bool((ours - theirs).abs().max() < _CLOSE)

    @torch.no_grad()
    def _logits(self, stream: Float[Tensor, "occurrence d_model"]) -> Float[Tensor, "occurrence token"]:
        backend = self.model.backend
        return backend.unembed(backend.final_norm(stream[None]))[0, :, : token_count(self.model)].float()

    def codes(
        self, stream: Float[Tensor, "occurrence d_model"], tokens: Ids, there: npt.NDArray[np.bool_]
    ) -> Int[np.ndarray, "2 occurrence"]:
        """Return the codes of ``OWN`` at the occurrences of some windows.

        Args:
            stream: the last residual stream at each; it is not looked at where ``from_stream`` is false.
            tokens: the windows, ``[row, pos]``.
            there: which of their tokens are occurrences.
        """
        step = max(1, _NUMBERS // token_count(self.model))
        if self.from_stream:
            weight = self.model.backend.w_o(0)
            parts = [self._told(self._logits(part.to(weight))) for part in stream.split(step)]
        else:
            rows = max(1, step // tokens.shape[1])
            pairs = [(tokens[i : i + rows], there[i : i + rows]) for i in range(0, len(tokens), rows)]
            runs = ((self.model.logits(torch.from_numpy(some)), at) for some, at in pairs)
            parts = [self._told(z[torch.from_numpy(at).to(z.device)][:, : token_count(self.model)].float()) for z, at in runs]
        return np.concatenate(parts, axis=1)

    @staticmethod
    def _told(logits: Float[Tensor, "occurrence token"]) -> Int[np.ndarray, "2 occurrence"]:
        best = logits.max(-1)
        sure = (best.values - logits.logsumexp(-1)).exp().cpu().numpy()
        return np.stack([best.indices.cpu().numpy(), np.searchsorted(_EDGES, sure, side="right")])

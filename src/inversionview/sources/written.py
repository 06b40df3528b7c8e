"""Inputs that a study's decoder writes for one activation, as a walk is offered them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.decoder.balls.guide import Guide
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.scoring import PrefixTree, log_probs


@dataclass(frozen=True, eq=False)
class DecoderWriter:
    """Writes from p_θ(x ∣ z, s); see ``markov.independent.Writer``."""

    decoder: Decoder
    z: Float[Tensor, " d_model"]
    site: int
    """Index into the decoder's sites."""
    width: int
    """Tokens of a row, as the walk has them."""
    pad: int

    def draw(self, count: int, rng: np.random.Generator) -> Ids:
        """See ``Writer.draw``; what is longer than a row is cut, so that it is no input."""
        return self._guide.draw(self.z.expand(count, -1), np.full(count, self.site), rng)

    @property
    def _guide(self) -> Guide:
        return Guide(self.decoder, self.width, self.pad)

    def score(self, tokens: Ids) -> npt.NDArray[np.float64]:
        """See ``Writer.score``."""
        if self.decoder.config.unread:
            return self._guide.score(tokens, self.z.expand(len(tokens), -1), np.full(len(tokens), self.site))
        longest = self.decoder.config.input_length
        fitting = (tokens[:, longest:] == self.pad).all(1)
        tokens, out = tokens[fitting][:, :longest], np.full(len(tokens), -np.inf)
        z = self.z.to(self.decoder.device, torch.float32)
        each = log_probs(self.decoder, PrefixTree.of(tokens, self.pad), z[None], self.site, as_drawn=True)[0]
        out[fitting] = each.double().numpy(force=True)
        return out

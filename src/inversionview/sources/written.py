"""Inputs that a study's decoder writes for one activation, as a walk is offered them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.sampling import log_probs_at, sample
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
        device = self.decoder.device
        z = self.z.to(device, torch.float32).expand(count, -1)
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
        site = torch.full((count,), self.site, device=device)
        drawn = sample(self.decoder, z, site, generator=generator).cpu().numpy()[:, : self.width]
        return np.pad(drawn, ((0, 0), (0, self.width - drawn.shape[1])), constant_values=self.pad)

    def score(self, tokens: Ids) -> npt.NDArray[np.float64]:
        """See ``Writer.score``."""
        longest = self.decoder.config.input_length
        fitting = (tokens[:, longest:] == self.pad).all(1)
        tokens, out = tokens[fitting][:, :longest], np.full(len(tokens), -np.inf)
        z = self.z.to(self.decoder.device, torch.float32)
        if self.decoder.config.unread:
            ids = torch.from_numpy(tokens).to(z.device)
            where = torch.full((len(ids),), self.site, device=z.device)
            each = log_probs_at(self.decoder, ids, z.expand(len(ids), -1), where, [1.0], as_drawn=True)[0].sum(-1)
        else:
            each = log_probs(self.decoder, PrefixTree.of(tokens, self.pad), z[None], self.site, as_drawn=True)[0]
        out[fitting] = each.double().numpy(force=True)
        return out

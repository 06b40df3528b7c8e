"""A decoder that was trained before, as it leads chains through the balls of many activations."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.integrity import digest
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.sampling import log_probs_at, sample


class Guide:
    """Writes an input for each of many activations, x′ ∼ p_θ(x ∣ z, s), and says how probable any is.

    Args:
        decoder: its weights are not to be trained meanwhile; of the sites that are trained on, in their order.
        width: tokens of a row.
        pad: what rows are filled up with.
    """

    def __init__(self, decoder: Decoder, width: int, pad: int) -> None:
        self.decoder, self.width, self.pad = decoder.eval(), width, pad

    @property
    def digest(self) -> str:
        """Checksum of its weights."""
        return digest(save({name: tensor.contiguous() for name, tensor in self.decoder.kept().items()}))

    def draw(self, z: Float[Tensor, "row d_model"], site: Int[np.ndarray, " row"], rng: np.random.Generator) -> Ids:
        """Return one input for each activation, ``[row, pos]``; what is longer than a row is cut, so that it is no input."""
        device = self.decoder.device
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
        drawn = sample(self.decoder, z.to(device, torch.float32), torch.from_numpy(site).to(device), generator=generator)
        rows = drawn.numpy(force=True)[:, : self.width]
        return np.pad(rows, ((0, 0), (0, self.width - rows.shape[1])), constant_values=self.pad)

    def score(self, tokens: Ids, z: Float[Tensor, "row d_model"], site: Int[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
        """Return log p_θ(x ∣ z, s) of each row; −∞ for what it cannot write."""
        longest, device = self.decoder.config.input_length, self.decoder.device
        fitting = (tokens[:, longest:] == self.pad).all(1)
        out, some = np.full(len(tokens), -np.inf), torch.from_numpy(fitting)
        ids, where = torch.from_numpy(tokens[fitting][:, :longest]).to(device), torch.from_numpy(site[fitting]).to(device)
        each = log_probs_at(self.decoder, ids, z[some].to(device, torch.float32), where, [1.0], as_drawn=True)[0]
        out[fitting] = each.double().sum(-1).numpy(force=True)
        return out

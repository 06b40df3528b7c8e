"""A plain GPT-2 over a Hugging Face checkpoint, for speed: it imports in no time and harvests every site in one pass.

Stands beside ``bridge.py``, which runs any causal LM; both fulfil ``backend.Backend``, and a test holds one against the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.errors import WeightsError
from inversionview.model.backend import Norm
from inversionview.model.gpt2_files import read_weights, readable
from inversionview.model.gpt2_network import GPT2Network


class GPT2Backend(GPT2Network):
    """GPT-2 with its sites laid open."""

    @staticmethod
    def reads(folder: Path) -> bool:
        """Return whether ``folder`` is a Hugging Face directory of a GPT-2 that this file runs faithfully."""
        return readable(folder)

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GPT2Backend:
        """Load a Hugging Face directory.

        Raises:
            WeightsError: the weights are truncated, foreign, or would need code to be run.
        """
        path = folder / "model.safetensors"
        path = path if path.exists() else folder / "pytorch_model.bin"
        try:
            weights = read_weights(path)
            return cls(json.loads((folder / "config.json").read_text(encoding="utf-8")), weights, device, dtype)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
        except KeyError as error:
            raise WeightsError(f"{path} is not a GPT-2 checkpoint: it lacks {error.args[0]!r}.") from error
        except Exception as error:
            raise WeightsError(
                f"{path} cannot be read, it is truncated or not a weights file: copy or download it again."
            ) from error

    def final_norm(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """See ``Backend.final_norm``."""
        return self._norm(x.to(self.wte), self.ln_f)

    def unembed(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocabulary"]:
        """See ``Backend.unembed``."""
        return x.to(self.head) @ self.head.T

    def attention(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, layer: int
    ) -> Float[Tensor, "batch head query key"]:
        """See ``Backend.attention``."""
        x, allowed = self._embed(tokens, mask)
        for block in self.blocks[:layer]:
            x = self._block(block, x, allowed)
        return self._pattern(self.blocks[layer], x, allowed)

    def patterns(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, positions: Int[Tensor, "batch k"]
    ) -> Float[Tensor, "layer batch head k key"]:
        """See ``Backend.patterns``."""
        (x, allowed), found = self._embed(tokens, mask), []
        rows = torch.arange(len(tokens), device=self.device)[:, None]
        for block in self.blocks:
            found.append(self._pattern(block, x, allowed)[rows, :, positions].transpose(1, 2))
            x = self._block(block, x, allowed)
        return torch.stack(found)

    def attended(self, layer: int, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "head batch d_model"]:
        """See ``Backend.attended``."""
        _, _, v = self._projected(self.blocks[layer], x[:, None])
        return torch.einsum("bhi,hid->hbd", v[:, :, 0], self._w_o(self.blocks[layer]))

    def reading(self, layer: int, tap: Literal["resid_pre", "resid_mid"]) -> Norm:
        """See ``Backend.reading``."""
        block = self.blocks[layer]
        gain_bias = block.ln_1 if tap == "resid_pre" else block.ln_2
        return lambda x: self._norm(x.to(self.wte), gain_bias)

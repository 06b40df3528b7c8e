"""The decoder p_θ(x ∣ z, s): what writes inputs from one activation vector, whatever it is made of.

There are two kinds: a small transformer trained from scratch, and one around a pretrained causal LM. Both begin with the same
pathway from the activation; what stands here is all that sampling, scoring and training ask of either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from inversionview.core.errors import WeightsError
from inversionview.decoder import files
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.loading import Shapes, located, read
from inversionview.decoder.loss import cross_entropy
from inversionview.decoder.pathway import Pathway, TokenTable
from inversionview.decoder.spelling import Spelling
from inversionview.model.tokens import Vocabulary

_WRITING = 2**30
"""Bytes that inputs may take while they are written."""


class Steps(Protocol):
    """A decoder that writes: one token a step, on the keys and values of those before."""

    def next(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch vocabulary"]:
        """Return the logits after ``tokens``, of which all but the last have gone through ``next`` before."""
        ...

    def keep(self, rows: Bool[Tensor, " batch"]) -> None:
        """Drop all other rows."""
        ...


class Decoder(nn.Module, PyTorchModelHubMixin, ABC, library_name="inversionview", tags=["interpretability"]):
    """p_θ(x ∣ z, s), see the module's text.

    Tokens here are the decoder's own ids, ``own`` of the probed model's; what lies outside, in ``sampling.py`` and
    ``scoring.py``, speaks the model's.

    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` are those of Hugging Face; weights are safetensors only.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.own = TokenTable(config)
        self.pathway = Pathway(config)
        self.spelling: Spelling | None = None
        """How it writes the model's tokens, where that is not as they are; set by who knows the model's vocabulary."""

    @abstractmethod
    def hidden(
        self, tokens: Int[Tensor, "batch pos"], z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        """Return what the output head reads at every position; ``site`` indexes ``config.sites``."""

    @abstractmethod
    def head(self) -> tuple[Float[Tensor, "vocabulary width"], Float[Tensor, " vocabulary"] | None]:
        """Return weight and bias of the output head."""

    @abstractmethod
    def begin(self, z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]) -> Steps:
        """Return what writes inputs one token at a time."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the decoder runs."""

    def begun(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch own_pos"]:
        """Return inputs as the decoder's sequences: with its BOS in front, where inputs have none."""
        return F.pad(tokens, (1, 0), value=self.config.bos) if self.config.unread else tokens

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        z: Float[Tensor, "batch d_model"],
        site: Int[Tensor, " batch"],
        target: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos vocabulary"] | None = None,
    ) -> Tensor:
        """Return next-token logits, ``[batch, pos, vocabulary]``; with ``target`` its summed cross entropy in nats.

        A negative target does not count; it may also be a distribution over the next token.
        """
        hidden, (weight, bias) = self.hidden(tokens, z, site), self.head()
        if target is None:
            return F.linear(hidden, weight, bias)
        return cross_entropy(hidden.flatten(0, 1), weight, target.flatten(0, 1), bias)

    def speak(self, vocabulary: Vocabulary) -> Self:
        """Learn the vocabulary of the probed model, which decoders need that write its tokens otherwise; return itself."""
        if self.config.backwards or self.config.respelled:
            self.spelling = Spelling(self.config, vocabulary)
        return self

    @property
    def spelt(self) -> Spelling | None:
        """How it writes the model's tokens; ``None``: as they are.

        Raises:
            WeightsError: it writes them otherwise, and nobody has told it the model's vocabulary.
        """
        if self.spelling is None and (self.config.backwards or self.config.respelled):
            raise WeightsError("This decoder writes pieces of tokens, or backwards: tell it the model's vocabulary by speak().")
        return self.spelling

    @property
    def rows_at_once(self) -> int:
        """How many inputs are written together: what they take is bounded, see ``row_bytes``."""
        return max(64, min(2**16, _WRITING // self.row_bytes))

    @property
    def row_bytes(self) -> int:
        """Memory of an input while it is written: keys and values, which are copied to grow, and a few rows of logits."""
        c = self.config
        return 4 * (4 * c.layers * c.width * c.max_length + 6 * c.size)

    @property
    def rows_trained(self) -> int:
        """How many inputs go through the decoder together in training; gradients add up over the parts of a batch."""
        return 2**16

    def kept(self) -> dict[str, Tensor]:
        """Return all that a checkpoint holds."""
        return self.state_dict()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``kept`` returned.

        Raises:
            RuntimeError: names or shapes are others.
        """
        self.load_state_dict(state)

    def _save_pretrained(self, save_directory: Path) -> None:
        files.write(save_directory, self.config, self.kept())

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, map_location: str = "cpu", **download: Any
    ) -> Decoder:
        """Load a decoder from a folder or the hub.

        Args:
            pretrained_model_name_or_path: where it lies.
            map_location: the device that it is loaded to.
            download: ``revision``, ``token``, ``cache_dir``, … of ``hf_hub_download``.

        Raises:
            WeightsError: it is missing, damaged or not a decoder.
        """
        folder = located(pretrained_model_name_or_path, **download)
        return read(folder, map_location, _empty).eval()


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Set a layer's weights as both kinds of decoder begin: orthogonal matrices, random embeddings."""
    if isinstance(module, nn.Linear):
        nn.init.orthogonal_(module.weight, gain=0.5 if module.weight.size(0) > 1 else 1.0)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.5)


def _empty(config: DecoderConfig, shapes: Shapes, device: str) -> Decoder:
    """Return a decoder of the kind that its configuration says, whose weights are still to come."""
    kind = "pretrained" if config.base else "scratch"
    decoder: Decoder = import_module(f"inversionview.decoder.{kind}").empty(config, shapes, device)
    return decoder

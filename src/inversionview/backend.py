"""What a probed model must be able to do, whichever code runs it.

Two implementations: ``gpt2.py``, a plain GPT-2 in a screen of PyTorch, quick to import and to run, for local GPT-2
checkpoints such as the shipped studies'; and ``bridge.py``, TransformerLens' ``TransformerBridge``, for every other causal LM.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor, device

from inversionview.sites import Site, all_sites


@dataclass(frozen=True)
class Shape:
    """The dimensions of a causal LM."""

    heads: tuple[int, ...]
    """Attention heads of each layer."""
    d_model: int
    vocabulary: int
    """Rows of the embedding."""
    max_length: int
    """Longest input in tokens."""
    parallel: bool = False
    """Attention and MLP read the same residual stream, so ``x.mid`` does not exist."""

    @property
    def sites(self) -> list[Site]:
        """Every site, in the order of computation."""
        return all_sites(self.heads, parallel=self.parallel)


@dataclass(frozen=True)
class Patch:
    """Values that replace the activations of one site during a run."""

    positions: Int[Tensor, "batch k"]
    values: Float[Tensor, "batch k d_model"]


class Backend(Protocol):
    """Runs one causal LM. Tokens come padded on either side; ``mask`` is true at real tokens.

    Position ids count real tokens only, so the side of the padding does not change an activation.
    """

    shape: Shape

    @property
    def device(self) -> device:
        """Where the weights lie."""
        ...

    def activations(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "site batch k d_model"]:
        """Return the activations of all ``sites`` at ``positions``, from one forward pass.

        The pass stops after the last needed layer, and positions are selected before anything large is kept: a head's
        output is its slice of the input of W_O at those positions times its slice of W_O. ``mask=None``: no padding.
        """
        ...

    def logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Float[Tensor, "batch pos vocabulary"]:
        """Return the next-token logits, with the activations of some sites replaced on the way."""
        ...

    def attention(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, layer: int
    ) -> Float[Tensor, "batch head query key"]:
        """Return the attention pattern of a layer."""
        ...

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Yield every weight with its name, for the fingerprint."""
        ...

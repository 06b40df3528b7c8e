"""The output of an attention head after W_O, without bias.

It is called ``a0.3``, ``blocks.0.attn.hook_result[3]`` in TransformerLens, ``a^{0,3}`` in LaTeX. It is the head's slice of the
input of W_O times its slice of W_O, formed where it is asked for: no tensor of all heads' outputs exists. So it lies in a space
of d_head dimensions, in whose coordinates it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inversionview.model.sites.kind import SiteKind, Sizes, Weights, Widths

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class HeadKind(SiteKind):
    """Heads: a part of one tap is read, and a term of another written."""

    @property
    def written(self) -> str:
        """What the attention gives, of which a head is a term: its input of W_O may give no such vector."""
        return "attn_out"

    def heads(self, layer: int, sizes: Sizes) -> Sequence[int]:
        """Return the heads of a layer: each is a site."""
        return range(sizes.heads[layer])

    def width(self, widths: Widths) -> int:
        """Return how many numbers hold a head's output, in the coordinates of ``ProbedModel.frame``."""
        return min(widths.d_head, widths.d_model)

    def numbers(self, widths: Widths) -> int:
        """Return d_model: a head's output lies in the residual stream."""
        return widths.d_model

    def read(
        self,
        x: Float[Tensor, "batch pos *width"],
        layer: int,
        head: int | None,
        weights: Weights,
        matrix: Float[Tensor, "d_in d_out"] | None = None,
    ) -> Float[Tensor, "batch pos d_out"]:
        """Return the head's output from the input of W_O, be that split into heads or not.

        ``matrix`` is its slice of W_O, or that in other coordinates.
        """
        matrix = weights.w_o(layer)[head] if matrix is None else matrix
        return x.reshape(*x.shape[:2], -1, len(matrix))[:, :, head] @ matrix

    def write(
        self,
        x: Float[Tensor, "*batch d_model"],
        z: Float[Tensor, "*batch d_model"],
        head: int | None = None,
        old: Float[Tensor, "*batch d_model"] | None = None,
    ) -> Float[Tensor, "*batch d_model"]:
        """Return what the attention gives with ``z`` as a term in place of ``old``; without ``old``, ``z`` is added."""
        return x + z if old is None else x + z - old


HEAD = HeadKind(
    "head",
    tap="attn_z",
    short="a{layer}.{head}",
    hook="blocks.{layer}.attn.hook_result[{head}]",
    latex="a^{{{layer},{head}}}",
    forms=(
        r"a(?P<layer>\d+)\.(?P<head>\d+)",
        r"blocks\.(?P<layer>\d+)\.attn\.hook_result[\[.](?P<head>\d+)\]?",
        r"\$?a\^\{(?P<layer>\d+),\s*(?P<head>\d+)\}\$?",
    ),
    family="head",
    pattern="a*.*",
    example="a0.3 (layer.head)",
    plural="heads",
    stream="mid",
)

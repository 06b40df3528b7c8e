"""Neurons: the input of an MLP's last matrix, all of it or one number, of a gated MLP the product with its gate.

==========  ================================  ==============  ======================
short       TransformerLens                   LaTeX           what
==========  ================================  ==============  ======================
``n0``      ``blocks.0.mlp.hook_post``        ``n^{0}``       all neurons of a layer
``n0.17``   ``blocks.0.mlp.hook_post[17]``    ``n^{0,17}``    one
==========  ================================  ==============  ======================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inversionview.model.sites.attention import put
from inversionview.model.sites.kind import SiteKind, Sizes, Weights, Widths

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class NeuronsKind(SiteKind):
    """All neurons of a layer."""

    def heads(self, layer: int, sizes: Sizes) -> Sequence[int | None]:
        """Return one site, or none where a layer has no such MLP."""
        return (None,) if sizes.d_mlp else ()

    def width(self, widths: Widths) -> int:
        """Return how many neurons there are."""
        return widths.d_mlp


class NeuronKind(SiteKind):
    """Single neurons."""

    def heads(self, layer: int, sizes: Sizes) -> Sequence[int]:
        """Return the numbers of a layer's neurons."""
        return range(sizes.d_mlp)

    def width(self, widths: Widths) -> int:
        """Return 1."""
        return 1

    def read(
        self,
        x: Float[Tensor, "batch pos *width"],
        layer: int,
        head: int | None,
        weights: Weights,
        matrix: Float[Tensor, "d_in d_out"] | None = None,
    ) -> Float[Tensor, "batch pos 1"]:
        """Return one neuron."""
        assert head is not None
        return x[..., head : head + 1]

    def added(
        self, x: Float[Tensor, "*batch width"], change: Float[Tensor, "*batch 1"], head: int | None = None
    ) -> Float[Tensor, "*batch width"]:
        """Return the value with one neuron changed by so much."""
        assert head is not None
        return put(x, x[..., head : head + 1] + change, head)

    def write(
        self,
        x: Float[Tensor, "*batch width"],
        z: Float[Tensor, "*batch 1"],
        head: int | None = None,
        old: Float[Tensor, "*batch 1"] | None = None,
    ) -> Float[Tensor, "*batch width"]:
        """Return the value with ``z`` in place of one neuron."""
        assert head is not None
        return put(x, z, head)


NEURONS = NeuronsKind(
    "neurons",
    tap="mlp_post",
    short="n{layer}",
    hook="blocks.{layer}.mlp.hook_post",
    latex="n^{{{layer}}}",
    forms=(r"n(?P<layer>\d+)", r"blocks\.(?P<layer>\d+)\.mlp\.hook_post", r"\$?n\^\{?(?P<layer>\d+)\}?\$?"),
    family="neurons",
    pattern="n*",
    plural="neurons of a layer (n0, …)",
    usual=False,
)
NEURON = NeuronKind(
    "neuron",
    tap="mlp_post",
    short="n{layer}.{head}",
    hook="blocks.{layer}.mlp.hook_post[{head}]",
    latex="n^{{{layer},{head}}}",
    forms=(
        r"n(?P<layer>\d+)\.(?P<head>\d+)",
        r"blocks\.(?P<layer>\d+)\.mlp\.hook_post[\[.](?P<head>\d+)\]?",
        r"\$?n\^\{(?P<layer>\d+),\s*(?P<head>\d+)\}\$?",
    ),
    family="neurons",
    pattern="n*.*",
    plural="neurons (n0.0, …)",
    each="neuron",
    single=True,
    usual=False,
)

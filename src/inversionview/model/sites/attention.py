"""What an attention layer computes on its way: queries, keys and values, what its heads gather, and what it gives.

===========  ===================================  ====================  =========================================
short        TransformerLens                      LaTeX                 what
===========  ===================================  ====================  =========================================
``q0.3``     ``blocks.0.attn.hook_q[3]``          ``q^{0,3}``           query of a head, before any norm or rotation
``k0.1``     ``blocks.0.attn.hook_k[1]``          ``k^{0,1}``           key; heads may share it: numbers are its own
``v0.1``     ``blocks.0.attn.hook_v[1]``          ``v^{0,1}``           value, likewise
``z0.3``     ``blocks.0.attn.hook_z[3]``          ``z^{0,3}``           what a head gathers, before W_O
``z0``       ``blocks.0.attn.hook_z``             ``z^{0}``             the same of all heads, one after another
``attn0``    ``blocks.0.hook_attn_out``           ``\\mathrm{attn}^{0}``  the sum of the heads and the bias
===========  ===================================  ====================  =========================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inversionview.model.sites.kind import SiteKind, Sizes, Weights, Widths

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class PartKind(SiteKind):
    """Parts of d_head numbers that lie side by side in a tap, one for each head."""

    shared: bool = False
    """Several heads may share one: there are as many as of keys and values."""

    def heads(self, layer: int, sizes: Sizes) -> Sequence[int]:
        """Return the numbers of a layer's parts."""
        return range(sizes.kv_heads if self.shared else sizes.heads[layer])

    def width(self, widths: Widths) -> int:
        """Return d_head."""
        return widths.d_head

    def read(
        self,
        x: Float[Tensor, "batch pos *width"],
        layer: int,
        head: int | None,
        weights: Weights,
        matrix: Float[Tensor, "d_in d_out"] | None = None,
    ) -> Float[Tensor, "batch pos d_head"]:
        """Return one part, be the value split into parts or not."""
        return x.flatten(2).unflatten(2, (-1, weights.widths.d_head))[:, :, head]

    def added(
        self, x: Float[Tensor, "*batch width"], change: Float[Tensor, "*batch d_head"], head: int | None = None
    ) -> Float[Tensor, "*batch width"]:
        """Return the value with one part changed by so much."""
        assert head is not None
        start = head * change.size(-1)
        return put(x, x[..., start : start + change.size(-1)] + change, start)

    def write(
        self,
        x: Float[Tensor, "*batch width"],
        z: Float[Tensor, "*batch d_head"],
        head: int | None = None,
        old: Float[Tensor, "*batch d_head"] | None = None,
    ) -> Float[Tensor, "*batch width"]:
        """Return the value with ``z`` in place of one part."""
        assert head is not None
        return put(x, z, head * z.size(-1))


class WholeKind(SiteKind):
    """All heads' parts of a tap, one after another."""

    def width(self, widths: Widths) -> int:
        """Return n_heads · d_head."""
        return widths.d_heads

    def heads(self, layer: int, sizes: Sizes) -> Sequence[int | None]:
        """Return one site, or none where layers have unlike numbers of heads."""
        return (None,) if len(set(sizes.heads)) == 1 else ()

    def read(
        self,
        x: Float[Tensor, "batch pos *width"],
        layer: int,
        head: int | None,
        weights: Weights,
        matrix: Float[Tensor, "d_in d_out"] | None = None,
    ) -> Float[Tensor, "batch pos d_heads"]:
        """Return the whole value, be it split into parts or not."""
        return x.flatten(2)


def put(x: Float[Tensor, "*batch width"], z: Float[Tensor, "*batch part"], start: int) -> Float[Tensor, "*batch width"]:
    """Return ``x`` with ``z`` in place of some of its last numbers."""
    out = x.clone()
    out[..., start : start + z.size(-1)] = z
    return out


def _part(letter: str, tap: str, what: str, shared: bool = False) -> PartKind:
    return PartKind(
        letter,
        tap=tap,
        short=f"{letter}{{layer}}.{{head}}",
        hook=f"blocks.{{layer}}.attn.hook_{letter}[{{head}}]",
        latex=f"{letter}^{{{{{{layer}},{{head}}}}}}",
        forms=(
            rf"{letter}(?P<layer>\d+)\.(?P<head>\d+)",
            rf"blocks\.(?P<layer>\d+)\.attn\.hook_{letter}[\[.](?P<head>\d+)\]?",
            rf"\$?{letter}\^\{{(?P<layer>\d+),\s*(?P<head>\d+)\}}\$?",
        ),
        family="attention",
        pattern=f"{letter}*.*",
        plural=what,
        usual=False,
        shared=shared,
    )


Q = _part("q", "attn_q", "queries")
K = _part("k", "attn_k", "keys", shared=True)
V = _part("v", "attn_v", "values", shared=True)
Z = _part("z", "attn_z", "inputs of W_O (z0.0, …)")
GATHERED = WholeKind(
    "gathered",
    tap="attn_z",
    short="z{layer}",
    hook="blocks.{layer}.attn.hook_z",
    latex="z^{{{layer}}}",
    forms=(r"z(?P<layer>\d+)", r"blocks\.(?P<layer>\d+)\.attn\.hook_z", r"\$?z\^\{?(?P<layer>\d+)\}?\$?"),
    family="attention",
    pattern="z*",
    plural="inputs of W_O of all heads (z0, …)",
    usual=False,
)
ATTN = SiteKind(
    "attn",
    tap="attn_out",
    short="attn{layer}",
    hook="blocks.{layer}.hook_attn_out",
    latex=r"\mathrm{{attn}}^{{{layer}}}",
    forms=(
        r"attn(?P<layer>\d+)",
        r"blocks\.(?P<layer>\d+)\.hook_attn_out",
        r"\$?\\mathrm\{attn\}\^\{?(?P<layer>\d+)\}?\$?",
    ),
    family="attention",
    pattern="attn*",
    plural="attention layers (attn0, …)",
    usual=False,
    stream="mid",
)

"""What is known of a kind of sites: names, the tap where a backend hooks it, and how its vectors are read and written.

A site is a *tap* plus a *readout*. A tap is a value that a model computes on its way; there are few, and only backends know
where to find them. A readout makes the site's vector from that value, and puts another vector in its place. Files and patches
ask the kind for these and for the vector's ``width``. Nothing here imports torch: names must be quick to read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


Kind = str
"""The name of a kind of sites, such as ``pre``; ``KINDS`` lists those that are read."""
TAPS = (
    "embed", "pos_embed", "resid_pre", "attn_q", "attn_k", "attn_v", "attn_z", "attn_out", "resid_mid", "mlp_post", "mlp_out",
    "resid_post", "ln_final",
)  # fmt: skip
"""Where a backend hooks a layer, in the order of computation.

Queries, keys and values are what their matrices give, before any norm or rotation of them; ``attn_z`` is the input of W_O,
``mlp_post`` that of the MLP's last matrix. The embeddings are of layer 0, the last norm is ``AFTER`` all layers.
"""
AFTER = 2**20
"""Stands for the layer of what comes after all of them."""


class Tap(NamedTuple):
    """A value that a model computes on its way, at every position."""

    layer: int
    name: str
    """One of ``TAPS``."""

    @property
    def order(self) -> tuple[int, int]:
        """By which taps are sorted in the order of computation."""
        return self.layer, TAPS.index(self.name)

    @property
    def blocks(self) -> int:
        """How many of the model's blocks must be run for it, the last of them at least in part, if there are so many."""
        return self.layer + (self.name not in ("embed", "pos_embed", "resid_pre"))


class Widths(NamedTuple):
    """How many numbers the vectors of a model have."""

    d_model: int
    d_head: int
    d_mlp: int = 0
    """Neurons of an MLP; 0 where a layer has no such MLP."""
    d_heads: int = 0
    """Numbers of all heads of a layer, side by side; 0 where layers have unlike numbers of heads."""


class Sizes(Protocol):
    """What says how many sites of a kind a model has."""

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of each layer."""
        ...

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values in a layer."""
        ...

    @property
    def d_mlp(self) -> int:
        """Neurons of an MLP."""
        ...


class Counts(NamedTuple):
    """How many sites of a kind there are, as far as that is known."""

    heads: tuple[int, ...]
    kv_heads: int = 0
    d_mlp: int = 0


class Weights(Protocol):
    """What a kind may ask of a model to read its sites."""

    @property
    def widths(self) -> Widths:
        """How many numbers its vectors have."""
        ...

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Return a layer's W_O, a slice for each head."""
        ...


@dataclass(frozen=True)
class SiteKind:
    """A kind of sites whose vector is the value of its tap itself; other kinds override what differs.

    Names are templates with ``{layer}`` and ``{head}``; ``forms`` are the regular expressions of all that is understood. Where
    a layer has several sites of a kind, ``head`` is the number of one: of a head, or of a neuron.
    """

    name: Kind
    tap: str
    """Where its sites are read, one of ``TAPS``."""
    short: str
    hook: str
    """The TransformerLens name."""
    latex: str
    """The paper's notation."""
    forms: tuple[str, ...]
    family: str = ""
    """Sites of one family have a default ε in common; none where they are not read."""
    pattern: str = ""
    """Means all sites of the kind; none where they are not read."""
    usual: bool = True
    """They are among the sites that are taken where none are named."""
    stream: str = ""
    """Which state of the residual stream it is, or is a term of: ``pre``, ``mid`` or ``post``; none where it is neither."""
    example: str = ""
    """A name, for the message on what is none."""
    plural: str = ""
    """What its sites are called in messages."""
    single: bool = False
    """Its vectors are one number, so that distances are of another kind: see ``model.distances.metric``."""
    each: str = "head"
    """What is counted where a layer has several."""
    serial: str = ""
    """Why a model whose attention and MLP read the same stream has no such site; empty where it has."""

    @property
    def written(self) -> str:
        """The tap that a new vector is written to, one of ``TAPS``."""
        return self.tap

    def parse(self, name: str) -> tuple[int, int | None] | None:
        """Return layer and head of the site that ``name`` means; ``None`` where it is none of this kind."""
        for form in self.forms:
            if found := re.fullmatch(form, name):
                parts = found.groupdict()
                return int(parts.get("layer", 0)), int(parts["head"]) if "head" in parts else None
        return None

    def layers(self, count: int) -> Sequence[int]:
        """Return in which of ``count`` layers its sites are."""
        return range(count)

    def heads(self, layer: int, sizes: Sizes) -> Sequence[int | None]:
        """Return the numbers of its sites in a layer: ``None`` where there is one, which has no number."""
        return (None,)

    def width(self, widths: Widths) -> int:
        """Return how many numbers a vector is kept in."""
        return widths.d_model

    def numbers(self, widths: Widths) -> int:
        """Return how many numbers a vector has when it is read; a bank may keep it in fewer."""
        return self.width(widths)

    def read(
        self,
        x: Float[Tensor, "batch pos *width"],
        layer: int,
        head: int | None,
        weights: Weights,
        matrix: Float[Tensor, "d_in d_out"] | None = None,
    ) -> Float[Tensor, "batch pos d_out"]:
        """Return the site's vectors from the value of its tap.

        ``matrix`` stands for the one that the kind multiplies with, if it does, so that vectors come in other coordinates.
        """
        return x

    def added(
        self, x: Float[Tensor, "*batch width"], change: Float[Tensor, "*batch d_out"], head: int | None = None
    ) -> Float[Tensor, "*batch width"]:
        """Return what the value ``x`` of the tap ``written`` becomes where the site's vectors change by so much."""
        return x + change

    def write(
        self,
        x: Float[Tensor, "*batch width"],
        z: Float[Tensor, "*batch d_out"],
        head: int | None = None,
        old: Float[Tensor, "*batch d_out"] | None = None,
    ) -> Float[Tensor, "*batch width"]:
        """Return what the value ``x`` of the tap ``written`` becomes with the vectors ``z`` in place of ``old``."""
        return z

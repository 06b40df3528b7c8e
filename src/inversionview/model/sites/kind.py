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
TAPS = ("embed", "pos_embed", "resid_pre", "attn_z", "attn_out", "resid_mid", "mlp_out", "resid_post")
"""Where a backend hooks a layer, in the order of computation; ``attn_z`` is the input of W_O, the embeddings are of layer 0."""


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
        """How many of the model's blocks must be run for it, the last of them at least in part."""
        return self.layer + (self.name != "resid_pre")


class Weights(Protocol):
    """What a kind may ask of a model to read its sites."""

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Return a layer's W_O, a slice for each head."""
        ...


@dataclass(frozen=True)
class SiteKind:
    """A kind of sites whose vector is the value of its tap itself; other kinds override what differs.

    Names are templates with ``{layer}`` and ``{head}``; ``forms`` are the regular expressions of all that is understood.
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
    example: str = ""
    """A name, for the message on what is none."""
    plural: str = ""
    """What its sites are called in messages."""
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

    def heads(self, count: int) -> Sequence[int | None]:
        """Return which heads of a layer of ``count`` its sites are of: of none, so there is one site in a layer."""
        return (None,)

    def width(self, d_model: int, d_head: int) -> int:
        """Return how many numbers hold a vector."""
        return d_model

    def matrix(self, weights: Weights, layer: int, head: int | None) -> Float[Tensor, "d_in d_model"] | None:
        """Return what ``read`` multiplies with; ``None``: nothing."""
        return None

    def read(
        self, x: Float[Tensor, "batch pos *width"], head: int | None, matrix: Float[Tensor, "d_in d_out"] | None
    ) -> Float[Tensor, "batch pos d_out"]:
        """Return the site's vectors from the value of its tap."""
        return x

    def write(
        self,
        x: Float[Tensor, "*batch d_model"],
        z: Float[Tensor, "*batch d_model"],
        old: Float[Tensor, "*batch d_model"] | None = None,
    ) -> Float[Tensor, "*batch d_model"]:
        """Return what the value ``x`` of the tap ``written`` becomes with the vectors ``z`` in place of ``old``."""
        return z

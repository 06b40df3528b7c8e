"""Reading the sites of a network that is written out part by part: one pass, no further than the last that is asked for.

``gpt2.py`` and ``llama.py`` say what the parts compute; where the taps lie between them is the same in both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.model.backend import Shape, widest
from inversionview.model.sites.kind import AFTER, Tap, Widths
from inversionview.model.sites.site import Site

Heads = tuple[
    Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch kv_head pos d_head"], Float[Tensor, "batch kv_head pos d_head"]
]
"""Queries, keys and values as their matrices give them."""


class PlainReading(ABC):
    """A network of blocks in each of which the MLP reads what the attention has added to the residual stream.

    Attributes:
        shape: its dimensions.
        blocks: the weights of each block.
    """

    shape: Shape
    blocks: Sequence[Any]

    @property
    @abstractmethod
    def embedding(self) -> Float[Tensor, "vocabulary d_model"]:
        """The weights of the token embedding."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.embedding.device

    @property
    def widths(self) -> Widths:
        """See ``Backend.widths``."""
        return self.shape.widths

    @abstractmethod
    def final_norm(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """See ``Backend.final_norm``."""

    @abstractmethod
    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """See ``Backend.w_o``."""

    @abstractmethod
    def _embed(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Any]:
        """Return the first residual stream, and what ``_attend`` must know of the batch."""

    @abstractmethod
    def _projected(self, block: Any, x: Float[Tensor, "batch pos d_model"]) -> Heads:
        """Return queries, keys and values as their matrices give them; there may be fewer heads of the last two."""

    @abstractmethod
    def _placed(self, heads: Heads, seen: Any) -> Heads:
        """Return queries, keys and values with what their positions do to them."""

    @abstractmethod
    def _gather(self, heads: Heads, seen: Any, positions: Int[Tensor, "batch k"] | None) -> Float[Tensor, "batch query width"]:
        """Return the input of W_O, at all positions or at ``positions`` only."""

    @abstractmethod
    def _gives(self, block: Any, z: Float[Tensor, "batch query width"]) -> Float[Tensor, "batch query d_model"]:
        """Return what the attention gives for an input of W_O."""

    @abstractmethod
    def _neurons(self, block: Any, x: Float[Tensor, "batch query d_model"]) -> Float[Tensor, "batch query d_mlp"]:
        """Return the input of the MLP's last matrix."""

    @abstractmethod
    def _down(self, block: Any, hidden: Float[Tensor, "batch query d_mlp"]) -> Float[Tensor, "batch query d_model"]:
        """Return what the MLP adds to the residual stream."""

    def activations(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "site batch k d_model"]:
        """See ``Backend.activations``."""
        out, widths = self.embedding.new_zeros(len(sites), *positions.shape, widest(self.shape, sites)), self.widths
        parts = [out[i, ..., : site.numbers(widths)] for i, site in enumerate(sites)]  # a gradient may be written through these
        self.read_into(parts, tokens, mask, sites, positions, {})
        return out

    def read_into(
        self,
        out: Sequence[Float[Tensor, "batch k width"]],
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"],
        maps: Mapping[Site, Float[Tensor, "d_head width"]],
    ) -> None:
        """See ``Backend.read_into``. Of the last needed layer only what is asked is computed, at ``positions`` alone."""
        kept = _Kept(self, out, sites, positions, maps, tokens.size(1))
        x, seen = self._embed(tokens, mask)
        if kept.wants(Tap(0, "embed")):
            kept.keep(Tap(0, "embed"), self.embedding[tokens], False)
        end, rows = kept.end, torch.arange(len(tokens), device=self.device)[:, None]
        for layer, block in enumerate(self.blocks[: end.blocks]):
            here = positions if layer == end.layer and not kept.every else None
            kept.keep(Tap(layer, "resid_pre"), x, False)
            heads = self._projected(block, x)
            if kept.heads(layer, heads):
                return
            z = self._gather(self._placed(heads, seen), seen, here)
            if kept.keep(Tap(layer, "attn_z"), z, here is not None):
                return
            given = self._gives(block, z)
            if kept.keep(Tap(layer, "attn_out"), given, here is not None):
                return
            x = (x if here is None else x[rows, positions]) + given
            if kept.keep(Tap(layer, "resid_mid"), x, here is not None):
                return
            hidden = self._neurons(block, x)
            if kept.keep(Tap(layer, "mlp_post"), hidden, here is not None):
                return
            m = self._down(block, hidden)
            kept.keep(Tap(layer, "mlp_out"), m, here is not None)
            x = x + m
            kept.keep(Tap(layer, "resid_post"), x, here is not None)
        if end.name == "resid_pre":
            kept.keep(end, x, False)
        elif end.layer == AFTER:
            kept.keep(end, self.final_norm(x if kept.every else x[rows, positions]), True)


class _Kept:
    """What is kept of a run, as it passes the taps."""

    def __init__(
        self,
        network: PlainReading,
        out: Sequence[Float[Tensor, "batch k width"]],
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"],
        maps: Mapping[Site, Float[Tensor, "d_head width"]],
        length: int,
    ) -> None:
        self.network, self.out, self.sites, self.positions, self.maps = network, out, sites, positions, maps
        self.wanted: dict[Tap, list[int]] = {}  # for each tap, which of the sites are read there
        for i, site in enumerate(sites):
            self.wanted.setdefault(site.tap, []).append(i)
        self.end = max(self.wanted, key=lambda tap: tap.order)
        self.rows = torch.arange(len(positions), device=positions.device)[:, None]
        there = torch.arange(length, device=positions.device)
        self.every = positions.size(1) == length and bool((positions == there).all())
        """All positions are wanted, in order."""

    def wants(self, tap: Tap) -> bool:
        """Return whether a site is read there."""
        return tap in self.wanted

    def keep(self, tap: Tap, x: Float[Tensor, "batch pos *width"], selected: bool) -> bool:
        """Read the sites of a tap, whose value may be of the positions alone; return whether it was the last tap."""
        here = x if selected or tap not in self.wanted else x[self.rows, self.positions]
        for i in self.wanted.get(tap, ()):
            site = self.sites[i]
            self.out[i][:] = site.read(here, self.network, self.maps.get(site))
        return tap == self.end

    def heads(self, layer: int, heads: Heads) -> bool:
        """Do the same for queries, keys and values."""
        taps = [Tap(layer, name) for name in ("attn_q", "attn_k", "attn_v")]
        return any(self.wants(tap) and self.keep(tap, x.transpose(1, 2), False) for tap, x in zip(taps, heads, strict=True))

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

from inversionview.model.backend import Shape
from inversionview.model.sites.kind import Tap
from inversionview.model.sites.site import Site

READ = ("resid_pre", "attn_z", "resid_mid", "mlp_out", "resid_post")
"""Taps that sites are read at."""


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

    @abstractmethod
    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """See ``Backend.w_o``."""

    @abstractmethod
    def _embed(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Any]:
        """Return the first residual stream, and what ``_attend`` must know of the batch."""

    @abstractmethod
    def _attend(
        self, block: Any, x: Float[Tensor, "batch pos d_model"], seen: Any, positions: Int[Tensor, "batch k"] | None
    ) -> Float[Tensor, "batch query width"]:
        """Return the input of W_O, at all positions or at ``positions`` only."""

    @abstractmethod
    def _gives(self, block: Any, z: Float[Tensor, "batch query width"]) -> Float[Tensor, "batch query d_model"]:
        """Return what the attention gives for an input of W_O."""

    @abstractmethod
    def _mlp(self, block: Any, x: Float[Tensor, "batch query d_model"]) -> Float[Tensor, "batch query d_model"]:
        """Return what the MLP adds to the residual stream."""

    def activations(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "site batch k d_model"]:
        """See ``Backend.activations``."""
        out = self.embedding.new_empty(len(sites), *positions.shape, self.shape.d_model)
        parts = [out[i] for i in range(len(sites))]  # not list(out), whose parts no gradient may be written through
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
        wanted: dict[Tap, list[int]] = {}  # for each tap, which of the sites are read there
        for i, site in enumerate(sites):
            wanted.setdefault(site.tap, []).append(i)
        if unread := {tap.name for tap in wanted} - {*READ}:
            raise NotImplementedError(f"This backend does not read the tap {sorted(unread)[0]}.")
        end = max(wanted, key=lambda tap: tap.order)
        rows = torch.arange(len(tokens), device=self.device)[:, None]
        every = positions.size(1) == tokens.size(1) and bool(
            (positions == torch.arange(tokens.size(1), device=self.device)).all()
        )

        def keep(tap: Tap, x: Float[Tensor, "batch pos d_model"], selected: bool) -> None:
            here = x if selected or tap not in wanted else x[rows, positions]
            for i in wanted.get(tap, ()):
                out[i][:] = sites[i].read(here, maps[sites[i]] if sites[i] in maps else sites[i].matrix(self))

        x, seen = self._embed(tokens, mask)
        for layer, block in enumerate(self.blocks[: end.layer + 1]):
            here = positions if layer == end.layer and not every else None
            keep(Tap(layer, "resid_pre"), x, False)
            if end == (layer, "resid_pre"):
                break
            z = self._attend(block, x, seen, here)
            keep(Tap(layer, "attn_z"), z, here is not None)
            if end == (layer, "attn_z"):
                break
            x = (x if here is None else x[rows, positions]) + self._gives(block, z)
            keep(Tap(layer, "resid_mid"), x, here is not None)
            if end == (layer, "resid_mid"):
                break
            m = self._mlp(block, x)
            keep(Tap(layer, "mlp_out"), m, here is not None)
            x = x + m
            keep(Tap(layer, "resid_post"), x, here is not None)

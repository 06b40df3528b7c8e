"""Keys and values of the tokens run so far, from which a backend goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.errors import SettingError


@dataclass(frozen=True)
class KeysValues:
    """What the attention of the tokens to come reads of the tokens run so far, one tensor for each layer computed.

    A backend that cannot continue from keys and values keeps the tokens themselves in their place, as the ``keys`` of a
    single layer, ``[batch, 1, pos, 1]``, with no ``values``. All that follows holds for these too.
    """

    keys: list[Float[Tensor, "batch kv_head pos d_head"]]
    values: list[Float[Tensor, "batch kv_head pos d_head"]]

    @property
    def batch(self) -> int:
        """How many sequences there are."""
        return self.keys[0].size(0)

    @property
    def length(self) -> int:
        """How many tokens each sequence has."""
        return self.keys[0].size(2)

    def cut(self, length: int) -> KeysValues:
        """Return the first ``length`` positions, as views."""
        return KeysValues([k[:, :, :length] for k in self.keys], [v[:, :, :length] for v in self.values])

    def rows(self, index: Int[Tensor, " row"] | Bool[Tensor, " batch"]) -> KeysValues:
        """Return some of the sequences, as a copy."""
        return KeysValues([k[index] for k in self.keys], [v[index] for v in self.values])

    def repeated(self, count: int) -> KeysValues:
        """Return so many sequences like the only one there is, without a copy."""
        every = ([x.expand(count, -1, -1, -1) for x in some] for some in (self.keys, self.values))
        return KeysValues(*every)

    def going_on(self, new: KeysValues, which: int) -> KeysValues:
        """Return the only sequence there is and one of the tokens of ``new``, which were run after it side by side."""
        at = slice(self.length + which, self.length + which + 1)
        pairs = ((self.keys, new.keys), (self.values, new.values))
        keys, values = ([torch.cat([x, y[:, :, at]], 2) for x, y in zip(a, b, strict=True)] for a, b in pairs)
        return KeysValues(keys, values)

    def layers(self, count: int) -> KeysValues:
        """Return the first ``count`` layers.

        Raises:
            SettingError: fewer were computed.
        """
        if count > len(self.keys):
            raise SettingError(
                f"The cache holds {len(self.keys)} layers, but {count} are run: make it with logits, or with a later site."
            )
        return KeysValues(self.keys[:count], self.values[:count])

    def put(self, rows: Int[Tensor, " row"] | Bool[Tensor, " batch"], new: KeysValues, start: int) -> None:
        """Copy ``new``, which holds just these rows in this order, into them from position ``start`` on, in place.

        Raises:
            SettingError: ``new`` has another number of layers, rows or positions.
        """
        mine = (len(self.keys), self.keys[0][rows, 0, 0].size(0), self.length)
        theirs = (len(new.keys), new.batch, new.length)
        if mine != theirs:
            raise SettingError(
                f"{theirs} layers, rows and positions cannot replace {mine}: give new keys and values of just these rows."
            )
        for old, fresh in zip([*self.keys, *self.values], [*new.keys, *new.values], strict=True):
            old[rows, :, start:] = fresh[:, :, start:]


@dataclass(frozen=True)
class Extended:
    """What ``Backend.extend`` computed."""

    activations: Float[Tensor, "batch new d_model"] | None
    """Of the site at the new tokens; ``None`` if no site was asked for."""
    logits: Float[Tensor, "batch new vocabulary"] | None
    cache: KeysValues
    """Of the tokens before and the new ones, in the layers that were run."""


@dataclass(frozen=True)
class Alternatives:
    """What ``Backend.alternatives`` computed."""

    activations: Float[Tensor, "token width"]
    """Of the site, of each token after what precedes all of them."""
    after: Callable[[int], KeysValues]
    """Gives the cache after one of the tokens, in the layers that were run."""

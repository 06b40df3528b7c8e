"""A plain Llama from weights under their Hugging Face names.

Stands for the bridge where a model's weights lie in the user's cache (``kept.py``), so that reading, patching and walking need
no import that takes seconds. What else a backend does is asked of the bridge, which is opened then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.model.backend import Norm, Shape
from inversionview.model.plain_reading import Heads
from inversionview.model.plain_run import PlainRun, attended, later


class _Block(NamedTuple):
    """Weights of one block; matrices are (out, in), as Llama keeps them."""

    norm_1: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    norm_2: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


_NAMES = (
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
"""Of the fields of ``_Block``, in its checkpoint."""


class _Seen(NamedTuple):
    """What attention must know of a batch."""

    cos: Float[Tensor, "batch_or_1 1 pos d_head"]
    sin: Float[Tensor, "batch_or_1 1 pos d_head"]
    allowed: Bool[Tensor, "batch 1 query key"] | None
    """Which keys a query sees; ``None``: the causal ones."""


class LlamaNetwork(PlainRun):
    """A Llama, part by part."""

    def __init__(
        self, shape: Shape, weights: Mapping[str, Tensor], frequencies: Float[Tensor, " half"], scaling: float, eps: float
    ) -> None:
        """Take a model apart.

        Args:
            shape: its dimensions.
            weights: its parameters by their Hugging Face names, one of each pair that is tied.
            frequencies: by how much each pair of a head's coordinates is rotated from one position to the next.
            scaling: of what is rotated.
            eps: of its norms.
        """
        self.frequencies, self.scaling, self.eps = frequencies, scaling, eps
        self._weights = dict(sorted(weights.items()))
        layers = range(len(shape.heads))
        self.blocks = [_Block(*(weights[f"model.layers.{i}.{name}.weight"] for name in _NAMES)) for i in layers]
        d_head, first = 2 * len(frequencies), self.blocks[0]
        self.shape = replace(shape, head_size=d_head, shared=len(first.k) // d_head, d_mlp=len(first.gate))

    @property
    def embedding(self) -> Float[Tensor, "vocabulary d_model"]:
        """See ``PlainReading``."""
        return self._weights["model.embed_tokens.weight"]

    def final_norm(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """See ``Backend.final_norm``."""
        return self._norm(x.to(self.embedding), self._weights["model.norm.weight"])

    def unembed(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocabulary"]:
        """See ``Backend.unembed``."""
        return F.linear(x.to(self.embedding), self._weights.get("lm_head.weight", self.embedding))

    def reading(self, layer: int, tap: Literal["resid_pre", "resid_mid"]) -> Norm:
        """See ``Backend.reading``."""
        block = self.blocks[layer]
        gain = block.norm_1 if tap == "resid_pre" else block.norm_2
        return lambda x: self._norm(x.to(gain), gain)

    def b_o(self, layer: int) -> None:
        """See ``Backend.b_o``: there is none."""
        return None

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """See ``Backend.weights``."""
        return self._weights.items()

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """See ``Backend.w_o``."""
        return self.blocks[layer].o.T.unflatten(0, (self.shape.heads[layer], -1))

    def _begun(
        self, embedded: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "batch pos"] | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], _Seen]:
        length = embedded.size(1)
        place, allowed = torch.arange(length, device=self.device)[None], None
        if mask is not None and not bool(mask[:, 0].all()):  # padding on the right is hidden by causality itself
            place = (mask.long().cumsum(1) - 1).clamp(min=0)
            causal = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
            eye = torch.eye(length, dtype=torch.bool, device=self.device)  # so that padding rows are not NaN
            allowed = (causal & mask[:, None, None, :]) | eye
        return embedded, self._seen(place, allowed)

    def _continued(
        self, embedded: Float[Tensor, "batch new d_model"], start: int, beside: bool = False
    ) -> tuple[Float[Tensor, "batch new d_model"], _Seen]:
        new = embedded.size(1)
        place = torch.arange(start, start + (1 if beside else new), device=self.device)[None]
        return embedded, self._seen(place, later(new, start, beside, self.device))

    def _seen(self, place: Int[Tensor, "batch_or_1 pos"], allowed: Bool[Tensor, "*batch_1 query key"] | None) -> _Seen:
        angles = (place[:, None, :, None] * self.frequencies).repeat(1, 1, 1, 2)
        return _Seen(angles.cos() * self.scaling, angles.sin() * self.scaling, allowed)

    def _allowed(self, seen: _Seen) -> Bool[Tensor, "*batch_1 query key"] | None:
        return seen.allowed

    def _projected(self, block: _Block, x: Float[Tensor, "batch pos d_model"]) -> Heads:
        x, d_head = self._norm(x, block.norm_1), 2 * len(self.frequencies)
        q, k, v = (F.linear(x, each).unflatten(-1, (-1, d_head)).transpose(1, 2) for each in (block.q, block.k, block.v))
        return q, k, v

    def _placed(self, heads: Heads, seen: _Seen) -> Heads:
        q, k, v = heads
        return _turned(q, seen), _turned(k, seen), v

    def _gather(
        self, heads: Heads, seen: _Seen, positions: Int[Tensor, "batch k"] | None
    ) -> Float[Tensor, "batch query width"]:
        q, k, v = heads
        allowed = seen.allowed
        if positions is not None:
            rows = torch.arange(len(q), device=self.device)[:, None]
            keys = torch.arange(q.size(2), device=self.device)
            allowed = (keys <= positions[:, :, None])[:, None] if allowed is None else allowed[rows, 0, positions][:, None]
            q = q.transpose(1, 2)[rows, positions].transpose(1, 2)
        return attended(q, k, v, allowed).flatten(2)

    def _gives(self, block: _Block, z: Float[Tensor, "batch query width"]) -> Float[Tensor, "batch query d_model"]:
        return F.linear(z, block.o)

    def _neurons(self, block: _Block, x: Float[Tensor, "batch query d_model"]) -> Float[Tensor, "batch query d_mlp"]:
        x = self._norm(x, block.norm_2)
        return F.silu(F.linear(x, block.gate)) * F.linear(x, block.up)

    def _down(self, block: _Block, hidden: Float[Tensor, "batch query d_mlp"]) -> Float[Tensor, "batch query d_model"]:
        return F.linear(hidden, block.down)

    def _norm(
        self, x: Float[Tensor, "batch pos d_model"], gain: Float[Tensor, " d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        return F.rms_norm(x, x.shape[-1:], gain, self.eps)


def _turned(x: Float[Tensor, "batch head pos d_head"], seen: _Seen) -> Float[Tensor, "batch head pos d_head"]:
    """Return queries or keys rotated by their positions: a coordinate of the first half with its like of the second."""
    first, second = x.chunk(2, dim=-1)
    return x * seen.cos + torch.cat([-second, first], dim=-1) * seen.sin

"""The weights of a GPT-2 and what its parts compute with them, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.errors import WeightsError
from inversionview.model.backend import Shape
from inversionview.model.gpt2_files import ACTIVATIONS, stated
from inversionview.model.plain_reading import Heads
from inversionview.model.plain_run import PlainRun, later


class _Block(NamedTuple):
    """Weights of one block; matrices are (in, out), as GPT-2 keeps them."""

    ln_1: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    ln_2: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]


_NAMES = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
"""Of the fields of ``_Block``, in its checkpoint."""


class GPT2Network(PlainRun):
    """GPT-2, part by part."""

    def __init__(
        self, config: Mapping[str, Any], weights: Mapping[str, Tensor], device: str | torch.device, dtype: torch.dtype
    ) -> None:
        tensors = {name.removeprefix("transformer."): w.to(device, dtype) for name, w in weights.items()}
        config = stated(config)
        tied = config.get("tie_word_embeddings", True)
        if tied and "wte.weight" not in tensors and "lm_head.weight" in tensors:  # of two equal ones either may have been kept
            tensors["wte.weight"] = tensors["lm_head.weight"]
        self.wte, self.wpe = tensors["wte.weight"], tensors["wpe.weight"]
        tied = tied and _same(
            self.wte, tensors.get("lm_head.weight", self.wte)
        )  # else the weights are right, as transformers has it
        self.head = self.wte if tied else tensors["lm_head.weight"]
        layers, self.n_heads = config["n_layer"], config["n_head"]
        self.blocks = [
            _Block(*((tensors[f"h.{i}.{n}.weight"], tensors[f"h.{i}.{n}.bias"]) for n in _NAMES)) for i in range(layers)
        ]
        self.ln_f = tensors["ln_f.weight"], tensors["ln_f.bias"]
        self.eps = config.get("layer_norm_epsilon", 1e-5)
        if not isinstance(self.eps, (int, float)) or not 0 <= self.eps < 1:
            raise WeightsError(f"Its config.json states a layer_norm_epsilon of {self.eps!r}: it is damaged.")
        self.activation = ACTIVATIONS[config.get("activation_function", "gelu_new")]
        d_model, length = self.wte.size(1), self.wpe.size(0)
        self.shape = Shape(
            (self.n_heads,) * layers,
            d_model,
            self.wte.size(0),
            length,
            d_mlp=self.blocks[0].up[0].size(-1) if self.blocks else 0,
        )
        used = {"wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"} | (set() if tied else {"lm_head.weight"})
        used |= {f"h.{i}.{n}.{part}" for i in range(layers) for n in _NAMES for part in ("weight", "bias")}
        self._tensors = {name: tensor for name, tensor in sorted(tensors.items()) if name in used}
        self._check(config, tensors)

    def _check(self, config: Mapping[str, Any], names: Iterable[str]) -> None:
        d, rows, length = (config[key] for key in ("n_embd", "vocab_size", "n_positions"))
        inner = config.get("n_inner") or 4 * d
        sizes = [(d, d), (d, 3 * d), (d, d), (d, d), (d, inner), (inner, d)]  # of a norm: gain and bias
        wanted = [((n_in,) if i in (0, 3) else (n_in, n_out), (n_out,)) for i, (n_in, n_out) in enumerate(sizes)]
        outer = [tuple(w.shape) for w in (self.wte, self.wpe, self.head, *self.ln_f)]
        found = [[(tuple(w.shape), tuple(b.shape)) for w, b in block] for block in self.blocks]
        deeper = any(name.startswith(f"h.{len(self.blocks)}.") for name in names)
        if (
            any(block != wanted for block in found)
            or outer != [(rows, d), (length, d), (rows, d), (d,), (d,)]
            or deeper
            or self.n_heads < 1
            or d % self.n_heads
        ):
            raise WeightsError("The weights do not have the sizes that config.json states: they are another model's.")

    @property
    def embedding(self) -> Float[Tensor, "vocabulary d_model"]:
        """See ``PlainReading``."""
        return self.wte

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Yield every weight with its name, sorted."""
        return self._tensors.items()

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """See ``Backend.w_o``."""
        return self._w_o(self.blocks[layer])

    def b_o(self, layer: int) -> Float[Tensor, " d_model"]:
        """See ``Backend.b_o``."""
        return self.blocks[layer].out[1]

    def _block(
        self,
        block: _Block,
        x: Float[Tensor, "batch pos d_model"],
        allowed: Bool[Tensor, "batch 1 query key"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        x = x + self._gives(block, self._gather(self._projected(block, x), allowed, None))
        return x + self._down(block, self._neurons(block, x))

    def _pattern(
        self,
        block: _Block,
        x: Float[Tensor, "batch pos d_model"],
        allowed: Bool[Tensor, "batch 1 query key"] | None,
    ) -> Float[Tensor, "batch head query key"]:
        q, k, _ = self._projected(block, x)
        scores = q @ k.mT / q.size(-1) ** 0.5
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=self.device).tril()
        return scores.masked_fill(~(causal if allowed is None else allowed), -torch.inf).softmax(-1).nan_to_num()

    def _w_o(self, block: _Block) -> Float[Tensor, "head d_head d_model"]:
        return block.out[0].unflatten(0, (self.n_heads, -1))

    def _begun(
        self, embedded: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "batch pos"] | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Bool[Tensor, "batch 1 query key"] | None]:
        """Add positions; with which keys a query sees (``None``: the causal ones)."""
        length = embedded.size(1)
        if mask is None or bool(mask[:, 0].all()):  # padding on the right is hidden by causality itself
            return embedded + self.wpe[:length], None
        place = (mask.long().cumsum(1) - 1).clamp(min=0)
        causal = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        eye = torch.eye(length, dtype=torch.bool, device=self.device)  # so that padding rows are not NaN
        return embedded + self.wpe[place], (causal & mask[:, None, None, :]) | eye

    def _continued(
        self, embedded: Float[Tensor, "batch new d_model"], start: int, beside: bool = False
    ) -> tuple[Float[Tensor, "batch new d_model"], Bool[Tensor, "new key"]]:
        new = embedded.size(1)
        places = self.wpe[start : start + 1] if beside else self.wpe[start : start + new]
        return embedded + places, later(new, start, beside, self.device)

    def _allowed(self, seen: Bool[Tensor, "*batch_1 query key"] | None) -> Bool[Tensor, "*batch_1 query key"] | None:
        return seen

    def _projected(self, block: _Block, x: Float[Tensor, "batch pos d_model"]) -> Heads:
        joint = linear(self._norm(x, block.ln_1), block.qkv)
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in joint.chunk(3, dim=-1))
        return q, k, v

    def _placed(self, heads: Heads, seen: Any) -> Heads:
        return heads

    def _gather(
        self, heads: Heads, seen: Bool[Tensor, "batch 1 query key"] | None, positions: Int[Tensor, "batch k"] | None
    ) -> Float[Tensor, "batch query d_model"]:
        q, k, v = heads
        if positions is None:
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
        else:
            rows = torch.arange(len(q), device=self.device)[:, None]
            keys = torch.arange(q.size(2), device=self.device)
            seen = (keys <= positions[:, :, None])[:, None] if seen is None else seen[rows, 0, positions][:, None]
            z = F.scaled_dot_product_attention(q.transpose(1, 2)[rows, positions].transpose(1, 2), k, v, attn_mask=seen)
        return z.transpose(1, 2).flatten(2)

    def _gives(self, block: _Block, z: Float[Tensor, "batch query d_model"]) -> Float[Tensor, "batch query d_model"]:
        return linear(z, block.out)

    def _neurons(self, block: _Block, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_mlp"]:
        hidden: Tensor = self.activation(linear(self._norm(x, block.ln_2), block.up))
        return hidden

    def _down(self, block: _Block, hidden: Float[Tensor, "batch pos d_mlp"]) -> Float[Tensor, "batch pos d_model"]:
        return linear(hidden, block.down)

    def _norm(self, x: Tensor, gain_bias: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *gain_bias, self.eps)


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or torch.equal(one, other)


def linear(x: Float[Tensor, "*batch d_in"], weight: tuple[Tensor, Tensor]) -> Float[Tensor, "*batch d_out"]:
    """Return ``x`` times a matrix, plus a bias; ``weight`` holds both."""
    matrix, bias = weight
    return torch.addmm(bias, x.reshape(-1, x.size(-1)), matrix).unflatten(0, x.shape[:-1])

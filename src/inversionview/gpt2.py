"""A plain GPT-2 over a Hugging Face checkpoint, for speed: it imports in no time and harvests every site in one pass.

Stands beside ``bridge.py``, which runs any causal LM; both fulfil ``backend.Backend``, and a test holds one against the other.
Reads ``config.json`` and ``model.safetensors`` (or ``pytorch_model.bin`` with ``weights_only``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.backend import Extended, KeysValues, LogitLoss, Loss, Norm, Patch, Shape, layers_run, pulled
from inversionview.errors import WeightsError
from inversionview.sites import Site, Tap
from inversionview.sites.kind import Weights

_ACTIVATIONS = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


class _Block(NamedTuple):
    """Weights of one block; matrices are (in, out), as GPT-2 keeps them."""

    ln_1: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    ln_2: tuple[Tensor, Tensor]
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]


_NAMES = _Block("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")  # type: ignore[arg-type]


_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
_DEFAULTS: dict[str, Any] = {"n_embd": 768, "n_positions": 1024, "n_head": 12, "n_layer": 12, "vocab_size": 50257}


ADAPTER = "adapter_config.json"
"""By which a folder of PEFT is known: its weights are not those of the model alone."""


class GPT2Backend:
    """GPT-2 with its sites laid open."""

    def __init__(
        self, config: Mapping[str, Any], weights: Mapping[str, Tensor], device: str | torch.device, dtype: torch.dtype
    ) -> None:
        tensors = {name.removeprefix("transformer."): w.to(device, dtype) for name, w in weights.items()}
        config = _stated(config)
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
        self.activation = _ACTIVATIONS[config.get("activation_function", "gelu_new")]
        d_model, length = self.wte.size(1), self.wpe.size(0)
        self.shape = Shape((self.n_heads,) * layers, d_model, self.wte.size(0), length)
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

    @staticmethod
    def reads(folder: Path) -> bool:
        """Return whether ``folder`` is a Hugging Face directory of a GPT-2 that this file runs faithfully."""
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return False
        if not isinstance(config, dict):
            return False
        plain = not config.get("scale_attn_by_inverse_layer_idx") and config.get("scale_attn_weights", True)
        known = config.get("activation_function", "gelu_new") in list(_ACTIVATIONS)
        if (folder / ADAPTER).exists() or config.get("quantization_config") or config.get("auto_map"):
            return False
        one_file = any((folder / name).exists() for name in ("model.safetensors", "pytorch_model.bin"))
        return config.get("model_type") == "gpt2" and plain and known and one_file

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GPT2Backend:
        """Load a Hugging Face directory.

        Raises:
            WeightsError: the weights are truncated, foreign, or would need code to be run.
        """
        from safetensors.torch import load_file

        path = folder / "model.safetensors"
        try:
            if path.exists():
                weights = load_file(path)
            else:
                path = folder / "pytorch_model.bin"
                weights = torch.load(path, map_location="cpu", weights_only=True)
            return cls(json.loads((folder / "config.json").read_text(encoding="utf-8")), weights, device, dtype)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
        except KeyError as error:
            raise WeightsError(f"{path} is not a GPT-2 checkpoint: it lacks {error.args[0]!r}.") from error
        except Exception as error:
            raise WeightsError(
                f"{path} cannot be read, it is truncated or not a weights file: copy or download it again."
            ) from error

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.wte.device

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        """Yield every weight with its name, sorted."""
        return self._tensors.items()

    # -- forward ------------------------------------------------------------------------------------------------------

    def activations(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "site batch k d_model"]:
        """See ``Backend.activations``."""
        out = self.wte.new_empty(len(sites), *positions.shape, self.shape.d_model)
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
        end = max(wanted, key=lambda tap: tap.order)
        rows = torch.arange(len(tokens), device=self.device)[:, None]
        every = positions.size(1) == tokens.size(1) and bool(
            (positions == torch.arange(tokens.size(1), device=self.device)).all()
        )

        def keep(tap: Tap, x: Float[Tensor, "batch pos d_model"], selected: bool) -> None:
            here = x if selected or tap not in wanted else x[rows, positions]
            for i in wanted.get(tap, ()):
                out[i][:] = sites[i].read(here, maps[sites[i]] if sites[i] in maps else sites[i].matrix(self))

        x, allowed = self._embed(tokens, mask)
        for layer, block in enumerate(self.blocks[: end.layer + 1]):
            here = positions if layer == end.layer and not every else None
            keep(Tap(layer, "resid_pre"), x, False)
            if end == (layer, "resid_pre"):
                break
            z = self._attend(block, x, allowed, here)
            keep(Tap(layer, "attn_z"), z, here is not None)
            if end == (layer, "attn_z"):
                break
            x = (x if here is None else x[rows, positions]) + _linear(z, block.out)
            keep(Tap(layer, "resid_mid"), x, here is not None)
            if end == (layer, "resid_mid"):
                break
            m = self._mlp(block, x)
            keep(Tap(layer, "mlp_out"), m, here is not None)
            x = x + m
            keep(Tap(layer, "resid_post"), x, here is not None)

    def logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Float[Tensor, "batch pos vocabulary"]:
        """See ``Backend.logits``."""
        x, allowed = self._embed(tokens, mask)
        _, last, _ = self._run(x, allowed, None, None, logits=True, patches=patches)
        return self.unembed(self.final_norm(last))

    def final_norm(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """See ``Backend.final_norm``."""
        return self._norm(x.to(self.wte), self.ln_f)

    def unembed(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocabulary"]:
        """See ``Backend.unembed``."""
        return x.to(self.head) @ self.head.T

    def attention(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, layer: int
    ) -> Float[Tensor, "batch head query key"]:
        """See ``Backend.attention``."""
        x, allowed = self._embed(tokens, mask)
        for block in self.blocks[:layer]:
            x = self._block(block, x, allowed)
        return self._pattern(self.blocks[layer], x, allowed)

    def patterns(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, positions: Int[Tensor, "batch k"]
    ) -> Float[Tensor, "layer batch head k key"]:
        """See ``Backend.patterns``."""
        (x, allowed), found = self._embed(tokens, mask), []
        rows = torch.arange(len(tokens), device=self.device)[:, None]
        for block in self.blocks:
            found.append(self._pattern(block, x, allowed)[rows, :, positions].transpose(1, 2))
            x = self._block(block, x, allowed)
        return torch.stack(found)

    def _block(
        self,
        block: _Block,
        x: Float[Tensor, "batch pos d_model"],
        allowed: Bool[Tensor, "batch 1 query key"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        x = x + _linear(self._attend(block, x, allowed, None), block.out)
        return x + self._mlp(block, x)

    def _pattern(
        self,
        block: _Block,
        x: Float[Tensor, "batch pos d_model"],
        allowed: Bool[Tensor, "batch 1 query key"] | None,
    ) -> Float[Tensor, "batch head query key"]:
        q, k, _ = self._qkv(block, x)
        scores = q @ k.mT / q.size(-1) ** 0.5
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=self.device).tril()
        return scores.masked_fill(~(causal if allowed is None else allowed), -torch.inf).softmax(-1).nan_to_num()

    def attended(self, layer: int, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "head batch d_model"]:
        """See ``Backend.attended``."""
        _, _, v = self._qkv(self.blocks[layer], x[:, None])
        return torch.einsum("bhi,hid->hbd", v[:, :, 0], self._w_o(self.blocks[layer]))

    def attention_gradients(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, loss: LogitLoss
    ) -> Float[Tensor, "layer batch pos d_model"]:
        """See ``Backend.attention_gradients``."""
        seen: list[Float[Tensor, "batch pos d_model"]] = []
        with torch.enable_grad():
            x, allowed = self._place(self.wte[tokens].detach().requires_grad_(), mask)
            _, last, _ = self._run(x, allowed, None, None, logits=True, seen=seen)
            return torch.stack(torch.autograd.grad(loss(self.unembed(self.final_norm(last))).sum(), seen))

    def extend(
        self,
        tokens: Int[Tensor, "batch new"],
        cache: KeysValues | None,
        site: Site | None,
        *,
        logits: bool = True,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Extended:
        """See ``Backend.extend``."""
        past = None if cache is None else cache.layers(layers_run(self.shape, site, logits))
        start, new = 0 if past is None else past.length, tokens.size(1)
        allowed = None if past is None else torch.ones(new, start + new, dtype=torch.bool, device=self.device).tril(start)
        moved = {where: patch.after(start) for where, patch in (patches or {}).items()}
        z, last, kept = self._run(self.wte[tokens] + self.wpe[start : start + new], allowed, past, site, logits, moved)
        return Extended(z, self.unembed(self.final_norm(last)) if logits else None, kept)

    def pull(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, site: Site, loss: Loss
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch pos d_model"]]:
        """See ``Backend.pull``: with respect to rows of ``wte``, before positions are added."""
        with torch.enable_grad():
            embedded = self.wte[tokens].detach().requires_grad_()
            x, allowed = self._place(embedded, mask)
            z, _, _ = self._run(x, allowed, None, site, logits=False)
            assert z is not None
            return pulled(embedded, z, loss)

    def embeddings(self) -> Float[Tensor, "vocabulary d_model"]:
        """See ``Backend.embeddings``."""
        return self.wte

    def _run(
        self,
        x: Float[Tensor, "batch new d_model"],
        allowed: Bool[Tensor, "*batch_1 query key"] | None,
        past: KeysValues | None,
        site: Site | None,
        logits: bool,
        patches: Mapping[Site, Patch] | None = None,
        seen: list[Float[Tensor, "batch new d_model"]] | None = None,
    ) -> tuple[Float[Tensor, "batch new d_model"] | None, Float[Tensor, "batch new d_model"], KeysValues]:
        """Return the activations of ``site``, the residual stream at the end of the run, and the keys and values.

        What the attention layers give is put into ``seen``.
        """
        way, kept = _Way(self, site, patches or {}), KeysValues([], [])
        layers = layers_run(self.shape, site, logits)
        for layer, block in enumerate(self.blocks[:layers]):
            x = way.passed(Tap(layer, "resid_pre"), x)
            q, k, v = self._qkv(block, x)
            if past is not None:
                k, v = torch.cat([past.keys[layer], k], dim=2), torch.cat([past.values[layer], v], dim=2)
            kept.keys.append(k)
            kept.values.append(v)
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=allowed is None).transpose(1, 2)
            attended = way.attended(layer, z, _linear(z.flatten(2), block.out))
            if seen is not None:
                seen.append(attended)
            middle = way.passed(Tap(layer, "resid_mid"), x + attended)
            if way.found is not None and not logits:
                break
            mlp = way.passed(Tap(layer, "mlp_out"), self._mlp(block, middle))
            x = way.passed(Tap(layer, "resid_post"), middle + mlp)
        way.look(Tap(layers, "resid_pre"), x)
        return way.found, x, kept

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """See ``Backend.w_o``."""
        return self._w_o(self.blocks[layer])

    def b_o(self, layer: int) -> Float[Tensor, " d_model"]:
        """See ``Backend.b_o``."""
        return self.blocks[layer].out[1]

    def attention_outputs(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        layers: Sequence[int],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "layer batch k d_model"]:
        """See ``Backend.attention_outputs``."""
        seen: list[Float[Tensor, "batch pos d_model"]] = []
        x, allowed = self._embed(tokens, mask)
        self._run(x, allowed, None, Site(max(layers), "post"), logits=False, seen=seen)
        rows = torch.arange(len(tokens), device=self.device)[:, None]
        return torch.stack([seen[layer][rows, positions] for layer in layers])

    def entering(self, layer: int) -> Norm | None:
        """See ``Backend.entering``: in GPT-2 as it is."""
        return None

    def _w_o(self, block: _Block) -> Float[Tensor, "head d_head d_model"]:
        return block.out[0].unflatten(0, (self.n_heads, -1))

    def _embed(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Bool[Tensor, "batch 1 query key"] | None]:
        """Return the first residual stream, and which keys a query sees (``None``: the causal ones)."""
        return self._place(self.wte[tokens], mask)

    def _place(
        self, embedded: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "batch pos"] | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Bool[Tensor, "batch 1 query key"] | None]:
        """Add positions, see ``_embed``."""
        length = embedded.size(1)
        if mask is None or bool(mask[:, 0].all()):  # padding on the right is hidden by causality itself
            return embedded + self.wpe[:length], None
        place = (mask.long().cumsum(1) - 1).clamp(min=0)
        causal = torch.ones(length, length, dtype=torch.bool, device=self.device).tril()
        eye = torch.eye(length, dtype=torch.bool, device=self.device)  # so that padding rows are not NaN
        return embedded + self.wpe[place], (causal & mask[:, None, None, :]) | eye

    def _qkv(self, block: _Block, x: Float[Tensor, "batch pos d_model"]) -> list[Float[Tensor, "batch head pos d_head"]]:
        joint = _linear(self._norm(x, block.ln_1), block.qkv)
        return [part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in joint.chunk(3, dim=-1)]

    def _attend(
        self,
        block: _Block,
        x: Float[Tensor, "batch pos d_model"],
        allowed: Bool[Tensor, "batch 1 query key"] | None,
        positions: Int[Tensor, "batch k"] | None,
    ) -> Float[Tensor, "batch query d_model"]:
        """Return the input of W_O, at all positions or at ``positions`` only."""
        q, k, v = self._qkv(block, x)
        if positions is None:
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=allowed is None)
        else:
            rows = torch.arange(len(x), device=self.device)[:, None]
            keys = torch.arange(x.size(1), device=self.device)
            seen = (keys <= positions[:, :, None])[:, None] if allowed is None else allowed[rows, 0, positions][:, None]
            z = F.scaled_dot_product_attention(q.transpose(1, 2)[rows, positions].transpose(1, 2), k, v, attn_mask=seen)
        return z.transpose(1, 2).flatten(2)

    def _mlp(self, block: _Block, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        hidden: Tensor = self.activation(_linear(self._norm(x, block.ln_2), block.up))
        return _linear(hidden, block.down)

    def _norm(self, x: Tensor, gain_bias: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *gain_bias, self.eps)


class _Way:
    """What is read and written on the way of a run."""

    def __init__(self, weights: Weights, site: Site | None, patches: Mapping[Site, Patch]) -> None:
        self.weights, self.site, self.patches = weights, site, patches
        self.found: Float[Tensor, "batch new d_model"] | None = None
        """The activations of ``site``, once the run is there."""
        self.patched: dict[Tap, list[Site]] = {}
        for each in sorted(patches):
            self.patched.setdefault(each.tap, []).append(each)

    def look(self, tap: Tap, x: Float[Tensor, "batch new *width"]) -> None:
        """Read ``site`` if this is its tap."""
        if self.site is not None and self.site.tap == tap:
            self.found = self.site.read(x, self.site.matrix(self.weights))

    def passed(self, tap: Tap, x: Float[Tensor, "batch new d_model"]) -> Float[Tensor, "batch new d_model"]:
        """Return what the value of a tap becomes; it is read after that."""
        for site in self.patched.get(tap, ()):
            at, new = self.patches[site].index, self.patches[site].values
            x = x.index_put(at, site.write(x[at], new, site.read(x[at], site.matrix(self.weights))))
        self.look(tap, x)
        return x

    def attended(
        self, layer: int, z: Float[Tensor, "batch new head d_head"], given: Float[Tensor, "batch new d_model"]
    ) -> Float[Tensor, "batch new d_model"]:
        """Return what becomes of what the attention has given; its heads are read from the input ``z`` of W_O as it was."""
        tap = Tap(layer, "attn_z")
        for site in self.patched.get(tap, ()):
            old = site.read(z, site.matrix(self.weights))
            new = old.index_put(self.patches[site].index, self.patches[site].values)
            given = site.write(given, new - old)  # elsewhere exactly nothing
        self.look(tap, z)
        return given


def _stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json with the sizes that it leaves to GPT-2's defaults, or states by the names other models have.

    Raises:
        WeightsError: one of them is no whole number.
    """
    stated = {**_DEFAULTS, **config}
    stated |= {own: config[other] for other, own in _ALIASES.items() if other in config}
    for key in _DEFAULTS:
        if not isinstance(stated[key], int):
            raise WeightsError(f"Its config.json states a size of {stated[key]!r} ({key}): it is damaged.")
    return stated


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or torch.equal(one, other)


def _linear(x: Float[Tensor, "*batch d_in"], weight: tuple[Tensor, Tensor]) -> Float[Tensor, "*batch d_out"]:
    matrix, bias = weight
    return torch.addmm(bias, x.reshape(-1, x.size(-1)), matrix).unflatten(0, x.shape[:-1])

"""A plain GPT-2 over a Hugging Face checkpoint, for speed: it imports in no time and harvests every site in one pass.

Stands beside ``bridge.py``, which runs any causal LM; both fulfil ``backend.Backend``, and a test holds one against the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.errors import WeightsError
from inversionview.model.backend import LogitLoss, Loss, Norm, Patch, layers_run, pulled
from inversionview.model.cache import Extended, KeysValues
from inversionview.model.gpt2_files import read_weights, readable
from inversionview.model.gpt2_network import GPT2Network, linear
from inversionview.model.sites.kind import Tap, Weights
from inversionview.model.sites.site import Site

_READ = ("resid_pre", "attn_z", "resid_mid", "mlp_out", "resid_post")
"""Taps that sites are read at."""


class GPT2Backend(GPT2Network):
    """GPT-2 with its sites laid open."""

    @staticmethod
    def reads(folder: Path) -> bool:
        """Return whether ``folder`` is a Hugging Face directory of a GPT-2 that this file runs faithfully."""
        return readable(folder)

    @classmethod
    def from_folder(cls, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GPT2Backend:
        """Load a Hugging Face directory.

        Raises:
            WeightsError: the weights are truncated, foreign, or would need code to be run.
        """
        path = folder / "model.safetensors"
        path = path if path.exists() else folder / "pytorch_model.bin"
        try:
            weights = read_weights(path)
            return cls(json.loads((folder / "config.json").read_text(encoding="utf-8")), weights, device, dtype)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
        except KeyError as error:
            raise WeightsError(f"{path} is not a GPT-2 checkpoint: it lacks {error.args[0]!r}.") from error
        except Exception as error:
            raise WeightsError(
                f"{path} cannot be read, it is truncated or not a weights file: copy or download it again."
            ) from error

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
        if unread := {tap.name for tap in wanted} - {*_READ}:
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
            x = (x if here is None else x[rows, positions]) + linear(z, block.out)
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

    def attended(self, layer: int, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "head batch d_model"]:
        """See ``Backend.attended``."""
        _, _, v = self._qkv(self.blocks[layer], x[:, None])
        return torch.einsum("bhi,hid->hbd", v[:, :, 0], self._w_o(self.blocks[layer]))

    def gradients(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, taps: Sequence[Tap], loss: LogitLoss
    ) -> Float[Tensor, "tap batch pos d_model"]:
        """See ``Backend.gradients``."""
        seen: dict[Tap, Float[Tensor, "batch pos d_model"]] = {}
        with torch.enable_grad():
            x, allowed = self._place(self.wte[tokens].detach().requires_grad_(), mask)
            _, last, _ = self._run(x, allowed, None, None, logits=True, seen=seen)
            return torch.stack(torch.autograd.grad(loss(self.unembed(self.final_norm(last))).sum(), [seen[t] for t in taps]))

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

    def variants(
        self, token: Int[Tensor, ""], cache: KeysValues | None, rows: int, patches: Mapping[Site, Patch]
    ) -> Float[Tensor, "row vocabulary"]:
        """See ``Backend.variants``."""
        start = 0 if cache is None else cache.length
        x = (self.wte[token] + self.wpe[start]).expand(1, rows, -1)
        allowed = torch.eye(rows, dtype=torch.bool, device=self.device)
        allowed = torch.cat([allowed.new_ones(rows, start), allowed], dim=1)
        put = {where: patch.beside() for where, patch in patches.items()}
        _, last, _ = self._run(x, allowed, cache, None, logits=True, patches=put)
        return self.unembed(self.final_norm(last[0]))

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
        seen: dict[Tap, Float[Tensor, "batch new d_model"]] | None = None,
    ) -> tuple[Float[Tensor, "batch new d_model"] | None, Float[Tensor, "batch new d_model"], KeysValues]:
        """Return the activations of ``site``, the residual stream at the end of the run, and the keys and values.

        What passes the taps of d_model numbers is put into ``seen``.
        """
        way, kept = _Way(self, site, patches or {}, seen), KeysValues([], [])
        layers = layers_run(self.shape, site, logits)
        for layer, block in enumerate(self.blocks[:layers]):
            x = way.passed(Tap(layer, "resid_pre"), x)
            q, k, v = self._qkv(block, x)
            if past is not None:
                k, v = torch.cat([past.keys[layer], k], dim=2), torch.cat([past.values[layer], v], dim=2)
            kept.keys.append(k)
            kept.values.append(v)
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=allowed is None).transpose(1, 2)
            attended = way.attended(layer, z, linear(z.flatten(2), block.out))
            middle = way.passed(Tap(layer, "resid_mid"), x + attended)
            if way.found is not None and not logits:
                break
            mlp = way.passed(Tap(layer, "mlp_out"), self._mlp(block, middle))
            x = way.passed(Tap(layer, "resid_post"), middle + mlp)
        way.look(Tap(layers, "resid_pre"), x)
        return way.found, x, kept

    def attention_outputs(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        layers: Sequence[int],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "layer batch k d_model"]:
        """See ``Backend.attention_outputs``."""
        seen: dict[Tap, Float[Tensor, "batch pos d_model"]] = {}
        x, allowed = self._embed(tokens, mask)
        self._run(x, allowed, None, Site(max(layers), "post"), logits=False, seen=seen)
        rows = torch.arange(len(tokens), device=self.device)[:, None]
        return torch.stack([seen[Tap(layer, "attn_out")][rows, positions] for layer in layers])

    def entering(self, layer: int) -> Norm | None:
        """See ``Backend.entering``: in GPT-2 as it is."""
        return None

    def reading(self, layer: int, tap: Literal["resid_pre", "resid_mid"]) -> Norm:
        """See ``Backend.reading``."""
        block = self.blocks[layer]
        gain_bias = block.ln_1 if tap == "resid_pre" else block.ln_2
        return lambda x: self._norm(x.to(self.wte), gain_bias)


class _Way:
    """What is read and written on the way of a run."""

    def __init__(
        self,
        weights: Weights,
        site: Site | None,
        patches: Mapping[Site, Patch],
        seen: dict[Tap, Float[Tensor, "batch new d_model"]] | None = None,
    ) -> None:
        self.weights, self.site, self.patches, self.seen = weights, site, patches, seen
        self.found: Float[Tensor, "batch new d_model"] | None = None
        """The activations of ``site``, once the run is there."""
        self.patched: dict[Tap, list[Site]] = {}
        for each in sorted(patches):
            if each.tap.name not in (*_READ, "embed", "pos_embed") or (each.tap.name == "attn_z" and not each.is_head):
                raise NotImplementedError(f"This backend does not write {each} at the tap {each.tap.name}.")
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
        if self.seen is not None:
            self.seen[tap] = x
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
        if self.seen is not None:
            self.seen[Tap(layer, "attn_out")] = given
        return given

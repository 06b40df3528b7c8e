"""Running a network that is written out part by part: logits, patches, gradients, and going on from keys and values.

``gpt2.py`` and ``llama.py`` say what the parts compute; ``plain_reading.py`` reads many sites in one pass.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.model.backend import LogitLoss, Loss, Norm, Patch, layers_run, pulled
from inversionview.model.cache import Alternatives, Extended, KeysValues
from inversionview.model.plain_reading import Heads, PlainReading
from inversionview.model.sites.kind import AFTER, Tap
from inversionview.model.sites.site import Site

Noted = dict[Tap, Float[Tensor, "batch pos d_model"]]
"""What passed taps of d_model numbers."""


class PlainRun(PlainReading):
    """Such a network, run to its end."""

    @abstractmethod
    def unembed(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocabulary"]:
        """See ``Backend.unembed``."""

    @abstractmethod
    def _begun(
        self, embedded: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "batch pos"] | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Any]:
        """Return the first residual stream from the tokens' embeddings, and what ``_attend`` must know of the batch."""

    @abstractmethod
    def _continued(
        self, embedded: Float[Tensor, "batch new d_model"], start: int, beside: bool = False
    ) -> tuple[Float[Tensor, "batch new d_model"], Any]:
        """Return the same of tokens that follow ``start`` others, one by one or, ``beside`` one another, each by itself."""

    @abstractmethod
    def _allowed(self, seen: Any) -> Bool[Tensor, "*batch_1 query key"] | None:
        """Return which keys a query sees; ``None``: the causal ones."""

    def _embed(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Any]:
        return self._begun(self.embedding[tokens], mask)

    def logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Float[Tensor, "batch pos vocabulary"]:
        """See ``Backend.logits``."""
        x, seen = self._embed(tokens, mask)
        return self._unembedded(self._run(x, seen, None, None, logits=True, patches=patches)[1], patches)

    def gradients(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, taps: Sequence[Tap], loss: LogitLoss
    ) -> Float[Tensor, "tap batch pos d_model"]:
        """See ``Backend.gradients``."""
        noted: Noted = {}
        with torch.enable_grad():
            x, seen = self._begun(self.embedding[tokens].detach().requires_grad_(), mask)
            _, last, _ = self._run(x, seen, None, None, logits=True, noted=noted)
            return torch.stack(torch.autograd.grad(loss(self.unembed(self.final_norm(last))).sum(), [noted[t] for t in taps]))

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
        start, embedded = 0 if past is None else past.length, self.embedding[tokens]
        x, seen = self._begun(embedded, None) if past is None else self._continued(embedded, start)
        moved = {where: patch.after(start) for where, patch in (patches or {}).items()}
        z, last, kept = self._run(x, seen, past, site, logits, moved)
        if site is not None and site.tap.name == "embed":
            z = embedded
        elif site is not None and site.layer == AFTER:
            z = self.final_norm(last)
        return Extended(z, self._unembedded(last, moved) if logits else None, kept)

    def variants(
        self, token: Int[Tensor, ""], cache: KeysValues | None, rows: int, patches: Mapping[Site, Patch]
    ) -> Float[Tensor, "row vocabulary"]:
        """See ``Backend.variants``."""
        start = 0 if cache is None else cache.length
        x, seen = self._continued(self.embedding[token].expand(1, rows, -1), start, beside=True)
        put = {where: patch.beside() for where, patch in patches.items()}
        return self._unembedded(self._run(x, seen, cache, None, logits=True, patches=put)[1], put)[0]

    def alternatives(self, tokens: Int[Tensor, " token"], cache: KeysValues | None, site: Site) -> Alternatives:
        """See ``Backend.alternatives``: the tokens stand side by side in one sequence, in which none sees another."""
        past = None if cache is None else cache.layers(layers_run(self.shape, site, False))
        start, embedded = 0 if past is None else past.length, self.embedding[tokens][None]
        x, seen = self._continued(embedded, start, beside=True)
        z, last, kept = self._run(x, seen, past, site, logits=False)
        if site.tap.name == "embed":
            z = embedded
        elif site.layer == AFTER:
            z = self.final_norm(last)
        assert z is not None
        before = kept.cut(0) if past is None else past
        return Alternatives(z[0], lambda which: before.going_on(kept, which))

    def pull(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, site: Site, loss: Loss
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch pos d_model"]]:
        """See ``Backend.pull``: with respect to rows of the embedding, before positions are added."""
        with torch.enable_grad():
            embedded = self.embedding[tokens].detach().requires_grad_()
            x, seen = self._begun(embedded, mask)
            z, last, _ = self._run(x, seen, None, site, logits=False)
            if site.layer == AFTER:
                z = self.final_norm(last)
            elif site.tap.name == "embed":
                z = embedded
            assert z is not None
            return pulled(embedded, z, loss)

    def embeddings(self) -> Float[Tensor, "vocabulary d_model"]:
        """See ``Backend.embeddings``."""
        return self.embedding

    def attention_outputs(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        layers: Sequence[int],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "layer batch k d_model"]:
        """See ``Backend.attention_outputs``."""
        noted: Noted = {}
        x, seen = self._embed(tokens, mask)
        self._run(x, seen, None, Site(max(layers), "post"), logits=False, noted=noted)
        rows = torch.arange(len(tokens), device=self.device)[:, None]
        return torch.stack([noted[Tap(layer, "attn_out")][rows, positions] for layer in layers])

    def entering(self, layer: int) -> Norm | None:
        """See ``Backend.entering``: as it is."""
        return None

    def _run(
        self,
        x: Float[Tensor, "batch new d_model"],
        seen: Any,
        past: KeysValues | None,
        site: Site | None,
        logits: bool,
        patches: Mapping[Site, Patch] | None = None,
        noted: Noted | None = None,
    ) -> tuple[Float[Tensor, "batch new d_model"] | None, Float[Tensor, "batch new d_model"], KeysValues]:
        """Return the activations of ``site``, the residual stream at the end of the run, and the keys and values.

        What passes the taps of d_model numbers is put into ``noted``.
        """
        way, kept = _Way(self, site, patches or {}, noted), KeysValues([], [])
        layers, allowed = layers_run(self.shape, site, logits), self._allowed(seen)
        for layer, block in enumerate(self.blocks[:layers]):
            x = way.passed(Tap(layer, "resid_pre"), x)
            q, k, v = self._placed(way.projected(layer, self._projected(block, x)), seen)
            if past is not None:
                k, v = torch.cat([past.keys[layer], k], dim=2), torch.cat([past.values[layer], v], dim=2)
            kept.keys.append(k)
            kept.values.append(v)
            z = way.passed(Tap(layer, "attn_z"), attended(q, k, v, allowed).flatten(2))
            given = way.passed(Tap(layer, "attn_out"), way.with_heads(layer, z, self._gives(block, z)))
            middle = way.passed(Tap(layer, "resid_mid"), x + given)
            if way.found is not None and not logits:
                break
            hidden = way.passed(Tap(layer, "mlp_post"), self._neurons(block, middle))
            mlp = way.passed(Tap(layer, "mlp_out"), self._down(block, hidden))
            x = way.passed(Tap(layer, "resid_post"), middle + mlp)
        way.look(Tap(layers, "resid_pre"), x)
        return way.found, x, kept

    def _unembedded(
        self, last: Float[Tensor, "batch new d_model"], patches: Mapping[Site, Patch] | None
    ) -> Float[Tensor, "batch new vocabulary"]:
        """Return the logits of the last residual stream, its norm patched."""
        return self.unembed(_Way(self, None, patches or {}).passed(Tap(AFTER, "ln_final"), self.final_norm(last)))


def later(new: int, start: int, beside: bool, device: torch.device) -> Bool[Tensor, "new key"]:
    """Return which keys are seen by tokens that follow ``start`` others, one after the other or each by itself."""
    if not beside:
        return torch.ones(new, start + new, dtype=torch.bool, device=device).tril(start)
    alone = torch.eye(new, dtype=torch.bool, device=device)
    return torch.cat([alone.new_ones(new, start), alone], dim=1)


def attended(
    q: Float[Tensor, "batch head query d_head"],
    k: Float[Tensor, "batch kv_head key d_head"],
    v: Float[Tensor, "batch kv_head key d_head"],
    allowed: Bool[Tensor, "*batch_1 query key"] | None,
) -> Float[Tensor, "batch query head d_head"]:
    """Return what the heads of a layer gather; several may share keys and values."""
    groups = q.size(1) // k.size(1)
    k, v = (each.repeat_interleave(groups, 1) if groups > 1 else each for each in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=allowed is None).transpose(1, 2)


class _Way:
    """What is read and written on the way of a run."""

    def __init__(
        self,
        network: PlainRun,
        site: Site | None,
        patches: Mapping[Site, Patch],
        noted: Noted | None = None,
    ) -> None:
        self.network, self.site, self.patches, self.noted = network, site, patches, noted
        self.found: Float[Tensor, "batch new width"] | None = None
        """The activations of ``site``, once the run is there."""
        self.patched: dict[Tap, list[Site]] = {}
        for each in sorted(patches):
            if each.tap.name in ("embed", "pos_embed"):
                raise NotImplementedError(f"{each} is not replaced by itself, but as a part of x0.pre.")
            self.patched.setdefault(each.tap, []).append(each)

    def look(self, tap: Tap, x: Float[Tensor, "batch new *width"]) -> None:
        """Read ``site`` if this is its tap."""
        if self.site is not None and self.site.tap == tap:
            self.found = self.site.read(x, self.network)

    def passed(self, tap: Tap, x: Float[Tensor, "batch new width"]) -> Float[Tensor, "batch new width"]:
        """Return what the value of a tap becomes; it is read after that."""
        for site in self.patched.get(tap, ()):
            if site.written == tap:
                at, new = self.patches[site].index, self.patches[site].values
                x = x.index_put(at, site.write(x[at], new, site.read(x[at], self.network)))
        self.look(tap, x)
        if self.noted is not None:
            self.noted[tap] = x
        return x

    def projected(self, layer: int, heads: Heads) -> Heads:
        """Return what queries, keys and values become."""
        taps = [Tap(layer, name) for name in ("attn_q", "attn_k", "attn_v")]
        if self.site is None and not any(tap in self.patched for tap in taps):
            return heads
        flat = (x.transpose(1, 2).flatten(2) for x in heads)
        d_head = self.network.widths.d_head
        passed = (self.passed(tap, x) for tap, x in zip(taps, flat, strict=True))
        q, k, v = (x.unflatten(2, (-1, d_head)).transpose(1, 2) for x in passed)
        return q, k, v

    def with_heads(
        self, layer: int, z: Float[Tensor, "batch new width"], given: Float[Tensor, "batch new d_model"]
    ) -> Float[Tensor, "batch new d_model"]:
        """Return what the attention has given with other outputs of its heads, which are read from the input of W_O."""
        for site in self.patched.get(Tap(layer, "attn_z"), ()):
            if site.is_head:
                old = site.read(z, self.network)
                new = old.index_put(self.patches[site].index, self.patches[site].values)
                given = site.write(given, new - old)  # elsewhere exactly nothing
        return given

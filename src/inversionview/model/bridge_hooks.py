"""Reading and writing in a run of TransformerLens' ``TransformerBridge``: where its taps are, and hooks for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge.exceptions import StopAtLayerException
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from inversionview.model.backend import Patch, Shape, widest
from inversionview.model.sites.kind import Tap, Widths
from inversionview.model.sites.site import Site
from inversionview.model.stored import weights_of

Hook = tuple[Any, Callable[..., Tensor | None]]
"""A TransformerLens ``HookPoint`` and a hook for it, called as ``hook(tensor, hook=hook_point)``."""
Hooks = list[Hook]
OWN = 71
"""The level of these hooks: those that a user hung on a bridge stay."""
_POINTS = {
    "resid_pre": attrgetter("hook_resid_pre"),
    "attn_q": attrgetter("attn.q.hook_out"),
    "attn_k": attrgetter("attn.k.hook_out"),
    "attn_v": attrgetter("attn.v.hook_out"),
    "attn_z": attrgetter("attn.o.hook_in"),
    "attn_out": attrgetter("attn.o.hook_out"),
    "resid_mid": attrgetter("hook_resid_mid"),
    "mlp_post": attrgetter("mlp.out.hook_in"),
    "mlp_out": attrgetter("hook_mlp_out"),
    "resid_post": attrgetter("hook_resid_post"),
}
"""Where a block of the bridge has its taps."""
_OUTER = {"embed": attrgetter("embed.hook_out"), "ln_final": attrgetter("ln_final.hook_out")}
"""Where the bridge itself has some."""


class HookedBridge:
    """A bridge whose runs read and write at taps.

    Attributes:
        shape: its dimensions.
        bridge: the ``TransformerBridge``; no weight is folded or centred.
    """

    shape: Shape
    bridge: Any

    def __init__(self, hf_model: Any) -> None:
        """Note the weights of a Hugging Face model by its own names; whoever inherits opens its bridge."""
        self._weights = weights_of(hf_model)  # the bridge will rename them
        self._embedding = hf_model.get_input_embeddings()
        self._like = self._embedding.weight.detach()
        self._linear: dict[Any, tuple[Tensor, Tensor | None]] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._like.device

    @property
    def widths(self) -> Widths:
        """See ``Backend.widths``."""
        return self.shape.widths

    def activations(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"],
    ) -> Float[Tensor, "site batch k d_model"]:
        """See ``Backend.activations``."""
        out, widths = self._like.new_zeros(len(sites), *positions.shape, widest(self.shape, sites)), self.widths
        parts = [out[i, ..., : site.numbers(widths)] for i, site in enumerate(sites)]
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
        """See ``Backend.read_into``."""
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        waiting: dict[Any, list[int]] = {}  # for each hook point, which of the sites are read there
        for i, site in enumerate(sites):
            waiting.setdefault(self.point(site.tap), []).append(i)

        def read(value: Float[Tensor, "batch pos *width"], hook: Any) -> None:
            here = value[rows, positions]
            for i in waiting.pop(hook):
                out[i][:] = sites[i].read(here, self, maps.get(sites[i]))
            if not waiting:
                raise StopAtLayerException(value)  # the bridge's forward catches it

        if sites:
            self.run(tokens, mask, [(point, read) for point in waiting])
        if waiting:
            raise LookupError(f"{sites[next(iter(waiting.values()))[0]]} is never reached")

    def logits(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Float[Tensor, "batch pos vocabulary"]:
        """See ``Backend.logits``. Patching a head adds new − old to the output of the attention layer."""
        return self.run(tokens, mask, self.patched(patches))

    def patched(self, patches: Mapping[Site, Patch] | None) -> Hooks:
        """Return the hooks of all patches, in the order of computation."""
        ordered = sorted((patches or {}).items(), key=lambda item: item[0])
        return [hook for site, patch in ordered for hook in self.writers(site, patch)]

    @torch.no_grad()
    def through(self, part: Any, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Run the Hugging Face module behind a part of the bridge, without the bridge's hooks."""
        out: Tensor = part.original_component(x.to(self._like))
        return out

    @contextlib.contextmanager
    def embedded(self) -> Iterator[list[Float[Tensor, "batch pos d_model"]]]:
        """Begin graphs at the token embeddings, which are put into the list that is given."""
        leaves: list[Float[Tensor, "batch pos d_model"]] = []

        def cut(module: Any, args: Any, embedded: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
            leaves.append(embedded.detach().requires_grad_())
            return leaves[-1]

        handle = self._embedding.register_forward_hook(cut)
        try:
            yield leaves
        finally:
            handle.remove()

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"] | None,
        hooks: Hooks,
        past: DynamicCache | None = None,
        grad: bool = False,
    ) -> Tensor:
        """Return the logits, unless a hook stops the run. The bridge derives the position ids from the mask.

        ``past`` is what the tokens follow; their keys and values are added to it.
        """
        if mask is not None:
            tokens = tokens.masked_fill(~mask, 0)  # the padding id may lie outside the embedding
        try:
            for point, hook in hooks:
                point.add_hook(hook, level=OWN)
            with torch.set_grad_enabled(grad):  # not inference_mode: decoders are trained on these activations
                more: dict[str, Any] = {"use_cache": False} if past is None else {"past_key_values": past}
                if mask is not None and self.shape.steady is not None:  # else padding would count as length
                    more["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
                out: Tensor = self.bridge(tokens, attention_mask=None if mask is None else mask.long(), **more)
            return out
        finally:
            for point, _ in hooks:
                point.remove_hooks(level=OWN)

    def reader(self, site: Site, found: list[Float[Tensor, "batch pos d_model"]]) -> Hook:
        """Return a hook that puts the activations of ``site`` at all positions into ``found``."""

        def read(value: Float[Tensor, "batch pos *width"], hook: Any) -> None:
            z = site.read(value, self)
            found.append(value.clone() if z is value else z)

        return self.point(site.tap), read

    def point(self, tap: Tap) -> Any:
        """Return the hook point of a tap."""
        if tap.name in _OUTER:
            return _OUTER[tap.name](self.bridge)
        return _POINTS[tap.name](self.bridge.blocks[tap.layer])

    @cached_property
    def readers(self) -> dict[Tap, Any]:
        """The norms that are given just what a tap of the residual stream has, by one run: which these are, no name tells."""
        given, streams = dict[Any, Tensor](), dict[Tap, Tensor]()
        hooks: Hooks = []
        for layer, block in enumerate(self.bridge.blocks):
            for tap in (Tap(layer, "resid_pre"), Tap(layer, "resid_mid")):
                if tap.name == "resid_mid" and self.shape.parallel:
                    continue
                hooks.append((self.point(tap), partial(_note, streams, tap)))
            for name in ("ln1", "ln2"):
                if (norm := getattr(block, name, None)) is not None:
                    hooks.append((norm.hook_in, partial(_note, given, norm)))
        with torch.no_grad():
            self.run(torch.arange(3, device=self.device)[None] % self.shape.vocabulary, None, hooks)
        found: dict[Tap, Any] = {}
        for norm, x in given.items():
            for tap, stream in streams.items():
                if torch.equal(x, stream):
                    found.setdefault(tap, norm)
        return found

    def w_o(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """See ``Backend.w_o``."""
        matrix, _ = self.linear(self.bridge.blocks[layer].attn.o.original_component)
        return matrix.unflatten(0, (int(self.bridge.cfg.n_heads), -1))

    def linear(self, part: Any) -> tuple[Float[Tensor, "d_in d_out"], Float[Tensor, " d_out"] | None]:
        """Return the matrix and the bias of a linear module; of one that is packed or adapted what it makes of a basis."""
        if type(part) in (nn.Linear, Conv1D) and type(part.weight) is nn.Parameter:
            bias = None if part.bias is None else part.bias.detach()
            return (part.weight if isinstance(part, Conv1D) else part.weight.T).detach(), bias
        if part not in self._linear:
            with torch.no_grad():
                basis = torch.eye(part.in_features, dtype=self._like.dtype, device=self.device)
                bias = part(torch.zeros_like(basis[:1]))[0]
                self._linear[part] = part(basis) - bias, bias if bool(bias.any()) else None
        return self._linear[part]

    def writers(self, site: Site, patch: Patch) -> Hooks:
        """Return hooks that write at ``site``.

        x.mid is written as what the attention adds to x.pre: the bridge's ``hook_resid_mid`` is the input of the MLP's
        norm, which the residual stream passes by.
        """
        at = patch.index
        kept: list[Float[Tensor, "row k width"]] = []

        def keep(value: Float[Tensor, "batch pos *width"], hook: Any) -> None:
            kept.append(site.read(value[at], self))

        def keep_all(value: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
            kept.append(value[at])

        def write(value: Float[Tensor, "batch pos *width"], hook: Any) -> Float[Tensor, "batch pos *width"]:
            x, new = value[at], patch.values.to(value)
            made = site.write(x.flatten(2), new, kept.pop() if kept else site.read(x, self))
            return value.index_put(at, made.view_as(x))

        def write_added(value: Float[Tensor, "batch pos d_model"], hook: Any) -> Float[Tensor, "batch pos d_model"]:
            before, new = kept.pop(), patch.values.to(value)
            x = before + value[at]
            return value.index_put(at, site.write(x, new, site.read(x, self)) - before)

        if site.written.name == "resid_mid":
            block = self.bridge.blocks[site.layer]
            return [(block.hook_resid_pre, keep_all), (block.hook_attn_out, write_added)]
        if site.written != site.tap:
            return [(self.point(site.tap), keep), (self.point(site.written), write)]
        return [(self.point(site.tap), write)]


def stop(value: Tensor, hook: Any) -> None:
    """End the run at a hook point."""
    raise StopAtLayerException(value)  # the bridge's forward catches it


def _note(found: dict[Any, Tensor], key: Any, value: Tensor, hook: Any) -> None:
    """Keep what passes a hook point."""
    found[key] = value.detach().clone()

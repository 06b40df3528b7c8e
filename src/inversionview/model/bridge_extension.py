"""Going on from a prefix with a bridge: from its keys and values, or, where a model cannot, from its tokens again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from inversionview.model.backend import Patch, layers_run
from inversionview.model.bridge_hooks import HookedBridge, stop
from inversionview.model.cache import Extended, KeysValues
from inversionview.model.loading import quiet
from inversionview.model.sites.kind import Tap
from inversionview.model.sites.site import Site


def from_keys_and_values(
    model: HookedBridge,
    tokens: Int[Tensor, "batch new"],
    cache: KeysValues | None,
    site: Site | None,
    logits: bool,
    patches: Mapping[Site, Patch] | None = None,
) -> Extended:
    """Do what ``Backend.extend`` does."""
    layers = layers_run(model.shape, site, logits)
    past = DynamicCache() if cache is None else dynamic(cache.layers(layers))
    found: list[Float[Tensor, "batch new d_model"]] = []
    start = 0 if cache is None else cache.length
    hooks = model.patched({where: patch.after(start) for where, patch in (patches or {}).items()})
    hooks += [] if site is None else [model.reader(site, found)]
    if not logits:
        hooks.append((model.point(_last(site, layers)), stop))
    out = model.run(tokens, None, hooks, past)
    run = past.layers[:layers]
    kept = KeysValues([layer.keys for layer in run], [layer.values for layer in run])
    return Extended(found[0] if found else None, out if logits else None, kept)


def _last(site: Site | None, layers: int) -> Tap:
    """Return where a run that shall read a site may stop: not before the last of its layers has put keys and values by."""
    if site is None or site.tap.blocks == 0:
        return Tap(layers - 1, "resid_post")
    if site.tap.name in ("attn_q", "attn_k", "attn_v"):
        return Tap(site.layer, "attn_z")
    return site.tap


def from_tokens(
    model: HookedBridge,
    tokens: Int[Tensor, "batch new"],
    cache: KeysValues | None,
    site: Site | None,
    logits: bool,
    patches: Mapping[Site, Patch] | None = None,
) -> Extended:
    """Do what ``Backend.extend`` does from the tokens alone, which the cache keeps for that."""
    every = tokens if cache is None else torch.cat([cache.keys[0][:, 0, :, 0], tokens], dim=1)
    new = torch.arange(every.size(1) - tokens.size(1), every.size(1), device=every.device).expand(len(tokens), -1)
    z = None if site is None else model.activations(every, None, [site], new)[0]
    out = model.logits(every, None, patches)[:, -tokens.size(1) :] if logits else None
    return Extended(z, out, KeysValues([every[:, None, :, None]], []))


def continues(model: HookedBridge) -> bool:
    """Whether the model, run in two pieces with keys and values between, computes what it does in one."""
    tokens = torch.arange(12, device=model.device).remainder(model.shape.vocabulary).view(2, 6)
    whole = model.logits(tokens, None)[:, 4:]
    try:
        with quiet():
            first = from_keys_and_values(model, tokens[:, :4], None, None, True).cache
            parts = from_keys_and_values(model, tokens[:, 4:], first, None, True).logits
            assert parts is not None
    except Exception:  # whatever an architecture without a plain cache does with one
        return False
    return bool((parts - whole).norm() <= torch.finfo(whole.dtype).eps ** 0.5 * whole.norm())


def dynamic(cache: KeysValues) -> DynamicCache:
    """Return a Hugging Face cache that holds a copy of ``cache``; all layers whole, those of a sliding window too."""
    past = DynamicCache()
    for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
        past.update(keys, values, layer)
    return past

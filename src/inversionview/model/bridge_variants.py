"""One token in many runs that differ in patches alone, with a bridge: side by side in one sequence, where none sees another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.model.backend import Patch
from inversionview.model.bridge_extension import dynamic, from_keys_and_values
from inversionview.model.bridge_hooks import OWN, HookedBridge
from inversionview.model.cache import KeysValues
from inversionview.model.loading import quiet
from inversionview.model.sites.site import Site


def side_by_side(
    model: HookedBridge, token: Int[Tensor, ""], cache: KeysValues | None, rows: int, patches: Mapping[Site, Patch]
) -> Float[Tensor, "row vocabulary"]:
    """Do what ``Backend.variants`` does: every token sees what is before all of them and itself, and all have one position."""
    assert cache is not None
    like, start = cache.keys[0], cache.length
    mask = torch.full((rows, start + rows), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device)
    mask[:, :start] = 0
    mask[:, start:].fill_diagonal_(0)
    hooks = model.patched({site: patch.beside() for site, patch in patches.items()})
    places = torch.full((1, rows), start, device=like.device)
    try:
        for point, hook in hooks:
            point.add_hook(hook, level=OWN)
        with torch.no_grad():
            out = model.bridge.original_model(
                input_ids=token.expand(1, rows),
                attention_mask=mask[None, None],
                position_ids=places,
                past_key_values=dynamic(cache),
                use_cache=True,
            )
    finally:
        for point, _ in hooks:
            point.remove_hooks(level=OWN)
    logits: Tensor = out.logits[0]
    return logits


def beside_up_to(model: HookedBridge) -> int:
    """Return to what length of the whole sequence a model does side by side what it does one by one; 0 where it never does."""
    config = model.bridge.original_model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    most = min([model.shape.max_length, *(window for window in windows if window)])
    tokens = torch.arange(5, device=model.device).remainder(model.shape.vocabulary)[None]
    try:
        with quiet():
            cache = from_keys_and_values(model, tokens, None, None, True).cache
            site = Site(0, "post")
            values = torch.ones(1, 1, model.shape.d_model, device=model.device)
            patch = Patch(torch.full((1, 1), 5, device=model.device), values, torch.tensor([1], device=model.device))
            again = tokens[:, :1].expand(3, 1)
            wanted = from_keys_and_values(model, again, cache.repeated(3), None, True, {site: patch}).logits
            assert wanted is not None
            off = side_by_side(model, tokens[0, 0], cache, 3, {site: patch}) - wanted[:, 0]
    except Exception:  # whatever an architecture does with a mask of its own
        return 0
    return most if bool(off.norm() <= torch.finfo(wanted.dtype).eps ** 0.5 * wanted.norm()) else 0

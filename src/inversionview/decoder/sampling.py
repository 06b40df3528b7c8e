"""Draw inputs from a decoder, and score given inputs under it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.decoder.model import Decoder


@torch.no_grad()
def sample(
    decoder: Decoder,
    z: Float[Tensor, "batch d_model"],
    site: Int[Tensor, " batch"],
    *,
    temperature: float | Float[Tensor, " batch"] = 1.0,
    generator: torch.Generator | None = None,
    report: Callable[[float], None] | None = None,
) -> Int[Tensor, "batch max_length"]:
    """Draw one input per row of ``z``, BOS first, padded after EOS.

    One token a step with cached keys and values; rows that are finished leave the batch. A row that reaches the longest
    length without EOS ends there. The padding id is never drawn, nor BOS after the first place. ``report`` is called before
    each step with the share of the steps that are done.
    """
    config, n = decoder.config, len(z)
    out = torch.full((n, config.max_length), config.pad, device=z.device)
    out[:, 0] = config.bos
    heat = torch.as_tensor(temperature, device=z.device, dtype=torch.float32).expand(n)[:, None]
    u = decoder.pathway(z, site)
    memories = decoder.memories(u)
    caches: list[list[Tensor]] = [[] for _ in decoder.layers]
    entrance = decoder.enter(u, config.max_length)
    live = torch.arange(n, device=z.device)
    for place in range(1, config.max_length):
        if report is not None:
            report(place / config.max_length)
        x = decoder.embed(out[live, :place], start=place - 1) + entrance[:, place - 1 : place]
        for layer, memory, cache in zip(decoder.layers, memories, caches, strict=True):
            x = layer(x, memory, cache)
        logits = decoder.lm_head(decoder.norm(x))[:, 0].float() / heat
        banned = {config.bos, config.pad} - {config.eos}
        logits[:, [b for b in banned if b < config.vocabulary]] = -torch.inf
        noise = torch.empty_like(logits).exponential_(generator=generator)
        drawn = (logits.softmax(-1) / noise).argmax(-1)  # the exponential race draws from the softmax
        out[live, place] = drawn
        going = drawn != config.eos
        if not bool(going.any()):
            break
        if not bool(going.all()):
            live, heat, entrance = live[going], heat[going], entrance[going]
            caches = [[t[going] for t in cache] for cache in caches]
            memories = [(k[going], v[going]) for k, v in memories]
    return out


@torch.no_grad()
def token_log_probs(
    decoder: Decoder,
    tokens: Int[Tensor, "batch pos"],
    z: Float[Tensor, "batch d_model"],
    site: Int[Tensor, " batch"],
) -> Float[Tensor, "batch pos"]:
    """Return log p_θ(token ∣ earlier tokens, z) of every token; 0 at BOS, which is given, and at padding."""
    ids = tokens.clamp(max=decoder.config.vocabulary - 1)
    logits = decoder(ids[:, :-1], z, site).float()
    scores = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    scores = scores.masked_fill(tokens[:, 1:] == decoder.config.pad, 0.0)
    return torch.cat([torch.zeros_like(scores[:, :1]), scores], dim=1)

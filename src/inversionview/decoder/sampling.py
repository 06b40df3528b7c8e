"""Draw inputs from a decoder, and score given inputs under it; all in the probed model's token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.errors import WeightsError
from inversionview.decoder.decoder import Decoder

_LOGITS = 2**24
"""Logits that exist at once while inputs are scored."""


@torch.no_grad()
def sample(
    decoder: Decoder,
    z: Float[Tensor, "batch d_model"],
    site: Int[Tensor, " batch"],
    *,
    temperature: float | Float[Tensor, " batch"] = 1.0,
    less: Float[Tensor, "batch vocabulary"] | None = None,
    generator: torch.Generator | None = None,
    report: Callable[[float], None] | None = None,
) -> Int[Tensor, "batch input_length"]:
    """Draw one input per row of ``z``, as the probed model reads it, padded after EOS.

    One token a step with cached keys and values; rows that are finished leave the batch. A row that reaches the longest
    length without EOS ends there. The padding id is never drawn, nor BOS after the first place. ``less`` is taken off the
    logits of the decoder's tokens. ``report`` is called before each step with the share of the steps that are done.

    Raises:
        WeightsError: the decoder computes numbers that are not finite.
    """
    heat = torch.as_tensor(temperature, device=z.device, dtype=torch.float32).expand(len(z))
    parts = list(torch.arange(len(z), device=z.device).split(decoder.rows_at_once))
    drawn = [
        _written(
            decoder,
            z[part],
            site[part],
            heat[part],
            None if less is None else less[part],
            generator,
            report and partial(_share, report, i, len(parts)),
        )
        for i, part in enumerate(parts)
    ]
    out = torch.cat(drawn)[:, int(decoder.config.unread) :]
    return out if decoder.spelt is None else decoder.spelt.read(out)


def _share(report: Callable[[float], None], part: int, parts: int, share: float) -> None:
    report((part + share) / parts)


def _written(
    decoder: Decoder,
    z: Float[Tensor, "batch d_model"],
    site: Int[Tensor, " batch"],
    temperature: Float[Tensor, " batch"],
    less: Float[Tensor, "batch vocabulary"] | None,
    generator: torch.Generator | None,
    report: Callable[[float], None] | None,
) -> Int[Tensor, "batch max_length"]:
    config, n = decoder.config, len(z)
    out = torch.full((n, config.max_length), config.pad, device=z.device)
    out[:, 0] = config.bos
    own = torch.full((n, 1), config.place(config.bos) or 0, device=z.device)
    heat = temperature[:, None]
    steps = decoder.begin(z, site)
    live = torch.arange(n, device=z.device)
    for place in range(1, config.max_length):
        if report is not None:
            report(place / config.max_length)
        logits = steps.next(own).float()
        check_numbers(logits.isfinite())
        if less is not None:
            logits = logits - less[live]
        logits = logits / heat
        _ban(decoder, logits, first=place == 1)
        noise = torch.empty_like(logits).exponential_(generator=generator)
        drawn = (logits.softmax(-1) / noise).argmax(-1)  # the exponential race draws from the softmax
        own, out[live, place] = torch.cat([own, drawn[:, None]], dim=1), decoder.own.back(drawn)
        going = out[live, place] != config.eos
        if not bool(going.any()):
            break
        if not bool(going.all()):
            live, heat, own = live[going], heat[going], own[going]
            steps.keep(going)
    return out


def _ban(decoder: Decoder, logits: Float[Tensor, "*batch vocabulary"], first: bool = False) -> None:
    """Make impossible what is never drawn: padding, BOS and, where inputs have none or end where they are read, no text."""
    logits[..., decoder.config.banned] = -torch.inf
    if first and (decoder.config.unread or decoder.config.prefix):
        logits[..., decoder.config.place(decoder.config.eos)] = -torch.inf


def check_numbers(sound: Bool[Tensor, "*shape"]) -> None:
    """Raise ``WeightsError`` unless all of a decoder's numbers are sound."""
    if not bool(sound.all()):
        raise WeightsError(
            "The decoder computes NaN or infinite numbers, so it is damaged or its training diverged: copy it again, or train "
            "it anew."
        )


@torch.no_grad()
def token_log_probs(
    decoder: Decoder,
    tokens: Int[Tensor, "batch pos"],
    z: Float[Tensor, "batch d_model"],
    site: Int[Tensor, " batch"],
) -> Float[Tensor, "batch pos"]:
    """Return log p_θ(token ∣ earlier tokens, z) of every token; 0 at a BOS, which is given, and at padding.

    A token that the decoder does not write has −∞.
    """
    return log_probs_at(decoder, tokens, z, site, (1.0,))[0]


@torch.no_grad()
def log_probs_at(
    decoder: Decoder,
    tokens: Int[Tensor, "batch pos"],
    z: Float[Tensor, "batch d_model"],
    site: Int[Tensor, " batch"],
    temperatures: Sequence[float],
    *,
    as_drawn: bool = False,
) -> Float[Tensor, "temperature batch pos"]:
    """Return what ``token_log_probs`` does at several temperatures, by which the logits are divided.

    ``as_drawn`` takes what ``sample`` never draws for impossible: then these are the densities that its draws have, exactly.
    """
    spelt, given = decoder.spelt, tokens
    tokens, owner = (tokens, None) if spelt is None else spelt.written(tokens)
    tokens = decoder.begun(tokens)
    own = decoder.own(tokens)
    weight, bias = decoder.head()
    scores = torch.zeros(len(temperatures), *tokens.shape, device=tokens.device)
    rows = max(1, _LOGITS // (len(weight) * tokens.size(1)))
    for part in torch.arange(len(tokens), device=tokens.device).split(rows):
        hidden = decoder.hidden(own[part, :-1].clamp(min=0), z[part], site[part])
        logits = F.linear(hidden, weight, bias).float()
        if as_drawn:
            _ban(decoder, logits[:, :1], first=True)
            _ban(decoder, logits[:, 1:])
        for number, heat in enumerate(temperatures):
            log_p = (logits / heat).log_softmax(-1)
            scores[number, part, 1:] = log_p.gather(-1, own[part, 1:, None].clamp(min=0))[..., 0]
    check_numbers(~scores.isnan())
    scores = scores.masked_fill(own < 0, -torch.inf).masked_fill(tokens == decoder.config.pad, 0.0)
    scores = scores[..., int(decoder.config.unread) :]
    if owner is None:
        return scores
    whole = scores.new_zeros(len(scores), *given.shape)  # a token's is that of all its pieces
    return whole.scatter_add_(2, owner.expand(len(scores), -1, -1), scores)

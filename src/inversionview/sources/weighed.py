"""What a decoder's reading is worth in bits: draws without noise whose density is known, verified, and weighed against π.

A pool of settings mixes noise into z, so the density of its candidates has no closed form. These are draws of their own: of
p_θ(x ∣ z_q) at a few temperatures, which one pass scores all, and a share of π itself, by which no weight is larger than one
over that share, however badly the decoder covers the preimage (Owen and Zhou 2000; Hesterberg 1995). See ``core.importance``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.importance import LEAST_EFFECTIVE, Weights, balance, importance_bits, most_k
from inversionview.core.information import Bits
from inversionview.core.memory import check_memory
from inversionview.core.scope import Scope
from inversionview.corpora.inputs import Inputs
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.sampling import log_probs_at, sample
from inversionview.model.measure import Finder, distance_to
from inversionview.model.probed import ProbedModel
from inversionview.preimage.preimage import Query, Weighed

TEMPERATURES = {1.0: 0.5, 1.5: 0.125, 3.0: 0.125}
"""Temperatures with the share of the draws that each makes: the higher ones reach what the first would hardly write. The rest
are from π."""
_SCORED = 256
"""Draws scored at once: what stays in the cache of a CPU runs fastest."""


@dataclass(frozen=True)
class _Draws:
    """Inputs with the proposal that each is a draw of: one for each temperature, then π."""

    tokens: Int[Tensor, "draw pos"]
    proposal: Int[np.ndarray, " draw"]
    counts: list[int]


def weighed(
    decoder: Decoder, model: ProbedModel, inputs: Inputs, query: Query, site: int, scope: Scope[Finder], count: int, seed: int
) -> Weighed | None:
    """Return draws inside ε with their weights, and the bits that they tell; ``None`` where π is not known of these inputs.

    Args:
        decoder: trained on the query's site.
        model: the probed model.
        inputs: of the study, whose distribution π is.
        query: what is read; its own input is left out.
        site: the number of its site in the decoder.
        scope: how inputs are compared.
        count: draws in all.
        seed: of the draws.

    Raises:
        SettingError: so many do not fit in memory.
        WeightsError: the decoder computes numbers that are not finite.
    """
    total = inputs.log_total
    if total is None:
        return None
    check_memory(count, "draws", 4 * 4 * len(query.z) + 8 * 8 * decoder.config.max_length)
    drawn = _drawn(decoder, inputs, query, site, count, seed)
    within = _inside(model, drawn.tokens, query, scope)
    weights = np.zeros(len(drawn.tokens))
    tokens = drawn.tokens[torch.from_numpy(within)]
    log_pi = _log_pi(inputs, tokens.numpy(), total)
    scored = _scored(decoder, tokens, query, site)
    weights[within] = balance(log_pi, np.concatenate([scored, log_pi[None]]), drawn.counts)
    own = 0.0 if query.textless else float(np.exp(_log_pi(inputs, np.array([query.ids]), total)[0]))
    told = importance_bits(weights, within, drawn.proposal, left_out=own if own < 1 else 0.0)
    kept = weights[within] > 0
    return Weighed(tokens.numpy()[kept], weights[within][kept], told, _doubts(told))


def _drawn(decoder: Decoder, inputs: Inputs, query: Query, site: int, count: int, seed: int) -> _Draws:
    counts, device = [max(1, round(share * count)) for share in TEMPERATURES.values()], decoder.device
    prior = max(1, count - sum(counts))
    heat = torch.tensor([*TEMPERATURES], device=device).repeat_interleave(torch.tensor(counts, device=device))
    counts.append(prior)
    where = torch.full((len(heat),), site, device=device)
    z = query.z.to(device, torch.float32).expand(len(heat), -1)
    generator = torch.Generator(device).manual_seed(seed)
    own = sample(decoder, z, where, temperature=heat, generator=generator).cpu().numpy()
    tokens = _beside(own, inputs.fresh(prior, np.random.default_rng((seed, 41))), inputs.pad)
    return _Draws(torch.from_numpy(tokens), np.repeat(np.arange(len(counts)), counts), counts)


def _beside(first: Ids, second: Ids, pad: int) -> Ids:
    """Return rows of two widths, the first ones first, padded to the wider."""
    out = np.full((len(first) + len(second), max(first.shape[1], second.shape[1])), pad, dtype=np.int64)
    out[: len(first), : first.shape[1]], out[len(first) :, : second.shape[1]] = first, second
    return out


def _inside(
    model: ProbedModel, tokens: Int[Tensor, "draw pos"], query: Query, scope: Scope[Finder]
) -> Bool[np.ndarray, " draw"]:
    """Return which draws lie inside ε, the query's own input left out; each distinct one is run once."""
    distinct, number = torch.unique(tokens, dim=0, return_inverse=True)
    z = query.z.expand(len(distinct), -1)
    _, nearest, position = distance_to(model, distinct, z, query.site, scope.distance, scope.at)
    width, own = tokens.size(1), torch.full((1, tokens.size(1)), model.vocabulary.pad)
    own[0, : len(query.ids)] = torch.tensor(query.ids[:width])
    same = (distinct == own).all(1) if len(query.ids) <= width else torch.zeros(len(distinct), dtype=torch.bool)
    within = (nearest <= scope.epsilon) & (position >= 0) & ~same
    found: Bool[np.ndarray, " draw"] = within[number].numpy()
    return found


def _log_pi(inputs: Inputs, tokens: Ids, total: float) -> Weights:
    """Return log π of each row; −∞ for what is no input, or is cut off before its end."""
    if not len(tokens):
        return np.zeros(0)
    found = inputs.log_prior(tokens) - total
    ended = np.ones(len(tokens), dtype=bool) if inputs.eos is None else (tokens[:, 1:] == inputs.eos).any(1)
    return np.where(ended, found, -np.inf)


def _scored(decoder: Decoder, tokens: Int[Tensor, "draw pos"], query: Query, site: int) -> Weights:
    """Return the log-density of each draw at each temperature, ``[temperature, draw]``."""
    device, width = decoder.device, decoder.config.input_length
    if not len(tokens):
        return np.zeros((len(TEMPERATURES), 0))
    distinct, number = torch.unique(tokens, dim=0, return_inverse=True)
    fits = (distinct[:, width:] == decoder.config.pad).all(1)
    where = torch.full((len(distinct),), site, device=device)
    z = query.z.to(device, torch.float32).expand(len(distinct), -1)
    parts = [
        log_probs_at(decoder, distinct[rows, :width].to(device), z[rows], where[rows], [*TEMPERATURES], as_drawn=True)
        for rows in torch.arange(len(distinct)).split(_SCORED)
    ]
    each = torch.cat([part.double().sum(-1).cpu() for part in parts], dim=1)
    each[:, ~fits] = -torch.inf
    return np.asarray(each[:, number].numpy())


def _doubts(told: Bits) -> tuple[str, ...]:
    """Return what a reader must know before the bits are believed; nothing where they stand firm."""
    if not told.hits:
        return ("None of the draws for the bits lies inside ε, so only a bound is known: walk there, or search the corpus.",)
    assert told.effective is not None
    if told.k_hat is not None and told.k_hat > most_k(told.hits):
        return (
            f"The decoder misses part of the preimage (Pareto k̂ {told.k_hat:.2f}, above {most_k(told.hits):.2f}): its "
            "bits may be far off. Search the corpus, or walk.",
        )
    if told.effective < LEAST_EFFECTIVE:
        return (
            f"Bits and shares rest on few draws inside ε, {told.hits:,} worth {told.effective:.0f}: they are uncertain. "
            "Search the corpus, or walk.",
        )
    return ()

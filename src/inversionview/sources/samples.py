"""From measured inputs to the samples of a preimage: what every source shares."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.model.probed import ProbedModel
from inversionview.preimage.preimage import INSIDE_SHARE, Sample


def choose(
    nearest: Float[Tensor, " candidate"], epsilon: float, count: int, generator: torch.Generator
) -> Int[Tensor, " shown"]:
    """Return which candidates to show, sorted by distance.

    Inside ε a random choice, which shows what varies there; outside the nearest, which show where the preimage ends. Either
    fills up what the other lacks.
    """
    order = torch.argsort(nearest, stable=True)
    inside = order[nearest[order] <= epsilon]
    outside = order[nearest[order] > epsilon]
    wanted = max(round(INSIDE_SHARE * count), count - len(outside))
    lot = torch.randperm(len(inside), generator=generator)[:wanted].sort().values
    return torch.cat([inside[lot], outside[: count - len(lot)]])


def samples_of(
    model: ProbedModel,
    tokens: Int[Tensor, "sample pos"],
    nearest: Float[Tensor, " sample"],
    position: Int[Tensor, " sample"],
    per_token: Float[Tensor, "sample pos"],
    *,
    epsilon: float,
    source: str,
    effect: Float[Tensor, "sample pos"] | None = None,
    times: Int[Tensor, " sample"] | None = None,
    log_p: Float[Tensor, " sample"] | None = None,
) -> tuple[Sample, ...]:
    """Return the samples of a preimage.

    Args:
        model: the probed model they were run through.
        tokens: padded on the right.
        nearest: D of each.
        position: where it is reached.
        per_token: distance of every token's activation, infinite where D may not be reached.
        epsilon: threshold.
        source: what made them.
        effect: how much the activation caused each token, where a decoder can say.
        times: how often each was drawn.
        log_p: log p_θ(x ∣ z_q) of each, where a decoder made them.
    """
    vocabulary, samples = model.vocabulary, []
    lengths = (tokens != vocabulary.pad).sum(1).tolist()
    rows = zip(
        tokens.tolist(), lengths, nearest.tolist(), position.tolist(), per_token.tolist(), (nearest <= epsilon).tolist(),
        [None] * len(tokens) if effect is None else effect.tolist(), [1] * len(tokens) if times is None else times.tolist(),
        [None] * len(tokens) if log_p is None else log_p.tolist(), strict=True,
    )  # fmt: skip
    for ids, length, near, place, each, inside, caused, count, log in rows:
        real = ids[:length]
        samples.append(
            Sample(
                tokens=tuple(vocabulary.strings(real)),
                text=vocabulary.decode(real),
                distance=near,
                position=place,
                inside=inside,
                token_distances=tuple(None if d == float("inf") else d for d in each[:length]),
                effect=None if caused is None else tuple(caused[:length]),
                source=source,
                count=count,
                ids=tuple(real),
                log_p=log,
            )
        )
    return tuple(samples)

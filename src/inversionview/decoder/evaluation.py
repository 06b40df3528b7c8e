"""The good ratio: the share of a decoder's samples at temperature 1 that lie inside ε, per site, on held-out queries.

From it, and from how far samples inside are from being draws of the ball, follows what a decoder is trained on more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.memory import check_memory
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.core.scope import PAPER, Scope
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.positions import last_of
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.pairs import PairSource, allowed_positions
from inversionview.decoder.recipe import TrainConfig
from inversionview.decoder.sampling import sample, token_log_probs
from inversionview.model.measure import distance_to
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

if TYPE_CHECKING:
    from inversionview.decoder.balls.balls import Balls


@torch.no_grad()
def good_shares(
    decoder: Decoder,
    model: ProbedModel,
    inputs: Inputs,
    sites: Sequence[Site],
    *,
    scope: Scope[Any] = PAPER,
    queries: int = 200,
    samples: int = 8,
    seed: int = 0,
    report: Progress | None = None,
) -> tuple[npt.NDArray[np.float64], Ids]:
    """Return the share of samples at temperature 1 with D ≤ ε, ``[site, query]``, and each query's ``Inputs.places``.

    Every site is read at ``queries`` random (input, position) pairs of the test split, ``samples`` samples each; positions
    are those a decoder is trained on; of ``facts`` heads are read also where they rest. What a decoder of what precedes writes
    is compared where it ends.
    """
    check_seed(seed)
    width, longest = model.shape.d_model, inputs.max_length
    each = 4 * 4 * width + 8 * 8 * longest
    check_memory(whole(samples, "The number of samples"), "samples", each)
    check_memory(
        whole(queries, "The number of queries"), "queries", 8 * 6 * longest + 4 * 2 * len(sites) * width + samples * each
    )
    rng = np.random.default_rng((seed, 3))
    tokens = inputs.draw(queries, split="test", seed=(seed, 4))
    allowed = allowed_positions(inputs, tokens, decoder.config.positions)
    if decoder.config.prefix:
        allowed[:, decoder.config.prefix :] = False
    fixed = partial(last_of, vocabulary=model.vocabulary) if decoder.config.prefix else None
    positions = np.where(allowed, rng.random(allowed.shape), -1).argmax(1)[:, None]
    z_all = model.harvest(tokens, sites, positions)[:, :, 0]
    device = decoder.device
    generator = torch.Generator(device).manual_seed(seed)
    training, shares = decoder.training, []
    decoder.eval()
    for number, site in enumerate(sites):
        z = z_all[number].repeat_interleave(samples, dim=0)
        which = torch.full((len(z),), decoder.config.sites.index(site.short), device=device)
        drawn = sample(decoder, z.to(device), which, generator=generator).cpu()
        _, nearest, _ = distance_to(model, drawn, z, site, scope.distance, fixed)
        shares.append((nearest <= scope.epsilon).double().view(queries, samples).mean(1).numpy())
        if report is not None:
            report((number + 1) / len(sites), f"{number + 1} of {len(sites)} sites")
    decoder.train(training)
    return np.stack(shares), np.take_along_axis(inputs.places(tokens), positions, axis=1)[:, 0]


@torch.no_grad()
def ball_shares(
    decoder: Decoder, model: ProbedModel, source: PairSource, balls: Balls, *, config: TrainConfig, pool: int, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Ids]:
    """Return what ``good_shares`` does, of one sample, how far each query's ball is from what is drawn, and the places.

    With p_B the decoder within the ball and π_B the inputs' own distribution there, J = KL(p_B ‖ π_B) + KL(π_B ‖ p_B) is the
    mean of log p_θ(x) − log p(x) over samples inside, less its mean over members (Jeffreys 1946): the ball's size cancels.

    Returns:
        the share of samples inside ε, ``[site, query]``.
        log p_θ(x) − log p(x) of each query's sample less that of one of its members, ``[site, query]`` in nats; NaN where the
        sample lies outside.
        each query's ``Inputs.places``.
    """
    drawn = source.draw(config.queries, (seed, 3))
    rng, rows = np.random.default_rng((seed, 4)), np.arange(config.queries)
    allowed = drawn.allowed if drawn.allowed.ndim == 2 else drawn.allowed.any(2)
    positions = np.where(allowed, rng.random(allowed.shape), -1).argmax(1)
    training, shares, apart = decoder.training, [], []
    generator = torch.Generator(decoder.device).manual_seed(seed)
    decoder.eval()
    for number, (site, ball) in enumerate(zip(source.sites, balls.balls, strict=True)):
        where = np.full(config.queries, number)
        z = source.read(drawn, rows, positions, where)
        members = balls.members(pool, drawn, rows, positions, where, z, salt=1).tokens[:, 0]
        which = torch.from_numpy(where).to(decoder.device)
        samples = sample(decoder, z.to(decoder.device), which, generator=generator).cpu()
        _, nearest, _ = distance_to(model, samples, z, site, config.distance)
        inside = (nearest <= ball.epsilon).numpy()
        found, held = (
            _excess(decoder, source.inputs, tokens, z, which) for tokens in (samples.numpy(), members[:, : samples.shape[1]])
        )
        shares.append(inside.astype(np.float64))
        with np.errstate(invalid="ignore"):
            gap = found - held
        apart.append(np.where(inside & np.isfinite(gap), gap, np.nan))
    decoder.train(training)
    places = np.take_along_axis(source.inputs.places(drawn.tokens), positions[:, None], axis=1)[:, 0]
    return np.stack(shares), np.stack(apart), places


def _excess(decoder: Decoder, inputs: Inputs, tokens: Ids, z: Tensor, site: Tensor) -> npt.NDArray[np.float64]:
    """Return log p_θ(x ∣ z) − log p(x), the second up to a constant, or nothing where the inputs declare no distribution."""
    ids = torch.from_numpy(tokens).to(decoder.device)
    scores = token_log_probs(decoder, ids, z.to(decoder.device), site).sum(1).double().cpu().numpy()
    excess: npt.NDArray[np.float64] = scores - inputs.log_prior(tokens) if inputs.moves else scores
    return excess


def good_ratio(decoder: Decoder, model: ProbedModel, inputs: Inputs, sites: Sequence[Site], **options: Any) -> list[float]:
    """Return for each site the mean of ``good_shares`` over its queries (Huang et al. 2024, appendix)."""
    shares, _ = good_shares(decoder, model, inputs, sites, **options)
    return [float(ratio) for ratio in shares.mean(1)]


def by_place(shares: npt.NDArray[np.float64], places: Ids, count: int) -> npt.NDArray[np.float64]:
    """Return the mean of ``shares`` ``[site, query]`` over the queries of each place, ``[site, count]``.

    Few queries are a poor estimate: two more of the site's own mean are added to those of each place.
    """
    here = places[:, None] == np.arange(count)  # (query, place)
    ratios: npt.NDArray[np.float64] = (shares @ here + 2 * shares.mean(1, keepdims=True)) / (here.sum(0) + 2)
    return ratios


def agreements(
    shares: npt.NDArray[np.float64], apart: npt.NDArray[np.float64], places: Ids, count: int
) -> npt.NDArray[np.float64]:
    """Return the good ratio times e^−J of each site and place, ``[site, count]``, in [0, 1]; see ``ball_shares``."""
    known = np.isfinite(apart)
    gaps, seen = (by_place(x, places, count) for x in (np.where(known, apart, 0.0), known.astype(np.float64)))
    made: npt.NDArray[np.float64] = by_place(shares, places, count) * np.exp(-(gaps / np.maximum(seen, 1e-9)).clip(min=0.0))
    return made


def rebalanced(ratios: Sequence[float] | npt.NDArray[np.float64], strength: float) -> npt.NDArray[np.float64]:
    """Return the probabilities softmax(strength · (mean − ratio)): what is decoded badly is trained on more.

    Huang et al. 2024, appendix on the counting task, over sites and with strength 6.
    """
    logits = strength * (np.mean(ratios) - np.asarray(ratios, dtype=np.float64))
    weights = np.exp(logits - logits.max())
    normed: npt.NDArray[np.float64] = weights / weights.sum()
    return normed

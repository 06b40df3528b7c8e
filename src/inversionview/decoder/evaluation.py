"""The good ratio: the share of a decoder's samples at temperature 1 that lie inside ε, per site, on held-out queries.

From it follows what a decoder is trained on more: the sites and named positions at which it is low.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from inversionview.core.arrays import Ids
from inversionview.core.memory import check_memory
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.core.scope import PAPER, Scope
from inversionview.corpora.inputs import Inputs
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.pairs import allowed_positions
from inversionview.decoder.sampling import sample
from inversionview.model.measure import distance_to
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site


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
    are those a decoder is trained on; of ``facts`` heads are read also where they rest.
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
        _, nearest, _ = distance_to(model, drawn, z, site, scope.distance)
        shares.append((nearest <= scope.epsilon).double().view(queries, samples).mean(1).numpy())
        if report is not None:
            report((number + 1) / len(sites), f"{number + 1} of {len(sites)} sites")
    decoder.train(training)
    return np.stack(shares), np.take_along_axis(inputs.places(tokens), positions, axis=1)[:, 0]


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


def rebalanced(ratios: Sequence[float] | npt.NDArray[np.float64], strength: float) -> npt.NDArray[np.float64]:
    """Return the probabilities softmax(strength · (mean − ratio)): what is decoded badly is trained on more.

    Huang et al. 2024, appendix on the counting task, over sites and with strength 6.
    """
    logits = strength * (np.mean(ratios) - np.asarray(ratios, dtype=np.float64))
    weights = np.exp(logits - logits.max())
    normed: npt.NDArray[np.float64] = weights / weights.sum()
    return normed

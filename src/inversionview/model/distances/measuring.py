"""Measuring statistics of a corpus: means and covariances of activations, and of the gradients there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.progress import Progress
from inversionview.model.distances.statistics import Moment, Statistics, moments_of, spread_of
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.kind import Tap
from inversionview.model.sites.site import Site

TOKENS = 5000
"""So many tokens of a corpus are looked at where nobody says how many."""
_GRADIENT_TOKENS = 2500
"""So many of them for gradients, which cost three times as much."""
_PASS, _GRADIENT_PASS = 4096, 512
"""Tokens of a pass."""


def measured(
    model: ProbedModel,
    tokens: Ids,
    counted: Bool[Tensor, "row pos"],
    sites: Sequence[Site],
    moments: Sequence[Moment],
    *,
    corpus: str,
    fingerprint: str,
    seed: int = 0,
    report: Progress | None = None,
) -> Statistics:
    """Measure statistics of activations at some sites.

    Args:
        model: the probed model.
        tokens: of the corpus, padded on the right; a random sample of it.
        counted: which of them count.
        sites: where.
        moments: what is measured, ``spread`` alone; see ``Statistics``.
        corpus: what the corpus is called.
        fingerprint: of the corpus.
        seed: of the tokens that gradients are taken of.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: no token counts.
    """

    def told(share: float) -> None:
        if report is not None:
            report(share, "statistics of the corpus")

    if list(moments) == ["spread"]:
        batches = list(_activations(model, tokens, counted, sites, told, 1.0))
        spreads = [_spread(torch.cat(parts).flatten(), s) for s, parts in zip(sites, zip(*batches, strict=True), strict=True)]
        told_of: dict[str, dict[Moment, Tensor]] = {s.key: {"spread": each} for s, each in zip(sites, spreads, strict=True)}
        return Statistics(model.fingerprint, corpus, fingerprint, int(counted.sum()), told_of)
    plain: list[Moment] = [m for m in moments if m != "gradients"]
    part = 1.0 if "gradients" not in moments else 0.3 if plain else 0.0
    found: list[dict[Moment, Tensor]] = [{} for _ in sites]
    if plain:
        for own, more in zip(found, moments_of(_activations(model, tokens, counted, sites, told, part), plain), strict=True):
            own.update(more)
    if "gradients" in moments:
        for own, second in zip(found, _gradients(model, tokens, counted, sites, seed, told, part), strict=True):
            own["gradients"] = second
    by_site = {site.short: own for site, own in zip(sites, found, strict=True)}
    return Statistics(model.fingerprint, corpus, fingerprint, int(counted.sum()), by_site)


def _spread(numbers: Float[Tensor, " token"], site: Site) -> Float[Tensor, " 1"]:
    return spread_of(numbers, site.short, site.part is not None and site.part.rectified)


def _activations(
    model: ProbedModel,
    tokens: Ids,
    counted: Bool[Tensor, "row pos"],
    sites: Sequence[Site],
    told: Callable[[float], None],
    part: float,
) -> Iterator[list[Float[Tensor, "token width"]]]:
    done = 0
    for rows, width in _passes(counted, _PASS):
        here = counted[rows, :width]
        last = width - 1 - here.flip(1).int().argmax(1)  # nothing is computed behind it
        at = torch.minimum(torch.arange(width), last[:, None]).numpy()
        yield [z[here] for z in model.harvest_compact(tokens[rows.numpy()], sites, at)]
        done += len(rows)
        told(part * done / len(tokens))


def _gradients(
    model: ProbedModel,
    tokens: Ids,
    counted: Bool[Tensor, "row pos"],
    sites: Sequence[Site],
    seed: int,
    told: Callable[[float], None],
    part: float,
) -> list[Float[Tensor, "width width"]]:
    """Return E[g gᵀ], g being the gradient of log p of the tokens that follow, which are drawn from the model itself.

    That is the Fisher information about a change δ of an activation: a small δ changes what the model says by a
    Kullback-Leibler divergence of ½ δᵀ E[g gᵀ] δ (Kullback 1959, chapter 2; Amari 1998), of all that follows together.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = int((counted.sum(1).cumsum(0) <= _GRADIENT_TOKENS).sum()) or 1
    sums, done = [torch.zeros((), dtype=torch.float64) for _ in sites], 0
    for chosen, width in _passes(counted[:rows], _GRADIENT_PASS):
        here, run = counted[chosen, :width], torch.from_numpy(tokens[chosen.numpy(), :width])
        where = here.to(model.device)

        def loss(logits: Float[Tensor, "row pos vocabulary"], where: Tensor = where) -> Float[Tensor, " row"]:
            log_p = logits.float().log_softmax(-1)
            drawn = _drawn(log_p.detach(), generator)
            return (log_p.gather(-1, drawn[..., None])[..., 0] * where).sum(-1)

        found = model.gradients(run, [_tap(site) for site in sites], loss)
        for number, site in enumerate(sites):
            frame, g = model.frame(site), found[number].float().cpu()[here]
            g = (g if frame is None else g @ frame.T).double()
            sums[number] = sums[number] + g.T @ g
        done += len(chosen)
        told(part + (1 - part) * done / rows)
    count = max(int(counted[:rows].sum()), 1)
    return [(each / count).float() for each in sums]


def _passes(counted: Bool[Tensor, "row pos"], tokens: int) -> Iterator[tuple[Int[Tensor, " row"], int]]:
    """Yield rows to run together, of like length, and up to where any of their tokens counts; about so many tokens a pass."""
    ends = counted.shape[1] - counted.flip(1).int().argmax(1)
    order, start = ends.argsort(descending=True, stable=True), 0
    while start < len(order):
        width = int(ends[order[start]])
        step = max(1, tokens // width)
        yield order[start : start + step], width
        start += step


def _drawn(log_p: Float[Tensor, "row pos vocabulary"], generator: torch.Generator) -> Int[Tensor, "row pos"]:
    """Return a token for each position by its probability."""
    chance = torch.rand(*log_p.shape[:2], 1, generator=generator).to(log_p)
    found: Tensor = (log_p.exp().cumsum(-1) < chance).sum(-1).clamp(max=log_p.size(-1) - 1)
    return found


def _tap(site: Site) -> Tap:
    """Return where the gradient with respect to a site is: a head's is that of what its layer's attention gives."""
    return Tap(site.layer, "attn_out") if site.is_head else site.tap

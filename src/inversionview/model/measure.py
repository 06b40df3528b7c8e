"""How far inputs are from query activations: D(z_q, x), measured in the probed model (Huang et al. 2024, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.scope import Distance
from inversionview.model.distances.geometry import nearest_position
from inversionview.model.harvest import tokens_per_pass
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

_ENOUGH = 2**18
"""Numbers of a residual stream that are run together whatever their padding is: fewer leave processors idle."""
_PADDED = 8
"""Beyond that, one part in so many may be padding."""
Finder = Callable[[Ids], Ids]
"""Returns for each row of tokens the position to compare, −1 where it has none."""


def distance_to(
    model: ProbedModel,
    tokens: Int[Tensor, "batch pos"],
    z: Float[Tensor, "batch d_model"],
    site: Site,
    kind: Distance = "euclidean",
    fixed: Finder | None = None,
) -> tuple[Float[Tensor, "batch pos"], Float[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Run ``tokens`` (padded on the right) through the model and measure them against one query activation per row.

    Args:
        model: the probed model.
        tokens: the inputs.
        z: for each the activation that it is measured against.
        site: where.
        kind: which distance.
        fixed: for the fixed-position variant, the position to compare in each row of tokens, −1 where there is none.

    Returns:
        the distance at every position (infinite where D may not be reached), D (infinite where an input lacks the fixed
        position), and the position where it is reached.
    """
    candidates, metric, z = model.candidates(tokens), model.metric(kind, site), model.own(z, site)
    per_token = torch.full(tokens.shape, torch.inf)
    for rows, last in _passes(model, candidates):
        z_here = model.activations(tokens[rows, :last], [site])[0].float().cpu()
        per_token[rows, :last] = metric.between(z[rows, None].float(), z_here)
    per_token = per_token.masked_fill(~candidates, torch.inf)
    if fixed is None:
        return per_token, *nearest_position(per_token, candidates)
    position = torch.from_numpy(fixed(tokens.numpy()))
    return per_token, per_token.gather(1, position.clamp(min=0)[:, None])[:, 0].masked_fill(position < 0, torch.inf), position


def nearest(
    model: ProbedModel,
    tokens: Ids,
    queries: Sequence[tuple[Float[Tensor, " d_model"], Site]],
    kind: Distance,
    report: Callable[[int], None] | None = None,
) -> Float[Tensor, "query input"]:
    """Return D(z_q, x) of every query (its activation and site) and input, padded on the right: one pass serves all queries."""
    sites = list(dict.fromkeys(site for _, site in queries))
    out, done, every = torch.empty(len(queries), len(tokens)), 0, torch.from_numpy(tokens)
    mask = model.candidates(every)
    for rows, last in _passes(model, mask):
        z_here = model.activations(every[rows, :last], sites).float().cpu()
        for number, (z, site) in enumerate(queries):
            here = model.own(z_here[sites.index(site)], site)
            per_token = model.metric(kind, site).between(model.own(z, site), here)
            out[number, rows] = nearest_position(per_token, mask[rows, :last])[0]
        done += len(rows)
        if report is not None:
            report(done)
    return out


def _passes(model: ProbedModel, candidates: Bool[Tensor, "batch pos"]) -> Iterator[tuple[Int[Tensor, " rows"], int]]:
    """Yield which rows to run together, shortest first, and how many of their tokens: up to the last candidate.

    Rows of other lengths wait for the next pass once there is enough to do in this one, as padding is computed too.
    """
    ends = (candidates * torch.arange(1, candidates.size(1) + 1)).amax(1).clamp(min=1)
    order = torch.argsort(ends, stable=True)
    sorted_ends, start = ends[order], 0
    room, enough = tokens_per_pass(model.device), _ENOUGH // model.shape.d_model
    while start < len(order):
        run = torch.arange(1, len(order) - start + 1) * sorted_ends[start:]  # the last of them is the longest
        padding = run - sorted_ends[start:].cumsum(0)
        together = (run <= room) & ((run <= enough) | (padding <= run // _PADDED))
        rows = order[start : start + max(1, int(together.long().cumprod(0).sum()))]
        yield rows, int(sorted_ends[start + len(rows) - 1])
        start += len(rows)

"""Heads that retrieve facts: which facts a model knows, which heads write most of the stream there, and where they look.

Huang et al. 2024, section 3.4: heads of the upper half of the layers, picked by attribution at the last token of known facts;
and only inputs on which a head does not rest on BOS count for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.analyses.attribute.measure import Entrances
from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError, SettingError
from inversionview.core.progress import Progress
from inversionview.model.attention import slices_of
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

LEAST_SHARE = 0.02
"""Share of the proximity from which a head counts as retrieving (Huang et al. 2024)."""


# -- heads by attribution ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RetrievalHead:
    """A head that was picked, as the study's named heads are."""

    site: str
    position: str
    group: str
    share: float
    """Of the proximity to the residual stream after its layer's attention, the mean over known facts."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def proximity_shares(
    parts: Float[Tensor, "part row d_model"], whole: Float[Tensor, "row d_model"]
) -> Float[Tensor, "part row"]:
    """Return how much of a sum each part is, by L1 proximity: max(‖y‖₁ − ‖y − z_j‖₁, 0), as a share of all parts'.

    Ferrando et al. 2022 (arXiv 2203.04212) and Ferrando and Voita 2024 (arXiv 2403.00824). A part that points away from the sum
    has 0; without any part that is near, all have. Invariant to the scale of all.
    """
    near = (whole.abs().sum(-1) - (whole - parts).abs().sum(-1)).clamp(min=0)
    return near / near.sum(0).clamp(min=torch.finfo(near.dtype).tiny)


@torch.no_grad()
def heads_by_proximity(
    model: ProbedModel,
    tokens: Ids,
    positions: Ids,
    *,
    position: str = "END",
    layers: Sequence[int] | None = None,
    least: float = LEAST_SHARE,
    report: Progress | None = None,
) -> list[RetrievalHead]:
    """Return the heads that make up more than ``least`` of the stream at one position, those that make up most first.

    The stream after a layer's attention is the stream before it, the heads' outputs, and a bias: shares are over all of these.
    Where a model norms what attention gives before adding it (Gemma 2 and 3, OLMo 2), a head's output is not itself a term of
    that sum, and its share means little.

    Args:
        model: the probed model.
        tokens: known facts, padded on the right, ``[row, pos]``.
        positions: where each is read, ``[row]``.
        position: the name of that.
        layers: to look at; by default the upper half.
        least: share that a head must exceed.
        report: called with the share of the work that is done.

    Raises:
        InputError: there is no fact.
        SettingError: there is no such layer, or ``least`` is not from 0 to below 1.
    """
    depth = len(model.shape.heads)
    chosen = range(depth // 2, depth) if layers is None else layers
    if not len(tokens):
        raise InputError("There is no fact to attribute: give at least one that the model knows.")
    if not 0 <= least < 1 or not len(chosen) or not all(0 <= layer < depth for layer in chosen):
        raise SettingError(f"Layers must be of 0 to {depth - 1} and the least share from 0 to below 1.")
    sites = [site for site in model.sites if site.layer in set(chosen) and site.kind in ("pre", "head", "mid")]
    total = dict.fromkeys((site for site in sites if site.is_head), 0.0)
    size = max(8, 2**25 // (len(sites) * model.shape.d_model))
    entrances = Entrances(model, chosen)
    for done, rows in enumerate(slices_of(np.arange(len(tokens)), size)):
        z = dict(zip(sites, model.harvest(tokens[rows], sites, positions[rows, None])[:, :, 0], strict=True))
        scales = entrances.scales(tokens[rows], positions[rows])
        for layer in chosen:
            heads = [site for site in total if site.layer == layer]
            entered = (entrances.entered(head, z[head].to(model.device), scales).cpu() for head in heads)
            parts = torch.stack([z[Site(layer, "pre")], *entered])
            whole = z.get(Site(layer, "mid"), parts.sum(0))  # where attention and MLP are parallel there is no mid
            shares = proximity_shares(torch.cat([parts, (whole - parts.sum(0))[None]]), whole)
            for head, share in zip(heads, shares[1:].double().sum(1).tolist(), strict=False):
                total[head] += share / len(tokens)
        if report is not None:
            report(min(1.0, (done + 1) * size / len(tokens)), "heads")
    picked = sorted((item for item in total.items() if item[1] > least), key=lambda item: -item[1])
    return [RetrievalHead(head.short, position, "retrieval", share) for head, share in picked]

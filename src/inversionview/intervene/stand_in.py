"""Can one activation stand in for another? What the model says next, with the one in place of the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.model.backend import Patch
from inversionview.model.cache import KeysValues
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

_NUMBERS = 2**24
"""Logits of a pass, at most."""


def nats(
    model: ProbedModel, ids: Sequence[int], position: int, site: Site, z: Float[Tensor, "row d_model"]
) -> Float[Tensor, " row"]:
    """Return KL(p ‖ p′) in nats: p is what the model says after ``ids`` up to ``position``, p′ with z at the site there.

    Only what the model says at that very position is compared. What comes before it is run once, then one token a row.

    Args:
        model: the probed model.
        ids: the query's tokens.
        position: where it is read.
        site: at which site.
        z: activations that are put there, one after the other.
    """
    prefix, last = torch.tensor([list(ids[:position])]), int(ids[position])
    before = model.extend(prefix, None).cache if position else None
    plain = _said(model, last, before, None)
    step, found = max(1, _NUMBERS // plain.size(-1)), []
    for part in z.split(step):
        rows = torch.zeros(len(part), dtype=torch.long, device=model.device)
        patch = Patch(torch.full((len(part), 1), position, device=model.device), part[:, None].to(plain))
        said = _said(model, last, None if before is None else before.rows(rows), {site: patch}, len(part))
        found.append((plain.exp() * (plain - said)).sum(-1).clamp(min=0).cpu())
    return torch.cat(found) if found else torch.empty(0)


def _said(
    model: ProbedModel, token: int, cache: KeysValues | None, patches: dict[Site, Patch] | None, rows: int = 1
) -> Float[Tensor, "row vocabulary"]:
    """Return the log probabilities of what follows a token."""
    out = model.extend(torch.full((rows, 1), token), cache, patches=patches)
    assert out.logits is not None
    return out.logits[:, 0].float().log_softmax(-1)

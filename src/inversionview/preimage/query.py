"""An input run through the probed model and read at one place."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site
from inversionview.preimage.preimage import Query


def queried(model: ProbedModel, ids: Sequence[int], position: int, site: Site) -> Query:
    """Return the query of an input's ids at a position and site; a head's with what it attends to."""
    model.check_unchanged()
    ids = list(ids)
    z = model.activations(torch.tensor([ids]), [site], torch.tensor([[position]]))[0, 0, 0].float().cpu()
    strings = tuple(model.vocabulary.strings(ids))
    shown = model.vocabulary.decode(ids)
    attention = None
    if site.is_head:  # what stands behind the position is never computed
        pattern = model.attention(torch.tensor([ids[: position + 1]]), site.layer)[0, site.head, position].tolist()
        attention = (*pattern, *[0.0] * (len(ids) - len(pattern)))
    return Query(shown, tuple(ids), strings, position, site, model.name, z, attention, model.vocabulary.bos is not None)

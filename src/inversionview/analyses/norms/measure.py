"""What the length of activations is made of: coordinates that dominate it, and tokens on which some are massive.

Sun et al. 2024, "Massive Activations in Large Language Models": a few numbers of the residual stream are thousands of times
larger than the others, at the same coordinates and on the same few tokens. D is then about them.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.analyses.norms.result import MASSIVE, Coordinate, Massive, SiteNorms
from inversionview.core.arrays import Ids
from inversionview.model.tokens import Vocabulary

_TOP = 3
"""Coordinates that are named."""


def kinds_of(tokens: Ids, vocabulary: Vocabulary) -> dict[str, Bool[np.ndarray, "row pos"]]:
    """Return which tokens are BOS, the first of a text, other ones that delimit (no letter or digit), and the rest."""
    front = len(vocabulary.front)
    place = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    begin, first = place < front, place == front
    used = np.unique(tokens)
    bare = [not any(c.isalnum() for c in vocabulary.decode([int(t)])) if t < vocabulary.size else False for t in used]
    delimits = np.array(bare)[np.searchsorted(used, tokens)] & ~begin & ~first
    return {"BOS": begin, "first token": first, "delimiters": delimits, "others": ~begin & ~first & ~delimits}


def site_norms(name: str, z: Float[Tensor, "token d_model"], kinds: dict[str, Bool[np.ndarray, " token"]]) -> SiteNorms:
    """Return what the norms at a site are made of.

    Args:
        name: of the site.
        z: activations of all tokens.
        kinds: which of these are what, see ``kinds_of``; coordinates are told of all but BOS.
    """
    size, lengths = z.abs(), z.norm(dim=1)
    usual = torch.from_numpy(~kinds["BOS"])
    middle = float(size[usual].median())
    shares = (size[usual].square() / lengths[usual].square().clamp(min=1e-30)[:, None]).mean(0)
    medians = size[usual].median(0).values
    typical = float(medians.median())
    coordinates = tuple(
        Coordinate(int(i), float(shares[i]), float(medians[i]) / typical if typical else None)
        for i in shares.argsort(descending=True)[:_TOP]
    )
    large = size >= MASSIVE * middle if middle else torch.zeros_like(size, dtype=torch.bool)
    at_bos = float(lengths[~usual].median()) if bool((~usual).any()) else None
    return SiteNorms(name, float(lengths[usual].median()), at_bos, coordinates, _massive(large, kinds))


def _massive(large: Bool[Tensor, "token d_model"], kinds: dict[str, Bool[np.ndarray, " token"]]) -> Massive | None:
    """Return on which tokens some coordinate is massive, and which coordinates these are."""
    tokens = large.any(1).numpy()
    if not tokens.any():
        return None
    counts = large.sum(0)
    named: Int[Tensor, " top"] = counts.argsort(descending=True)[:_TOP]
    on = {kind: float(tokens[which].sum() / tokens.sum()) for kind, which in kinds.items()}
    return Massive(float(tokens.mean()), tuple(int(i) for i in named if counts[i] > 0), on)

"""A default ε for each kind of site, from a run's own texts: how near random inputs come to one another differs by kind.

Heads, MLPs and the residual stream of a language model spread differently, so one ε means much at some sites and nothing at
others. Here it is the distance within which about one of a hundred random texts lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.model.distances.metric import Metric
from inversionview.model.sites.site import FAMILIES, Site

SHARE = 0.01
"""Share of random texts that such an ε admits."""
TEXTS = 400
"""So many random texts are compared with one another."""
_SITES = 8
"""Of each kind so many sites are looked at, evenly through the layers."""
_DIGITS = 2


def typical_epsilons(
    activations: Callable[[Site], Float[Tensor, "text d_model"]], sites: Sequence[Site], metric: Callable[[Site], Metric]
) -> Mapping[str, float]:
    """Return an ε for each kind of site: ``residual``, ``head``, ``mlp``; a kind whose texts all coincide is left out.

    Args:
        activations: gives those of random texts at a site.
        sites: which are read.
        metric: gives the distance at a site.
    """
    found: dict[str, float] = {}
    for family in dict.fromkeys(FAMILIES.values()):
        some = [site for site in sites if site.family == family]
        some = [some[i * len(some) // min(_SITES, len(some))] for i in range(min(_SITES, len(some)))]
        near = [_quantile(activations(site), metric(site)) for site in some]
        typical = sorted(near)[len(near) // 2] if near else 0.0
        if 0 < typical < float("inf"):
            found[family] = float(f"{typical:.{_DIGITS}g}")
    return found


def _quantile(z: Float[Tensor, "text d_model"], metric: Metric) -> float:
    """Return the distance within which one of a hundred lies of all ordered pairs of different texts."""
    each = metric.between(z[:, None], z[None])
    others = each[~torch.eye(len(z), dtype=torch.bool)]
    return float(torch.quantile(others, SHARE))

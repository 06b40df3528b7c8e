"""Which distances there are: by what linear map each takes vectors, and what it must know for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.core.errors import SettingError
from inversionview.core.scope import Distance, check_distance
from inversionview.model.backend import Backend, Norm
from inversionview.model.distances.metric import Metric
from inversionview.model.distances.statistics import MOMENTS, Moment, Statistics
from inversionview.model.frozen_norm import FrozenNorm
from inversionview.model.sites.site import Site


@dataclass(frozen=True)
class DistanceKind:
    """What a distance does to vectors before they are compared."""

    says: str
    """In a few words, for help and tables."""
    normed: bool = False
    """They are taken through the norm that reads the stream which they are, or enter."""
    centred: bool = False
    """The corpus' mean is taken off."""
    scored: bool = False
    """Each number is divided by its standard deviation over the corpus."""
    whitened: bool = False
    """They are taken to coordinates in which the corpus has the same variance in all directions, about."""

    sensitive: bool = False
    """Directions count by how much a step along them changes what the model says, by the corpus' gradients."""

    @property
    def needs(self) -> tuple[Moment, ...]:
        """Which moments of a corpus it must know."""
        if self.sensitive:
            return ("mean", "covariance", "gradients")
        mean: tuple[Moment, ...] = ("mean",) if self.centred else ()
        return (*mean, "covariance") if self.scored or self.whitened else mean


_APART = 64.0
"""Spreads between 0 and the least other code of a latent: off is not nearly on, whatever ε is."""
REGISTRY: dict[Distance, DistanceKind] = {
    "euclidean": DistanceKind("the length of the difference, relative to the query's"),
    "cosine": DistanceKind("1 − the cosine of the angle"),
    "cosine-normed": DistanceKind("cosine under the norm that reads the stream", normed=True),
    "cosine-fisher": DistanceKind("cosine where directions count by what they change", normed=True, sensitive=True),
    "euclidean-fisher": DistanceKind("Euclidean where directions count by what they change", normed=True, sensitive=True),
    "cosine-centred": DistanceKind("cosine from the corpus' mean", centred=True),
    "cosine-normed-centred": DistanceKind("both of these", normed=True, centred=True),
    "cosine-scored": DistanceKind("cosine of z-scores", centred=True, scored=True),
    "cosine-whitened": DistanceKind("cosine of whitened vectors", centred=True, whitened=True),
    "euclidean-whitened": DistanceKind("Euclidean of whitened vectors", centred=True, whitened=True),
}


def moments_needed(distances: Sequence[Distance], site: Site) -> tuple[Moment, ...]:
    """Return which moments of a corpus some distances must know at a site: of one number its spread."""
    needed = {moment for each in distances for moment in REGISTRY[check_distance(each)].needs}
    if site.single:
        return ("spread",)
    return tuple(moment for moment in MOMENTS if moment in needed)


def metric_at(
    backend: Backend,
    site: Site,
    distance: Distance,
    frame: Float[Tensor, "width d_model"] | None,
    statistics: Statistics | None,
) -> Metric:
    """Return a distance at a site.

    Args:
        backend: of the model.
        site: where.
        distance: which.
        frame: of the site, see ``ProbedModel.frame``.
        statistics: of a corpus.

    Raises:
        SettingError: there is no such distance; it needs statistics that are not there; a norm does more than it may.
    """
    made = REGISTRY[check_distance(distance)]
    if site.single:
        return _of_one_number(site, distance, statistics)
    if made == DistanceKind(made.says):
        return Metric(distance)
    if made.sensitive and (site.through or not site.readout.stream):
        raise SettingError(
            f"{distance} is known where a vector enters the residual stream, which {site} does not: choose cosine or euclidean."
        )
    if made.needs and statistics is None:
        raise SettingError(
            f"{distance} needs statistics of a corpus, and there is none: give texts (`read` and `search` take --texts), or "
            "choose cosine-normed, which knows the model alone."
        )
    known = statistics if made.needs else None
    shift = known.mean(site.short) if known is not None and made.centred else None
    gain, matrix, centres = _norms(backend, site, frame) if made.normed else (None, None, False)
    if known is not None and made.scored:
        gain = 1 / known.deviation(site.short)
    if known is not None and made.whitened:
        matrix = known.whitening(site.short)
    if known is not None and made.sensitive:
        width = len(known.mean(site.short))
        own = Metric(distance, None, gain, matrix, centres).mapped(torch.eye(width))
        gain, matrix, centres = None, known.sensitivity(site.short, own), False
    return Metric(distance, shift, gain, matrix, centres, frame)


def _of_one_number(site: Site, distance: Distance, statistics: Statistics | None) -> Metric:
    """Return the distance of single numbers, in units of their spread; whatever it is called, there is but this one."""
    if statistics is None:
        raise SettingError(
            f"{site} is one number, and how far numbers are apart is told by their spread over a corpus, of which there is "
            "none: give texts (`read` and `search` take --texts)."
        )
    part = site.part
    return metric_of_numbers(distance, statistics.spread(site.key), part is not None and part.rectified)


def metric_of_numbers(distance: Distance, spread: Float[Tensor, " 1"], rectified: bool) -> Metric:
    """Return the distance of single numbers of a spread; of ``rectified`` ones 0 is far from all others."""
    return Metric(distance, gain=1 / spread, jump=_APART if rectified else 0.0, absolute=True)


def norms_after(backend: Backend, site: Site) -> list[Norm]:
    """Return the norms that a site's vector goes through until it is read.

    x.pre is read under its layer's first norm, x.mid under its second, x.post under the next layer's first or, at the end, the
    last one; what attention writes is read as x.mid, where there is one, what an MLP writes as x.post. On its way attention's
    output becomes what ``Backend.entering`` says. What does not enter the stream as it is goes through no norm.
    """
    kind = site.readout
    stream = "post" if kind.stream == "mid" and backend.shape.parallel else kind.stream
    entering = backend.entering(site.layer) if kind.stream == "mid" and kind.tap != "resid_mid" else None
    if not stream or site.through:
        return []
    if stream == "pre":
        reading = backend.reading(site.layer, "resid_pre")
    elif stream == "mid":
        reading = backend.reading(site.layer, "resid_mid")
    elif site.layer + 1 < len(backend.shape.heads):
        reading = backend.reading(site.layer + 1, "resid_pre")
    else:
        reading = backend.final_norm
    return [norm for norm in (entering, reading) if norm is not None]


_Map = tuple[Float[Tensor, " width"] | None, Float[Tensor, "width width"] | None, bool]


def _norms(backend: Backend, site: Site, frame: Float[Tensor, "width d_model"] | None) -> _Map:
    """Return what the norms after a site do to its vector, up to a factor: gain, matrix, and whether they centre.

    Their biases belong to no vector, and their scales, frozen at the query, cancel in both geometries.

    Raises:
        SettingError: a norm does more than to scale and to centre.
    """
    like = torch.empty(backend.shape.d_model, device=backend.device)
    probe = torch.randn(8, len(like), generator=torch.Generator().manual_seed(0)).to(like)
    norms = [FrozenNorm(norm, like) for norm in norms_after(backend, site)]
    for norm in norms:
        norm.scale(probe)  # raises where it is of another form
    if frame is None and len(norms) <= 1:
        return (norms[0].gain.float().cpu(), None, norms[0].centres) if norms else (None, None, False)
    through = torch.eye(len(like)) if frame is None else frame
    for norm in norms:
        through = norm.frozen(through.to(like), torch.ones((), device=like.device)).float().cpu()
    r = torch.linalg.qr(through.double().mT).R  # through = Rᵀ Qᵀ, and Q turns nothing but coordinates
    return None, r.mT.float(), False

"""``norms``: which coordinates dominate the norm of a residual stream, and on which tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inversionview.analyses.norms.measure import kinds_of, site_norms
from inversionview.analyses.norms.result import Norms, SiteNorms
from inversionview.core.errors import SettingError
from inversionview.core.memory import available
from inversionview.core.progress import Progress
from inversionview.core.ranges import whole
from inversionview.model.sites.patterns import expand
from inversionview.model.sites.site import Site
from inversionview.studies.accepting import accepting
from inversionview.studies.statistics import corpus_name, sampled
from inversionview.studies.study import Study

_TOKENS = 5000
"""So many are looked at where nobody says how many."""
_NUMBERS = 2**29
"""Numbers in memory at once."""


@accepting
def norms(
    study: Study, *, sites: str | Sequence[str | Site] | None = None, tokens: int = _TOKENS, report: Progress | None = None
) -> Norms:
    """Return which coordinates dominate the norm at sites of the residual stream, and on which tokens some are massive.

    Sun et al. 2024, "Massive Activations in Large Language Models".

    Args:
        study: from ``load``, with natural text or a study's own inputs.
        sites: patterns; by default the whole residual stream, of sites that are one the first.
        tokens: about how many of the corpus are looked at.
        report: called with the share that is done, and a note.

    Raises:
        InputError: it is a model alone.
        UnknownSiteError: there is no such site.
        SettingError: ``tokens`` is below 1, or activations are not finite.
    """
    model = study.model
    stream = [site for site in model.sites if site.family == "residual" and (site.kind != "pre" or not site.layer)]
    chosen = stream if sites is None else expand(sites, model.sites)
    _, there, rows = sampled(study, whole(tokens, "The number of tokens"))
    there = there | (np.arange(rows.shape[1]) < len(model.vocabulary.front))
    kinds = {kind: which[there] for kind, which in kinds_of(rows, model.vocabulary).items()}
    width = rows.shape[1]
    at = np.minimum(np.arange(width), width - 1 - there[:, ::-1].argmax(1)[:, None])  # nothing is computed behind the last
    found: list[SiteNorms] = []
    step = max(1, min(_NUMBERS, available() // 16) // (rows.size * model.shape.d_model))
    for first in range(0, len(chosen), step):
        some = chosen[first : first + step]
        for site, part in zip(some, model.harvest(rows, some, at), strict=True):
            z = part[there]
            if not bool(z.isfinite().all()):
                raise SettingError(f"Activations at {site} are not finite: load the model in another precision.")
            found.append(site_norms(site.short, z, kinds))
        if report is not None:
            report(len(found) / len(chosen), f"{len(found)} of {len(chosen)} sites")
    return Norms(corpus_name(study), int(there.sum()), tuple(found))

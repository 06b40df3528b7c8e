"""``evaluate``: a decoder's good ratio."""

from __future__ import annotations

from inversionview.analyses.evaluate.result import GoodRatio
from inversionview.core.progress import Progress
from inversionview.decoder.evaluation import good_ratio
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study


@accepting
def evaluate(study: Study, *, queries: int = 200, samples: int = 8, seed: int = 0, report: Progress | None = None) -> GoodRatio:
    """Return the decoder's good ratio, ``{"mean": …, "sites": {"a0.0": …}}``, on held-out queries: the share of samples
    inside the study's ε.

    Args:
        study: from ``load``.
        queries: how many at each site.
        samples: of each query, at temperature 1.
        seed: of queries and samples.
        report: called with the share of the work that is done, and a note.

    Raises:
        WeightsError, MismatchError: there is no decoder, or it is another model's.
        SettingError: a setting is out of range.
    """
    sites = study.decoded_sites
    ratios = good_ratio(
        study.decoder,
        study.model,
        study.inputs,
        sites,
        scope=resolved(study),
        queries=queries,
        samples=samples,
        seed=seed,
        report=report,
    )
    by_site = {site.short: ratio for site, ratio in zip(sites, ratios, strict=True)}
    mean = sum(ratios) / len(ratios)
    return GoodRatio(mean, by_site, study.spec.epsilon, study.spec.distance, queries, samples)

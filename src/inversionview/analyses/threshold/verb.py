"""``threshold``: how the reading of a query depends on ε."""

from __future__ import annotations

from collections.abc import Sequence

from inversionview.analyses.threshold.measure import threshold_study
from inversionview.analyses.threshold.result import Threshold
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.preimage.preimage import Query
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study


def threshold(
    study: Study,
    query: Query,
    *,
    epsilons: Sequence[float] = (),
    distance: Distance | None = None,
    limit: int | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> Threshold:
    """Show how the reading of a query depends on ε, over every input of the study, and an ε from the gap of the distances.

    Args:
        study: from ``load``.
        query: from ``Study.query``.
        epsilons: the ladder of ε; the study's own is added.
        distance: by default the study's.
        limit: a random choice of so many inputs; by default all.
        seed: of that choice.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: an ε or the limit is out of range.
        InputError: it is a model alone.
    """
    return threshold_study(
        study.model,
        study.inputs,
        query,
        resolved(study, query.site, distance=distance),
        epsilons=epsilons,
        limit=limit,
        seed=seed,
        report=report,
    )

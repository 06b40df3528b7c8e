"""``threshold``: how the reading of a query depends on ε."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inversionview.analyses.threshold.measure import text_threshold, threshold_study
from inversionview.analyses.threshold.result import Threshold
from inversionview.bank.store import ActivationBank
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.preimage.preimage import Query
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study


@accepting
def threshold(
    study: Study,
    query: Query,
    *,
    epsilons: Sequence[float] = (),
    distance: Distance | None = None,
    limit: int | None = None,
    seed: int = 0,
    bank: ActivationBank | str | Path | None = None,
    report: Progress | None = None,
) -> Threshold:
    """Show how the reading of a query depends on ε, over every input of the study, and an ε from the gap of the distances.

    Args:
        study: from ``load``.
        query: from ``Study.query``.
        epsilons: the ladder of ε; the study's own is added.
        distance: by default the study's.
        limit: a random choice of so many inputs, or occurrences of natural text; by default all.
        seed: of that choice.
        bank: of natural text, whose occurrences are looked at; by default as ``search`` takes it.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: an ε or the limit is out of range.
        InputError: it is a model alone.
    """
    scope = resolved(study, query.site, distance=distance)
    if study.inputs.every_token:
        held = study.bank(bank, report=report, site=query.site)
        return text_threshold(held, query, scope, epsilons=epsilons, limit=limit, seed=seed)
    return threshold_study(
        study.model,
        study.inputs,
        query,
        scope,
        epsilons=epsilons,
        limit=limit,
        seed=seed,
        report=report,
    )

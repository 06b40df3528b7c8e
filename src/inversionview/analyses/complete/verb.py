"""``complete``: does the decoder know every input inside ε?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from inversionview.analyses.complete.measure import VARIANTS, completeness
from inversionview.analyses.complete.result import Completeness, CompletenessTable
from inversionview.core.arrays import Ids
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.preimage.preimage import Query
from inversionview.sources.settings import Setting
from inversionview.studies.queries import random_queries
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study


def complete(
    study: Study,
    queries: Sequence[Query] | int = 8,
    *,
    epsilon: float | None = None,
    distance: Distance | None = None,
    variants: Sequence[Setting] = VARIANTS,
    draws: int = 8,
    quick: bool = False,
    limit: int | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> CompletenessTable:
    """Compare log p(x ∣ z_q) with D(z_q, x) for every input of the study; see ``completeness``.

    ``queries`` may be a number: then so many of ``random_queries``.
    """
    asked = random_queries(study, queries, seed=seed) if isinstance(queries, int) else queries
    made = completeness(
        study.decoder,
        study.model,
        study.inputs,
        asked,
        resolved(study, epsilon=epsilon, distance=distance),
        variants=variants,
        draws=draws,
        quick=quick,
        limit=limit,
        seed=seed,
        report=report,
    )
    return CompletenessTable(tuple(made), partial(texts, study))


def texts(study: Study, result: Completeness, places: Ids) -> list[str]:
    """Return some of a result's inputs as text."""
    pad = study.model.vocabulary.pad
    return [study.model.vocabulary.decode(ids[ids != pad].tolist()) for ids in study.inputs.tokens(result.rows[places])]

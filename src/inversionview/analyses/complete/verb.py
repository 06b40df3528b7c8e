"""``complete``: does the decoder know every input inside ε?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from inversionview.analyses.complete.measure import VARIANTS, completeness
from inversionview.analyses.complete.result import Completeness, CompletenessTable
from inversionview.core.arrays import Ids
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance, Epsilon
from inversionview.preimage.preimage import Query
from inversionview.sources.settings import Setting
from inversionview.studies.accepting import accepting
from inversionview.studies.decoders import check_whole
from inversionview.studies.queries import random_queries
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study


@accepting
def complete(
    study: Study,
    queries: Sequence[Query] | int = 8,
    *,
    epsilon: Epsilon | None = None,
    distance: Distance | None = None,
    variants: Sequence[Setting] = VARIANTS,
    draws: int = 8,
    quick: bool = False,
    limit: int | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> CompletenessTable:
    """Compare log p(x ∣ z_q) with D(z_q, x) for every input of the study, and tell recall (Huang et al. 2024,
    figure 11).

    Args:
        study: from ``load``.
        queries: from ``Study.query``, or a number: then so many of ``random_queries``.
        epsilon: threshold; by default the study's.
        distance: by default the study's.
        variants: temperatures, those without noise first, by default the three of figure 11.
        draws: of the noise; the probability is the mean over them (the paper draws 500).
        quick: do not tell apart the least probable inputs; recall stays exact.
        limit: a random choice of so many inputs; by default all.
        seed: of queries, choice and noise.
        report: called with the share of the work that is done, and a note.

    Raises:
        WeightsError, MismatchError: there is no decoder, or it is another model's.
        SettingError: a setting is out of range, or it writes what precedes tokens of natural text.
        UnknownSiteError: the decoder was not trained on a query's site.
    """
    check_whole(study.decoder, "complete")
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
    """Return some of a result's inputs as text.

    Args:
        study: the one of the result.
        result: from ``complete``.
        places: numbers of its rows, ``[n]``.
    """
    pad = study.model.vocabulary.pad
    return [study.model.vocabulary.decode(ids[ids != pad].tolist()) for ids in study.inputs.tokens(result.rows[places])]

"""``ablate``: what activations are worth to what is predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inversionview.analyses.ablate.measure import ablation
from inversionview.analyses.ablate.result import Ablation, By
from inversionview.core.progress import Progress
from inversionview.corpora.contrasts import held_out
from inversionview.corpora.filters import as_listed, feature_names, parse_filters
from inversionview.intervene.activations import parse_activations
from inversionview.studies.accepting import accepting
from inversionview.studies.study import Study


@accepting
def ablate(
    study: Study,
    activations: Sequence[str],
    *,
    by: By = "mean",
    where: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> Ablation:
    """Replace activations by their mean, by zero or by another input's, and see what is still predicted of each answer.

    Args:
        study: from ``load``.
        activations: as in ``patch``; each alone and, where there are several, all at once.
        by: ``"mean"``, ``"zero"`` or ``"resample"``.
        where: filters that the inputs satisfy.
        limit: a random choice of so many inputs; by default all of the test split.
        seed: of the choice, the resampling and the bootstrap.
        report: called with the share of the inputs that are done, and a note.

    Raises:
        SettingError, UnknownPositionError, UnknownSiteError: something named is not there.
    """
    named = parse_activations(activations, study.model.sites, study.spec.example)
    filters = parse_filters(where, feature_names(study.inputs)) if where else ()
    tokens = held_out(study.inputs, filters, limit, seed)
    if study.inputs.answers:  # sentences that ask for nothing have no answer
        tokens = tokens[np.all([study.inputs.read_at(tokens, name) >= 0 for name in study.inputs.answers], axis=0)]
    reads = {name: study.inputs.read_at(tokens, name) for name in study.inputs.answers}
    answers = {name: study.inputs.answer_of(tokens, name) for name in reads} or None
    reads = reads or {"END": study.named(tokens)["END"]}
    return ablation(
        study.model, tokens, reads, named, study.positions, by=by, answers=answers, study=study.name, where=as_listed(where),
        seed=seed, report=report,
    )  # fmt: skip

"""A walk as a source: a Markov chain from the query that never leaves ε."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError, SettingError
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance, Scope, check_distance
from inversionview.preimage.preimage import Preimage, Query
from inversionview.sources.noted import noted
from inversionview.sources.walked import Prior, language_ground, study_ground, walked_preimage
from inversionview.studies.study import Study
from inversionview.walk.kernel import Target
from inversionview.walk.run import Found, WalkSettings


def _distinct(draws: Ids | None) -> Ids:
    return np.empty((0, 0), dtype=np.int64) if draws is None else np.unique(draws, axis=0)


def walk(
    study: Study,
    query: Query,
    *,
    epsilon: float | None = None,
    distance: Distance | None = None,
    fixed: str | int | None = None,
    prior: Prior | None = None,
    beta: float = 1.0,
    keep: Sequence[str | int] = (),
    longer: int = 2,
    guided: bool = False,
    starts: Sequence[Preimage] = (),
    count: int = 100,
    report: Progress | None = None,
    found: Found | None = None,
    **settings: Any,
) -> Preimage:
    """Walk through the query's preimage by a Markov chain: needs neither decoder nor corpus, and every member is verified.

    It draws from π(x) ∝ p(x) · 1[D(z_q, x) ≤ ε] with p the distribution of the study's inputs or of the model. Replicas
    on a ladder of ε exchange states, so that all pieces of the preimage are reached, and tell the bits by splitting,
    however rare it is; for language models only where asked, they take long.

    Args:
        query: from ``query``.
        epsilon: threshold; by default the study's.
        distance: ``"euclidean"`` or ``"cosine"``; by default the study's.
        fixed: compare this position only, in place of the minimum over positions.
        prior: ``"study"``; ``"model"``, the model's own p(x)^β, uniform over lengths; ``"uniform"`` over all sequences. By
            default the study's where it has one, else the model's.
        beta: how much the model's prior weighs.
        keep: positions of the query's tokens that stay, as in ``query`` (priors ``"model"`` and ``"uniform"``).
        longer: a text may grow or shrink by so many tokens (likewise).
        guided: add a move that follows the gradient of D (likewise); worth it where texts are long.
        starts: preimages of the query from elsewhere, at whose members half of the chains begin.
        count: how many distinct samples to show at most.
        report: called with the share of the walk that is done, and a note.
        found: called with new members as they are found: tokens, D and the position where it is reached.
        settings: of ``WalkSettings``: ``seconds`` (10 or more if nothing else ends it), ``steps``, ``until_mixed``,
            ``chains``, ``exchange``, ``seed``, …; by default 256 chains and exchange for a study's prior, 32
            without it for a model's.

    Raises:
        SettingError: a setting is out of range.
        InputError: the query is no input of the study, or lies outside ε itself, where ``fixed`` is another position.
        UnknownPositionError: the query has no position ``fixed``.
    """
    chosen = prior or ("study" if study.definition.moves else "model")
    target = target_of(study, query, distance, fixed, epsilon=epsilon)
    if chosen == "study":
        if keep or guided:
            raise SettingError("Kept tokens and guided moves belong to the priors 'model' and 'uniform': name one.")
        if why := study.inputs.why_not(query.ids):
            raise InputError(
                f"{query.text!r} is no input of {study.name}: {why}. So it has probability 0 under the prior (study): mend "
                "it, or name another prior (model or uniform)."
            )
        ground = study_ground(study.model, study.inputs, target)
    elif chosen in ("model", "uniform"):
        beta = beta if chosen == "model" else 0.0
        kept = [study.locate(query.ids, at) for at in keep]
        ground = language_ground(study.model, target, query.ids, longer, beta=beta, keep=kept, guided=guided)
    else:
        raise SettingError(f"There is no prior {chosen!r}: choose study, model or uniform.")
    chosen_settings = WalkSettings(**{**ground.settings, **settings})
    made = walked_preimage(
        study.model, query, ground, target, chosen_settings, prior=chosen, count=count, report=report,
        found=found, starts=[row[row != study.model.vocabulary.pad].tolist() for p in starts for row in _distinct(p.draws)],
    )  # fmt: skip
    return noted(study, made)


def target_of(
    study: Study,
    query: Query,
    distance: Distance | None = None,
    fixed: str | int | None = None,
    *,
    epsilon: float | None = None,
) -> Target:
    """Return what a walk compares: the query's activation, within ε by a distance, at one position or the nearest of all.

    Raises:
        SettingError: there is no such distance.
        UnknownPositionError: the query has no position ``fixed``.
    """
    located = None if fixed is None else study.positions.finder(query.ids, fixed)
    within = study.epsilon_at(query.site, distance) if epsilon is None else epsilon
    return Target(query.z, query.site, Scope(within, check_distance(distance or study.spec.distance), located))

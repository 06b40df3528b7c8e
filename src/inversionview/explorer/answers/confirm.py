"""What confirms a reading: patching, sentences, completeness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from inversionview.analyses.complete.measure import VARIANTS
from inversionview.analyses.complete.verb import complete, texts
from inversionview.analyses.interpret.verb import interpret
from inversionview.analyses.patch.verb import patch
from inversionview.core.errors import InputError, SettingError
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.corpora.contrasts import Pairs, check_target, contrasted
from inversionview.explorer.banks import bank_of, of_texts
from inversionview.intervene.activations import parse_activations
from inversionview.intervene.patched_runs import PatchedRuns
from inversionview.page import contract
from inversionview.preimage.preimage import Query
from inversionview.preimage.reading import padded
from inversionview.studies.study import Study

MOST_POINTS = 4000
_EXAMPLES = 8


# -- what confirms ----------------------------------------------------------------------------------------------------


def default_target(study: Study, query: Query) -> str:
    """Return the first answer that is predicted at the query's position or behind it, else the first.

    Raises:
        InputError: the study declares no answers.
    """
    inputs, own = study.inputs, np.array([query.ids])
    return next((a for a in inputs.answers if inputs.read_at(own, a)[0] >= query.position), check_target(inputs, None))


def query_pairs(study: Study, query: Query, target: str, *, count: int = 64, seed: int = 0) -> Pairs:
    """Return pairs for patching whose originals are all the query's input, with random contrasts of another answer.

    Args:
        study: the study.
        query: from ``Study.query``.
        target: the answer that changes.
        count: how many pairs.
        seed: of the contrasts.

    Raises:
        InputError: the study declares no contrasts, or the query is none of its inputs.
        SettingError: there is no such target, or no contrast is found.
    """
    inputs = study.inputs
    own = padded([query.ids], inputs)
    check_target(inputs, target)
    if len(query.ids) > inputs.max_length or not np.isfinite(inputs.log_prior(own)[0]):
        why = inputs.why_not(query.ids) or "its prior is 0"
        raise InputError(f"{query.text!r} is no input of {study.name} ({why}), so it has no contrasts: mend it.")
    return contrasted(inputs, np.repeat(own, count, axis=0), target, seed=seed)


def patched(study: Study, query: Query, target: str | None = None, *, count: int = 64, seed: int = 0) -> contract.Patch:
    """Replace the query's activation by those of contrasts, and see how far the logit difference of the answers falls.

    Arguments and errors as in ``query_pairs``; by default the target of ``default_target``.
    """
    target = target or default_target(study, query)
    pairs = query_pairs(study, query, target, count=count, seed=seed)
    names = study.positions.names(query.ids)
    here = [name for name, index in names.items() if index == query.position]
    everywhere = (name for name in here if (study.positions.many(pairs.contrast, name) >= 0).all())
    at = next(everywhere, f"#{query.position}")
    named = [f"{at}:{query.site.short}"]
    result = patch(study, named, pairs, seed=seed)
    few = replace(
        pairs,
        **{name: getattr(pairs, name)[:_EXAMPLES] for name in ("original", "contrast", "read", "contrast_read", "answers")},
    )
    found = PatchedRuns(study.model, few, parse_activations(named, study.model.sites), study.positions).differences([(0,)])
    vocabulary = study.model.vocabulary
    examples = [
        contract.Patched(
            contrast=vocabulary.decode([i for i in row if i != vocabulary.pad]),
            answer=vocabulary.strings([answer])[0],
            ld_orig=float(found.original[i]),
            ld_patched=float(found.patched[i, 0]),
        )
        for i, (row, answer) in enumerate(zip(few.contrast.tolist(), few.answers[:, 1].tolist(), strict=True))
    ]
    effect, total = result.together, result.total
    return contract.Patch(
        site=query.site.short,
        position=query.position,
        target=target,
        answer=vocabulary.strings(pairs.answers[:1, 0].tolist())[0],
        pairs=result.pairs,
        ld_orig=result.ld_orig.value,
        ld_contrast=result.ld_contrast.value,
        effect=contract.Effect(value=effect.value, low=effect.low, high=effect.high),
        share=effect.value / total if total else None,
        examples=examples,
    )


def interpretation(
    study: Study,
    query: Query,
    *,
    epsilon: float | None = None,
    distance: Distance | None = None,
    report: Progress | None = None,
) -> contract.Interpretation:
    """Say in features what is common to the query's exact preimage, and score it on unseen inputs; see ``interpret``.

    Raises:
        SettingError: the bank does not hold the position, or holds natural text.
    """
    if of_texts(study):
        raise SettingError(
            "Sentences are tested on inputs with named positions, which natural text has not: look at what rows share."
        )
    bank = bank_of(study, report, query.site)
    places = study.positions.names(query.ids)
    at = next((name for name in bank.manifest.positions if places.get(name) == query.position), None)
    if at is None:
        known = ", ".join(name for name in bank.manifest.positions if name in places)
        raise SettingError(f"Position {query.position} is none of the bank's: choose {known}.")
    every = interpret(study, [query.text], query.site.short, at, bank=bank, epsilon=epsilon, distance=distance, report=report)
    (made,) = every
    (reading,) = made.queries
    return contract.Interpretation(
        site=query.site.short,
        position=query.position,
        statement=reading.statement or made.statement,
        epsilon=every.epsilon,
        distance=every.distance,
        bits=reading.bits,
        balanced_accuracy=None if reading.told is None else reading.told.balanced_accuracy,
        auroc=None if reading.told is None else reading.told.auroc,
        inputs=0 if reading.told is None else reading.told.inputs,
        gap=every.gap,
        line=None if made.line is None else made.line.balanced_accuracy.value,
    )


def completed(
    study: Study,
    query: Query,
    *,
    epsilon: float | None = None,
    limit: int = 20_000,
    seed: int = 0,
    report: Progress | None = None,
) -> contract.Complete:
    """Return log p(x ∣ z_q) against D for ``limit`` random inputs of the study: at most 4,000 points, half of them inside.

    Recall and percentile are of all that were scored, as ``complete`` says them at temperature 1.
    """
    (result,) = complete(study, [query], epsilon=epsilon, variants=VARIANTS[:1], limit=limit, seed=seed, report=report)
    rng, inside = np.random.default_rng((seed, 31)), result.inside
    within, without = (rng.permutation(np.flatnonzero(mask)) for mask in (inside, ~inside))
    least = max(MOST_POINTS // 2, MOST_POINTS - len(without))
    chosen = np.concatenate([within[:least], without[: MOST_POINTS - min(len(within), least)]])
    scores = result.variants[0]
    columns = (result.distance[chosen].tolist(), scores.log_p[chosen].tolist(), inside[chosen].astype(int).tolist())
    return contract.Complete(
        points=[list(row) for row in zip(*columns, texts(study, result, chosen), strict=True)],
        recall=scores.recall,
        percentile=scores.percentile,
        epsilon=result.epsilon,
        distance=result.kind,
    )

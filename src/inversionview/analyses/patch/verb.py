"""``pairs`` and ``patch``: activations of originals replaced by those of contrasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from inversionview.analyses.patch.measure import Cumulative, patching, steps
from inversionview.analyses.patch.result import Patching
from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.corpora.contrasts import Pairs, TextPair, held_out, read_pairs, study_pairs, text_pairs
from inversionview.corpora.filters import as_listed, feature_names, parse_filters
from inversionview.intervene.activations import parse_activations
from inversionview.studies.accepting import accepting
from inversionview.studies.study import Study

Contrast = str | Path | Iterable[TextPair] | Callable[[str], TextPair | None]


@accepting
def pairs(
    study: Study,
    contrast: Contrast | None = None,
    *,
    target: str | None = None,
    changes: Sequence[str] | None = None,
    where: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> Pairs:
    """Return originals and contrasts for activation patching.

    Args:
        study: from ``load``.
        contrast: a JSONL file of pairs, pairs of texts, or a function from a test input's text to a pair (``None`` to leave
            the text out); by default the study's own contrasts of its test set.
        target: for the study's own, as are those below: the answer token that a contrast changes, by default the first.
        changes: what may be changed to that end (``F1``, …), by default all.
        where: filters that original and contrast satisfy, such as ``"A1=1"``.
        limit: a random choice of so many inputs; by default all of the test split. Also for a function.
        seed: of the choice and the changes.
        report: called with the share of the inputs that have their contrast.

    Raises:
        SettingError: there is no such target, change or feature, nothing satisfies the filters, or no contrast is found.
        InputError: the study declares no contrasts; or a pair is not one.
    """
    if contrast is None:
        filters = parse_filters(where, feature_names(study.inputs)) if where else ()
        return study_pairs(
            study.inputs, target, changes=changes, filters=filters, limit=limit, seed=seed, report=report
        )  # fmt: skip
    if target is not None or changes is not None or where:
        raise SettingError("Target, changes and filters belong to a study's own contrasts: leave them out with given pairs.")
    names: Sequence[str] = ()
    if callable(contrast):
        tokens, pad = held_out(study.inputs, (), limit, seed), study.model.vocabulary.pad
        texts = (study.model.vocabulary.decode(row[row != pad].tolist()) for row in tokens)
        contrast = [pair for text in texts if (pair := contrast(text)) is not None]
    elif isinstance(contrast, str | Path):
        contrast, names = read_pairs(Path(contrast))
    return text_pairs(contrast, study.model.encode, study.positions, names)


@accepting
def patch(
    study: Study,
    activations: Sequence[str] | None = None,
    contrast: Contrast | Pairs | None = None,
    *,
    cumulative: Cumulative | None = None,
    seed: int = 0,
    report: Progress | None = None,
    **options: Any,
) -> Patching:
    """Replace activations of originals by those of contrasts, and see how far the logit difference of the answers falls.

    Args:
        study: from ``load``.
        activations: as ``POSITION:SITE``, ``"query:a0.0"``, ``"=:a*.*"``, ``"*:x0.pre"``, ``"F1:embed"``, in order; by
            default all heads at the position that predicts the answer.
        contrast: pairs, or how to make them; see ``pairs``.
        cumulative: ``"forward"``, ``"backward"`` or ``"both"``; by default each activation alone.
        seed: of the contrasts and the bootstrap.
        report: called with the share of the work that is done, and a note.
        options: of ``pairs``: ``target``, ``changes``, ``where``, ``limit``.

    Raises:
        SettingError, UnknownPositionError, UnknownSiteError, InputError: something named is not there; see ``pairs``.
    """
    for text in activations or ():  # mistakes are told before the pairs are made, not after
        parse_activations([text], study.model.sites, study.spec.example)
    steps(1, cumulative)
    if isinstance(contrast, Pairs) and options:
        raise SettingError(f"Pairs are given: leave out {', '.join(options)}, which would make others.")
    made = contrast if isinstance(contrast, Pairs) else pairs(study, contrast, seed=seed, report=report, **options)
    named = parse_activations(activations or [f"{_read_name(study, made)}:a*.*"], study.model.sites, study.spec.example)
    settings = {"target": None if contrast is not None else options.get("target") or next(iter(study.inputs.answers), None),
                "changes": options.get("changes"), "where": as_listed(options.get("where", ())), "seed": seed}  # fmt: skip
    return patching(
        study.model, made, named, study.positions, cumulative=cumulative, study=study.name, settings=settings, seed=seed,
        report=report,
    )  # fmt: skip


def _read_name(study: Study, pairs: Pairs) -> str:
    """Return a name of the position where all pairs are read."""
    both = [(study.named(pairs.original), pairs.read), (study.named(pairs.contrast), pairs.contrast_read)]
    for name in both[0][0]:
        if all((named[name] == read).all() for named, read in both):
            return name
    if len({*pairs.read.tolist(), *pairs.contrast_read.tolist()}) == 1:
        return f"#{pairs.read[0]}"
    raise SettingError("The pairs are read at positions of different names: name the activations to patch.")

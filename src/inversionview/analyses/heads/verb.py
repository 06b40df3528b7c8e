"""``heads``: which heads matter for the task, and their groups."""

from __future__ import annotations

from pathlib import Path

from inversionview.analyses.heads.known import heads_cache, keep_heads, published_heads, read_heads, shipped_heads
from inversionview.analyses.heads.measure import check_task, find_heads
from inversionview.analyses.heads.result import HeadTable, NamedHead
from inversionview.core.progress import Progress
from inversionview.core.storage import check_writable
from inversionview.studies.accepting import accepting_as
from inversionview.studies.study import Study


@accepting_as("ioi")
def heads(
    study: Study,
    *,
    prompts: int = 300,
    anyway: bool = False,
    seed: int = 0,
    again: bool = False,
    report: Progress | None = None,
) -> HeadTable:
    """Find the heads that matter for the task in this model, and their groups; see ``find_heads``.

    A result is kept in the run's folder or the user's cache, and read from there (or the package) when asked for again.

    Args:
        study: from ``load``.
        prompts: how many prompts of the test split.
        anyway: go on with a model that does not do the task.
        seed: of the choice of prompts.
        again: compute it, whatever is kept.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: ``prompts`` is below 1, ``seed`` below 0.
        InputError: the study's inputs have no IO, S1, S2 and END; or the model does not do the task.
        StorageError: the result could not be kept.
    """
    for known in () if again else _kept_heads(study):
        if (known.prompts, known.seed) == (prompts, seed):
            check_task(known.model, prompts, known.accuracy, known.first, anyway)
            return known
    check_writable(_heads_path(study))
    table = find_heads(
        study.model, study.inputs, study.positions, study=study.name, prompts=prompts, anyway=anyway, seed=seed, report=report
    )
    keep_heads(table, _heads_path(study))
    return table


def _heads_path(study: Study) -> Path:
    return heads_cache(study.folder, study.model.fingerprint, study.inputs.fingerprint)


def known_heads(study: Study) -> HeadTable | None:
    """Return the heads that were found before, or are shipped for this model; ``None`` where neither is. Quick.

    Args:
        study: from ``load``.

    Raises:
        InputError: it is a model alone.
    """
    return next(iter(_kept_heads(study)), None)


def _kept_heads(study: Study) -> list[HeadTable]:
    model, inputs = study.model.fingerprint, study.inputs.fingerprint
    both = read_heads(_heads_path(study), model, inputs), shipped_heads(study.spec.inputs, model, inputs)
    return [table for table in both if table is not None]


def named_heads(study: Study) -> list[NamedHead]:
    """The heads that matter, as far as is known without computing: found before, shipped, or published; else none.

    Args:
        study: from ``load``.
    """
    published = study.definition.published
    if published is None:
        return []
    known = known_heads(study)
    return published_heads(published, study.model.shape) if known is None else known.found

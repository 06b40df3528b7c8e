"""Banks of a study: built, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inversionview.bank import folders
from inversionview.bank.harvest import harvest_bank
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import BankError
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance, check_distance
from inversionview.model.sites.patterns import expand
from inversionview.studies.accepting import accepting
from inversionview.studies.statistics import learn
from inversionview.studies.study import Study


@accepting
def build_bank(
    study: Study,
    folder: str | Path | None = None,
    *,
    rows: int,
    distance: Distance | None = None,
    report: Progress | None = None,
    **options: Any,
) -> ActivationBank:
    """Harvest a bank of the study's corpus, or what lacks of it; see ``bank.harvest.harvest_bank`` for the options.

    Args:
        study: from ``load``.
        folder: where to; by default the user's cache, where later searches find it.
        rows: how many inputs; of natural text, and of positions ``["all"]``, how many tokens.
        distance: which one the index serves; by default the study's.
        report: called with the share of the inputs that is done, and a note.
        options: ``sites``, ``positions``, ``precision``, ``rank``, ``world``.

    Raises:
        SettingError, UnknownSiteError, UnknownPositionError: something named is not there, or out of range.
        MismatchError: the folder holds a bank of something else.
        LockedError, StorageError: another process writes there, or nothing can be written.
    """
    chosen = expand(options.pop("sites", study.sites), study.model.sites)
    served = check_distance(distance or study.spec.distance)
    learn(study, [served], chosen, report)
    own = folders.cached(study.model, study.inputs, rows, chosen if study.inputs.every_token else (), served)
    return harvest_bank(
        folder or own, study.model, study.inputs, rows=rows, sites=chosen, distance=served, report=report, **options
    )


@accepting
def check_bank(study: Study, folder: str | Path | None = None, *, report: Progress | None = None) -> ActivationBank:
    """Read a bank whole, in ``folder``, the run's or the user's cache, and return it if it is as it was written.

    Args:
        study: from ``load``.
        folder: a bank's, or a run's that holds one.
        report: called with the share of the inputs that is done, and a note.

    Raises:
        BankError, MismatchError: there is none, or it is damaged, unfinished or another model's.
    """
    given = None if folder is None else Path(folder)
    own = given or (study.folder / "bank" if study.folder else Path())
    inner = own / "bank" if given is not None and (own / "bank").is_dir() else own
    kept = [inner] if given is not None or (study.folder and folders.begun(own)) else folders.kept(study.model, study.inputs)
    if not kept:
        raise BankError(f"{study.name} has no bank yet: build one with `inversionview bank`.")
    return folders.check(kept[0], study.model, study.inputs, report)

"""The study that a command was given, with mistakes told before it is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from inversionview.core.errors import SettingError
from inversionview.core.interruption import resumable
from inversionview.studies.naming import check_model_name, check_study, is_study
from inversionview.terminal.app import bar, device_named, err
from inversionview.terminal.options import InputOptions, ModelOptions

if TYPE_CHECKING:
    from inversionview.bank.store import ActivationBank
    from inversionview.studies.study import Study


def loaded_study(study: str | None, on: ModelOptions, sites: Iterable[str | None] = ()) -> Study:
    """Return a shipped study, a run or a model alone; mistakes in their names and in sites are told before it is loaded."""
    if study is not None:
        check_study(study)
    if on.model is not None:
        check_model_name(on.model)
    from inversionview.studies.load import load

    check_sites_of(study, on.model, sites)
    return load(study, model=on.model, device=device_named(on.device))


def study_and_text(what: InputOptions, on: ModelOptions, sites: Iterable[str | None] = ()) -> tuple[Study, str]:
    """Return what to read from ``STUDY TEXT``, or from ``--model MODEL TEXT``."""
    if what.text is not None:
        return loaded_study(what.study or "", on, sites), what.text
    if what.study is None or on.model is None or is_study(what.study):
        raise SettingError('Give a study and a text, as in: addition "615+861=1476", or --model and a text.')
    return loaded_study(None, on, sites), what.study


def check_sites_of(study: str | None, model: str | None, sites: Iterable[str | None]) -> None:
    """Raise ``UnknownSiteError`` where the files of the model that will be loaded tell that it has no such site."""
    named = [name for given in sites if given for name in re.split(r",(?![^{]*\})", given)]
    if not named:
        return
    from inversionview.model.header import check_sites
    from inversionview.studies.registry import defined, stated

    spec = None if study is None else stated(study)[0]
    path = model or (spec.model if spec else "")
    if not path and spec is not None and defined(spec.inputs).any_model:
        path = str(defined(spec.inputs).default_model())
    if path:
        check_sites(path, [name.strip() for name in named])


def bank_to_search(study: Study, folder: Path | None) -> ActivationBank:
    """Return the bank to search; where there is none yet, build one with a progress bar, and say so."""
    with resumable(), bar("harvesting", 1000) as advance:

        def begin(path: Path, rows: int) -> None:
            err.print(f"No bank yet: building one of {rows:,} inputs, once, in {path}", soft_wrap=True)

        return study.bank(folder, report=lambda share, _: advance(int(1000 * share), ""), begin=begin)

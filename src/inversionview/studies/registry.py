"""All studies by their names. A study is imported when it is first asked for.

A new one is a name in ``naming.STUDIES``, its inputs and its ``DEFINITION``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from inversionview.studies.naming import STUDIES, check_study, is_study

if TYPE_CHECKING:
    from inversionview.corpora.inputs import Inputs
    from inversionview.studies.definition import Definition
    from inversionview.studies.spec import StudySpec


def defined(name: str) -> Definition:
    """Return what ``StudySpec.inputs`` names: a study; ``texts``, a run on them; ``windows``; or ``none``, a model alone."""
    if is_study(name):
        found: Definition = import_module(f"inversionview.studies.{name}.definition").DEFINITION
        return found
    from inversionview.studies.texts_and_models import ALONE, TEXTS, WINDOWS

    return {each.name: each for each in (TEXTS, WINDOWS, ALONE)}[name]


def definitions() -> list[Definition]:
    """Return the definitions of all studies that are loaded by their names."""
    return [defined(name) for name in STUDIES]


def stated(study: str | Path) -> tuple[StudySpec, Path | None]:
    """Return the settings of a study or a run, and the run's folder.

    Raises:
        UnknownStudyError: there is neither of that name, or its ``study.json`` is damaged.
    """
    from inversionview.studies.spec import read_spec

    spec = defined(str(study)).spec if is_study(str(study)) else None
    if spec is not None:
        return spec, None
    check_study(study)
    folder = Path(study).expanduser()
    return read_spec(folder), folder


def shipped_inputs(study: str) -> Inputs:
    """Return the inputs of a study that ships its model."""
    own = defined(study).own
    assert own is not None
    return own()


def default_model_called(name: str) -> Callable[[], Path] | None:
    """Return what finds the model that a study reads by default under this name; ``None`` where none does."""
    return next((each.default_model for each in definitions() if each.default_name == name), None)

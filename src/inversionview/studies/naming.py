"""What was given as STUDY or by --model: a study, a run, a model, or a mistake, told before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from inversionview.core.errors import SettingError, UnknownStudyError, WeightsError, did_you_mean
from inversionview.model.naming import check_model_path, is_hub_name, is_model

STUDIES = ("counting", "addition", "ioi", "facts")
"""Each has a definition, see ``studies.registry``."""
_MOST = 6
"""Runs that an error names at most."""
_PARTS = ("bank", "decoder", "corpus", "checkpoints")
"""Folders of a run."""


def is_study(name: str | None) -> TypeGuard[str]:
    """Return whether a name is that of a study, and not of a run."""
    return name in STUDIES


def is_run(name: str | Path) -> bool:
    """Return whether it is the folder of a run."""
    return not is_study(str(name)) and (Path(name).expanduser() / "study.json").is_file()


def check_study(name: str | Path) -> None:
    """Raise ``UnknownStudyError`` unless there is such a study or run; it says what there is, and the way out."""
    text, folder = str(name), Path(name).expanduser()
    if not is_study(text) and not (folder / "study.json").is_file():
        raise UnknownStudyError(_sentence(text, folder))


def check_model_name(name: str) -> None:
    """Say what is wrong with a name of a model, as far as that is known without asking the hub.

    Raises:
        SettingError: it is a study's, or a run's.
        WeightsError: it is no hub name, and nothing lies there; or a folder without a model.
    """
    path = Path(name).expanduser()
    if is_study(name) or (path / "study.json").is_file():
        raise SettingError(f"{name} is a study, no model: give it as STUDY, and a model by --model.")
    check_model_path(str(path))
    if not path.exists() and not is_hub_name(name):
        raise WeightsError(f"{name!r} is no name of a model: give a Hugging Face directory, a .gguf file or a hub name.")
    known = ("config.json", "adapter_config.json")
    if path.is_dir() and not any((path / file).is_file() for file in known) and not any(path.glob("*.gguf")):
        raise WeightsError(f"There is no model in the folder {name}, for it holds no config.json: name the folder that does.")


def _sentence(text: str, folder: Path) -> str:
    if is_model(folder) and not _in_run(folder):
        return f"{text} is a model, no study: give it by --model {text} (alone, or with the study that it is to be read in)."
    if folder.suffix == ".gguf":
        return f"There is no file {text}; a model is given by --model, a study by its name: {', '.join(STUDIES)}."
    if _in_run(folder):
        return f"{text} is a part of a run: name the run, {folder.parent}."
    if folder.is_dir():
        return f"There is no run in the folder {text}, for it holds no study.json.{_near(folder)}"
    if "/" in text or text.startswith((".", "~")):
        return f"There is no folder {text}, so no run in it.{_near(folder)}"
    runs = [run.name for run in _runs(Path("runs"))]
    near = did_you_mean(text, [*STUDIES, *(f"runs/{name}" for name in runs)])
    said = f"There is no study {text!r} and no run in that folder; there are {', '.join(STUDIES)}."
    return f"{said}{near}" if near else f"{said} A model is given by --model, and a text of several words stands in quotes."


def _in_run(folder: Path) -> bool:
    return folder.name in _PARTS and (folder.parent / "study.json").is_file()


def _near(folder: Path) -> str:
    """Return which runs lie in a folder, else beside it, else in ``runs``."""
    found = next(filter(None, ([str(run) for run in _runs(place)] for place in (folder, folder.parent, Path("runs")))), None)
    if found is None:
        return f" A run is made by `inversionview train`; studies are {', '.join(STUDIES)}."
    near = did_you_mean(str(folder), found) if len(found) > 1 else ""
    more = ", …" if len(found) > _MOST else ""
    return f" Runs lie in {', '.join(found[:_MOST])}{more}.{near}"


def _runs(folder: Path) -> Iterator[Path]:
    """Yield the runs in a folder; none where it cannot be read."""
    try:
        inner = sorted(path for path in folder.iterdir() if (path / "study.json").is_file())
    except OSError:
        return
    yield from inner

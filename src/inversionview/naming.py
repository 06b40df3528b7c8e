"""What was given as STUDY: a shipped study, the folder of a run, or a mistake, told before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from inversionview.errors import UnknownStudyError, did_you_mean

SHIPPED = ("counting", "addition")
LANGUAGE = ("ioi", "facts")
STUDIES = (*SHIPPED, *LANGUAGE)
_MOST = 6
"""Runs that an error names at most."""
_PARTS = ("bank", "decoder", "corpus", "checkpoints")
"""Folders of a run."""


def check_study(name: str | Path) -> None:
    """Raise ``UnknownStudyError`` unless there is such a study or run; it says what there is, and the way out."""
    text, folder = str(name), Path(name).expanduser()
    if text not in STUDIES and not (folder / "study.json").is_file():
        raise UnknownStudyError(_sentence(text, folder))


def is_model(path: Path) -> bool:
    """Return whether a path is a language model's: a GGUF file, or a folder with its configuration and weights."""
    if path.suffix == ".gguf":
        return path.is_file()
    weights = chain.from_iterable(path.glob(pattern) for pattern in ("*.safetensors", "*.bin", "*.index.json"))
    return path.is_dir() and (path / "config.json").is_file() and any(weights)


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

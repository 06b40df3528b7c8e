"""A dictionary from a folder, a file or the hub, whichever library wrote it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from inversionview.core.errors import WeightsError
from inversionview.model.dictionaries import dictionary_learning, gemma_scope, saelens, sparsify
from inversionview.model.dictionaries.dictionary import Dictionary
from inversionview.model.naming import is_hub_name

_READERS: dict[str, Callable[[Path], Dictionary]] = {
    saelens.WEIGHTS: lambda path: saelens.read_saelens(path.parent),
    sparsify.WEIGHTS: lambda path: sparsify.read_sparsify(path.parent),
    gemma_scope.WEIGHTS: gemma_scope.read_gemma_scope,
    dictionary_learning.WEIGHTS: dictionary_learning.read_dictionary_learning,
}
"""By the file with the weights, which no two libraries call alike."""
_BESIDE = ("cfg.json", "config.json", "activation_scaler.json")
_SHOWN = 4
"""So many folders are named in an error."""


def load_dictionary(name_or_path: str | Path) -> Dictionary:
    """Return the dictionary of a folder, of the file with its weights, or of the hub.

    Args:
        name_or_path: a path, or ``OWNER/REPOSITORY[/FOLDER]`` of the hub, such as
            ``google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71``. In a folder may lie the folder of one
            dictionary; of several one must be named.

    Raises:
        WeightsError: there is none; its files are missing, truncated, foreign, would run code, do not fit one another or hold
            numbers that are none; it is of an architecture that is not known here; or the hub cannot be reached.
        SettingError: it needs more memory than can be had.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.is_file():
        return _of_file(path)
    if path.is_dir():
        return _of_folder(path, text)
    parts = text.split("/")
    if (
        isinstance(name_or_path, Path)
        or text.startswith(("/", ".", "~"))
        or len(parts) < 2
        or not is_hub_name("/".join(parts[:2]))
    ):
        raise WeightsError(
            f"There is no dictionary at {text}: give a folder of SAELens, sparsify, Gemma Scope or dictionary_learning, or "
            "OWNER/REPOSITORY/FOLDER of the hub."
        )
    return _of_folder(_downloaded("/".join(parts[:2]), "/".join(parts[2:])), text)


def _of_file(path: Path) -> Dictionary:
    if path.name in _READERS:
        return _READERS[path.name](path)
    if path.suffix == ".npz":
        return gemma_scope.read_gemma_scope(path)
    if path.suffix in (".pt", ".pth"):
        return dictionary_learning.read_dictionary_learning(path)
    raise WeightsError(f"{path} is no file of a dictionary: give a folder with {' or '.join(_READERS)}.")


def _of_folder(folder: Path, name: str) -> Dictionary:
    there = [weights for weights in _READERS if (folder / weights).is_file()]
    if len(there) == 1:
        return _READERS[there[0]](folder / there[0])
    if there:
        raise WeightsError(f"{name} holds the weights of two libraries, {' and '.join(there)}: name one file.")
    inner = sorted({each.parent for weights in _READERS for each in folder.glob(f"**/{weights}")})
    if len(inner) == 1:
        return _of_folder(inner[0], str(inner[0]))
    if inner:
        some = ", ".join(str(each.relative_to(folder)) for each in inner[:_SHOWN]) + (", …" if len(inner) > _SHOWN else "")
        raise WeightsError(
            f"{name} holds several dictionaries ({some}): name one, as in {name}/{inner[0].relative_to(folder)}."
        )
    raise WeightsError(f"{name} holds no dictionary: give a folder with {' or '.join(_READERS)}.")


def _downloaded(repository: str, inner: str) -> Path:
    """Return the folder of a dictionary in the hub's cache, with its files.

    Raises:
        WeightsError: the hub cannot be reached, or has no such dictionary.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    base = f"{inner}/" if inner else ""
    around = f"{inner.rpartition('/')[0]}/" if "/" in inner else ""
    wanted = [f"{base}{name}" for name in (*_READERS, *_BESIDE)] + ([f"{around}config.json"] if inner else [])
    try:
        root = Path(snapshot_download(repository, allow_patterns=wanted))
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"There is no folder {repository}, nor has the hub a repository of that name: mend the name."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise WeightsError(
            f"There is no folder {repository}, and the hub cannot be reached: give a folder with {' or '.join(_READERS)}."
        ) from error
    folder = root / inner
    if any((folder / weights).is_file() for weights in _READERS):
        return folder
    known: list[str] = []
    with contextlib.suppress(HfHubHTTPError, OSError):
        files = HfApi().list_repo_files(repository)
        known = sorted({each.rpartition("/")[0] for each in files if each.rpartition("/")[2] in _READERS} - {""})
    some = f": name one, as in {', '.join(f'{repository}/{each}' for each in known[:_SHOWN])}." if known else ": name another."
    raise WeightsError(f"{repository} of the hub holds no dictionary in {inner or 'its top folder'}{some}")

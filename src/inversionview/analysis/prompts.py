"""Prompts of the user's own for rates of direct logit attribution: a JSONL file of texts, each with the word expected next."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from inversionview.analysis.attribution import Cases, token_count
from inversionview.errors import InputError, InversionViewError
from inversionview.probed import ProbedModel

Locate = Callable[[Sequence[int], str | int], int]
"""From an input's ids and the name of a position to its index."""


class Prompt(BaseModel):
    """A line of the file: ``{"text": …, "expected": " Mary", "at": "END"}``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
    expected: str
    """The word that is expected next; a space before it does not matter."""
    at: str | int | None = None
    """Where the text is read: a token, a named position or an index."""


def word_ids(model: ProbedModel, word: str) -> tuple[int, ...]:
    """Return the tokens that are a word: as it is, and with a space before it (Huang et al. 2024, Table 4).

    Raises:
        InputError: the word is empty, or a single token in neither form.
    """
    bare = word.strip()
    numbers = [model.vocabulary.single(form) for form in (bare, f" {bare}")] if bare else []
    found = {number for number in numbers if number is not None and number < token_count(model)}
    if not found:
        raise InputError(
            f"{word!r} is no single token of {model.name}, with or without a space before it: choose another word."
        )
    return tuple(sorted(found))


def prompt_cases(model: ProbedModel, path: Path, locate: Locate, *, at: str | int = "END", among: Path | None = None) -> Cases:
    """Return the prompts of a JSONL file, tokenized and located.

    Args:
        model: the probed model.
        path: a file of one object a line, ``{"text": "John gave a drink to", "expected": " Mary"}``, with ``"at"`` or without.
        locate: finds a position in an input, as ``Study.locate`` does.
        at: where lines are read that do not say it.
        among: a file of one word a line, the rivals of the expected word; by default all expected words.

    Raises:
        InputError, UnknownPositionError: of a line that cannot be used, with the file's name and the line's number; or there
            is none.
    """
    words: dict[tuple[int, ...], int] = {}
    rows, positions, expected = [], [], []
    for number, line in _lines(path):
        with _line(path, number):
            prompt = _prompt(line)
            ids = model.encode(prompt.text)
            positions.append(locate(ids, at if prompt.at is None else prompt.at))
            expected.append(words.setdefault(word_ids(model, prompt.expected), len(words)))
            rows.append(ids)
    if not rows:
        raise InputError(
            f'{path} holds no prompt: write lines such as {{"text": "John gave a drink to", "expected": " Mary"}}.'
        )
    rivals = set(words.values()) if among is None else set()
    for number, line in _lines(among) if among is not None else ():
        with _line(among, number):
            rivals.add(words.setdefault(word_ids(model, line), len(words)))
    if not rivals:
        raise InputError(f"{among} holds no word: write one a line.")
    tokens = np.full((len(rows), max(map(len, rows))), model.vocabulary.pad, dtype=np.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    candidates = np.isin(np.arange(len(words)), list(rivals))
    return Cases(tokens, np.array(positions), np.array(expected), tuple(words), candidates)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}): give a text file in UTF-8.") from error
    yield from ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _prompt(line: str) -> Prompt:
    """Read a line of the file."""
    example = 'write {"text": "John gave a drink to", "expected": " Mary"}.'
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"this is no JSON ({error}): {example}") from error
    if not isinstance(value, dict):
        raise InputError(f"this is no JSON object: {example}")
    try:
        return Prompt(**value)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{'.'.join(map(str, first['loc'][:1]))!r}: {first['msg'].lower()}; {example}") from error


@contextmanager
def _line(path: Path | None, number: int) -> Iterator[None]:
    """Say in what is wrong with a line where it stands."""
    try:
        yield
    except InversionViewError as error:
        raise type(error)(f"{path}, line {number}: {error}") from error

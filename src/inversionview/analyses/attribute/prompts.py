"""Prompts of the user's own for rates of direct logit attribution: a file of texts, each with the word expected next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from inversionview.analyses.attribute.cases import Cases
from inversionview.core.errors import InputError, InversionViewError
from inversionview.model.last_norm import token_count
from inversionview.model.probed import ProbedModel
from inversionview.records.reading import RecordPlace, read
from inversionview.records.texts import read_words

Locate = Callable[[Sequence[int], str | int], int]
"""From an input's ids and the name of a position to its index."""


class PromptRecord(BaseModel):
    """A record of the file: ``{"text": …, "expected": " Mary", "at": "END"}``."""

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
    """Return the prompts of a file, tokenized and located.

    Args:
        model: the probed model.
        path: a file of records (JSON, CSV, Parquet …), ``{"text": "John gave a drink to", "expected": " Mary"}``, with
            ``"at"`` or without.
        locate: finds a position in an input, as ``Study.locate`` does.
        at: where lines are read that do not say it.
        among: a file of one word a line, or of records with a field ``word``: the rivals of the expected word; by default all
            expected words.

    Raises:
        InputError, UnknownPositionError: of a line that cannot be used, with the file's name and the line's number; or there
            is none.
    """
    words: dict[tuple[int, ...], int] = {}
    rows, positions, expected = [], [], []
    for record in read(path):
        with _standing(record.place):
            prompt = _prompt(record.value)
            ids = model.encode(prompt.text)
            positions.append(locate(ids, at if prompt.at is None else prompt.at))
            expected.append(words.setdefault(word_ids(model, prompt.expected), len(words)))
            rows.append(ids)
    if not rows:
        raise InputError(
            f'{path} holds no prompt: write lines such as {{"text": "John gave a drink to", "expected": " Mary"}}.'
        )
    rivals = set(words.values()) if among is None else set()
    for word in read_words(among, "word") if among is not None else ():
        with _standing(word.place):
            rivals.add(words.setdefault(word_ids(model, word), len(words)))
    if not rivals:
        raise InputError(f"{among} holds no word: write one a line.")
    tokens = np.full((len(rows), max(map(len, rows))), model.vocabulary.pad, dtype=np.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    candidates = np.isin(np.arange(len(words)), list(rivals))
    return Cases(tokens, np.array(positions), np.array(expected), tuple(words), candidates)


def _prompt(value: Any) -> PromptRecord:
    """Return the prompt that a record is."""
    example = 'write {"text": "John gave a drink to", "expected": " Mary"}.'
    if not isinstance(value, dict):
        raise InputError(f"this is no JSON object: {example}")
    try:
        return PromptRecord.model_validate({**value, **({"at": None} if value.get("at") == "" else {})})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{'.'.join(map(str, first['loc'][:1]))!r}: {first['msg'].lower()}; {example}") from error


@contextmanager
def _standing(place: RecordPlace) -> Iterator[None]:
    """Say in what is wrong with a record where it stands."""
    try:
        yield
    except InversionViewError as error:
        raise type(error)(f"{place}: {error}") from error

"""Contrast sets: original inputs, each with a contrast of another answer, for activation patching.

Huang et al. 2024, section 3 and the appendices on activation patching. A study declares how one of its inputs is changed at
random; here that is repeated until the answer changes and all filters hold, and every pair is checked. Pairs of texts come from
a file or a function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError, InversionViewError, SettingError, did_you_mean
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.corpora.filters import Filter, said, satisfying
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.positions import Positions
from inversionview.model.tokens import Vocabulary
from inversionview.records.reading import Record, read
from inversionview.records.texts import kind_of

Encode = Callable[[str], list[int]]
"""Gives the ids of a text in its frame."""
ROUNDS = 200
"""An input is changed at random so often before it is left out."""
_SOON = 20
"""Nearly always all is done by then, within a second: no progress is told before."""
_HOPELESS = 40
"""If none of the inputs has a contrast after so many rounds, none is looked for any more, unless they are few."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Originals and contrasts, row by row."""

    original: Ids
    """``[pair, pos]``, padded on the right."""
    contrast: Ids
    """``[pair, pos]``."""
    read: Ids
    """Where the original's answer is predicted, ``[pair]``: the position before the answer."""
    contrast_read: Ids
    """Where the contrast's is."""
    answers: Ids
    """The original's answer token and the contrast's, ``[pair, 2]``."""
    left_out: int = 0
    """How many inputs have no contrast, as far as was tried."""

    def __len__(self) -> int:
        return len(self.original)


def check_target(inputs: Inputs, target: str | None) -> str:
    """Return the name of the answer token that is asked for, by default the first.

    Raises:
        InputError: the study declares no answer.
        SettingError: it declares none of that name.
    """
    if not inputs.answers:
        inputs.read_at(np.empty((0, 0), dtype=np.int64), target or "")  # says so
    name = target or inputs.answers[0]
    if name not in inputs.answers:
        raise SettingError(
            f"There is no target {name!r}; there are {', '.join(inputs.answers)}.{did_you_mean(name, inputs.answers)}"
        )
    return name


def held_out(inputs: Inputs, filters: Sequence[Filter], limit: int | None, seed: int) -> Ids:
    """Return the test split's inputs that satisfy all filters, in a random order, at most ``limit``.

    Raises:
        SettingError: ``limit`` is below 1 or ``seed`` below 0, or no input satisfies the filters.
    """
    if limit is not None:
        whole(limit, "The number of inputs")
    check_seed(seed)
    rows = np.random.default_rng((seed, 23)).permutation(inputs.split("test"))
    found: list[Ids] = []
    count, step = 0, 2**15 if limit is None else max(256, 2 * limit)
    for start in range(0, len(rows), step):
        tokens = inputs.tokens(rows[start : start + step])
        found.append(tokens[satisfying(inputs, tokens, filters)])
        count += len(found[-1])
        if limit is not None and count >= limit:
            break
    if not count:
        raise SettingError(f"None of the {len(rows):,} test inputs satisfies {said(filters)}: drop or change a filter.")
    return np.concatenate(found)[:limit]


def study_pairs(
    inputs: Inputs,
    target: str | None = None,
    *,
    changes: Sequence[str] | None = None,
    filters: Sequence[Filter] = (),
    limit: int | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> Pairs:
    """Return the test set's inputs with a contrast each, for which the target is another; both satisfy all filters.

    Args:
        inputs: the study's.
        target: name of the answer token that must change, by default the first.
        changes: what may be changed to that end, by default all that the study declares, or what it says.
        filters: conditions on original and contrast.
        limit: a random choice of so many inputs; by default all of the test split.
        seed: of the choice and the changes.
        report: called with the share of the inputs that have their contrast.

    Raises:
        SettingError: there is no such target or change, nothing satisfies the filters, or no contrast is found at all.
        InputError: the study declares no contrasts.
    """
    check_target(inputs, target)
    _check_changes(inputs, changes)
    original = held_out(inputs, filters, limit, seed)
    return contrasted(inputs, original, target, changes=changes, filters=filters, seed=seed, report=report)


def contrasted(
    inputs: Inputs,
    original: Ids,
    target: str | None = None,
    *,
    changes: Sequence[str] | None = None,
    filters: Sequence[Filter] = (),
    seed: int = 0,
    report: Progress | None = None,
) -> Pairs:
    """Return given inputs of a study, padded on the right, with a contrast each; see ``study_pairs``."""
    name = check_target(inputs, target)
    chosen = _check_changes(inputs, changes)
    contrast, found = _contrasts(inputs, original, name, chosen, filters, seed, report)
    if not found.any():
        where = f" where {said(filters)}" if filters else ""
        raise SettingError(
            f"Changing {', '.join(chosen)} does not alter {name}{where}: no contrast was found for any of "
            f"{len(original):,} inputs; change something else."
        )
    original, contrast = original[found], contrast[found]
    read, contrast_read = inputs.read_at(original, name), inputs.read_at(contrast, name)
    answers = np.stack([inputs.answer_of(original, name), inputs.answer_of(contrast, name)], axis=1)
    return Pairs(original, contrast, read, contrast_read, answers, int((~found).sum()))


def _check_changes(inputs: Inputs, changes: Sequence[str] | None) -> tuple[str, ...]:
    """Return what may be changed; raise ``SettingError`` for what cannot."""
    chosen = tuple(inputs.default_changes if changes is None else changes)
    for change in chosen:
        if change not in inputs.changes:
            known = ", ".join(inputs.changes)
            raise SettingError(f"{change!r} cannot be changed; there are {known}.{did_you_mean(change, inputs.changes)}")
    if not chosen:
        raise SettingError(f"Nothing may be changed: name at least one of {', '.join(inputs.changes)}.")
    return chosen


def _contrasts(
    inputs: Inputs,
    original: Ids,
    target: str,
    changes: Sequence[str],
    filters: Sequence[Filter],
    seed: int,
    report: Progress | None,
) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Return a contrast of each input, and which have one: draws are repeated until one will do."""
    rng = np.random.default_rng((seed, 29))
    contrast, todo = original.copy(), np.arange(len(original))
    answer = inputs.answer_of(original, target)
    for attempt in range(ROUNDS):
        new, ratio = inputs.contrast(original[todo], changes, rng)
        good = np.isfinite(ratio) & (inputs.answer_of(new, target) != answer[todo])
        good[good] = satisfying(inputs, new[good], filters)
        contrast[todo[good]] = new[good]
        todo = todo[~good]
        if report is not None and attempt >= _SOON:
            report(1 - len(todo) / len(original), "contrasts")
        tried = min(attempt, attempt * len(original) // ROUNDS)
        if not len(todo) or (len(todo) == len(original) and tried >= _HOPELESS):
            break
    found = np.ones(len(original), dtype=np.bool_)
    found[todo] = False
    return contrast, found


# -- pairs of texts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextPair:
    """An original and a contrast, each up to where its answer is predicted, and the two answers, one token each."""

    original: str
    contrast: str
    answer: str
    contrast_answer: str
    at: str | int = "END"
    """The position that predicts the answers, in both: its name or its index."""


def text_pairs(pairs: Iterable[TextPair], encode: Encode, positions: Positions, names: Sequence[str] = ()) -> Pairs:
    """Return pairs of texts as pairs of tokens.

    Args:
        pairs: what to encode.
        encode: from a text to its ids in their frame.
        positions: finds each pair's ``at``.
        names: what to call each pair in an error; by default its number.

    Raises:
        InputError: there is no pair, a text cannot be encoded, or an answer is not one token, or both are the same.
        UnknownPositionError: a text has no such position.
    """
    rows: list[tuple[list[int], list[int], int, int, int, int]] = []
    for number, pair in enumerate(pairs):
        name = names[number] if names else f"Pair {number + 1}"
        try:
            original, contrast = encode(pair.original), encode(pair.contrast)
            answers = _answer(pair.answer, positions.vocabulary), _answer(pair.contrast_answer, positions.vocabulary)
            at = positions.one(original, pair.at), positions.one(contrast, pair.at)
        except InversionViewError as error:
            raise type(error)(f"{name}: {error}") from error
        if answers[0] == answers[1]:
            raise InputError(f"{name}: original and contrast have the same answer {pair.answer!r}: there is nothing to tell.")
        rows.append((original, contrast, *at, *answers))
    if not rows:
        raise InputError("There is no pair: give at least one original with its contrast.")
    width, pad = max(max(len(o), len(c)) for o, c, *_ in rows), positions.vocabulary.pad
    both: Ids = np.full((2, len(rows), width), pad)
    for i, (original, contrast, *_) in enumerate(rows):
        both[0, i, : len(original)], both[1, i, : len(contrast)] = original, contrast
    numbers = np.array([row[2:] for row in rows])
    return Pairs(both[0], both[1], numbers[:, 0], numbers[:, 1], numbers[:, 2:])


def _answer(text: str, vocabulary: Vocabulary) -> int:
    """Return the token that an answer is, as it goes on after its text: a space before it counts."""
    if not text:
        raise InputError("The answer is empty: write the token that is expected next.")
    ids = vocabulary.continued(text)
    if len(ids) != 1 or ids[0] == vocabulary.pad:
        raise InputError(f"The answer {text!r} is {len(ids)} tokens, but must be one: name another, or its first token.")
    return ids[0]


def read_pairs(path: Path) -> tuple[list[TextPair], list[str]]:
    """Read pairs from a file of records with the fields of ``TextPair``; return where each stands, too.

    Raises:
        InputError: the file cannot be read, or a record is no pair.
    """
    records = list(read(path))
    return [_pair(record) for record in records], [str(record.place) for record in records]


def _pair(record: Record) -> TextPair:
    try:
        return TextPair(**_fields(record.value))
    except TypeError as error:
        raise InputError(
            f'{record.place} is no pair: write {{"original": …, "contrast": …, "answer": " Mary", "contrast_answer": " John"}}'
            f', and perhaps "at", the name or the index of a position ({error}).'
        ) from error


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields of a pair; a table has a cell for a position in every row, and numbers with gaps as fractions."""
    if not isinstance(value, dict):
        raise TypeError(f"it is {kind_of(value)}, no object")
    for name in ("original", "contrast", "answer", "contrast_answer"):
        if name not in value:
            raise TypeError(f"it lacks {name!r}")
        if not isinstance(value[name], str):
            raise TypeError(f"{name!r} is {kind_of(value[name])}, not a text")
    rest = {name: each for name, each in value.items() if name not in ("original", "contrast", "answer", "contrast_answer")}
    at = rest.pop("at", None)
    if rest:
        raise TypeError(f"there is no field {next(iter(rest))!r}")
    if isinstance(at, float) and (at != at or at.is_integer()):
        at = None if at != at else int(at)
    if isinstance(at, str) and re.fullmatch(r"[+-]?\d+\.0", at):  # as CSV has it
        at = int(at[:-2])
    if at is not None and type(at) not in (str, int):
        raise TypeError(f"'at' is {kind_of(at)}")
    return {**{name: each for name, each in value.items() if name != "at"}, **({} if at in (None, "") else {"at": at})}

"""Inputs with the token that is expected next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError
from inversionview.core.ranges import check_seed, whole
from inversionview.corpora.inputs import Inputs

# -- rates over a set --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cases:
    """Inputs, each read at one position where one word is expected next."""

    tokens: Ids
    """Padded on the right, ``[rows, pos]``."""
    positions: Ids
    """``[rows]``"""
    expected: Ids
    """Of each row its word, an index into ``words``."""
    words: tuple[tuple[int, ...], ...]
    """Each word's token ids: its variants, of which the better one counts."""
    candidates: npt.NDArray[np.bool_]
    """Which words are rivals of the expected one."""

    def __len__(self) -> int:
        return len(self.tokens)


def answer_cases(inputs: Inputs, target: str, count: int = 1000, *, seed: int = 0) -> Cases:
    """Return inputs of a study's test split, each read before its answer; rivals are all tokens that occur as that answer.

    Args:
        inputs: of the study.
        target: one of ``inputs.answers``.
        count: how many are drawn; those that lack the target are left out.
        seed: of the draw.

    Raises:
        InputError: the inputs have no such answer, or none of those drawn has it.
        SettingError: ``count`` is below 1.
    """
    whole(count, "The number of inputs")
    check_seed(seed)
    if target not in inputs.answers:
        there = f"there are {', '.join(inputs.answers)}" if inputs.answers else "they have no answers of their own"
        raise InputError(f"There is no answer {target!r} in these inputs: {there}.")
    tokens = inputs.draw(count, split="test", seed=(seed, 23))
    read = inputs.read_at(tokens, target)
    tokens, read = tokens[read >= 0], read[read >= 0]
    if not len(read):
        raise InputError(f"None of the {count} inputs has an answer {target}: draw more.")
    answers, expected = np.unique(inputs.answer_of(tokens, target), return_inverse=True)
    words = tuple(inputs.forms(int(answer)) for answer in answers)
    return Cases(tokens, read, expected, words, np.ones(len(words), dtype=bool))

"""What statements are judged on: inputs inside ε and clearly outside, the same for all statements of one activation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.analyses.interpret.scoring import Labels
from inversionview.analyses.interpret.sides import Half, Rows
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.corpora.naming import ALL

Columns = dict[str, npt.NDArray[Any]]
MOST = 512
"""Inputs on each side that a statement is tested on, their ranks spread evenly over all."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Inputs with the side on which each lies.

    Of natural text an input is an occurrence: its text ends at the token that was read, since nothing after it is known there.
    """

    bank: ActivationBank
    tokens: Ids
    """``[input, pos]``."""
    at: Ids | None
    """Where each was read, ``[input]``; ``None`` where an input is taken as a whole."""
    inside: Labels
    """``[input]``."""
    rows: Rows
    """Of the bank; −1 of what a walk found."""

    def __len__(self) -> int:
        return len(self.inside)

    @cached_property
    def features(self) -> Columns:
        """The inputs' features by name, ``[input]``."""
        if self.at is None:
            return self.bank.inputs.features(self.tokens)
        return self.bank.inputs.features_at(self.tokens, self.at)

    @cached_property
    def texts(self) -> list[str]:
        """The inputs as text, without what frames them."""
        ends = [len(row) for row in self.tokens] if self.at is None else (self.at + 1).tolist()
        return [self.bank.model.vocabulary.decode(row[:end]) for row, end in zip(self.tokens.tolist(), ends, strict=True)]


def of_rows(bank: ActivationBank, rows: Rows, inside: Labels) -> Evidence:
    """Return inputs of a bank as evidence."""
    if bank.places.names != (ALL,):
        return Evidence(bank, bank.tokens(rows), None, inside, rows)
    tokens, at = bank.located(rows, bank.manifest.positions)
    return Evidence(bank, tokens, at[:, 0], inside, rows)


def of_input(bank: ActivationBank, ids: tuple[int, ...], position: int) -> Evidence:
    """Return one input, read at a position, as evidence inside."""
    tokens = np.full((1, max(bank.inputs.max_length, len(ids))), bank.inputs.pad)
    tokens[0, : len(ids)] = ids
    at = np.array([position]) if bank.places.names == (ALL,) else None
    return Evidence(bank, tokens, at, np.ones(1, dtype=bool), np.full(1, -1))


def apart(bank: ActivationBank, half: Half) -> Half:
    """Return a half with one row of each input alone, its first: occurrences in one window hang together."""
    if bank.places.names != (ALL,):
        return half
    return Half(apart_rows(bank, half.inside), apart_rows(bank, half.outside))


def apart_rows(bank: ActivationBank, rows: Rows) -> Rows:
    """Return the first row of each input."""
    if bank.places.names != (ALL,) or not len(rows):
        return rows
    _, first = np.unique(bank.places.inputs_of(rows), return_index=True)
    return rows[np.sort(first)]


def matched(bank: ActivationBank, half: Half, most: int = MOST) -> Evidence:
    """Return as many inputs inside as outside, at matched ranks; see ``Half.matched``."""
    inside, outside = apart(bank, half).matched(most)
    return of_rows(bank, np.concatenate([inside, outside]), np.arange(2 * len(inside)) < len(inside))


def joined(found: Evidence, tokens: Ids, half: Half) -> Evidence:
    """Return evidence with inputs that a walk found inside, and as many more outside, the nearest.

    Args:
        found: what the corpus holds.
        tokens: what the walk found, ``[input, pos]``, none of them in ``found``.
        half: of the corpus, whose outside goes on where that of ``found`` ends.
    """
    bank, known = found.bank, found.rows[found.inside]
    outside = apart(bank, half).outside[: min(MOST, len(known) + len(tokens))]
    tokens = tokens[: min(len(tokens), len(outside) - len(known))]
    corpus = of_rows(bank, np.concatenate([known, outside]), np.arange(len(known) + len(outside)) < len(known))
    width = max(corpus.tokens.shape[1], tokens.shape[1])
    every = np.full((len(corpus) + len(tokens), width), bank.inputs.pad)
    every[: len(corpus), : corpus.tokens.shape[1]] = corpus.tokens
    every[len(corpus) :, : tokens.shape[1]] = tokens
    more = np.ones(len(tokens), dtype=bool)
    return Evidence(
        bank, every, None, np.concatenate([corpus.inside, more]), np.concatenate([corpus.rows, np.where(more, -1, -1)])
    )

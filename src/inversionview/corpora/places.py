"""Where the places of a corpus are: what the rows of a bank hold, and where it is read in the model.

A bank has a row for each number of its corpus, and in each row a place for each name. With named positions a row is an input,
and "=" or "END" is one position of it, or none. With every token a place, a row is a token of an input: of a study's inputs any
one that D may be reached at, so that D is the minimum over all; of natural text each an occurrence that counts by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Int

from inversionview.core.mixing import mix
from inversionview.corpora.naming import ALL

Ids = Int[np.ndarray, "row pos"]
Marks = npt.NDArray[np.uint64]


class Places(NamedTuple):
    """Places in rows of tokens."""

    row: Int[np.ndarray, " place"]
    """Which row of the tokens each is in."""
    position: Int[np.ndarray, " place"]
    """Its index there; −1 where the row lacks it."""
    name: Int[np.ndarray, " place"]
    """Which of the names it has."""

    def by_row(self, rows: int) -> tuple[Int[np.ndarray, "row k"], Int[np.ndarray, " place"]]:
        """Return the positions of every row, as the model is asked for them, and which of all these each place is.

        Args:
            rows: how many rows of tokens there are.

        Returns:
            ``[row, k]``, k being the most places that a row has, −1 where a row has fewer, or lacks one; and ``[place]``, an
            index into these as they stand row by row.
        """
        counts = np.bincount(self.row, minlength=rows)
        order = np.argsort(self.row, kind="stable")
        slots = np.empty_like(self.row)
        slots[order] = np.arange(len(order)) - (np.cumsum(counts) - counts)[self.row[order]]
        at = np.full((rows, int(counts.max(initial=0))), -1)
        at[self.row, slots] = self.position
        return at, self.row * at.shape[1] + slots


class Placing(Protocol):
    """How a corpus states its places."""

    @property
    def names(self) -> tuple[str, ...]:
        """What places are called."""
        ...

    @property
    def size(self) -> int | None:
        """How many rows a bank of them may have; ``None`` where the corpus has no end."""
        ...

    def tokens(self, numbers: Int[np.ndarray, " row"]) -> Ids:
        """Return the tokens of the input that each row is of, or lies in, padded on the right."""
        ...

    def read(self, numbers: Int[np.ndarray, " row"]) -> tuple[Ids, Places]:
        """Return inputs to run, and where in them the places of these rows are: of each row in turn one for each name."""
        ...

    @property
    def merged(self) -> bool:
        """Several rows may be of one input, whose D is that of the nearest; else each row counts by itself."""
        ...

    def inputs_of(self, numbers: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
        """Return which input of the corpus each row is of, or lies in."""
        ...

    def marks(self, tokens: Ids, places: Places) -> Marks:
        """Return a 64-bit mark of each row of tokens and places that were read: rows of one mark are alike."""
        ...

    def mark(self, ids: Ids, position: int) -> np.uint64:
        """Return the mark that the rows of an input have, ``[1, pos]``, which is read at ``position``."""
        ...


class Named(Protocol):
    """A corpus whose inputs name some of their positions; see ``Inputs``."""

    @property
    def corpus_size(self) -> int | None:
        """How many inputs it has; ``None`` where it has no end."""
        ...

    def corpus(self, numbers: Int[np.ndarray, " row"]) -> Ids:
        """Return the tokens of the inputs of these numbers."""
        ...

    def named_positions(self, tokens: Ids) -> dict[str, Int[np.ndarray, " row"]]:
        """Return for each named position its index in each row; −1 where a row lacks it."""
        ...


@dataclass(frozen=True)
class NamedPlaces:
    """Named positions of inputs: a row is an input, and its places are the positions of these names."""

    names: tuple[str, ...]
    inputs: Named
    merged = False

    @property
    def size(self) -> int | None:
        """How many inputs there are."""
        return self.inputs.corpus_size

    def tokens(self, numbers: Int[np.ndarray, " row"]) -> Ids:
        """Return the tokens of the inputs of these numbers."""
        return self.inputs.corpus(numbers)

    def read(self, numbers: Int[np.ndarray, " row"]) -> tuple[Ids, Places]:
        """Return the inputs of these numbers, and where their named positions are."""
        tokens = self.tokens(numbers)
        named = self.inputs.named_positions(tokens)
        at = np.stack([named[name] for name in self.names], axis=1)
        row, name = np.indices(at.shape)
        return tokens, Places(row.ravel(), at.ravel(), name.ravel())

    def inputs_of(self, numbers: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
        """Each row is one."""
        return numbers

    def marks(self, tokens: Ids, places: Places) -> Marks:
        """Inputs are alike where all tokens are."""
        return row_marks(tokens)

    def mark(self, ids: Ids, position: int) -> np.uint64:
        """See ``marks``."""
        return np.uint64(row_marks(ids)[0])


class Open(Protocol):
    """A corpus of which each token may be a place of its own; see ``Inputs``."""

    @property
    def corpus_size(self) -> int | None:
        """How many inputs it has; ``None`` where it has no end."""
        ...

    def corpus(self, numbers: Int[np.ndarray, " row"]) -> Ids:
        """Return the tokens of the inputs of these numbers."""
        ...

    def occurring(self, tokens: Ids) -> Bool[np.ndarray, "row pos"]:
        """Return which tokens are places."""
        ...

    def occurrences(self, numbers: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
        """Return how many places the inputs of these numbers have."""
        ...


_INPUTS = 2**14
"""Inputs whose places are counted together."""


class EveryToken:
    """Every token of an input where D may be reached: all but padding and EOS (Huang et al. 2024, section 2.2)."""

    names = (ALL,)
    merged = True

    def __init__(self, inputs: Open) -> None:
        self.inputs = inputs
        self._ends = np.zeros(0, dtype=np.int64)

    @cached_property
    def size(self) -> int | None:
        """How many places there are."""
        if self.inputs.corpus_size is None:
            return None
        ends = self._counted(inputs=self.inputs.corpus_size)
        return int(ends[-1]) if len(ends) else 0

    def begun(self, inputs: int) -> int:
        """Return how many places the first so many inputs have."""
        return int(self._counted(inputs=inputs)[inputs - 1]) if inputs else 0

    def _counted(self, inputs: int = 0, places: int = 0) -> Int[np.ndarray, " input"]:
        """Return where the places of each input end, of at least so many inputs, or up to so many places."""
        most = self.inputs.corpus_size
        while len(self._ends) < inputs or (len(self._ends) and self._ends[-1] < places) or (places and not len(self._ends)):
            start = len(self._ends)
            stop = start + _INPUTS if most is None else min(start + _INPUTS, most)
            if stop == start:
                break
            before = self._ends[-1] if start else 0
            self._ends = np.concatenate([self._ends, before + self.inputs.occurrences(np.arange(start, stop)).cumsum()])
        return self._ends

    def inputs_of(self, numbers: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
        """See ``Placing.inputs_of``."""
        ends = self._counted(places=int(numbers.max(initial=0)) + 1)
        found: Int[np.ndarray, " row"] = np.searchsorted(ends, numbers, side="right")
        return found

    def tokens(self, numbers: Int[np.ndarray, " row"]) -> Ids:
        """Return the tokens of the input that each place is in."""
        which, row = np.unique(self.inputs_of(numbers), return_inverse=True)
        return self.inputs.corpus(which)[row]

    def read(self, numbers: Int[np.ndarray, " row"]) -> tuple[Ids, Places]:
        """Return the inputs that these places are in, each once, and where in them they are."""
        which, row = np.unique(self.inputs_of(numbers), return_inverse=True)
        tokens = self.inputs.corpus(which)
        nth = numbers - np.where(which > 0, self._ends[which - 1], 0)[row]
        order = np.argsort(~self.inputs.occurring(tokens), axis=1, kind="stable")  # places first, in their order
        return tokens, Places(row, order[row, nth], np.zeros_like(row))

    def marks(self, tokens: Ids, places: Places) -> Marks:
        """Places are alike where their inputs are."""
        return row_marks(tokens)[places.row]

    def mark(self, ids: Ids, position: int) -> np.uint64:
        """See ``marks``."""
        return np.uint64(row_marks(ids)[0])


class EveryOccurrence(EveryToken):
    """Every token of natural text: an occurrence that counts by itself, and is the same as any with the same prefix."""

    merged = False

    def marks(self, tokens: Ids, places: Places) -> Marks:
        """Occurrences are alike where all tokens up to them are."""
        return prefix_marks(tokens)[places.row, places.position]

    def mark(self, ids: Ids, position: int) -> np.uint64:
        """See ``marks``."""
        return np.uint64(prefix_marks(ids)[0, position])


def _keys(tokens: Ids) -> Marks:
    return mix((tokens * (1 << 16) + np.arange(tokens.shape[1])).astype(np.uint64), salt=7)


def prefix_marks(tokens: Ids) -> Marks:
    """Return a 64-bit mark of the tokens of each row up to each of them, ``[row, pos]``."""
    return np.bitwise_xor.accumulate(_keys(tokens), axis=1)


def row_marks(tokens: Ids) -> Marks:
    """Return a 64-bit mark of each row of tokens."""
    marks: Marks = np.bitwise_xor.reduce(_keys(tokens), axis=1)
    return marks

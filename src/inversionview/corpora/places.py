"""Where the places of a corpus are: what the rows of a bank hold, and where it is read in the model.

A bank has a row for each number of its corpus, and in each row a place for each name. With named positions a row is an input,
and "=" or "END" is one position of it, or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int

Ids = Int[np.ndarray, "row pos"]


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

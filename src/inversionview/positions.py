"""Finding positions in inputs: by a name of the study (``A1``, ``END``), by a token that occurs once, or by an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from inversionview.errors import UnknownPositionError, did_you_mean
from inversionview.inputs import Ids
from inversionview.tokens import Vocabulary

Named = Callable[[Ids], dict[str, Ids]]
"""Gives for each named position its index in each row, −1 where a row lacks it; see ``Inputs.named_positions``."""


class Positions:
    """What the names of positions mean in the inputs of one study.

    A number is an index, BOS being 0, negative ones from the end; a token must occur exactly once.
    """

    def __init__(self, named: Named, vocabulary: Vocabulary) -> None:
        self.named, self.vocabulary = named, vocabulary

    def one(self, ids: Sequence[int], at: str | int) -> int:
        """Return the index that ``at`` means in an input without padding.

        Raises:
            UnknownPositionError: there is no such position, or the token occurs more than once.
        """
        found = int(self.many(np.array([list(ids)]), at)[0])
        if found < 0:
            self._explain(ids, at)
        return found

    def many(self, tokens: Ids, at: str | int) -> Ids:
        """Return the index of ``at`` in each row, ``[rows]``; −1 where it has none, or the token more than one."""
        named, real = self.named(tokens), tokens != self.vocabulary.pad
        length = real.sum(1)
        there = named[at] if isinstance(at, str) and at in named else np.full(len(tokens), -1)
        there = np.where(there < length, there, -1)  # a name may mean a fixed index, which a shorter text lacks
        number = as_number(at)
        if number is not None:
            number = max(-(2**31), min(2**31, number))
            index = np.where((-length <= number) & (number < length), number % np.maximum(length, 1), -1)
        else:
            present = np.unique(tokens[real])
            texts = self.vocabulary.strings(present.tolist())
            same = np.isin(tokens, present[[at in (s, s.strip()) for s in texts]]) & real
            index = np.where(same.sum(1) == 1, same.argmax(1), -1)
        return np.where(there >= 0, there, index)

    def names(self, ids: Sequence[int]) -> dict[str, int]:
        """Return the named positions of an input without padding, and where they are."""
        places = {name: int(place[0]) for name, place in self.named(np.array([list(ids)])).items()}
        return {name: place for name, place in places.items() if 0 <= place < len(ids)}

    def _explain(self, ids: Sequence[int], at: str | int) -> None:
        """Raise the error that says why ``at`` is no position of this input."""
        if as_number(at) is not None:
            raise UnknownPositionError(f"There is no position {at}: the input has tokens 0 to {len(ids) - 1}.")
        strings = self.vocabulary.strings(ids)
        if places := [i for i, s in enumerate(strings) if at in (s, s.strip())]:
            raise UnknownPositionError(
                f"The token {at!r} occurs at positions {', '.join(map(str, places))}: name one by its index."
            )
        named = list(self.names(ids))
        known = [*named, *dict.fromkeys(s.strip() for s in strings if s.strip() and s.strip() not in named)]
        raise UnknownPositionError(
            f"There is no position {at!r} in this input; there are {', '.join(known)} and indices 0 to {len(ids) - 1}."
            f"{did_you_mean(str(at), known)}"
        )


def as_number(at: str | int) -> int | None:
    """Return the index that ``at`` is, ``None`` where it is a name or a token."""
    try:
        return int(at)
    except ValueError:
        return None

"""Finding positions in inputs: by a name of the study (``A1``, ``END``), by a token that occurs once, or by an index.

A text names a position: ``"8"`` is the token 8 where the input has one, ``"#8"`` always the index 8. What could be meant both
ways is refused. A Python int is an index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from jaxtyping import Int

from inversionview.core.arrays import Ids
from inversionview.core.errors import UnknownPositionError, did_you_mean
from inversionview.model.tokens import Vocabulary

Named = Callable[[Ids], dict[str, Ids]]
"""Gives for each named position its index in each row, −1 where a row lacks it; see ``Inputs.named_positions``."""
_SHOWN = 40
"""Names and tokens that an error lists at most."""


def end_alone(tokens: Int[np.ndarray, "row pos"], vocabulary: Vocabulary) -> dict[str, Int[np.ndarray, " row"]]:
    """Return the only position that any text has a name for: END, its last token, EOS not counted."""
    return {"END": last_of(tokens, vocabulary)}


def last_of(tokens: Int[np.ndarray, "row pos"], vocabulary: Vocabulary) -> Int[np.ndarray, " row"]:
    """Return the index of each text's last token, EOS not counted."""
    last = (tokens != vocabulary.pad).sum(1) - 1
    found: Int[np.ndarray, " row"] = last - (tokens[np.arange(len(tokens)), last] == vocabulary.eos)
    return found


class Positions:
    """What the names of positions mean in the inputs of one study.

    An int or ``"#8"`` is an index, the first of all tokens being 0; −1 is the last token of the text, which EOS is not part of,
    −2 the one before. So is a number as text where no token is called so. A token must occur exactly once. A study's own name
    goes before a token.
    """

    def __init__(self, named: Named, vocabulary: Vocabulary) -> None:
        self.named, self.vocabulary = named, vocabulary

    def one(self, ids: Sequence[int], at: str | int) -> int:
        """Return the index that ``at`` means in an input without padding: a named position, an index (negative too) or a token.

        An int or ``"#8"`` is an index, the first token being 0 and −1 the last of the text, and so is ``"8"`` where no token is
        called so; a token must occur once.

        Raises:
            UnknownPositionError: there is no such position, the token occurs more than once, or index and token could be meant.
        """
        tokens = np.array([list(ids)])
        number, named = as_number(at), isinstance(at, str) and at in self.names(ids)
        if number is not None and not named and not is_index(at):
            index, called = self._indices(tokens, number), self._called(tokens, str(at))
            if called.any() and index[0] >= 0 and self._tokens(tokens, str(at))[0] != index[0]:
                self._refuse(ids, number)
        found = int(self.many(tokens, at)[0])
        if found < 0:
            self._explain(ids, at)
        return found

    def many(self, tokens: Ids, at: str | int) -> Ids:
        """Return the index of ``at`` in each row, ``[rows]``; −1 where it has none, or the token more than one.

        A number is the index, unless it is a token too.

        Raises:
            UnknownPositionError: it is, somewhere else than at the index.
        """
        named, length = self.named(tokens), (tokens != self.vocabulary.pad).sum(1)
        there = named[at] if isinstance(at, str) and at in named else np.full(len(tokens), -1)
        there = np.where(there < length, there, -1)  # a name may mean a fixed index, which a shorter text lacks
        return np.where(there >= 0, there, self._unnamed(tokens, at))

    def finder(self, ids: Sequence[int], at: str | int) -> Callable[[Ids], Ids]:
        """Return what finds in many inputs the position that ``at`` means in this one: the name, the token or the index.

        Raises:
            UnknownPositionError: as for ``one``.
        """
        place, number = self.one(ids, at), as_number(at)
        if isinstance(at, str) and at in self.names(ids):
            return partial(self.many, at=at)
        if number is not None and place == self._indices(np.array([list(ids)]), number)[0]:
            return partial(self._indices, number=number)
        return partial(self._tokens, text=str(at))

    def _unnamed(self, tokens: Ids, at: str | int) -> Ids:
        """Return the index of a token or of an index in each row, −1 where it has none."""
        number = as_number(at)
        index = np.full(len(tokens), -1) if number is None else self._indices(tokens, number)
        if is_index(at):
            return index
        if number is None or not (index >= 0).any():
            return self._tokens(tokens, str(at))
        elsewhere = self._called(tokens, str(at)) & (np.arange(tokens.shape[1]) != index[:, None])
        if elsewhere.any():
            raise UnknownPositionError(
                f"'{number}' is a token of {int(elsewhere.any(1).sum()):,} of these {len(tokens):,} inputs and an index: write "
                f"'#{number}' for the index."
            )
        return index

    def _indices(self, tokens: Ids, number: int) -> Ids:
        """Return an index in each row, negative ones from the end of its text; −1 where it has none."""
        length = (tokens != self.vocabulary.pad).sum(1)
        if number >= 0:
            return np.where(number < length, min(number, 2**31), -1)
        last = tokens[np.arange(len(tokens)), np.maximum(length - 1, 0)]
        found = length - ((last == self.vocabulary.eos) & (length > 1)) + max(number, -(2**31))
        return np.where(found >= 0, found, -1)

    def _tokens(self, tokens: Ids, text: str) -> Ids:
        called = self._called(tokens, text)
        return np.where(called.sum(1) == 1, called.argmax(1), -1)

    def _called(self, tokens: Ids, text: str) -> npt.NDArray[np.bool_]:
        """Return which tokens are that text, with or without spaces around, ``[rows, pos]``."""
        real = tokens != self.vocabulary.pad
        present = np.unique(tokens[real])
        same = [text in self.vocabulary.called(number) for number in present.tolist()]
        return np.isin(tokens, present[same]) & real

    def names(self, ids: Sequence[int]) -> dict[str, int]:
        """Return the named positions of an input without padding, and where they are."""
        places = {name: int(place[0]) for name, place in self.named(np.array([list(ids)])).items()}
        return {name: place for name, place in places.items() if 0 <= place < len(ids)}

    def _refuse(self, ids: Sequence[int], number: int) -> None:
        """Raise the error that says how either meaning of a number is written."""
        strings = self.vocabulary.strings(ids)
        places = self._places(ids, str(number))
        raise UnknownPositionError(
            f"'{number}' could mean two positions: write '#{number}' for the token at index {number}, which is "
            f"{strings[number]!r}; the token '{number}' stands at {', '.join(map(str, places))}: {_written(places)}."
        )

    def _places(self, ids: Sequence[int], text: str) -> list[int]:
        return [i for i, number in enumerate(ids) if text in self.vocabulary.called(number)]

    def _explain(self, ids: Sequence[int], at: str | int) -> None:
        """Raise the error that says why ``at`` is no position of this input."""
        strings = self.vocabulary.strings(ids)
        if places := self._places(ids, str(at)) if not is_index(at) else []:
            raise UnknownPositionError(
                f"The token {at!r} occurs at positions {', '.join(map(str, places))}: write {_written(places)}."
            )
        if span(at) is not None:
            raise UnknownPositionError(
                f"{at} is a span of tokens, and one is read at a time: give one of them, as '#5'; `export` shows a reading of "
                "each."
            )
        if as_number(at) is not None:
            raise UnknownPositionError(f"There is no position {at}: the input has tokens #0 to #{len(ids) - 1}.")
        named = list(self.names(ids))
        known = [*named, *dict.fromkeys(s.strip() for s in strings if s.strip() and s.strip() not in named)]
        listed = ", ".join(known) if len(known) <= _SHOWN else f"{', '.join(known[:_SHOWN])}, …"
        raise UnknownPositionError(
            f"There is no position {at!r} in this input; there are {listed} and indices #0 to #{len(ids) - 1}."
            f"{did_you_mean(str(at), known)}"
        )


def span(at: str | int | None) -> slice | None:
    """Return the indices that ``"5:9"`` means, as Python counts them; ``None`` of what is no span."""
    found = re.fullmatch(r"([-−]?[0-9]{1,9})?:([-−]?[0-9]{1,9})?", at) if isinstance(at, str) else None
    if found is None or found[0] == ":":
        return None
    begin, end = (None if each is None else int(each.replace("−", "-")) for each in found.groups())
    return slice(begin, end)


def as_number(at: str | int) -> int | None:
    """Return the index that ``at`` is unless a token is called so, ``None`` where it can only be a name or a token."""
    if not isinstance(at, str):
        return int(at)
    return int(at.lstrip("#").replace("−", "-")) if re.fullmatch(r"#?[-−]?[0-9]+", at) else None


def is_index(at: str | int) -> bool:
    """Return whether ``at`` can only be an index: an int, ``"#8"`` or a negative number."""
    return not isinstance(at, str) or re.fullmatch(r"#[-−]?[0-9]+|[-−][0-9]+", at) is not None


def _written(places: Sequence[int]) -> str:
    """Return how indices are written: ``'#4', '#8' or '#12'``."""
    written = [f"'#{i}'" for i in places]
    return " or ".join([*([", ".join(written[:-1])] if written[:-1] else []), written[-1]])

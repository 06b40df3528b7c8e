"""JSON values of a text as they come: JSON Lines, values one after another, or the elements of one array, however indented.

The text is read piece by piece, so a file larger than memory can be, unless it is one object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from inversionview.core.errors import InputError

_SPACE = re.compile(r"[ \t\r\n]*")
_MARGIN = 16
"""An error so near to the end of what has been read may be that end's."""
_TAIL = 3
"""So much of a number that goes on may stand behind one that looks whole: 1e+."""


def values(text: Iterable[str], name: str) -> Iterator[tuple[int, Any]]:
    """Yield each value with the line where it begins; of an array that comes first, each element.

    Args:
        text: in pieces.
        name: what to call it in an error.

    Raises:
        InputError: it is not JSON; the line is named.
    """
    scanner = _Scanner(iter(text), name)
    if scanner.next() == "[":
        yield from scanner.elements()
        return
    while scanner.next():
        yield scanner.line, scanner.value()


class _Scanner:
    def __init__(self, pieces: Iterator[str], name: str) -> None:
        self._pieces, self._name = pieces, name
        self._text, self._at, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()
        self.line = 1
        """Where the next value stands, from 1."""

    def _more(self) -> bool:
        """Read as much again as is at hand, so that a long value is tried few times; say whether there was any more."""
        wanted, found = max(1, len(self._text) - self._at), []
        while wanted > 0 and not self._ended:
            piece = next(self._pieces, None)
            self._ended = piece is None
            found.append(piece or "")
            wanted -= len(found[-1])
        if any(found):
            self._text, self._at = "".join([self._text[self._at :], *found]), 0
        return any(found)

    def _go(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def next(self) -> str:
        """Return the next character that is no space, without taking it; nothing at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._go(space.end() if space else self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def elements(self) -> Iterator[tuple[int, Any]]:
        """Yield what is in the array that begins here."""
        self._go(self._at + 1)
        if self.next() == "]":
            self._go(self._at + 1)
        else:
            while True:
                self.next()
                yield self.line, self.value()
                mark = self.next()
                if mark not in (",", "]"):
                    self._fail("a comma or the end of the array is missing" if mark else "the array does not end")
                self._go(self._at + 1)
                if mark == "]":
                    break
        if self.next():
            self._fail("something follows the array")

    def value(self) -> Any:
        """Take the value that begins here."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                near, place = error.pos > len(self._text) - _MARGIN, self._place(error.pos)
                if (near or error.msg.startswith("Unterminated")) and self._more():
                    continue
                self._fail(f"{error.msg.removesuffix(' at')} at {place}", error)
            except (ValueError, RecursionError) as error:  # a number of too many digits, lists in lists in lists
                self._fail(str(error), error)
            if end < len(self._text) - _TAIL or not self._more():
                self._go(end)
                return value

    def _place(self, at: int) -> str:
        lines = self._text.count("\n", self._at, at)
        character = f"character {at - max(self._text.rfind(chr(10), self._at, at), self._at - 1)}"
        return f"line {self.line + lines}, {character}" if lines else character

    def _fail(self, why: str, error: Exception | None = None) -> NoReturn:
        raise InputError(
            f"{self._name}, line {self.line} is not JSON ({why}): mend it, or name the file for what it holds."
        ) from error

"""Text that may be shown: what comes from files, endpoints or arguments cannot steer a terminal, nor a spreadsheet.

Control characters (C0, C1, with them every escape sequence), marks that turn the direction of writing, other invisible format
characters, halves of surrogate pairs and exotic line breaks are replaced, each by one visible character.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of Unicode that are not seen but do something."""
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def shown(text: str) -> str:
    """Return ``text`` with what a terminal might obey replaced by ``·``; line breaks (``\\n``) and tabs stay."""
    if text.isprintable():
        return text
    return "".join("·" if _hidden(c) else c for c in text)


def one_line(text: str) -> str:
    """Return ``text`` as ``shown``, on one line, runs of white space being one space."""
    return shown(" ".join(text.split()))


def json_line(value: Any) -> str:
    """Return ``value`` as a line of JSON in which everything invisible is an escape, such as ``\\u202e``: nothing is lost."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(json.dumps(c)[1:-1] if _hidden(c) or c == "\x7f" else c for c in text)


def cell(text: str) -> str:
    """Return ``text`` as a cell of a CSV file.

    What begins, after white space, with a sign by which spreadsheets know a formula (``= + - @``) and is no number gets an
    apostrophe before it, by which they know text. Line breaks become ``⏎``, tabs ``⇥``, all else as in ``shown``.
    """
    risky = _FORMULA.match(text) is not None or text[:1] in ("\t", "\r", "\n")
    plain = shown(text.replace("\r\n", "\n")).replace("\n", "⏎").replace("\t", "⇥")
    return f"'{plain}" if risky and not _NUMBER.fullmatch(text.strip()) else plain


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN and character not in "\n\t"

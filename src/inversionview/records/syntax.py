"""Files that are called text, or nothing, but hold another form: its syntax is no text to learn from."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from itertools import islice

from inversionview.core.errors import InputError
from inversionview.records.cells import MARKS
from inversionview.records.streams import BLOCK, Stream

_LINES = 100
"""So many lines are looked at."""
_OBJECT = re.compile(r'\s*\{\s*"(?:[^"\\\n]|\\.)*"\s*:')
_ARRAY = re.compile(r'\s*\[\s*(?:\{\s*"(?:[^"\\\n]|\\.)*"\s*:|"(?:[^"\\\n]|\\.)*"\s*[,\]]\s)')
_COMMENT = re.compile(r"\s*(?:#|//)")


def check_text(stream: Stream, field: str | None) -> None:
    """Refuse JSON, or a table with a column of that name, under the name of a text, by the first lines.

    Raises:
        InputError: with the name that such a file should have.
    """
    head = next(stream.characters(), "")
    *lines, last = head.split("\n")
    whole = len(stream.head) < BLOCK
    if whole or not lines:
        lines.append(last)
    some = list(islice((line for line in lines if line.strip()), _LINES))
    if some and (_are_values(some) or _is_document(head, some[0])):
        raise InputError(
            f"{stream.path} holds JSON, not text: give it a name that ends in .jsonl or .json, and its fields or strings are "
            "read."
        )
    mark = _mark(some, field)
    if mark is not None:
        raise InputError(
            f"{stream.path} holds a table with the column {field!r}, not text: name it {'.tsv' if mark == chr(9) else '.csv'}."
        )


def _are_values(lines: Sequence[str]) -> bool:
    """Say whether nearly all lines are JSON: objects, of which one may be cut and others comments; or strings, or arrays."""
    lines = [line for line in lines if not _COMMENT.match(line)]
    kinds = list(map(_kind, lines))
    objects, others = kinds.count("object"), kinds.count("")
    if objects:
        return others <= len(lines) // 3
    return bool(lines) and others <= len(lines) // 10 and kinds.count("empty") < len(lines)


def _kind(line: str) -> str:
    """Return ``object``, ``cut`` of one that does not end, ``empty`` of {} or [], ``value`` of a string or an array."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        if _OBJECT.match(line) is None:
            return ""
        return "object" if len(line) >= BLOCK // 8 else "cut"  # by the end of what is looked at
    if isinstance(value, list) and value and not any(isinstance(each, str | dict | list) for each in value):
        return ""  # numbers in brackets are a text as good as others
    if isinstance(value, dict | list | str):
        return "empty" if not value else "object" if isinstance(value, dict) else "value"
    return ""


def _is_document(head: str, first: str) -> bool:
    """Say whether a text is one JSON value over several lines, or an array."""
    try:
        return isinstance(json.loads(head), dict | list)
    except (ValueError, RecursionError):
        return bool(_ARRAY.match(head)) or (first.strip() == "{" and bool(_OBJECT.match(head)))


def _mark(lines: Sequence[str], field: str | None) -> str | None:
    """Return what separates the cells of a table whose first row names the field; ``None`` where it is no such table."""
    for mark in MARKS:
        rows = _rows(lines, mark)
        alike = len(rows) > 1 and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows)
        if alike and field is not None and field.lower() in (cell.strip().lower() for cell in rows[0]):
            return mark
    return None


def are_rows(lines: Sequence[str]) -> bool:
    """Say whether all lines split alike into cells, none of them empty."""
    split = [_rows(lines, mark) for mark in MARKS]
    return any(
        rows and len(rows[0]) > 1 and all(len(row) == len(rows[0]) and all(map(str.strip, row)) for row in rows)
        for rows in split
    )


def _rows(lines: Sequence[str], mark: str) -> list[list[str]]:
    """Return the rows of a table of these lines, without one that their end may have cut; none where they are no table."""
    try:
        rows = list(csv.reader((line + "\n" for line in lines), delimiter=mark))
    except csv.Error:
        return []
    return rows[:-1] if len(lines) == _LINES else rows

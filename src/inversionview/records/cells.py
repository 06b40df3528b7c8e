"""From the lines of a CSV or TSV file to the cells of its rows: what separates them, and what quotation marks quote."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

MARKS = ",;\t"
"""What may separate cells."""
LOOKED_AT = 100
"""So many lines tell which of them does."""
_QUOTED = 10_000
"""Lines of a quoted cell, at most, in a file with tabs."""


def separator(lines: Sequence[str]) -> str:
    """Return what the first lines of a file split alike at; where they do not, what its first row splits most at."""
    found = {mark: _split(lines, mark) for mark in MARKS}
    widths = {mark: len(rows[0]) for mark, rows in found.items() if rows and not any(cell.count('"') % 2 for cell in rows[0])}
    alike = [mark for mark, width in widths.items() if width > 1 and all(len(row) == width for row in found[mark])]

    def fitness(mark: str) -> tuple[int, bool]:
        return widths[mark], not any(cell.startswith(" ") for cell in found[mark][0])

    return max(alike or widths, key=fitness, default=",")


def _split(lines: Sequence[str], mark: str) -> list[list[str]]:
    """Return the rows, without one that the end of the lines may have cut."""
    try:
        rows = [row for row in csv.reader(lines, delimiter=mark) if row]
    except csv.Error:
        rows = [row for row in csv.reader([line.replace("\r", " ") for line in lines[:1]], delimiter=mark) if row]
    return rows[:-1] if len(lines) >= LOOKED_AT else rows


def separated(lines: Iterable[str], mark: str, some: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield each row, with how many lines have been read by then.

    Args:
        lines: with their ends.
        mark: what separates cells.
        some: the first of them; where a space follows each mark in the first row, it is no part of a cell.

    Raises:
        csv.Error: a quotation does not end, or a carriage return stands in a cell.
    """
    header = next(iter(_split(some, mark)), [])
    spaced = len(header) > 1 and all(cell.startswith(" ") for cell in header[1:])
    reader = csv.reader(lines, delimiter=mark, strict=True, skipinitialspace=spaced)
    for row in reader:
        yield reader.line_num, row


def tab_separated(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield each row of a file with tabs, with how many lines have been read by then; a mark that quotes no cell is part of it.

    Raises:
        csv.Error: a carriage return stands in a cell.
    """
    source, held, read = iter(lines), deque[str](), 0

    def following() -> str | None:
        return held.popleft() if held else next(source, None)

    while (line := following()) is not None:
        bare = line.removesuffix("\n").removesuffix("\r")
        taken, row = [line], bare.split("\t") if bare else []
        if '"' in bare or "\r" in bare:
            quoted, is_open = _quoted(taken)
            while is_open and len(taken) < _QUOTED and (more := following()) is not None:
                taken.append(more)
                if '"' in more:
                    quoted, is_open = _quoted(taken)
            if quoted is None:
                held.extendleft(reversed(taken[1:]))
                taken, row = [line], [next(iter(_quoted([cell])[0] or []), cell) for cell in row]
            else:
                row = quoted
        read += len(taken)
        yield read, row


def _quoted(lines: Sequence[str]) -> tuple[list[str] | None, bool]:
    """Return the row that lines are where quotation marks quote, ``None`` if they do not; and whether a quotation goes on."""
    try:
        return next(csv.reader(lines, delimiter="\t", strict=True), []), False
    except csv.Error as error:
        if str(error).startswith("new-line"):
            raise
        return None, str(error) == "unexpected end of data"

"""Statements about activations, as users and other tools write them: each with the place that it speaks of.

Any form that records have is read (JSON Lines, CSV, Parquet, …), a statement a record. Mistakes are told by line, before work
begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inversionview.core.errors import InputError
from inversionview.records.reading import RecordPlace, read

FORM = '{"text": …, "at": …, "site": …, "statement": …}'
_FIELDS = ("text", "at", "site", "statement", "vector", "id", "by")


@dataclass(frozen=True)
class Claim:
    """One statement about one activation."""

    statement: str
    text: str | None = None
    """The input whose activation it is."""
    at: str | int | None = None
    """Where that is read, as in ``Study.query``."""
    site: str | None = None
    vector: str | tuple[float, ...] | None = None
    """In place of a text and a position: an activation from outside, or what names one in a file."""
    id: str | int | None = None
    """What it is called; by default its number, from 1."""
    by: str | None = None
    """Who said it: a method, for leaderboards."""
    place: str = ""
    """Where it stands, for errors."""

    @property
    def activation(self) -> tuple[object, ...]:
        """What tells the activation from others: statements of one are judged on the same inputs."""
        return self.text, self.at, self.site, self.vector


def read_claims(path: str | Path, lines: bool = False) -> list[Claim]:
    """Return the statements in a file.

    Args:
        path: records with the fields ``statement`` and ``text``, ``at`` and ``site``, or ``vector`` and ``site``; ``id`` and
            ``by`` may be there.
        lines: take each line of a statement for a claim of its own.

    Raises:
        InputError: there is no such file or it is damaged; a statement is empty or has no place; there is none.
    """
    return checked(((record.place, record.value) for record in read(path)), str(path), lines)


def checked(records: Iterable[tuple[RecordPlace | str, Any]], source: str, lines: bool = False) -> list[Claim]:
    """Return the statements in records, each with where it stands; see ``read_claims``.

    Raises:
        InputError: a record is none; there are none.
    """
    every: list[Claim] = []
    for number, (place, record) in enumerate(records, 1):
        every += _split(_claim(record, str(place), number), lines)
    if not every:
        raise InputError(f"{source} holds no statement: write one a line, as {FORM}.")
    return every


def _claim(record: Any, place: str, number: int) -> Claim:
    if not isinstance(record, Mapping):
        raise InputError(f"{place} is no statement: write {FORM}.")
    told = {name: value for name in _FIELDS if (value := record.get(name)) is not None and value != ""}
    for name in ("statement", "text", "site", "by"):
        if name in told and not isinstance(told[name], str):
            raise InputError(f"{place} has a field {name!r} that is no text: write {FORM}.")
    if "statement" not in record:
        raise InputError(f"{place} has no field 'statement': write {FORM}.")
    if not told.get("statement", "").strip():
        raise InputError(f"{place} has an empty statement: say what the activation encodes, or leave the line out.")
    vector = told.pop("vector", None)
    if vector is not None and ("text" in told or "at" in told):
        raise InputError(f"{place} has both a text and a vector: leave out the vector, or text and at.")
    lacking = [name for name in (("site",) if vector is not None else ("text", "at", "site")) if name not in told]
    if lacking:
        named = " and ".join(repr(name) for name in lacking)
        raise InputError(f"{place} says not of which activation it speaks: it lacks {named}; write {FORM}.")
    if not isinstance(told.get("at", ""), str | int) or isinstance(told.get("at"), bool):
        raise InputError(f"{place} has a field 'at' that is neither a text nor an index: write for instance 'END' or -1.")
    return Claim(**{"id": number, **told}, vector=_vector(vector, place), place=place)


def _vector(value: Any, place: str) -> str | tuple[float, ...] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence) and value and all(isinstance(each, int | float) for each in value):
        return tuple(map(float, value))
    raise InputError(f"{place} has a vector that is neither a list of numbers nor PATH[:key][[row]]: write one of these.")


def _split(claim: Claim, lines: bool) -> list[Claim]:
    """Return a claim for each line of a statement; of several each is called by its number, too."""
    parts = [line.strip() for line in claim.statement.splitlines() if line.strip()] if lines else [claim.statement.strip()]
    called = [claim.id] if len(parts) == 1 else [f"{claim.id}.{number}" for number in range(1, len(parts) + 1)]
    return [
        Claim(part, claim.text, claim.at, claim.site, claim.vector, name, claim.by, claim.place)
        for part, name in zip(parts, called, strict=True)
    ]

"""The records of a source, whatever its form: which one that is, by what a file holds and by what it is called.

Text (a record is a line), JSON Lines and JSON arrays, CSV, TSV, Parquet, Arrow, each packed or not; datasets in a folder or of
the hub. What cannot be read is an ``InputError`` that names the file and the line, or the number of the record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from inversionview.core.errors import InputError
from inversionview.records.streams import PACKINGS, Stream, opened
from inversionview.records.syntax import check_text
from inversionview.records.tables import ARROW, ARROW_STREAM, PARQUET, Rows, columnar, comma_separated, is_saved, saved
from inversionview.records.values import values

Form = Literal["text", "json", "csv", "tsv", "columns"]
LIMIT = 2_000_000
"""Records of a data set on the hub, at most."""
_FORMS: dict[str, Form] = {
    ".txt": "text", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "columns", ".arrow": "columns", ".feather": "columns",
}  # fmt: skip
_AROUND = {"data", "rows", "records", "texts", "documents", "sentences", "examples", "samples", "instances", "items", "entries"}
"""What a list of records is called in an object around it."""
_ABOUT = {"version", "description", "license", "licence", "source", "url", "homepage", "citation", "author", "date", "created"}
"""What tells of such a list: no record has its text there."""
_SHOWN = 10
"""So many fields are named in an error."""


class RecordPlace(NamedTuple):
    """Where a record stands."""

    source: str
    unit: str
    """``line`` or ``record``."""
    number: int
    """From 1."""
    value: int = 0
    """Which value of the file it is, from 1, where another stands before it on the same line."""

    @property
    def within(self) -> str:
        """Where in its source: line 3, or line 1 (value 7)."""
        return f"{self.unit} {self.number}" + (f" (value {self.value})" if self.value else "")

    def __str__(self) -> str:
        return f"{self.source}, {self.within}"


class Record(NamedTuple):
    """A value and where it stands."""

    place: RecordPlace
    value: Any
    """A line of a text, what JSON gives, or the row of a table as a mapping."""
    share: float = 0.0
    """How much of the source has been read by now, from 0 to 1."""


def read(source: str | Path, *, field: str | None = None, bare: Form = "json") -> Iterator[Record]:
    """Yield the records of a file or of a folder that ``datasets`` saved.

    Args:
        source: a path.
        field: the only field that is asked for; nothing is said of what is wrong with others, and they may be left out.
        bare: the form of a file whose name tells none; ``"json"`` also of one that is called text.

    Raises:
        InputError: there is no such file, or it is damaged or of another form; file and line are named.
    """
    path = located(source)
    if path.is_dir():
        if not is_saved(path):
            raise InputError(f"{path} cannot be read: it is a folder, and holds no data set that `datasets` saved.")
        yield from _numbered(path, saved(path, field))
        return
    with opened(path) as stream:
        form = _form(stream, bare)
        if form == "columns" and stream.head:
            yield from _numbered(path, columnar(stream, field))
        if form == "columns":
            return
        for place, value in _parsed(stream, form, field):
            if field is None and form == "json":
                _check_characters(place, value)
            yield Record(place, value, stream.share)


def hub(name: str, field: str) -> Iterator[Record]:
    """Yield the records of a data set on the hub: its train split.

    Raises:
        InputError: it cannot be reached or read.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split="train", streaming=True)
        if field in (rows.column_names or ()):
            rows = rows.select_columns([field])
        for number, row in enumerate(islice(rows, LIMIT), 1):
            yield Record(RecordPlace(name, "record", number), row)
    except Exception as error:  # the hub's errors share no base
        raise InputError(
            f"The dataset {name} cannot be read ({type(error).__name__}): is the name right, has it a train split, is there a "
            "network?"
        ) from error


def located(source: str | Path) -> Path:
    """Return the path of a source, ``~`` being the user's home where there is one."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        return Path(source)


def named_form(name: str | Path) -> Form | None:
    """Return the form that a file's name tells, in letters of any case and whether packed or not; ``None`` if it tells none."""
    path = Path(str(name).lower())
    return _FORMS.get((path.with_suffix("") if path.suffix in PACKINGS else path).suffix)


def _form(stream: Stream, bare: Form) -> Form:
    named = named_form(stream.path)
    if stream.head.startswith((PARQUET, ARROW, ARROW_STREAM)):
        return "columns"
    if named == "columns" and stream.head:
        raise InputError(f"{stream.path} cannot be read: it is called Parquet or Arrow, but is neither.")
    if named is None or (named == "text" and bare == "json"):
        return bare
    return named


def _numbered(path: Path, batches: Iterator[tuple[float, Rows]]) -> Iterator[Record]:
    every = ((share, row) for share, rows in batches for row in rows)
    for number, (share, row) in enumerate(every, 1):
        yield Record(RecordPlace(str(path), "record", number), row, share)


def _parsed(stream: Stream, form: Form, field: str | None) -> Iterator[tuple[RecordPlace, Any]]:
    name = str(stream.path)
    if form == "text":
        check_text(stream, field)
        yield from ((RecordPlace(name, "line", number), line) for number, line in enumerate(stream.lines(), 1))
    elif form == "json":
        yield from _unwrapped(_placed(values(stream.characters(), name), name), name, field)
    else:
        yield from ((RecordPlace(name, "line", line), row) for line, row in comma_separated(stream, tabs=form == "tsv"))


def _placed(found: Iterator[tuple[int, Any]], name: str) -> Iterator[tuple[RecordPlace, Any]]:
    before = 0
    for number, (line, value) in enumerate(found, 1):
        yield RecordPlace(name, "line", line, number if line == before else 0), value
        before = line


def _unwrapped(found: Iterator[tuple[RecordPlace, Any]], name: str, field: str | None) -> Iterator[tuple[RecordPlace, Any]]:
    """Yield records; where all there is is an object around a list of them, those in the list."""
    first = list(islice(found, 2))
    inner = _inner(first[0], field) if len(first) == 1 else None
    if inner is not None:
        yield from ((RecordPlace(name, "record", number), value) for number, value in enumerate(inner, 1))
    else:
        yield from chain(first, found)


def _inner(only: tuple[RecordPlace, Any], field: str | None) -> list[Any] | None:
    """Return the list of records that an object stands around; ``None`` where it is a record itself, or holds no list.

    A list of strings is one of texts only where it is called so: a record may well hold its tokens or labels in one.

    Raises:
        InputError: which of its lists is meant, or whether one is, is not clear; its fields are named.
    """
    place, value = only
    if not isinstance(value, dict) or (field is not None and field in value):
        return None
    lists = {name: each for name, each in value.items() if isinstance(each, list) and each}
    objects = {name: each for name, each in lists.items() if isinstance(each[0], dict)}
    if field is None:
        return next(iter(objects.values())) if len(objects) == 1 else None
    likely = objects or {name: each for name, each in lists.items() if isinstance(each[0], str)}
    if len(likely) == 1:
        ((name, found),) = likely.items()
        called = name.lower() in _AROUND | {f"{field}s".lower()}
        if not _others(value, name, strictly=not (called and objects)) and (called or objects):
            return found
    if not lists and not any(isinstance(each, dict) for each in value.values()):
        return None
    some = ", ".join(list(value)[:_SHOWN]) + (", …" if len(value) > _SHOWN else "")
    raise InputError(
        f"Line {place.number} of {place.source} has no field {field!r}, and which of its fields holds the records is unclear: "
        f"fields are {some}: write the list of them alone, as [{{…}}, {{…}}], or name another field if this is a record."
    )


def _others(value: dict[str, Any], name: str, strictly: bool) -> bool:
    """Say whether a record may be meant, not the list of that name: there is text beside it; strictly, any list too."""
    rest = [each for other, each in value.items() if other != name and each and other.lower() not in _ABOUT]
    if strictly:
        return any(isinstance(each, str | list | dict) for each in rest)
    return any(isinstance(each, str) and " " in each.strip() for each in rest)


def _check_characters(place: RecordPlace, value: Any) -> None:
    """Refuse half of a surrogate pair: JSON can write it, but it is no character."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("ascii", "backslashreplace").decode()
        raise InputError(f"{place} holds {half}, half of a character: write the whole one, or leave it out.") from error

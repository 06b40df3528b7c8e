"""Texts of the user's, one by one: lines of a file, or a field of records; what has none is left out and counted."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any, Literal, get_args

from inversionview.core.errors import InputError, LeftOut, SettingError
from inversionview.core.progress import Progress
from inversionview.records.reading import Record, RecordPlace, hub, is_saved, located, named_form, read
from inversionview.records.streams import PACKINGS
from inversionview.records.syntax import are_rows

FIELD = "text"
Per = Literal["line", "paragraph", "file"]
"""What is one text in a text file."""
_ABOUT_OTHERS = re.compile(r"(?i)(readme|licen[cs]e|notice|citation)(\.\w+)?|dataset_infos?\.json|_SUCCESS|thumbs\.db")
"""Files of a folder that tell of the others."""
_SHOWN = 10
"""So many fields, or files, are named."""
_KINDS = {
    type(None): "null", str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list",
    dict: "an object", bytes: "bytes",
}  # fmt: skip


class Text(str):
    """A text that knows where it stands."""

    __slots__ = ("place",)
    place: RecordPlace

    @classmethod
    def at(cls, text: str, place: RecordPlace) -> Text:
        """Return a text that stands there."""
        made = cls(text)
        made.place = place
        return made


def read_texts(
    source: str | Path, field: str | None = None, *, per: Per = "line", report: Progress | None = None
) -> Iterator[Text]:
    """Yield the texts of a file, a folder or a data set on the hub.

    Args:
        source: a text file, one text a line; JSON, CSV, Parquet or Arrow, packed or not; a folder that ``datasets`` saved, or
            of files, all of which are read; or the name of a data set on the hub, of which the train split is read.
        field: where a record has its text, by default ``text``.
        per: what is one text in a text file: a ``line``, a ``paragraph`` (lines between empty ones) or the whole ``file``.
        report: called with the share of the source that has been read, and how many texts that gave.

    Warns:
        LeftOut: records have no text, or an empty one; once, at the end. Files of a folder are passed over: hidden ones, and
            those that tell of the others, such as README and LICENSE.

    Raises:
        InputError: the source is missing, damaged or of another form, or a record has no such field, or no text there.
    """
    count = nulls = empty = number = 0
    for number, record in enumerate(_grouped(_records(str(source), field), per), 1):
        if report is not None and number % 1000 == 1:
            report(record.share, f"{count:,} texts")
        if field is not None and isinstance(record.value, str):
            raise InputError(f"{record.place.source} holds texts, not records with a field {field!r}: leave out the field.")
        text = _text(record, field or FIELD, "give --field {likely}")
        if text is None:
            nulls += 1
        elif text and not text.isspace():
            count += 1
            yield Text.at(text, record.place)
        elif not isinstance(record.value, str):
            empty += 1
    if report is not None:
        report(1.0, f"{count:,} texts")
    for many, what in ((nulls, "no text"), (empty, "an empty text")):
        if many:
            left_out(f"{many:,} of {number:,} records of {source} {'has' if many == 1 else 'have'} {what}: left out.")


def read_words(path: Path, field: str) -> list[Text]:
    """Return the words of a file: one a line, or strings or a field of records; without the space around them.

    Raises:
        InputError: the file cannot be read, or a record has no such field, or no word there.
    """
    found = []
    for record in read(path, bare="text", field=field):
        word = (_text(record, field, "call the one with the words {field}") or "").strip()
        if word:
            found.append(Text.at(word, record.place))
    if named_form(path) in (None, "text") and are_rows(found):
        raise InputError(
            f"{path} holds rows of a table, such as {found[0]!r}, not one {field} a line: write one a line, or name the file "
            f".csv and begin it with the names of its columns, one of them {field}."
        )
    return found


def left_out(sentence: str) -> None:
    """Tell what was left out of what was asked for: a warning, which the command line prints as it is."""
    warnings.warn(sentence, LeftOut, stacklevel=2)


def _records(source: str, field: str | None) -> Iterator[Record]:
    path = located(source)
    if path.exists() and (not path.is_dir() or is_saved(path)):
        yield from read(source, field=field or FIELD, bare="text")
    elif path.is_dir():
        yield from _folder(path, field or FIELD)
    elif named_form(source) is not None or source.startswith((".", "/", "~")):
        raise InputError(
            f"There is no file {source}: give a text, JSON, CSV or Parquet file, a folder of such files or one that "
            "`datasets` saved, or the name of a dataset on the hub."
        )
    else:
        yield from hub(source, field or FIELD)


def check_per(per: str) -> Per:
    """Return ``per`` if it is known.

    Raises:
        SettingError: it is not.
    """
    for known in get_args(Per):
        if per == known:
            return known
    raise SettingError(f"There is no --per {per!r}: choose line, paragraph or file.")


def files_of(source: str) -> list[str]:
    """Return what a source names: itself, or, where it is a pattern of paths, all that match it, in order.

    Raises:
        InputError: nothing matches.
    """
    path = located(source)
    if path.exists() or not set(source) & set("*?["):
        return [source]
    found = sorted(glob(str(path), recursive=True))
    if not found:
        raise InputError(f"No file matches {source}: name files that are there, a folder, or a dataset on the hub.")
    return found


def sized(source: str) -> int:
    """Return how many bytes of text a source holds, about: packed files as four times as many; 0 of the hub."""
    path = located(source)
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path] if path.is_file() else []
    return sum(each.stat().st_size * (4 if each.suffix in PACKINGS else 1) for each in files)


def _grouped(records: Iterator[Record], per: Per) -> Iterator[Record]:
    """Yield records, the lines of text files put together to paragraphs or whole files."""
    if per == "line":
        yield from records
        return
    held: list[Record] = []
    for record in records:
        line = isinstance(record.value, str) and named_form(record.place.source) in (None, "text")
        apart = not line or record.place.source != held[0].place.source if held else False
        if held and (apart or (per == "paragraph" and not record.value.strip())):
            yield held[0]._replace(value="\n".join(each.value for each in held), share=held[-1].share)
            held = []
        if not line:
            yield record
        elif held or record.value.strip():
            held.append(record)
    if held:
        yield held[0]._replace(value="\n".join(each.value for each in held), share=held[-1].share)


def _folder(path: Path, field: str) -> Iterator[Record]:
    """Yield the records of all files in a folder and the folders in it, in the order of their names."""
    files, others = _files(path)
    if not files:
        raise InputError(f"{path} cannot be read: it is a folder, and holds no file with texts.")
    if others:
        some = ", ".join(others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
        left_out(f"{len(others)} of the files in {path} {'is' if len(others) == 1 else 'are'} not read as texts: {some}.")
    for number, file in enumerate(files):
        for record in read(file, field=field, bare="text"):
            yield record._replace(share=(number + record.share) / len(files))


def _files(path: Path) -> tuple[list[Path], list[str]]:
    """Return the files and saved data sets in a folder, and the names of what is passed over."""
    files: list[Path] = []
    others: list[str] = []
    try:
        for each in sorted(path.iterdir(), key=lambda each: each.name):
            if each.name.startswith(".") or _ABOUT_OTHERS.fullmatch(each.name):
                others.append(each.name)
            elif each.is_dir() and not is_saved(each):
                inner = _files(each)
                files += inner[0]
                others += [f"{each.name}/{name}" for name in inner[1]]
            else:
                files.append(each)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return files, others


def _text(record: Record, field: str, way_out: str) -> str | None:
    """Return the text of a record; ``None`` where it has none."""
    place, value, _ = record
    if isinstance(value, dict):
        if field not in value:
            raise InputError(_lacks(place, field, value, way_out))
        value = value[field]
        where = f"{field!r} of {place.within} of {place.source}"
    else:
        where = f"{place.within.capitalize()} of {place.source}"
    if value is None or isinstance(value, str):
        return value
    raise InputError(f"{where} is {kind_of(value)}, not a text: give texts, or name another field.")


def _lacks(place: RecordPlace, field: str, record: dict[str, Any], way_out: str) -> str:
    """Say which fields there are, and that the one with the longest text may be meant."""
    where = f"{place.within.capitalize()} of {place.source} has no field {field!r}"
    if not record:
        return f"{where}: it is empty."
    some = ", ".join(map(str, list(record)[:_SHOWN])) + (", …" if len(record) > _SHOWN else "")
    likely = max(record, key=lambda name: len(record[name]) if isinstance(record[name], str) else -1)
    return f"{where}: fields are {some}: {way_out.format(field=field, likely=likely)}."


def kind_of(value: Any) -> str:
    """Return what a value is, in words."""
    if isinstance(value, float) and value != value:
        return "NaN"
    return _KINDS.get(type(value), f"of type {type(value).__name__}")

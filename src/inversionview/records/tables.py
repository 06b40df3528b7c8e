"""Rows of tables, each a mapping from column to value: CSV and TSV, Parquet, Arrow, data sets that were saved to disk."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from inversionview.core.errors import InputError
from inversionview.records.cells import LOOKED_AT, separated, separator, tab_separated
from inversionview.records.streams import Stream

Rows = list[dict[str, Any]]
_SAID = re.compile(r'"?sep=([^"\w\s]|\t)"?')
"""How Excel is told what separates cells."""
_INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls the column of its index."""
_ROWS = 1000
"""So many rows are made at once."""
_LONGEST = 2**31 - 1
"""Characters of a CSV field: the ``csv`` module stops at 131,072 where nobody says otherwise."""
PARQUET, ARROW, ARROW_STREAM = b"PAR1\x15", b"ARROW1\x00", b"\xff\xff\xff\xff"
"""What files of these forms begin with."""


def comma_separated(stream: Stream, tabs: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row with the line where it begins; the first row names the columns, without the space around the names.

    Args:
        stream: of the file; what separates its cells is what its first rows split alike at: commas, semicolons or tabs. A
            first line such as ``sep=;`` says it.
        tabs: tabs do; a quotation mark at the head of a cell is then one of its characters where it quotes none.

    Raises:
        InputError: a row has more or fewer fields than the first, or a quotation does not end.
    """
    csv.field_size_limit(_LONGEST)
    lines = stream.whole_lines()
    first = next(lines, "")
    said = _SAID.fullmatch(first.rstrip("\r\n"))
    some = [*([] if said else [first]), *islice(lines, LOOKED_AT)]
    every, begin = chain(some, lines), 1 + bool(said)
    mark = said[1] if said else "\t" if tabs else separator(some)
    rows = tab_separated(every) if mark == "\t" else separated(every, mark, some)
    header: list[str] | None = None
    line = begin
    try:
        for read, row in rows:
            if row and header is None:
                header = [name.strip() for name in row]
                if double := next((name for name in header if header.count(name) > 1), None):
                    raise InputError(f"{stream.path}, line {line} names the column {double!r} twice: rename one.")
            elif row and header is not None:
                if len(row) != len(header):
                    raise InputError(
                        f"{stream.path}, line {line} has {len(row)} of the first row's {len(header)} fields: quote those "
                        f"that hold {mark!r} or quotation marks."
                    )
                yield line, dict(zip(header, row, strict=True))
            line = begin + read
    except csv.Error as error:
        why = "a carriage return stands in a field without quotes" if str(error).startswith("new-line") else error
        raise InputError(f"{stream.path}, line {line} is not CSV ({why}).") from error


def columnar(stream: Stream, column: str | None = None) -> Iterator[tuple[float, Rows]]:
    """Yield the rows of a Parquet or Arrow file, some at once, with the share of them that this makes.

    Args:
        stream: of the file.
        column: the only one to read, if there is one of that name.

    Raises:
        InputError: the file is damaged.
    """
    import pyarrow as pa

    with _readable(stream.path):
        whole = pa.BufferReader(b"".join(stream.blocks())) if stream.packed else pa.memory_map(str(stream.path))
        for share, batch in _batches(whole, stream.head, column):
            for start in range(0, batch.num_rows, _ROWS):
                yield share, _rows(batch.slice(start, _ROWS), column)


def _batches(file: Any, head: bytes, column: str | None) -> Iterator[tuple[float, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if head.startswith(PARQUET):
        table = pq.ParquetFile(file)
        only = [column] if column in table.schema_arrow.names else None
        for number, batch in enumerate(table.iter_batches(_ROWS, columns=only)):
            yield min(1.0, number * _ROWS / table.metadata.num_rows), batch
    elif head.startswith(ARROW):
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield number / reader.num_record_batches, reader.get_batch(number)
    else:
        yield from ((0.0, batch) for batch in pa.ipc.open_stream(file))


def saved(folder: Path, column: str | None = None) -> Iterator[tuple[float, Rows]]:
    """Yield the rows of a data set that ``datasets`` saved in a folder; of several splits ``train``, or the only one.

    Raises:
        InputError: it is damaged, or has no split of that name.
    """
    import datasets

    with _readable(folder):
        chosen = _split(folder)
        if json.loads((chosen / "state.json").read_text(encoding="utf-8"))["_data_files"] == []:
            return  # it has no rows, which `load_from_disk` fails of
        found = datasets.load_from_disk(str(chosen))
        if not len(found):
            return
        done = 0
        for table in found.with_format("arrow").iter(batch_size=_ROWS):
            yield done / len(found), _rows(table, column)
            done += table.num_rows


def _split(folder: Path) -> Path:
    """Return the folder of a data set, or of the one of its splits that is read."""
    index = folder / "dataset_dict.json"
    if not index.is_file():
        return folder
    splits = json.loads(index.read_text(encoding="utf-8"))["splits"]
    name = "train" if "train" in splits else splits[0] if len(splits) == 1 else None
    if name is None:
        raise InputError(f"{folder} has the splits {', '.join(splits)}: give one of them, as in {folder / splits[0]}.")
    return folder / name


def is_saved(folder: Path) -> bool:
    """Say whether ``datasets`` saved a data set, or one of several splits, in this folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _rows(table: Any, column: str | None) -> Rows:
    names = [column] if column in table.schema.names else [name for name in table.schema.names if not _INDEX.fullmatch(name)]
    table = table.select(names)
    table.validate(full=True)  # a damaged file must not be followed into memory that is not its own
    return list(table.to_pylist())


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError, IndexError) as error:
        said = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(f"{path} cannot be read ({said}): it is damaged, or of a form that is not known here.") from error

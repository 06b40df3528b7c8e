"""Columns of lists of numbers, a vector in each row: Parquet, Arrow and Feather."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.core.errors import InputError
from inversionview.core.memory import check_bytes
from inversionview.records.vectors.found import Found, chosen, damaged, named_hook, named_model, place

COLUMN = "activation_vector"
"""Where no column is named."""


def read_columns(path: Path, key: str | None, row: int | None) -> Found:
    """Return the vectors of a column, and of each row the other columns.

    Raises:
        InputError: the file is damaged, there is no such column of lists, no such row, or its lists differ in length.
        SettingError: it needs more memory than can be had.
    """
    import pyarrow as pa

    try:
        table, key = _table(path, key, row)
        table.validate(full=True)  # a damaged file must not be followed into memory that is not its own
        values = _numbers(table[key], f"{path}:{key}", row)
        told = tuple(table.drop_columns([key]).to_pylist())
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise damaged(path, error, "Parquet or Arrow") from error
    return Found(values[0] if row is not None else values, key, named_hook(told), named_model(told), told)


def _table(path: Path, key: str | None, row: int | None) -> tuple[Any, str]:
    """Return the rows that are asked for, and which column holds the vectors; scalars and the column alone are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.memory_map(str(path)) as source:
        head = source.read(6)
        source.seek(0)
        if head[:4] == b"PAR1":
            file = pq.ParquetFile(source)
            key, kept = _columns(path, file.schema_arrow, key)
            sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            if row is not None:
                row = place(sum(sizes), row, f"{path}:{key}")
                group = next(n for n in range(len(sizes)) if row < sum(sizes[: n + 1]))
                return file.read_row_group(group, columns=kept).slice(row - sum(sizes[:group]), 1), key
            check_bytes(2 * sum(file.metadata.row_group(n).total_byte_size for n in range(len(sizes))), f"{path}")
            return file.read(columns=kept), key
        table = (pa.ipc.open_file(source) if head == b"ARROW1" else pa.ipc.open_stream(source)).read_all()
        key, kept = _columns(path, table.schema, key)
        table = table.select(kept)
        return table if row is None else table.slice(place(len(table), row, f"{path}:{key}"), 1), key


def _columns(path: Path, schema: Any, key: str | None) -> tuple[str, list[str]]:
    """Return the column with the vectors, and this one and all that are no lists."""
    lists = {name: name for name in schema.names if _is_list(schema.field(name).type)}
    if key is not None and key in schema.names and key not in lists:
        raise InputError(f"The column {key!r} of {path} holds {schema.field(key).type}, no lists of numbers: name another.")
    key, _ = chosen(path, "column of lists", lists, COLUMN if key is None and COLUMN in lists else key)
    return key, [name for name in schema.names if name == key or name not in lists]


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _numbers(column: Any, what: str, first: int | None) -> npt.NDArray[np.float32]:
    """Return the lists of a column as rows.

    Raises:
        InputError: one is missing or of another length, or they do not hold numbers.
    """
    import pyarrow as pa

    inner = column.type.value_type
    if not (pa.types.is_floating(inner) or pa.types.is_integer(inner)):
        raise InputError(f"The lists of {what} hold {inner}, not numbers: name a column of lists of numbers.")
    column = column.combine_chunks()
    if not len(column):
        raise InputError(f"{what} has no rows: give another file.")
    lengths = np.asarray(pa.compute.list_value_length(column).fill_null(-1))
    odd = np.flatnonzero((lengths != lengths[0]) | (lengths < 1))
    if len(odd):
        number, length = int(odd[0]) + (first or 0), int(lengths[odd[0]])
        said = "is missing" if length < 0 else "is empty" if not length else f"has {length} numbers, row 0 has {lengths[0]}"
        raise InputError(f"The vector in row {number} of {what} {said}: give rows of one width, or take one by [i].")
    flat = column.flatten().cast(pa.float32(), safe=False).fill_null(float("nan"))
    return np.asarray(flat, dtype=np.float32).reshape(len(column), -1)

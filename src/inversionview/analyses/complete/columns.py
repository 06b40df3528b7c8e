"""Completeness checks as a file of columns: D and log p of every input, for figures and statistics of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inversionview.analyses.complete.result import Completeness
from inversionview.core.errors import SettingError
from inversionview.core.storage import check_writable, replacing

FORMATS = (".npz", ".parquet")


def check_table(path: Path | None) -> Path | None:
    """Return ``path`` if a table can be written there.

    Raises:
        SettingError: its extension is none of npz, parquet.
        StorageError: nothing can be written there.
    """
    if path is None:
        return None
    if path.suffix.lower() not in FORMATS:
        raise SettingError(f"A table ends in {' or '.join(FORMATS)}, but {path.name!r} does not.")
    return check_writable(path)


def columns(results: Sequence[Completeness]) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
    """Return the inputs' row numbers, and for query i ``query{i}_distance`` and ``query{i}_log_p{j}`` under variant j."""
    table: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]] = {"row": results[0].rows}
    for i, result in enumerate(results):
        table[f"query{i}_distance"] = result.distance
        table |= {f"query{i}_log_p{j}": scores.log_p for j, scores in enumerate(result.variants)}
    return table


def save_table(results: Sequence[Completeness], path: Path) -> None:
    """Write the columns to ``path``.

    Raises:
        StorageError: it cannot be written.
    """
    with replacing(path) as temporary:
        if path.suffix.lower() == ".npz":
            with temporary.open("wb") as file:
                np.savez_compressed(file, **columns(results))  # type: ignore[arg-type]
        else:
            from pyarrow import parquet, table

            parquet.write_table(table(columns(results)), temporary)

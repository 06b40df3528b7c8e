"""Write what is made to files, whole or not at all: PNG and SVG by matplotlib, pages, text, rows and columns."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inversionview.core.errors import SettingError
from inversionview.core.printable import cell
from inversionview.core.storage import check_writable, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TABLE_FORMATS = (".csv", ".parquet", ".html", ".png", ".svg")
FIGURE_FORMATS = (".png", ".svg", ".html")
COLUMN_FORMATS = (".npz", ".parquet")
_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "svg.fonttype": "path", "svg.hashsalt": "inversionview",
}  # fmt: skip


def check_formats(paths: Sequence[Path], known: Sequence[str]) -> None:
    """Check that files can be written: before work is done, not after.

    Raises:
        SettingError: a path ends in none of the ``known`` formats, such as ``.png``.
        StorageError: nothing can be written there.
    """
    for path in paths:
        if path.suffix.lower() not in known:
            raise SettingError(f"{path} cannot be written: name a file that ends in {', '.join(known)}.")
        check_writable(path)


def figure_paths(path: Path | None, name: str) -> list[Path]:
    """Return the figures to write: a file, or all formats in a folder, which is one that is there or has no extension.

    Raises:
        SettingError: the extension is unknown.
        StorageError: nothing can be written there; better said before the work than after it.
    """
    if path is None:
        return []
    folder = path.is_dir() or not path.suffix
    paths = [path / f"{name}{suffix}" for suffix in FIGURE_FORMATS] if folder else [path]
    check_formats(paths, FIGURE_FORMATS)
    return paths


def write_figure(draw: Callable[[], Figure], path: Path, dpi: int = 150) -> None:
    """Draw a matplotlib figure in the house style, and write it as PNG or SVG."""
    import matplotlib

    matplotlib.use("Agg")
    kind = path.suffix.lower()[1:]
    with matplotlib.rc_context(_STYLE), replacing(path) as temporary:
        draw().savefig(temporary, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)


def write_page(page: Any, path: Path) -> None:
    """Write a page, HTML or a plotly figure, as one file; a figure's holds plotly itself and needs no network."""
    with replacing(path) as temporary:
        text = page if isinstance(page, str) else page.to_html(include_plotlyjs=True, full_html=True, div_id="figure")
        temporary.write_text(text, encoding="utf-8")


def write_document(text: str, path: Path) -> None:
    """Write text in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_records(records: list[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV or Parquet; text in a CSV is a ``cell``, no formula to a spreadsheet, in quotes whatever separates."""
    import pandas

    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            pandas.DataFrame(records).to_parquet(temporary, index=False)
        else:
            safe = [{cell(name): _safe(value) for name, value in record.items()} for record in records]
            pandas.DataFrame(safe).to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC)


def write_columns(columns: Mapping[str, npt.NDArray[Any]], path: Path) -> None:
    """Write arrays, each by its name, as compressed NPZ or as Parquet."""
    with replacing(path) as temporary:
        if path.suffix.lower() == ".npz":
            with temporary.open("wb") as file:
                np.savez_compressed(file, **columns)  # type: ignore[arg-type]
        else:
            from pyarrow import parquet, table

            parquet.write_table(table(dict(columns)), temporary)


def _safe(value: Any) -> Any:
    return cell(value) if isinstance(value, str) else value

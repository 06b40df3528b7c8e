"""Write figures and tables to files, whole or not at all: PNG and SVG by matplotlib, pages by plotly, CSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inversionview.core.errors import SettingError
from inversionview.core.printable import cell
from inversionview.core.storage import check_writable, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TABLE_FORMATS = (".csv", ".parquet", ".html", ".png", ".svg")
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


def write_figure(draw: Callable[[], Figure], path: Path, dpi: int = 150) -> None:
    """Draw a matplotlib figure in the house style, and write it as PNG or SVG."""
    import matplotlib

    matplotlib.use("Agg")
    kind = path.suffix.lower()[1:]
    with matplotlib.rc_context(_STYLE), replacing(path) as temporary:
        draw().savefig(temporary, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)


def write_page(figure: Any, path: Path) -> None:
    """Write a plotly figure as one HTML file that holds plotly itself and needs no network."""
    with replacing(path) as temporary:
        temporary.write_text(figure.to_html(include_plotlyjs=True, full_html=True, div_id="figure"), encoding="utf-8")


def write_records(records: list[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV or Parquet; text in a CSV is a ``cell``, no formula to a spreadsheet, in quotes whatever separates."""
    import pandas

    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            pandas.DataFrame(records).to_parquet(temporary, index=False)
        else:
            safe = [{cell(name): _safe(value) for name, value in record.items()} for record in records]
            pandas.DataFrame(safe).to_csv(temporary, index=False, quoting=csv.QUOTE_NONNUMERIC)


def _safe(value: Any) -> Any:
    return cell(value) if isinstance(value, str) else value

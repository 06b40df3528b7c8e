"""Write analyses to files: tables as CSV and Parquet, figures as PNG, SVG and self-contained HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inversionview.analysis.features import Curve, FeatureTable
from inversionview.errors import SettingError
from inversionview.storage import replacing
from inversionview.views import maps


def check_formats(paths: Sequence[Path], known: Sequence[str]) -> None:
    """Raise ``SettingError`` unless every path ends in one of the known formats: before work is done, not after."""
    for path in paths:
        if path.suffix.lower().removeprefix(".") not in known:
            raise SettingError(f"{path} cannot be written: name a file that ends in .{', .'.join(known)}.")


def write_features(table: FeatureTable, path: Path) -> None:
    """Write a feature table in the format that ``path`` ends in.

    Raises:
        SettingError: the format is none.
        StorageError: the file cannot be written.
    """
    check_formats([path], ("csv", "parquet", "html", "png", "svg"))
    if path.suffix.lower() in (".csv", ".parquet"):
        write_records(table.records(), path)
    elif path.suffix.lower() == ".html":
        write_page(maps.feature_page(table), path)
    else:
        write_figure(maps.feature_figure(table), path)


def write_curves(curves: Sequence[Curve], path: Path) -> None:
    """Write bit curves in the format that ``path`` ends in; raises as ``write_features``."""
    check_formats([path], ("csv", "html", "png", "svg"))
    if path.suffix.lower() == ".csv":
        rows = [
            {"site": c.site, "position": c.position, "epsilon": e, "bits": m.value, "bits_low": m.low, "bits_high": m.high}
            for c in curves
            for e, m in zip(c.epsilons, c.bits, strict=True)
        ]
        write_records(rows, path)
    elif path.suffix.lower() == ".html":
        write_page(maps.curve_page(curves), path)
    else:
        write_figure(maps.curve_figure(curves), path)


def write_records(records: list[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV or Parquet."""
    import pandas

    frame = pandas.DataFrame(records)
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, index=False)


def write_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG or SVG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."), dpi=180)


def write_page(figure: Any, path: Path) -> None:
    """Write a plotly figure as one HTML file that holds plotly itself."""
    with replacing(path) as temporary:
        figure.write_html(temporary, include_plotlyjs=True)

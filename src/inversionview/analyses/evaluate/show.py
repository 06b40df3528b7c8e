"""The good ratio as a table."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.evaluate.result import GoodRatio
from inversionview.core.scope import epsilon_text


def table(result: GoodRatio) -> Group:
    """Return the ratio of every site, and their mean."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("site")
    grid.add_column("good ratio", justify="right")
    for name, ratio in result.sites.items():
        grid.add_row(name, f"{ratio:.3f}")
    grid.add_row("mean", f"{result.mean:.3f}", style="bold")
    within = epsilon_text(result.epsilon, result.distance)
    note = f"{within}, temperature 1, {result.queries} queries a site, {result.samples} samples each"
    return Group(grid, Text(note, style="dim"))

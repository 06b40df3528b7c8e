"""Bits by feature: a table; figure and page are in ``figures``."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.inform.figures import figure, page
from inversionview.analyses.inform.result import Cell, FeatureTable, Total
from inversionview.analyses.threshold.show import BOUNDED
from inversionview.core.scope import epsilon_text
from inversionview.preimage.show import at_least

__all__ = ["figure", "page", "table"]
TELLING = 0.05
"""Features of which a site knows a smaller share are left out of the terminal's table."""


def table(result: FeatureTable, most: int = 5) -> Group:
    """Return for each position the sites with their bits and the features they tell most about."""
    parts: list[Table | Text] = []
    for position in dict.fromkeys(t.position for t in result.totals):
        grid = Table(box=None, pad_edge=False, header_style="dim")
        grid.add_column("site", no_wrap=True)
        grid.add_column("bits", justify="right", no_wrap=True)
        grid.add_column("tells most about: bits (share of the feature's entropy)")
        for total in (t for t in result.totals if t.position == position):
            cells = [c for c in result.cells if (c.site, c.position) == (total.site, position) and c.share >= TELLING]
            cells.sort(key=lambda c: (-round(c.share, 2), -c.bits.value))
            grid.add_row(total.site, _total(total), Text(", ").join(map(_told, cells[:most])))
        parts += [Text(f"at {position}", style="bold"), grid, Text()]
    where = "at the query's position" if result.fixed else "the least over the bank's positions"
    queries = max(t.queries for t in result.totals)
    which = f" where {', '.join(result.where)}" if result.where else ""
    note = f"{epsilon_text(result.epsilon, result.measure)}, {where}; {queries} queries over {result.inputs:,} inputs{which}; "
    parts.append(Text(f"{note}{BOUNDED}; the features are the others', at most their entropy.", style="dim"))
    return Group(*parts)


def _total(total: Total) -> str:
    bits = total.bits
    return at_least(total.least) if total.bounded else f"{bits.value:.2f} [{bits.low:.2f}, {bits.high:.2f}]"


def _told(cell: Cell) -> Text:
    strong = "bold" if cell.share >= 0.9 else "" if cell.share >= 0.4 else "dim"
    told, share = min(cell.bits.value, cell.entropy), min(cell.share, 1.0)
    return Text(f"{cell.feature} {told:.2f} ({share:.0%})", style=strong)

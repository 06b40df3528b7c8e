"""Tables of analyses in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analysis.features import Cell, Curve, FeatureTable
from inversionview.analysis.truth import SiteTruth
from inversionview.information import Mean

TELLING = 0.05
"""Features of which a site knows a smaller share are left out of the terminal's table."""


def feature_table(table: FeatureTable, most: int = 5) -> Group:
    """Return for each position the sites with their bits and the features they tell most about."""
    parts: list[Table | Text] = []
    for position in dict.fromkeys(t.position for t in table.totals):
        grid = Table(box=None, pad_edge=False, header_style="dim")
        grid.add_column("site", no_wrap=True)
        grid.add_column("bits", justify="right", no_wrap=True)
        grid.add_column("tells most about: bits (share of the feature's entropy)")
        for total in (t for t in table.totals if t.position == position):
            cells = [c for c in table.cells if (c.site, c.position) == (total.site, position) and c.share >= TELLING]
            cells.sort(key=lambda c: (-round(c.share, 2), -c.bits.value))
            grid.add_row(total.site, _interval(total.bits, total.found), Text(", ").join(map(_told, cells[:most])))
        parts += [Text(f"at {position}", style="bold"), grid, Text()]
    where = "at the query's position" if table.fixed else "the least over the bank's positions"
    queries = max(t.queries for t in table.totals)
    note = f"ε = {table.epsilon:g}, {table.distance}, {where}; {queries} queries over {table.inputs:,} inputs; 95 % intervals; "
    parts.append(Text(note + "≥: some queries had no other input inside ε; the features are the others'.", style="dim"))
    return Group(*parts)


def _interval(bits: Mean, found: float) -> str:
    return f"{'≥' if found < 1 else ''}{bits.value:.2f} [{bits.low:.2f}, {bits.high:.2f}]"


def _told(cell: Cell) -> Text:
    strong = "bold" if cell.share >= 0.9 else "" if cell.share >= 0.4 else "dim"
    return Text(f"{cell.feature} {cell.bits.value:.2f} ({cell.share:.0%})", style=strong)


def curve_table(curves: Sequence[Curve]) -> Table:
    """Return mean bits of every site and position, a column for each ε."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("at")
    grid.add_column("site")
    for epsilon in curves[0].epsilons:
        grid.add_column(f"ε {epsilon:g}", justify="right")
    for curve in curves:
        grid.add_row(curve.position, curve.site, *(f"{m.value:.2f} ±{(m.high - m.low) / 2:.2f}" for m in curve.bits))
    return grid


def truth_table(rows: Sequence[SiteTruth]) -> Group:
    """Return for each site how the decoder compares with exact preimages; the features that differ most by name."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("site", "good ratio", "recall", "compared"):
        grid.add_column(title, justify="left" if title == "site" else "right", no_wrap=True)
    grid.add_column("KL from the exact preimage, bits (by chance alone)")
    for row in rows:
        apart = sorted(row.divergence, key=lambda name: row.floor[name] - row.divergence[name])
        said = ", ".join(f"{name} {row.divergence[name]:.2f} ({row.floor[name]:.2f})" for name in apart[:4])
        recall = "–" if row.recall is None else f"{row.recall:.3f}"
        ratio = f"{row.good_ratio:.3f}"
        grid.add_row(row.site, ratio, recall, f"{row.compared} of {row.queries}", said or "–")
    note = "recall: share of the exact preimage likelier than 95 % of the inputs outside; compared: queries with enough inputs "
    return Group(grid, Text(note + "inside ε.", style="dim"))

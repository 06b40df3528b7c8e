"""Truth as a table."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.truth.result import TruthTable
from inversionview.core.scope import epsilon_text


def table(rows: TruthTable) -> Group:
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
    note = (
        f"inside: {epsilon_text(rows.epsilon, rows.distance)}; recall: share of the exact preimage likelier than 95 % of the "
        "inputs outside; compared: queries with enough inputs inside."
    )
    return Group(grid, Text(note, style="dim"))

"""Agreement as a table."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.agree.result import Agreement
from inversionview.core.scope import epsilon_text
from inversionview.model.distances.said import measure_of
from inversionview.preimage.show import query_line


def table(result: Agreement) -> Group:
    """Return the total variation of every feature between every two sources; bold where it is more than chance."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("feature")
    pairs = list(dict.fromkeys((p.first, p.second) for p in result.pairs))
    for first, second in pairs:
        grid.add_column(f"{first} – {second}", justify="right")
    for feature in dict.fromkeys(p.feature for p in result.pairs):
        cells = [next(p for p in result.pairs if (p.first, p.second, p.feature) == (*pair, feature)) for pair in pairs]
        shown = (Text(f"{p.tv:.3f} ({p.chance:.3f})", style="bold" if p.tv > 2 * p.chance + 0.01 else "") for p in cells)
        grid.add_row(feature, *shown)
    drawn = ", ".join(f"{name} {count:,}" for name, count in result.draws.items())
    within = epsilon_text(result.epsilon, measure_of(result.distance, [result.query.site.short]))
    note = f"total variation of a feature inside {within}, in brackets what chance gives; inputs: {drawn}"
    mixed = "" if result.mixed is not False else "\nThe walk is not mixed: give it more --seconds."
    return Group(query_line(result.query), Text(), grid, Text(), Text(note + mixed, style="dim"))

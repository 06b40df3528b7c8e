"""Completeness checks: a table; figure and page are in ``figures``."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.complete.figures import figure, page, rank_text
from inversionview.analyses.complete.result import Completeness, CompletenessTable
from inversionview.core.results import several
from inversionview.core.scope import epsilon_text
from inversionview.drawing.tokens import marked

__all__ = ["figure", "page", "table"]


def table(result: Completeness | CompletenessTable) -> Group:
    """Return the numbers of completeness checks: one line for each query, recall and lowest rank under each variant."""
    results = several(result)
    grid = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    grid.add_column("query", no_wrap=True)
    grid.add_column("site", no_wrap=True)
    grid.add_column("inside", justify="right")
    for scores in results[0].variants:
        grid.add_column(f"recall, {scores.name}", justify="right")
        grid.add_column("lowest rank", justify="right", style="dim")
    for each in results:
        numbers = []
        for scores in each.variants:
            numbers.append("–" if scores.recall is None else f"{scores.recall:.3f}")
            numbers.append(rank_text(scores))
        q = each.query
        grid.add_row(marked(q.tokens, q.position), q.site.short, f"{int(each.inside.sum()):,}", *numbers)
    first = results[0]
    note = (
        f"{len(first.rows):,} inputs, inside: within {epsilon_text(first.epsilon, first.measure)}. recall: share of the inputs "
        "inside, the query left out, with log p above the 95th percentile of those outside. lowest rank: that of the least "
        "probable inside."
    )
    return Group(grid, Text(), Text(note, style="dim"))

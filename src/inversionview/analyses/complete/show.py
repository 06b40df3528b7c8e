"""Tables of analyses in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.complete.result import Completeness, Scores
from inversionview.core.scope import epsilon_text
from inversionview.show.tokens import marked


def completeness_table(results: Sequence[Completeness]) -> Group:
    """Return the numbers of completeness checks: one line for each query, recall and lowest rank under each variant."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("query", no_wrap=True)
    table.add_column("site", no_wrap=True)
    table.add_column("inside", justify="right")
    for scores in results[0].variants:
        table.add_column(f"recall, {scores.name}", justify="right")
        table.add_column("lowest rank", justify="right", style="dim")
    for result in results:
        numbers = []
        for scores in result.variants:
            numbers.append("–" if scores.recall is None else f"{scores.recall:.3f}")
            numbers.append(rank_text(scores))
        q = result.query
        table.add_row(marked(q.tokens, q.position), q.site.short, f"{int(result.inside.sum()):,}", *numbers)
    first = results[0]
    note = (
        f"{len(first.rows):,} inputs, inside: within {epsilon_text(first.epsilon, first.kind)}. recall: share of the inputs "
        "inside, the query left out, with log p above the 95th percentile of those outside. lowest rank: that of the least "
        "probable inside."
    )
    return Group(table, Text(), Text(note, style="dim"))


def rank_text(scores: Scores) -> str:
    """Return the rank of the least probable input inside ε as text; ``> 1,000`` where it is a lower bound."""
    if scores.lowest_rank is None:
        return "–"
    return f"{scores.lowest_rank:,}" if scores.rank_is_exact else f"> {scores.lowest_rank - 1:,}"

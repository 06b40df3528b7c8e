"""A census as a table; figure and page are in ``figures``."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.census.figures import figure, page
from inversionview.analyses.census.result import ENOUGH, Census
from inversionview.analyses.inform.result import Cell
from inversionview.core.scope import epsilon_text
from inversionview.model.distances.said import measure_of
from inversionview.model.sites.site import Site
from inversionview.preimage.show import at_least

__all__ = ["figure", "page", "table"]
_LISTED = 4
"""Sites of a kind that are named for a feature, those that tell most."""


def table(result: Census) -> Group:
    """Return for each feature the heads, and the streams and MLPs, that tell most about it."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("feature")
    grid.add_column("of", justify="right", no_wrap=True)
    grid.add_column("the token alone", justify="right")
    grid.add_column("heads that tell most: bits [95 %]")
    grid.add_column("streams and MLPs")
    alone = {cell.feature: cell for cell in result.alone if cell.site == "token"}
    every = max(total.queries for total in result.totals)
    for feature in result.features:
        cells = [cell for cell in result.known if cell.feature == feature]
        heads = [cell for cell in cells if Site.parse(cell.site).is_head]
        others = [cell for cell in cells if not Site.parse(cell.site).is_head]
        known = alone.get(feature)
        entropy = next(cell.entropy for cell in result.alone if cell.feature == feature)
        by_token = "" if known is None else f"{known.bits.value:.2f}"
        grid.add_row(feature, f"{entropy:.2f}", by_token, _best(heads, every), _best(others, every))
    return Group(grid, Text(), Text(_note(result), style="dim"))


def _best(cells: list[Cell], queries: int) -> Text:
    """Return those that tell most for sure, by the lower ends of their intervals, and of which queries this is known."""
    cells = sorted((cell for cell in cells if cell.bits.low > 0), key=lambda cell: -cell.bits.low)[:_LISTED]
    told = [(cell, "" if cell.queries == queries else f" ({cell.queries / queries:.0%})") for cell in cells]
    return Text(", ").join(Text(f"{c.site} {c.bits.value:.2f} [{c.bits.low:.2f}, {c.bits.high:.2f}]{of}") for c, of in told)


def _note(result: Census) -> str:
    least = min(result.totals, key=lambda total: total.least)
    most = max(result.totals, key=lambda total: total.least)
    queries = max(total.queries for total in result.totals)
    measure = measure_of(result.distance, (total.site for total in result.totals))
    searched = f"among {result.occurrences:,} occurrences in {result.windows:,} windows of {result.texts}"
    return (
        f"{epsilon_text(result.epsilon, measure)}; {queries} queries, each of another window, {searched}, at "
        f"{len(result.totals)} sites. In all they tell from {at_least(least.least)} bits ({least.site}) to "
        f"{at_least(most.least)} ({most.site}). Features: means over the queries that have another occurrence "
        f"inside ε, their share in (); where fewer than {ENOUGH} have, nothing is said. Listed is what is more than 0 for sure."
    )

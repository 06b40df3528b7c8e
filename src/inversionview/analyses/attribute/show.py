"""Direct logit attribution in a terminal: promoted and suppressed tokens of one input, and rates over many."""

from __future__ import annotations

from functools import singledispatch

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.attribute.result import Attribution, Attributions, Rate, RateTable
from inversionview.core.results import Result, several
from inversionview.drawing.tokens import marked, visible

_WIDTH = 24
"""Characters of a token that are shown."""


@singledispatch
def table(result: Result) -> Group:
    """Return attributions of one input, or rates over many, as a table."""
    raise TypeError(f"{type(result).__name__} is nothing that attribution finds.")


def _norm(folded: bool) -> str:
    if folded:
        return "The last norm is folded in, its scale frozen at each input."
    return "The last norm is not folded in: the activation times W_U alone."


@table.register
def _attribution_table(results: Attribution | Attributions) -> Group:
    """Return for each component the tokens it promotes and suppresses most, side by side."""
    every = several(results)
    first = every[0]
    line = Text.assemble(("query ", "dim"), marked(first.tokens, first.position), (f"   position {first.position}", "dim"))
    parts: list[Text | Table] = [line, Text()]
    for result in every:
        grid = Table(box=None, pad_edge=False, header_style="dim")
        for title in (f"{result.site} promotes", "logit", "suppresses", "logit"):
            grid.add_column(title, justify="right" if title == "logit" else "left", no_wrap=True)
        for up, down in zip(result.promoted, result.suppressed, strict=True):
            grid.add_row(_token(up.token), f"{up.logit:+.2f}", _token(down.token), f"{down.logit:+.2f}")
        parts += [grid, Text()]
    return Group(*parts, Text(_norm(first.folded), style="dim"))


def _token(token: str) -> Text:
    """Return a token's text with its spaces made visible, cut where it is long."""
    shown = visible(token).replace(" ", "␣") or "∅"
    return Text(shown if len(shown) <= _WIDTH else f"{shown[: _WIDTH - 1]}…")


@table.register
def _rate_table(rates: RateTable) -> Group:
    """Return a row for each component: how often the expected token is among the k, and how often first."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("site", "promoted", "and first", "suppressed", "and first"):
        grid.add_column(title, justify="left" if title == "site" else "right", no_wrap=True)
    for row in rates.rows:
        shown = (row.promoted, row.promoted_first, row.suppressed, row.suppressed_first)
        grid.add_row(row.site, *map(_rate, shown))
    note = (
        f"Rates at which the expected token is among the {rates.k} most promoted (suppressed) of {rates.tokens:,}, and is also "
        f"first of {rates.candidates:,} candidates; {rates.inputs:,} inputs, 95 % intervals.\n"
    )
    return Group(grid, Text(), Text(note + _norm(rates.folded), style="dim"))


def _rate(rate: Rate) -> Text:
    return Text(f"{rate.value:.0%} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]", style="bold" if rate.value >= 0.5 else "")

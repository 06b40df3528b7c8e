"""Latents at an activation as a table."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.latents.result import Fired, LatentRanking, Occurrence
from inversionview.drawing.contexts import context_line
from inversionview.preimage.show import at_least, query_line

_BEFORE, _AFTER = 20, 14
"""Cells of a context."""


def table(result: LatentRanking) -> Group:
    """Return the first latents, their bits, codes, how often they fire and on what, and how many are off."""
    some = result.items[: result.detailed]
    numbers = [(f"#{each.latent}", _bits(each), f"{each.code:.3g}", _share(each.fires, result.rows)) for each in some]
    titles = ("latent", "bits", "code", "fires on")
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for title, cells in zip(titles, zip(titles, *numbers, strict=True), strict=True):  # what is narrow is cut in the contexts
        grid.add_column(title, justify="right", no_wrap=True, min_width=max(map(len, cells)))
    grid.add_column("most on", no_wrap=True, max_width=24)
    grid.add_column("strongest", no_wrap=True)
    for each, cells in zip(some, numbers, strict=True):
        strongest = _context(each.strongest[0], result.query.ends) if each.strongest else Text("")
        grid.add_row(*cells, _feature(each), strongest)
    return Group(query_line(result.query), grid, Text(), Text(_note(result), style="dim"))


def _note(result: LatentRanking) -> str:
    """Return what was counted, and what is off."""
    more = len(result) - min(len(result), result.detailed)
    total = len(result) + result.off
    off = f"{result.off:,} are off"
    if result.dead:
        off += f", of which {result.dead:,} never fire in {result.rows:,} activations of the corpus"
    inputs = f"{result.items[0].bits.inputs:,} {result.unit}" if result.items else f"the {result.unit}"
    shown = f", {more:,} more than are shown" if more else ""
    return (
        f"{len(result):,} of {total:,} latents fire{shown}; {off}. Bits: how few of {inputs} have a code within "
        f"ε = {result.epsilon:g} of the query's, in units of the spread of the latent's codes; [95 % interval]. Most on: what "
        "sets those apart on which it fires most, and how many of these have it."
    )


def _bits(each: Fired) -> str:
    bits = each.bits
    told = at_least(bits.low) if bits.bounded else f"{bits.value:.2f}"
    return told + ("" if bits.high is None else f" [{bits.low:.2f}, {bits.high:.2f}]")


def _share(fires: int, rows: int) -> str:
    share = 100 * fires / rows
    return "none" if not fires else f"{share:.0f} %" if share >= 10 else f"{share:.2g} %"


def _feature(each: Fired) -> str:
    if each.feature is None:
        return ""
    return f"{each.feature.name} {each.feature.value} ({each.feature.share:.0%})"


def _context(found: Occurrence, ends: tuple[str, str]) -> Text:
    return context_line(found.tokens, found.position, _BEFORE, _AFTER, ends)

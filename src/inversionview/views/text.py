"""Preimages in a terminal: samples sorted by distance, a line at ε, tokens coloured by their effect."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from inversionview.preimage.completeness import Completeness, Scores
from inversionview.preimage.core import Preimage, Query, Sample
from inversionview.preimage.threshold import Threshold


def visible(token: str) -> str:
    """Return a token's text with line breaks and control characters made visible, so that no token can move the cursor."""
    return "".join({"\n": "⏎", "\t": "⇥"}.get(c, c if c.isprintable() else "·") for c in token)


def marked(tokens: Sequence[str], position: int, effect: Sequence[float] | None = None) -> Text:
    """Return tokens with the one at ``position`` in parentheses, coloured by effect: orange caused, blue suppressed."""
    text = Text()
    for i, token in enumerate(tokens):
        style = colour(effect[i]) if effect is not None else ""
        shown = visible(token)
        if i == position:
            text.append("(", style="bold")
            text.append(shown, style=f"{style} bold".strip())
            text.append(")", style="bold")
        else:
            text.append(shown, style=style)
    return text


def colour(effect: float) -> str:
    """Return the background for an effect in [−1, 1]; below 0.05 in size none."""
    strength = min(abs(effect), 1.0)
    if strength < 0.05:
        return ""
    target = (232, 119, 34) if effect > 0 else (58, 124, 196)
    # from a pale tint to the full colour, always under black letters
    share = 0.15 + 0.85 * strength
    red, green, blue = (round(255 + (channel - 255) * share) for channel in target)
    return f"#000000 on #{red:02x}{green:02x}{blue:02x}"


def query_line(query: Query) -> Text:
    """Return one line that names the query: its text with the position marked, and the site."""
    line = Text("query ", style="dim")
    line.append_text(marked(query.tokens, query.position))
    line.append(f"   site {query.site.short}, position {query.position}", style="dim")
    return line


def preimage_table(preimage: Preimage) -> Group:
    """Return the whole reading: query, samples inside, a line at ε, samples outside, and what was drawn."""
    repeated = any(sample.count > 1 for sample in preimage)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("D", justify="right", width=7)
    if repeated:
        table.add_column("drawn", justify="right", style="dim")
    table.add_column("sample")
    blank = [""] if repeated else []
    for sample in preimage.inside:
        _row(table, sample, repeated)
    line = Text(f"──────── ε, {preimage.distance} ────────", style="magenta")
    table.add_row(Text(f"{preimage.epsilon:.3f}", style="bold magenta"), *blank, line)
    for sample in preimage.outside:
        _row(table, sample, repeated)
    inside = len(preimage.inside)
    note = f"{inside} inside, {len(preimage) - inside} outside shown, of {preimage.candidates} candidates, each run through "
    legend = Text(note + "the model.\n", style="dim")
    legend.append_text(Text.assemble(("caused", colour(0.8)), " or ", ("suppressed", colour(-0.8)), " by the activation; "))
    legend.append("(…) where D is reached.")
    return Group(query_line(preimage.query), Text(), table, Text(), legend)


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
        f"{len(first.rows):,} inputs, inside: D ≤ {first.epsilon:g} ({first.kind}). recall: share of the inputs inside, the "
        "query left out, with log p above the 95th percentile of those outside. lowest rank: that of the least probable inside."
    )
    return Group(table, Text(), Text(note, style="dim"))


def rank_text(scores: Scores) -> str:
    """Return the rank of the least probable input inside ε as text; ``> 1,000`` where it is a lower bound."""
    if scores.lowest_rank is None:
        return "–"
    return f"{scores.lowest_rank:,}" if scores.rank_is_exact else f"> {scores.lowest_rank - 1:,}"


def threshold_table(study: Threshold) -> Group:
    """Return a threshold study: for every ε the inputs inside, the bits, and the share with each of the query's features."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for title in ("ε", "inside", "bits", *study.base):
        table.add_column(title, justify="right", no_wrap=True)
    for rung in study.rungs:
        bits = f"> {math.log2(max(len(study.distance), 1)):.1f}" if rung.bits is None else f"{rung.bits:.1f}"
        shares = [Text("–", style="dim") if rung.shares is None else _share(rung.shares[name]) for name in study.base]
        style = "bold magenta" if rung.marks else ""
        table.add_row(Text(f"{rung.epsilon:.3f}", style=style), f"{rung.inside:,}", bits, *shares)
    chance = [Text(f"{share:.2f}", style="dim") for share in study.base.values()]
    table.add_row(Text("all", style="dim"), f"{len(study.distance):,}", "0.0", *chance)
    table.add_row(Text("query", style="dim"), "", "", *(visible(str(value)) for value in study.values.values()))
    lines = [f"ε of the study: {study.epsilon:g}. Features: share of the inputs inside, the query left out, with its value."]
    if study.suggested is None:
        lines.append("No ε is suggested: the distances have no gap.")
    for i, gap in enumerate(study.gaps):
        what = f"Suggested: ε = {gap.epsilon:.3f}, in the widest gap" if i == 0 else f"Another gap is at {gap.epsilon:.3f}"
        lines.append(f"{what}: from {gap.start:.3f} to {gap.stop:.3f} the {gap.inside:,} inputs inside grow by 10 % at most.")
    return Group(query_line(study.query), Text(), table, Text(), *(Text(line, style="dim") for line in lines))


def _share(share: float) -> Text:
    return Text(f"{share:.2f}", style="bold green" if share > 0.995 else "")


def _row(table: Table, sample: Sample, repeated: bool) -> None:
    times = [f"{sample.count}×" if sample.count > 1 else ""] if repeated else []
    distance = Text(f"{sample.distance:.3f}", style="" if sample.inside else "dim")
    table.add_row(distance, *times, marked(sample.tokens, sample.position, sample.effect))


def as_text(preimage: Preimage, width: int = 100) -> str:
    """Return the reading as plain text."""
    file = io.StringIO()
    Console(file=file, width=width, color_system=None, force_jupyter=False).print(preimage_table(preimage))
    return file.getvalue()


def as_html(preimage: Preimage, width: int = 100) -> str:
    """Return the reading as an HTML fragment for a notebook; token text is escaped."""
    console = Console(file=io.StringIO(), width=width, record=True, force_jupyter=False, color_system="truecolor")
    console.print(preimage_table(preimage))
    style = "font-family:Menlo,'DejaVu Sans Mono',monospace;line-height:1.25;white-space:pre"
    code: Any = console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')
    return str(code)

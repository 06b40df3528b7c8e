"""Tables of analyses in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analysis.agreement import Agreement
from inversionview.analysis.features import Cell, FeatureTable, Total
from inversionview.analysis.places import Curve
from inversionview.analysis.truth import SiteTruth
from inversionview.information import least
from inversionview.preimage.completeness import Completeness, Scores
from inversionview.preimage.threshold import Threshold
from inversionview.scope import epsilon_text
from inversionview.views.text import at_least, marked, query_line, visible

_COLUMNS = 7
"""Features in the table of a threshold study."""
TELLING = 0.05
"""Features of which a site knows a smaller share are left out of the terminal's table."""


_BOUNDED = "95 % intervals; ≥: some queries had one other input inside ε or none and count as the least that this can mean"


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
            grid.add_row(total.site, _total(total), Text(", ").join(map(_told, cells[:most])))
        parts += [Text(f"at {position}", style="bold"), grid, Text()]
    where = "at the query's position" if table.fixed else "the least over the bank's positions"
    queries = max(t.queries for t in table.totals)
    which = f" where {', '.join(table.where)}" if table.where else ""
    note = f"{epsilon_text(table.epsilon, table.distance)}, {where}; {queries} queries over {table.inputs:,} inputs{which}; "
    parts.append(Text(f"{note}{_BOUNDED}; the features are the others', at most their entropy.", style="dim"))
    return Group(*parts)


def _total(total: Total) -> str:
    bits = total.bits
    return at_least(total.least) if total.bounded else f"{bits.value:.2f} [{bits.low:.2f}, {bits.high:.2f}]"


def _told(cell: Cell) -> Text:
    strong = "bold" if cell.share >= 0.9 else "" if cell.share >= 0.4 else "dim"
    told, share = min(cell.bits.value, cell.entropy), min(cell.share, 1.0)
    return Text(f"{cell.feature} {told:.2f} ({share:.0%})", style=strong)


def curve_table(curves: Sequence[Curve]) -> Group:
    """Return mean bits of every site and position, a column for each ε."""
    about = f"mean bits by ε ({curves[0].distance})"
    grid = Table(box=None, pad_edge=False, header_style="dim", caption=about, caption_justify="left")
    grid.add_column("at")
    grid.add_column("site")
    for epsilon in curves[0].epsilons:
        grid.add_column(f"ε {epsilon:g}", justify="right")
    for curve in curves:
        rungs = zip(curve.bits, curve.bounded, curve.least, strict=True)
        shown = (at_least(low) if bounded else f"{m.value:.2f} ±{(m.high - m.low) / 2:.2f}" for m, bounded, low in rungs)
        grid.add_row(curve.position, curve.site, *shown)
    return Group(grid, Text(), Text(f"mean bits, {_BOUNDED}.", style="dim"))


def truth_table(rows: Sequence[SiteTruth], within: str) -> Group:
    """Return for each site how the decoder compares with exact preimages ``within``; the features that differ most by name."""
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
        f"inside: {within}; recall: share of the exact preimage likelier than 95 % of the inputs outside; compared: queries "
        "with enough inputs inside."
    )
    return Group(grid, Text(note, style="dim"))


def agreement_table(result: Agreement) -> Group:
    """Return the total variation of every feature between every two sources; bold where it is more than chance."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("feature")
    pairs = list(dict.fromkeys((p.first, p.second) for p in result.pairs))
    for first, second in pairs:
        table.add_column(f"{first} – {second}", justify="right")
    for feature in dict.fromkeys(p.feature for p in result.pairs):
        cells = [next(p for p in result.pairs if (p.first, p.second, p.feature) == (*pair, feature)) for pair in pairs]
        shown = (Text(f"{p.tv:.3f} ({p.chance:.3f})", style="bold" if p.tv > 2 * p.chance + 0.01 else "") for p in cells)
        table.add_row(feature, *shown)
    drawn = ", ".join(f"{name} {count:,}" for name, count in result.draws.items())
    within = epsilon_text(result.epsilon, result.distance)
    note = f"total variation of a feature inside {within}, in brackets what chance gives; inputs: {drawn}"
    mixed = "" if result.mixed is not False else "\nThe walk is not mixed: give it more --seconds."
    return Group(query_line(result.query), Text(), table, Text(), Text(note + mixed, style="dim"))


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


def threshold_table(study: Threshold) -> Group:
    """Return a threshold study: for every ε the inputs inside, the bits, and the share with each of the query's features.

    Of many features those are shown whose share at the study's ε is farthest above chance.
    """
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    marked_rung = min(study.rungs, key=lambda rung: abs(rung.epsilon - study.epsilon))
    gain = {name: (marked_rung.shares or study.base)[name] - share for name, share in study.base.items()}
    names = [name for name in study.base if name in sorted(gain, key=lambda name: -gain[name])[:_COLUMNS]]
    for title in ("ε", "inside", "bits", *names):
        table.add_column(title, justify="right", no_wrap=True)
    for rung in study.rungs:
        bits = at_least(least(rung.inside, len(study.distance)), 1) if rung.inside < 2 else f"{rung.bits:.1f}"
        shares = [Text("–", style="dim") if rung.shares is None else _share(rung.shares[name]) for name in names]
        style = "bold red" if rung.marks else ""
        table.add_row(Text(f"{rung.epsilon:.3f}", style=style), f"{rung.inside:,}", bits, *shares)
    chance = [Text(f"{share:.2f}", style="dim") for share in (study.base[name] for name in names)]
    table.add_row(Text("all", style="dim"), f"{len(study.distance):,}", "0.0", *chance)
    table.add_row(Text("query", style="dim"), "", "", *(visible(str(study.values[name])) for name in names))
    own = f"{epsilon_text(study.epsilon, study.kind)} is the study's"
    lines = [f"{own}. Features: share of the inputs inside, the query left out, with its value."]
    if study.suggested is None:
        lines.append("No ε is suggested: the distances have no gap.")
    for i, gap in enumerate(study.gaps):
        what = (
            f"Suggested: ε = {gap.epsilon:.3f} ({study.kind}), in the widest gap"
            if i == 0
            else f"Another gap is at {gap.epsilon:.3f}"
        )
        lines.append(f"{what}: from {gap.start:.3f} to {gap.stop:.3f} the {gap.inside:,} inputs inside grow by 10 % at most.")
    return Group(query_line(study.query), Text(), table, Text(), *(Text(line, style="dim") for line in lines))


def _share(share: float) -> Text:
    return Text(f"{share:.2f}", style="bold green" if share > 0.995 else "")

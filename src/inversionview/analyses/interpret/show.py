"""What sites × positions encode, in sentences with scores: in a terminal, as Markdown, as one HTML page, as JSON, as a table.

Samples and what a language model wrote are text: escaped wherever they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.interpret.clauses import bits_told
from inversionview.analyses.interpret.result import Interpretation, Interpretations, QueryReading
from inversionview.analyses.interpret.scoring import Score
from inversionview.core.information import Mean
from inversionview.core.scope import epsilon_text
from inversionview.drawing.documents import code, document, escaped, marked, marked_html, plain
from inversionview.model.distances.said import measure_of
from inversionview.preimage.show import at_least

_QUERIES = 10
"""Queries whose statements a page lists."""


# -- words that all share ---------------------------------------------------------------------------------------------


def _verdict(cell: Interpretation) -> str:
    return {True: "proven", False: "unproven", None: "not scored"}[cell.proven]


def _bits(cell: Interpretation) -> str:
    if cell.information is None or cell.scored_bits is None:
        return f"– of {cell.bits.value:.1f}" if cell.least is None else f"– of {at_least(cell.least, 1)}"
    return bits_told(cell.information, cell.scored_bits)


def _number(score: Score | None, name: str = "balanced_accuracy") -> str:
    return "–" if score is None else f"{getattr(score, name).value:.3f}"


def _interval(mean: Mean) -> str:
    return f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"


def _head(made: Interpretations) -> str:
    where = "at the query's position" if made.fixed else "the least over the bank's positions"
    source = next((cell.source for cell in made if cell.source != "features"), "features")
    measure = measure_of(made.distance, (cell.site for cell in made))
    return (
        f"{epsilon_text(made.epsilon, measure)}, {where}; {made.asked} queries at each site and position, "
        f"{made.inputs:,} inputs; statements by {source}."
    )


def _key(made: Interpretations) -> str:
    """Return what the columns mean."""
    return (
        "bits: what the feature statements tell of unseen inputs, of what the site tells of these queries (≥: some have one "
        "other input inside ε or none); < 0: the statements are true less often inside ε than elsewhere. accuracy: balanced, "
        f"on unseen inputs, half inside ε, half outside beyond {made.gap:g}·ε, the nearest ones; AUROC likewise; means over "
        "queries with 95 % intervals. other: the accuracy of another site's statement on the same inputs; a statement that "
        "does not beat it is unproven. at ε: the accuracy of feature statements where the inputs outside begin at ε itself."
    )


def _figures(made: Interpretations) -> str:
    (good, of), (good_line, of_line) = made.reached(), made.reached(score="line")
    scored = sum(cell.score is not None for cell in made)
    return (
        f"{len(made)} sites × positions, {scored} scored, {sum(cell.proven is True for cell in made)} proven. Where statements "
        f"tell 80 % of the bits or more, accuracy is at least 0.95 at {good} of {of}; right at ε at {good_line} of {of_line}."
    )


def _costs(made: Interpretations) -> str:
    used = made.costs
    if used is None:
        return ""
    cost = "" if used.cost is None else f", {used.cost:.4f} in all"
    return (
        f"{used.model}: {used.requests:,} requests, {used.cached:,} answers from the cache, {used.failed:,} failed; "
        f"{used.prompt_tokens + used.answer_tokens:,} tokens{cost}."
    )


# -- terminal ---------------------------------------------------------------------------------------------------------


def table(made: Interpretations) -> Group:
    """Return sites × positions with statement and score; of one alone its queries, too."""
    parts: list[Any] = []
    for position in dict.fromkeys(cell.position for cell in made):
        grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        grid.add_column("site", no_wrap=True)
        for title in ("bits", "accuracy", "AUROC", "other", "at ε"):
            grid.add_column(title, justify="right", no_wrap=True)
        grid.add_column("statement", ratio=1)
        for cell in (each for each in made if each.position == position):
            style = {True: "bold", False: "", None: "dim"}[cell.proven]
            said = Text(cell.statement, style="dim" if cell.score is None else "")
            if cell.proven is False:
                said.append(" unproven", style="yellow")
            grid.add_row(
                cell.site, _bits(cell), Text(_number(cell.score), style=style), _number(cell.score, "auroc"),
                _number(cell.other), _number(cell.line), said,
            )  # fmt: skip
        parts += [Text(f"at {position}", style="bold"), grid, Text()]
    if len(made) == 1:
        parts += [_query_table(made[0]), Text()]
    notes = [_head(made), _key(made), *([_figures(made)] if len(made) > 1 else []), _costs(made)]
    notes += sorted({cell.note for cell in made if cell.note and cell.note != cell.statement})
    return Group(*parts, *(Text(note, style="dim") for note in notes if note))


def _query_table(cell: Interpretation) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    grid.add_column("query", no_wrap=True)
    grid.add_column("accuracy", justify="right", no_wrap=True)
    grid.add_column("statement", ratio=1)
    for reading in cell.queries:
        accuracy = "–" if reading.told is None else f"{reading.told.balanced_accuracy:.3f}"
        said = Text(reading.statement or "")
        if reading.problem:
            said.append(f"{' ' if reading.statement else ''}{reading.problem}", style="dim")
        grid.add_row(marked(reading.query), accuracy, said)
    return grid


# -- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(made: Interpretations) -> str:
    """Return the report as Markdown: a table for each position."""
    parts = [f"# {plain(made.study)}: what every site encodes", "", plain(_head(made)), "", plain(_figures(made)), ""]
    for position in dict.fromkeys(cell.position for cell in made):
        parts += [f"## at {code(position)}", "", "| site | statement | bits | accuracy | AUROC | other | at ε | samples |"]
        parts += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
        for cell in (each for each in made if each.position == position):
            said = plain(cell.statement) + (" *(unproven)*" if cell.proven is False else "")
            accuracy = "–" if cell.score is None else _interval(cell.score.balanced_accuracy)
            samples = ", ".join(code(sample.text) for sample in cell.samples) or "–"
            cells = (cell.site, said, _bits(cell), accuracy, _number(cell.score, "auroc"), _number(cell.other),
                     _number(cell.line), samples)  # fmt: skip
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    parts += [plain(_key(made)), *([plain(_costs(made))] if made.costs else [])]
    return "\n".join(parts) + "\n"


# -- HTML -------------------------------------------------------------------------------------------------------------


def page(made: Interpretations) -> str:
    """Return the report as one HTML page that runs nothing and fetches nothing."""
    positions = list(dict.fromkeys(cell.position for cell in made))
    title = f"{made.study}: what every site encodes"
    links = "".join(f'<a href="#p{i}">{escaped(position)}</a>' for i, position in enumerate(positions))
    tables = "".join(
        f'<h2 id="p{i}">at <code>{escaped(position)}</code></h2>{_html_table([c for c in made if c.position == position])}'
        for i, position in enumerate(positions)
    )
    costs = f'<p class="soft">{escaped(_costs(made))}</p>' if made.costs else ""
    return document(
        title,
        f"<p>{escaped(_head(made))}</p><p>{escaped(_figures(made))}</p>"
        f'<nav aria-label="Positions">{links}</nav>{tables}<h2>What the columns mean</h2>'
        f'<p class="soft">{escaped(_key(made))}</p>{costs}',
    )


def _html_table(cells: Sequence[Interpretation]) -> str:
    names = (("site", ""), ("statement", ""), ("bits told", "n"), ("accuracy", "n"), ("AUROC", "n"), ("other", "n"),
             ("at ε", "n"), ("samples", ""))  # fmt: skip
    head = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_html_row, cells))}</tbody></table>"


def _html_row(cell: Interpretation) -> str:
    share = min(1.0, max(0.0, cell.share or 0.0))
    accuracy = "–"
    if cell.score is not None:
        told = cell.score.balanced_accuracy
        accuracy = f"{told.value:.3f}<small>[{told.low:.3f}, {told.high:.3f}]</small>"
    samples = "".join(f'<div title="D = {s.distance:.3f}">{marked_html(s.text)}</div>' for s in cell.samples) or "–"
    return (
        f'<tr><td class="site">{escaped(cell.site)}</td><td class="said{"" if cell.score else " soft"}">'
        f"{escaped(cell.statement)}{_html_queries(cell.queries)}</td>"
        f'<td class="n">{_bits(cell)}<span class="bar"><i style="width:{share:.0%}"></i></span></td>'
        f'<td class="n">{accuracy}<small class="{_verdict(cell).split()[0]}">{_verdict(cell)}</small></td>'
        f'<td class="n">{_number(cell.score, "auroc")}</td><td class="n">{_number(cell.other)}</td>'
        f'<td class="n">{_number(cell.line)}</td><td class="samples">{samples}</td></tr>'
    )


def _html_queries(readings: Sequence[QueryReading]) -> str:
    rows = []
    for reading in readings[:_QUERIES]:
        told = "" if reading.told is None else f"{reading.told.balanced_accuracy:.2f}"
        said = " ".join(filter(None, (reading.statement, reading.problem)))
        rows.append(f"<tr><td>{marked_html(reading.query)}</td><td>{told}</td><td>{escaped(said)}</td></tr>")
    if not rows:
        return ""
    return f"<details><summary>{len(rows)} queries</summary><table>{''.join(rows)}</table></details>"

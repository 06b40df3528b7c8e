"""What sites × positions encode, in sentences with scores: in a terminal, as Markdown, as one HTML page, as JSON, as a table.

Samples and what a language model wrote are text: escaped wherever they stand.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.interpret.clauses import bits_told
from inversionview.analyses.interpret.result import Interpretation, Interpretations, QueryReading
from inversionview.analyses.interpret.scoring import Score
from inversionview.core.information import Mean
from inversionview.core.printable import one_line, shown
from inversionview.core.scope import epsilon_text
from inversionview.model.distances.said import measure_of
from inversionview.preimage.show import at_least

_QUERIES = 10
"""Queries whose statements a page lists."""
_MARK = re.compile("⟦(.*?)⟧", re.DOTALL)


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
        grid.add_row(_marked(reading.query), accuracy, said)
    return grid


def _marked(text: str) -> Text:
    """Return an input with the position that was read in bold."""
    out, start = Text(), 0
    for found in _MARK.finditer(text):
        out.append(text[start : found.start()])
        out.append(found[1], style="bold reverse")
        start = found.end()
    out.append(text[start:])
    return out


# -- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(made: Interpretations) -> str:
    """Return the report as Markdown: a table for each position."""
    parts = [f"# {_plain(made.study)}: what every site encodes", "", _plain(_head(made)), "", _plain(_figures(made)), ""]
    for position in dict.fromkeys(cell.position for cell in made):
        parts += [f"## at {_code(position)}", "", "| site | statement | bits | accuracy | AUROC | other | at ε | samples |"]
        parts += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
        for cell in (each for each in made if each.position == position):
            said = _plain(cell.statement) + (" *(unproven)*" if cell.proven is False else "")
            accuracy = "–" if cell.score is None else _interval(cell.score.balanced_accuracy)
            samples = ", ".join(_code(sample.text) for sample in cell.samples) or "–"
            cells = (cell.site, said, _bits(cell), accuracy, _number(cell.score, "auroc"), _number(cell.other),
                     _number(cell.line), samples)  # fmt: skip
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    parts += [_plain(_key(made)), *([_plain(_costs(made))] if made.costs else [])]
    return "\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Return text in which Markdown and HTML mean nothing."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", one_line(text))


def _code(text: str) -> str:
    """Return text as code in a table's cell: bars escaped, in a fence longer than any run of backticks in it."""
    line = one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


# -- HTML -------------------------------------------------------------------------------------------------------------

_STYLE = """
:root{--ink:#1c2024;--soft:#6a737d;--line:#e4e7eb;--paper:#fff;--bar:#2f6f9f;--good:#1a7f4b;--doubt:#a05a00;--mark:#fdf0d5}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8ea;--soft:#9aa3ad;--line:#2f353c;--paper:#15181c;--bar:#6fb1e0;
--good:#5cc98e;--doubt:#e0a050;--mark:#4a3a16}}
body{margin:0 auto;max-width:1180px;padding:2.5rem 1.5rem 4rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
h1{font-size:1.55rem;font-weight:600;margin:0 0 .4rem}h2{font-size:1.1rem;font-weight:600;margin:2.6rem 0 .4rem}
p{margin:.3rem 0;max-width:78ch}p.soft,td.soft{color:var(--soft)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-weight:500;font-size:.8rem;color:var(--soft);text-align:left;
padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--line)}
td{padding:.55rem .8rem .55rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th.n,td.n{text-align:right;white-space:nowrap}td.site{font-family:ui-monospace,Menlo,Consolas,monospace;white-space:nowrap}
td.said{width:38%}code{font:13px/1.45 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
td.samples{width:19%}td.samples div{white-space:nowrap;overflow:hidden;text-overflow:ellipsis;max-width:17rem}
mark{background:var(--mark);color:inherit;border-radius:2px}
small{color:var(--soft);font-size:.78rem;display:block}.bar{display:block;width:84px;height:4px;background:var(--line);
border-radius:2px;margin:.3rem 0 0 auto;overflow:hidden}.bar i{display:block;height:100%;background:var(--bar)}
.proven{color:var(--good)}.unproven{color:var(--doubt)}
details{margin-top:.35rem}summary{cursor:pointer;color:var(--soft);font-size:.8rem}
details table{font-size:.86rem;margin:.3rem 0 .2rem}details td{border:0;padding:.2rem .7rem .2rem 0}
details td:first-child code{white-space:nowrap}
nav a{color:inherit;margin-right:.9rem}@media print{details{display:none}}
"""


def page(made: Interpretations) -> str:
    """Return the report as one HTML page that runs nothing and fetches nothing."""
    positions = list(dict.fromkeys(cell.position for cell in made))
    title = f"{made.study}: what every site encodes"
    links = "".join(f'<a href="#p{i}">{_escaped(position)}</a>' for i, position in enumerate(positions))
    tables = "".join(
        f'<h2 id="p{i}">at <code>{_escaped(position)}</code></h2>{_html_table([c for c in made if c.position == position])}'
        for i, position in enumerate(positions)
    )
    costs = f'<p class="soft">{_escaped(_costs(made))}</p>' if made.costs else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<title>{_escaped(title)}</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>'
        f"<main><h1>{_escaped(title)}</h1><p>{_escaped(_head(made))}</p><p>{_escaped(_figures(made))}</p>"
        f'<nav aria-label="Positions">{links}</nav>{tables}<h2>What the columns mean</h2>'
        f'<p class="soft">{_escaped(_key(made))}</p>{costs}</main></body></html>\n'
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
    samples = "".join(f'<div title="D = {s.distance:.3f}">{_html_input(s.text)}</div>' for s in cell.samples) or "–"
    return (
        f'<tr><td class="site">{_escaped(cell.site)}</td><td class="said{"" if cell.score else " soft"}">'
        f"{_escaped(cell.statement)}{_html_queries(cell.queries)}</td>"
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
        rows.append(f"<tr><td>{_html_input(reading.query)}</td><td>{told}</td><td>{_escaped(said)}</td></tr>")
    if not rows:
        return ""
    return f"<details><summary>{len(rows)} queries</summary><table>{''.join(rows)}</table></details>"


def _html_input(text: str) -> str:
    return f"<code>{_MARK.sub(lambda found: f'<mark>{found[1]}</mark>', _escaped(text))}</code>"


def _escaped(text: str) -> str:
    return html.escape(shown(text))

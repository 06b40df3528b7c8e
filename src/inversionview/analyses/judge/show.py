"""Verdicts on statements: in a terminal, as Markdown, as one HTML page on which every verdict opens the inputs it rests on.

Statements, texts and samples are text: escaped wherever they stand.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.judge.leaderboard import Line, leaderboard
from inversionview.analyses.judge.result import CONTROLS, Exhibit, Judgement, Judgements
from inversionview.analyses.judge.rulings import RULINGS
from inversionview.core.information import Mean
from inversionview.drawing.documents import code, document, escaped, marked_html, plain

_STYLES = {"proven": "bold green", "too general": "yellow", "too narrow": "yellow", "unproven": "red"}
_CLASSES = {"proven": "proven", "unproven": "unproven", "too general": "unproven", "too narrow": "unproven"}


# -- words that all share ---------------------------------------------------------------------------------------------


def _head(made: Judgements) -> str:
    counts = Counter(each.verdict for each in made)
    told = ", ".join(f"{counts[ruling]} {ruling}" for ruling in RULINGS if counts[ruling])
    withheld = f", {counts[None]} withheld" if counts[None] else ""
    about = sum(each.about is True and each.verdict == "proven" for each in made)
    more = f"; {about} of the proven are about the activation" if counts["proven"] else ""
    return f"{len(made)} statements: {told}{withheld}{more}. Judged by {made.judge} on {made.inputs:,} inputs."


def _key(made: Judgements) -> str:
    """Return what the columns mean."""
    controls = "; ".join(f"{name}: {words}" for name, words in CONTROLS.items())
    return (
        "precision: share of the unseen inputs inside ε of which a statement is true; coverage: share of those outside, beyond "
        f"{made.gap:g}·ε, the nearest ones, of which it is false; accuracy: their mean. about: it beats being like the input, "
        f"so it tells what the text alone does not. Controls, by accuracy on the same inputs: {controls}."
    )


def _number(mean: Mean | None) -> str:
    return "–" if mean is None else f"{mean.value:.3f}"


def _interval(mean: Mean | None) -> str:
    return "–" if mean is None else f"{mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"


def _figures(each: Judgement) -> list[Mean | None]:
    told = each.told
    return [None] * 3 if told is None else [told.balanced_accuracy, told.precision, told.coverage]


def _about(each: Judgement) -> str:
    return {True: "yes", False: "no", None: "–"}[each.about]


def _verdict(each: Judgement) -> str:
    return each.verdict or "withheld"


def _where(each: Judgement) -> str:
    claim = each.claim
    if claim.vector is not None:
        return f"{claim.vector if isinstance(claim.vector, str) else 'a vector'} at {claim.site}"
    return f"{claim.site} at {claim.at} of {claim.text}"


def _rivals(each: Judgement) -> list[tuple[str, str, str, str]]:
    """Return each control with its accuracy, by how much the statement is above it, and what it says."""
    return [
        (name, _number(rival.told.balanced_accuracy), _interval(rival.gain), rival.statement)
        for name, rival in each.controls.items()
        if rival is not None
    ]


# -- terminal ---------------------------------------------------------------------------------------------------------


def table(made: Judgements) -> Group:
    """Return the statements with their verdicts; of one alone what it was held against, too."""
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    grid.add_column("id", no_wrap=True)
    grid.add_column("verdict", no_wrap=True)
    for title in ("accuracy", "precision", "coverage", "about"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("statement", ratio=1)
    for each in made:
        said = Text(each.claim.statement)
        said.append(f"  {each.why}", style="dim")
        verdict = Text(_verdict(each), style=_STYLES.get(_verdict(each), "dim"))
        grid.add_row(Text(str(each.claim.id)), verdict, *map(_number, _figures(each)), _about(each), said)
    parts: list[Any] = [grid, Text()]
    if len(made) == 1 and (rivals := _rivals(made[0])):
        parts += [_rival_table(rivals), Text()]
    if len(lines := leaderboard(made)) > 1:
        parts += [_line_table(lines), Text()]
    notes = [_head(made), _key(made), made.note]
    return Group(*parts, *(Text(note, style="dim") for note in notes if note))


def _rival_table(rivals: list[tuple[str, str, str, str]]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("control", "accuracy", "the statement is above it by"):
        grid.add_column(title, no_wrap=True)
    grid.add_column("which says", ratio=1)
    for name, *numbers, said in rivals:
        grid.add_row(CONTROLS[name], *numbers, Text(said))
    return grid


def _line_table(lines: list[Line]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("by", "statements", "proven", "about", "accuracy", "above the input"):
        grid.add_column(title, justify="left" if title == "by" else "right", no_wrap=True)
    for line in lines:
        grid.add_row(Text(line.by), str(line.statements), str(line.proven), str(line.about), _interval(line.accuracy),
                     _interval(line.gain))  # fmt: skip
    return grid


# -- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(made: Judgements) -> str:
    """Return the report as Markdown."""
    parts = [f"# {plain(made.study)}: which statements are true", "", plain(_head(made)), ""]
    if made.note:
        parts += [plain(made.note), ""]
    if len(lines := leaderboard(made)) > 1:
        parts += ["| by | statements | proven | about | accuracy | above the input |", "| --- | --- | --- | --- | --- | --- |"]
        for line in lines:
            cells = (plain(line.by), str(line.statements), str(line.proven), str(line.about), _interval(line.accuracy),
                     _interval(line.gain))  # fmt: skip
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    parts += ["| id | verdict | accuracy | precision | coverage | about | statement | of | why |"]
    parts += ["| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for each in made:
        row = (plain(str(each.claim.id)), _verdict(each), *map(_interval, _figures(each)), _about(each),
                 plain(each.claim.statement), code(_where(each)), plain(each.why))  # fmt: skip
        parts.append(f"| {' | '.join(row)} |")
    return "\n".join([*parts, "", plain(_key(made))]) + "\n"


# -- HTML -------------------------------------------------------------------------------------------------------------


def page(made: Judgements) -> str:
    """Return the report as one HTML page that runs nothing and fetches nothing."""
    lines = leaderboard(made)
    note = f"<p>{escaped(made.note)}</p>" if made.note else ""
    return document(
        f"{made.study}: which statements are true",
        f"<p>{escaped(_head(made))}</p>{note}{_html_lines(lines) if len(lines) > 1 else ''}<h2>Statements</h2>"
        + _html_table(["id", "verdict", "accuracy", "precision", "coverage", "about", "statement"], map(_html_row, made))
        + f'<h2>What the columns mean</h2><p class="soft">{escaped(_key(made))}</p>',
    )


def _html_table(names: list[str], rows: Any) -> str:
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _html_lines(lines: list[Line]) -> str:
    rows = (
        f"<tr><td>{escaped(line.by)}</td><td>{line.statements}</td><td>{line.proven}</td><td>{line.about}</td>"
        f"<td>{_interval(line.accuracy)}</td><td>{_interval(line.gain)}</td></tr>"
        for line in lines
    )
    names = ["by", "statements", "proven", "about", "accuracy", "above the input"]
    return f"<h2>By whom</h2>{_html_table(names, rows)}"


def _html_row(each: Judgement) -> str:
    numbers = "".join(
        "<td>–</td>" if mean is None else f"<td>{mean.value:.3f}<small>[{mean.low:.3f}, {mean.high:.3f}]</small></td>"
        for mean in _figures(each)
    )
    return (
        f'<tr><td>{escaped(str(each.claim.id))}</td><td class="{_CLASSES.get(_verdict(each), "soft")}">{_verdict(each)}</td>'
        f'{numbers}<td>{_about(each)}</td><td class="said">{escaped(each.claim.statement)}'
        f"<small>{escaped(_where(each))}. {escaped(each.why)}</small>{_html_exhibits(each.exhibits)}{_html_rivals(each)}"
        "</td></tr>"
    )


def _html_exhibits(exhibits: tuple[Exhibit, ...]) -> str:
    if not exhibits:
        return ""
    rows = "".join(
        f'<tr class="{"" if each.inside == each.holds else "wrong"}"><td>{marked_html(each.text)}</td>'
        f"<td>{each.distance:.3f}</td><td>{'inside' if each.inside else 'outside'}</td>"
        f"<td>{'true' if each.holds else 'false'}</td></tr>"
        for each in exhibits
    )
    return f"<details><summary>{len(exhibits)} inputs that it rests on</summary><table>{rows}</table></details>"


def _html_rivals(each: Judgement) -> str:
    rows = "".join(
        f"<tr><td>{escaped(CONTROLS[name])}</td><td>{accuracy}</td><td>{gain}</td><td>{escaped(said)}</td></tr>"
        for name, accuracy, gain, said in _rivals(each)
    )
    return f"<details><summary>What it was held against</summary><table>{rows}</table></details>" if rows else ""

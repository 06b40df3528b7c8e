"""A recovery as a table."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.recover.result import Recovery, VectorRecovery

_TEXTS = 12
"""So many texts are shown where several fit."""


def table(result: Recovery | VectorRecovery) -> Group:
    """Return the text, its tokens with what each took, and what is to be said of it."""
    return _near(result) if isinstance(result, VectorRecovery) else _exact(result)


def _near(result: VectorRecovery) -> Group:
    """Return the texts nearest to a vector; what all have of the first is bold."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("D", justify="right", no_wrap=True)
    grid.add_column("text")
    grid.add_column("from", no_wrap=True)
    for i, each in enumerate(result.texts):
        text = Text(each.text)
        if i == 0:
            text = Text.assemble(*((token.token, "bold" if token.agreed else "dim") for token in result.tokens))
        grid.add_row(f"{each.distance:.3g}", text, each.came)
    return Group(grid, Text(), Text("bold: the same in all of these, counted from the end", style="dim"), Text(result.note))


def _exact(result: Recovery) -> Group:
    parts: list[Table | Text] = []
    if result.texts:
        parts += [Text(text.text) for text in result.texts[:_TEXTS]]
        if len(result.texts) > _TEXTS:
            parts.append(Text(f"… and {len(result.texts) - _TEXTS} more", style="dim"))
        parts += [Text(), _tokens(result), Text()]
    elif result.prefix:
        parts += [Text(f"{result.prefix} …", style="dim"), Text()]
    for each in result.remaining:
        parts.append(Text(f"position {each['position']} remains one of: {'  '.join(each['tokens'])}", style="dim"))
    parts.append(Text(result.note))
    if result.exact is not None:
        parts.append(
            Text("That is the text they were taken from." if result.exact else "That is not what they were taken from.")
        )
    return Group(*parts)


def _tokens(result: Recovery) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("token", no_wrap=True)
    for title in ("id", "rank", "tried", "D", "next nearest", "seconds"):
        grid.add_column(title, justify="right", no_wrap=True)
    for t in result.tokens:
        other = "–" if t.runner_up is None else f"{t.runner_up:.2g}"
        grid.add_row(t.token, str(t.id), f"{t.rank:,}", f"{t.tried:,}", f"{t.distance:.1e}", other, f"{t.seconds:.3f}")
    return grid

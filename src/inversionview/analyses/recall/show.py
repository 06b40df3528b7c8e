"""What retrieval heads carry, as a table in a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.recall.result import CARRIES, Carried, ContentTable, HeadContent
from inversionview.core.printable import one_line

_TITLES = (
    "head",
    "share",
    "works",
    "first attribute: bits (share of H)",
    "second",
    "asked / not",
    "subject",
    "relation",
    "agnostic",
)


def table(result: ContentTable) -> Group:
    """Return the table of what heads carry."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for title in _TITLES:
        grid.add_column(title, no_wrap=title in ("head", "share", "works"))
    for head in result.heads:
        grid.add_row(*_cells(head))
    return Group(grid, Text(), Text(_note(result), style="dim"))


def markdown(table: ContentTable) -> str:
    """Return the table in Markdown, with a line of what it was measured on."""
    lines = [" | ".join(("", *_TITLES, "")).strip(), "|".join(("", *["---"] * len(_TITLES), ""))]
    lines += ["| " + " | ".join(each.replace("|", "\\|") for each in _cells(head)) + " |" for head in table.heads]
    return "\n".join([*lines, "", _note(table), ""])


def _note(table: ContentTable) -> str:
    return (
        f"{one_line(table.model)}: {table.prompts:,} prompts, of whose facts it knows {table.known:.0%}; "
        f"ε = {table.epsilon:g}, {table.distance}, up to {table.queries} queries a head, seed {table.seed}. share: of the L1 "
        "proximity. works: share "
        "of all prompts (of those that ask for nothing) on which the head attends less than 0.6 to BOS; only these count for "
        "it. asked / not: share of an attribute's H where the relation asks for it and where not, the mean over attributes "
        "with 10 queries of each kind. –: too few queries, or a share below 10 %; below zero: its "
        "value is less common inside ε than elsewhere."
    )


def _cells(content: HeadContent) -> Iterator[str]:
    first, second = (*content.attributes[:2], None, None)[:2]
    yield content.head.site
    yield f"{content.head.share:.3f}"
    yield f"{content.works:.0%} ({content.works_asking_nothing:.0%})"
    yield _named(first)
    yield _named(second)
    yield f"{_percent(content.asked)} / {_percent(content.unasked)}"
    yield _share(content.subject)
    yield _share(content.relation)
    yield {True: "yes", False: "no", None: "–"}[content.agnostic]


def _named(told: Carried | None) -> str:
    """Return a feature with its bits; nothing where the head hardly tells of it."""
    if told is None or told.share < CARRIES:
        return "–"
    return f"{one_line(told.feature)} {min(told.bits.value, told.entropy):.2f} ({_share(told)})"


def _share(told: Carried | None) -> str:
    return _percent(None if told is None else told.share)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{min(share, 1.0):.0%}".replace("-0%", "0%")

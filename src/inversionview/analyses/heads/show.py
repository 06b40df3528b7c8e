"""Heads and their groups: a table in a terminal, and a figure, layer × head, coloured by group and sized by effect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.heads.result import GROUPS, NONE, HeadMeasures, HeadTable
from inversionview.core.information import Mean
from inversionview.core.storage import write_json
from inversionview.model.sites.site import Site
from inversionview.show.files import check_formats, write_figure, write_records

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FORMATS = (".json", ".csv", ".parquet", ".png", ".svg")
COLOURS = {
    "name mover": "#0072b2", "negative name mover": "#d55e00", "copy suppression": "#cc79a7", "S-inhibition": "#e69f00",
    "induction": "#009e73", "duplicate token": "#56b4e9", "previous token": "#000000", NONE: "#8c8c8c",
}  # fmt: skip
"""Okabe and Ito's, which the colour-blind tell apart; and grey."""
_LOOKS = {
    "name mover": "END→IO", "negative name mover": "END→IO", "copy suppression": "END→S2", "S-inhibition": "END→S2",
    "induction": "S2→S1+1", "duplicate token": "S2→S1", "previous token": "S1+1→S1",
}  # fmt: skip
"""Where the heads of a group look."""


def found_rows(table: HeadTable) -> list[HeadMeasures]:
    """Return the measures of the heads that were found, group by group, in each the largest effect first."""
    measures, order = {head.site: head for head in table.heads}, [*GROUPS, NONE]
    return [measures[head.site] for head in sorted(table.found, key=lambda head: order.index(head.group))]


def evidence(head: HeadMeasures) -> str:
    """Return what puts a head into its group."""
    said = [f"→{_LOOKS[head.group].split('→')[1]} {head.attention[_LOOKS[head.group]]:.2f}"] if head.group in _LOOKS else []
    if head.position == "END" and head.copy is not None and head.negative_copy is not None and head.group != "S-inhibition":
        negative = head.negative_copy > head.copy
        said += [f"{'suppresses' if negative else 'copies'} {max(head.copy, head.negative_copy):.2f}"]
    scores = {"induction": head.induction, "duplicate token": head.duplicate, "previous token": head.previous}
    return ", ".join(said + ([f"random {scores[head.group]:.2f}"] if head.group in scores else []))


def head_table(table: HeadTable) -> Group:
    """Return the heads that were found, group by group."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("group", "head", "at", "patching", "direct", "attention, scores"):
        grid.add_column(title, justify="right" if title in ("patching", "direct") else "left", no_wrap=True)
    before = ""
    for head in found_rows(table):
        group = "" if head.group == before else head.group
        grid.add_row(group, head.site, head.position, _mean(head.matter), f"{head.direct.value:z.2f}", evidence(head))
        before = head.group
    if not table.found:
        grid.add_row("no head matters", "", "", "", "", "")
    top = Text.assemble(
        (f"{table.study} in {table.model}: ", "bold"),
        f"logit(IO) > logit(S) in {table.accuracy:.1%} of {table.prompts} prompts, by {table.ld.value:.2f} on average; IO is "
        f"the first of all names in {table.first:.1%}",
    )
    note = (
        f"patching: what it does to LD = logit(IO) − logit(S), in nats, with 95 % intervals; {table.pairs} pairs, contrasts "
        f"have IO at S2; patching everything does {table.total:.2f}. direct: what the head adds to LD itself. →: mean "
        "attention. copies, suppresses: share of names among the five most promoted or suppressed tokens. random: attention on "
        "repeated random tokens."
    )
    return Group(top, Text(), grid, Text(), Text(note, style="dim"))


def _mean(mean: Mean | None) -> str:
    return "–" if mean is None else f"{mean.value:.2f} ±{(mean.high - mean.low) / 2:.2f}"


def head_figure(table: HeadTable) -> Figure:
    """Return all heads on a grid, layer × head: the area of a disc is the effect of patching, hollow where it raises LD."""
    from matplotlib.figure import Figure

    rows = found_rows(table)
    sites = {head.site: Site.parse(head.site) for head in table.heads}
    layers, width = 1 + max(s.layer for s in sites.values()), 1 + max(s.head or 0 for s in sites.values())
    figure = Figure(figsize=(2.6 + 0.27 * layers, 1.3 + 0.33 * width), layout="constrained")
    ax = figure.subplots()
    ax.scatter([s.layer for s in sites.values()], [s.head or 0 for s in sites.values()], s=5, color="#dddddd", zorder=1)
    most = max((abs(head.matter.value) for head in rows if head.matter), default=1.0)
    for head in rows:
        if head.matter is not None:
            site, colour, area = sites[head.site], COLOURS[head.group], 14 + 330 * abs(head.matter.value) / most
            face = colour if head.matter.value > 0 else "white"
            ax.scatter([site.layer], [site.head or 0], s=area, facecolor=face, edgecolor=colour, linewidth=1.4, zorder=2)
    ax.set_xticks(range(0, layers, 1 if layers <= 16 else 2))
    ax.set_yticks(range(width))
    ax.set_ylim(width - 0.3, -0.7)
    ax.set_xlim(-0.7, layers - 0.3)
    ax.set_xlabel("layer")
    ax.set_ylabel("head")
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    from matplotlib.lines import Line2D

    there = [group for group in (*GROUPS, NONE) if any(head.group == group for head in rows)]
    dots = [Line2D([], [], marker="o", linestyle="", markersize=7, color=COLOURS[group],
                   label=f"{group}, at {GROUPS[group]}" if group in GROUPS else "no group") for group in there]  # fmt: skip
    dots += [Line2D([], [], marker="o", linestyle="", markersize=7, markerfacecolor="white", markeredgecolor="#555555",
                    label="hollow: patching it raises LD")]  # fmt: skip
    figure.legend(handles=dots, loc="outside right center", frameon=False, fontsize=8)
    ax.set_title(f"{table.model}: what patching a head does to LD, by area; the largest is {most:.1f} nats", fontsize=9)
    return figure


def save_heads(table: HeadTable, path: Path) -> None:
    """Write all heads in the format that ``path`` ends in, one of ``FORMATS``.

    Raises:
        SettingError: the format is none.
        StorageError: the file cannot be written.
    """
    check_formats([path], FORMATS)
    kind = path.suffix.lower()
    if kind == ".json":
        write_json(path, table.to_json())
    elif kind in (".csv", ".parquet"):
        write_records(table.records(), path)
    else:
        write_figure(lambda: head_figure(table), path)

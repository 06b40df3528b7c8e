"""Heads and their groups: a table in a terminal, and a figure, layer × head, coloured by group and sized by effect.

And what the heads of a circuit tell, as a table; in Markdown, ``show_circuit`` writes both.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.heads.result import FEATURES, GROUPS, NONE, CircuitRow, CircuitTable, HeadMeasures, HeadTable
from inversionview.core.information import Mean
from inversionview.core.results import Result
from inversionview.core.scope import epsilon_text
from inversionview.model.sites.site import Site
from inversionview.preimage.show import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


@singledispatch
def table(result: Result) -> Group:
    """Return heads, or what those of a circuit tell, as a table."""
    raise TypeError(f"{type(result).__name__} tells of no heads.")


@table.register
def _head_table(heads: HeadTable) -> Group:
    """Return the heads that were found, group by group."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("group", "head", "at", "patching", "direct", "attention, scores"):
        grid.add_column(title, justify="right" if title in ("patching", "direct") else "left", no_wrap=True)
    before = ""
    for head in found_rows(heads):
        group = "" if head.group == before else head.group
        grid.add_row(group, head.site, head.position, _mean(head.matter), f"{head.direct.value:z.2f}", evidence(head))
        before = head.group
    if not heads.found:
        grid.add_row("no head matters", "", "", "", "", "")
    top = Text.assemble(
        (f"{heads.study} in {heads.model}: ", "bold"),
        f"logit(IO) > logit(S) in {heads.accuracy:.1%} of {heads.prompts} prompts, by {heads.ld.value:.2f} on average; IO is "
        f"the first of all names in {heads.first:.1%}",
    )
    note = (
        f"patching: what it does to LD = logit(IO) − logit(S), in nats, with 95 % intervals; {heads.pairs} pairs, contrasts "
        f"have IO at S2; patching everything does {heads.total:.2f}. direct: what the head adds to LD itself. →: mean "
        "attention. copies, suppresses: share of names among the five most promoted or suppressed tokens. random: attention on "
        "repeated random tokens."
    )
    return Group(top, Text(), grid, Text(), Text(note, style="dim"))


def _mean(mean: Mean | None) -> str:
    return "–" if mean is None else f"{mean.value:.2f} ±{(mean.high - mean.low) / 2:.2f}"


_ORDER = [*GROUPS, NONE]


def circuit_rows(circuit: CircuitTable) -> list[CircuitRow]:
    """Return the rows of a circuit, group by group."""
    return sorted(circuit.rows, key=lambda row: _ORDER.index(row.head.group))


def circuit_bits(row: CircuitRow) -> str:
    """Return what a head tells in all."""
    return at_least(row.least, 1) if row.least < row.bits.value - 1e-9 else f"{row.bits.value:.1f}"


AGREES = {True: "yes", False: "no", None: "–"}
"""Whether a head tells what its group is for."""


@table.register
def _circuit_table(circuit: CircuitTable) -> Group:
    """Return what the preimages of each head tell, as a share of each feature's entropy; bold where it is half or more."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("group", "head", "at", "bits", *FEATURES, "as expected"):
        number = title in ("bits", *FEATURES)
        grid.add_column(title.replace("_", " "), justify="right" if number else "left", no_wrap=not number)
    for row in circuit_rows(circuit):
        shares = (_circuit_share(row.shares.get(name)) for name in FEATURES)
        grid.add_row(row.head.group, row.head.site, row.head.position, circuit_bits(row), *shares, AGREES[row.agrees])
    note = (
        f"{circuit.model}: {circuit.inputs:,} prompts, {epsilon_text(circuit.epsilon, circuit.distance)}, at the head's own "
        f"position; {circuit.queries} queries a head, seed {circuit.seed}. Features: share of their entropy."
    )
    return Group(grid, Text(), Text(note, style="dim"))


def _circuit_share(share: float | None) -> Text:
    return Text("–" if share is None else f"{min(share, 1.0):.0%}", style="bold" if (share or 0.0) >= 0.5 else "")


def figure(table: HeadTable) -> Figure:
    """Return all heads on a grid, layer × head: the area of a disc is the effect of patching, hollow where it raises LD."""
    from matplotlib.figure import Figure

    rows = found_rows(table)
    sites = {head.site: Site.parse(head.site) for head in table.heads}
    layers, width = 1 + max(s.layer for s in sites.values()), 1 + max(s.head or 0 for s in sites.values())
    drawn = Figure(figsize=(2.6 + 0.27 * layers, 1.3 + 0.33 * width), layout="constrained")
    ax = drawn.subplots()
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
    drawn.legend(handles=dots, loc="outside right center", frameon=False, fontsize=8)
    ax.set_title(f"{table.model}: what patching a head does to LD, by area; the largest is {most:.1f} nats", fontsize=9)
    return drawn

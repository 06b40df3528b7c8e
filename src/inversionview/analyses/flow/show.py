"""Flow diagrams: tokens below, the residual stream upward, heads that carry features over, the answer on top (Fig. 31).

An edge's colour is its feature, its width the bits. Solid: patching confirms it; dashed: it does not; dotted: it does although
the preimage shows next to nothing of the feature there. PNG and SVG by matplotlib; the page has a slider for the threshold.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.flow.result import FLOOR, OTHERS, Edge, Flow, Node, stream
from inversionview.core.scope import epsilon_text
from inversionview.model.sites.site import Site
from inversionview.preimage.show import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c510a", "#5e3c99", "#1b7837", "#b2182b",
)  # fmt: skip
"""Okabe and Ito's first, then darker ones."""
_STEPS = [round(0.1 + 0.05 * i, 2) for i in range(17)]
_SAID = {"read": "reads", "write": "writes", "keep": "keeps", "answer": "tells"}
_HEAD = 0.95
"""Room for a head, in units of the figure."""


# -- terminal ---------------------------------------------------------------------------------------------------------


def table(flow: Flow) -> Group:
    """Return the edges of the diagram that patching confirms, from the answer back."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("from", "to", "feature"):
        grid.add_column(title, no_wrap=True)
    for title in ("bits", "share", "attention", "effect"):
        grid.add_column(title, justify="right", no_wrap=True)
    shown = flow.shown(flow.threshold)
    confirmed = [edge for edge in shown if edge.confirmed]
    for edge in confirmed:
        assert edge.effect is not None
        attention = "" if edge.attention is None else f"{edge.attention:.2f}"
        (bits, share), effect = _told(edge), edge.effect
        half = (effect.high - effect.low) / 2
        cells = (
            edge.source,
            edge.to,
            edge.feature,
            f"{bits:.2f}",
            f"{share:.0%}",
            attention,
            f"{effect.value:.2f} ±{half:.2f}",
        )
        grid.add_row(*map(Text, cells))
    pairs = ", ".join(f"{count:,} by {changes}" for changes, count in flow.pairs.items())
    note = (
        f"Edges that carry at least {flow.threshold:.0%} of their feature, and that patching confirms: the head, and the "
        f"stream that it reads, each alone does at least {flow.least_effect:.0%} of what patching everything does, over pairs "
        f"that differ in the feature. {len(shown) - len(confirmed)} more are known but not confirmed: the figure, --json and "
        f"CSV have them. Bits: what both ends know within {epsilon_text(flow.epsilon, flow.distance)}, over {flow.inputs:,} "
        f"inputs. Contrasts: {pairs or 'none'}."
    )
    return Group(Text(title_of(flow), style="bold"), Text(), grid, Text(), Text(note, style="dim"))


def _told(edge: Edge) -> tuple[float, float]:
    """Return the bits and the share of the entropy that an edge carries: none to all of it, which estimates may miss."""
    share = min(1.0, max(0.0, edge.share))
    return (edge.bits / edge.share * share if share else 0.0), share


def title_of(flow: Flow) -> str:
    """Return what the diagram shows, in a line."""
    where = f" where {', '.join(flow.where)}" if flow.where else ""
    return f"{flow.study}: how {flow.target} is told{where}, at {flow.position}"


# -- geometry ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    x: float
    y: float


class Drawing:
    """Where everything is drawn.

    Attributes:
        places: of every node, by its name.
        columns: the middle of each position.
        width: of all columns.
    """

    def __init__(self, flow: Flow, threshold: float) -> None:
        self.flow, self.edges = flow, flow.shown(threshold)
        ends = dict.fromkeys(end for edge in self.edges for end in (edge.source, edge.to))
        self.heads: dict[tuple[str, int], list[str]] = {}
        for name in sorted(n for n in ends if n.startswith("a")):
            site, _, position = name.partition("@")
            self.heads.setdefault((position, Site.parse(site).layer), []).append(name)
        self.columns, self.places, x = {}, dict[str, _Place](), 0.0
        if OTHERS in ends:
            self.places[OTHERS], x = _Place(0.0, 0.0), 1.6
        for position in dict.fromkeys((*flow.positions, flow.position)):
            if position != flow.position and not any(end.endswith(f"@{position}") for end in ends):
                continue
            self.columns[position] = x
            for level in range(flow.layers + 1):
                self.places[f"{stream(level).short}@{position}"] = _Place(x, 2.0 * level)
            for layer in range(flow.layers):
                for i, name in enumerate(self.heads.get((position, layer), [])):
                    self.places[name] = _Place(x + 0.75 + _HEAD * i, 2.0 * layer + 1)
            most = max((len(self.heads.get((position, layer), [])) for layer in range(flow.layers)), default=0)
            x += 1.3 + _HEAD * most
        self.width = x
        self.places[flow.target] = _Place(self.columns[flow.position], 2.0 * flow.layers + 1)
        features = dict.fromkeys(e.feature for e in sorted(self.edges, key=lambda e: (not e.confirmed, -e.bits)))
        self.colour = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(features)}
        self._lanes: dict[tuple[str, str], list[str]] = {}
        for edge in self.edges:
            self._lanes.setdefault((edge.source, edge.to), []).append(edge.feature)

    def curve(self, edge: Edge, points: int = 25) -> npt.NDArray[np.float64]:
        """Return an edge as points of a cubic Bézier curve, ``[point, 2]``; several features run side by side."""
        lanes = self._lanes.get((edge.source, edge.to), [edge.feature])
        offset = 0.11 * (lanes.index(edge.feature) - (len(lanes) - 1) / 2)
        a, b = self.places[edge.source], self.places[edge.to]
        bend = 0.5 * (b.y - a.y)
        path = np.array([(a.x + offset, a.y), (a.x + offset, a.y + bend), (b.x + offset, b.y - bend), (b.x + offset, b.y)])
        t = np.linspace(0, 1, points)[:, None]
        out: npt.NDArray[np.float64] = (
            (1 - t) ** 3 * path[0] + 3 * t * (1 - t) ** 2 * path[1] + 3 * t**2 * (1 - t) * path[2] + t**3 * path[3]
        )
        return out

    def streams(self) -> Iterator[tuple[str, str]]:
        """Yield each position with its column's stream nodes that an edge meets, in their order."""
        met = {end for edge in self.edges for end in (edge.source, edge.to)}
        for position in self.columns:
            for level in range(self.flow.layers + 1):
                if (name := f"{stream(level).short}@{position}") in met or level == 0:
                    yield position, name


def _thickness(edge: Edge) -> float:
    return 1.3 if edge.share < FLOOR else 0.8 + 0.75 * min(edge.bits, 6.0)


def _dash(edge: Edge) -> str:
    if edge.share < FLOOR:
        return "dot"
    return "solid" if edge.confirmed else "dash"


# -- figures ----------------------------------------------------------------------------------------------------------


def figure(flow: Flow) -> Figure:
    """Return the diagram of the edges that are shown."""
    from matplotlib.figure import Figure

    drawing = Drawing(flow, flow.threshold)
    top = 2.0 * flow.layers + 1
    drawn = Figure(figsize=(max(5.0, 0.52 * drawing.width + 2.4), 0.85 * top + 1.2), layout="constrained")
    axes = drawn.subplots()
    styles = {"solid": "-", "dash": (0, (3, 1.6)), "dot": (0, (1, 1.2))}
    for edge in sorted(drawing.edges, key=lambda e: e.confirmed):
        x, y = drawing.curve(edge).T
        axes.plot(
            x, y, color=drawing.colour[edge.feature], lw=_thickness(edge), ls=styles[_dash(edge)], solid_capstyle="round",
            alpha=0.95 if edge.confirmed else 0.5, zorder=2 + edge.confirmed,
        )  # fmt: skip
    for _, name in drawing.streams():
        axes.plot(*vars(drawing.places[name]).values(), "o", ms=4.5, mfc="white", mec="0.25", mew=0.9, zorder=5)
    box = {"boxstyle": "round,pad=0.25", "fc": "white", "ec": "0.3", "lw": 0.7}
    for name in [n for names in drawing.heads.values() for n in names]:
        place = drawing.places[name]
        axes.text(place.x, place.y, name.partition("@")[0], ha="center", va="center", fontsize=7, bbox=box, zorder=6)
    for name, x in [*drawing.columns.items(), *([(OTHERS, 0.0)] if OTHERS in drawing.places else [])]:
        axes.text(x, -0.32, name, ha="center", va="top", fontsize=9, weight="bold", family="DejaVu Sans Mono", parse_math=False)
    place = drawing.places[flow.target]
    axes.text(
        place.x, place.y, flow.target, ha="center", va="center", weight="bold", fontsize=9, bbox={**box, "fc": "0.92"},
        zorder=6, parse_math=False,
    )  # fmt: skip
    axes.set_yticks([2.0 * i for i in range(flow.layers + 1)], [stream(i).short for i in range(flow.layers + 1)], fontsize=7)
    axes.set(xlim=(-0.7, drawing.width), ylim=(-0.75, top + 0.35), xticks=[])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for level in range(flow.layers + 1):
        axes.axhline(2.0 * level, color="0.9", lw=0.6, zorder=0)
    axes.set_title(f"{title_of(flow)}  (≥ {flow.threshold:.0%} of a feature)", fontsize=9, loc="left", parse_math=False)
    _legend(axes, drawing)
    return drawn


def _legend(axes: Any, drawing: Drawing) -> None:
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=colour, lw=3, label=name) for name, colour in drawing.colour.items()]
    keys += [
        Line2D([], [], color="0.3", lw=1.6, label="confirmed by patching"),
        Line2D([], [], color="0.3", lw=1.6, ls=(0, (3, 1.6)), alpha=0.6, label="known, not confirmed"),
        Line2D([], [], color="0.3", lw=1.6, ls=(0, (1, 1.2)), label="confirmed, hardly read"),
        Line2D([], [], color="0.3", lw=0.8 + 0.75, label="1 bit"),
        Line2D([], [], color="0.3", lw=0.8 + 0.75 * 4, label="4 bits"),
    ]
    labels = [str(key.get_label()) for key in keys]
    legend = axes.legend(handles=keys, labels=labels, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def page(flow: Flow) -> Any:
    """Return the diagram as a plotly figure, with a slider for the threshold."""
    from plotly import graph_objects

    drawing, steps = Drawing(flow, 0.0), sorted({*_STEPS, flow.threshold})
    figure = graph_objects.Figure()
    for edge in drawing.edges:
        x, y = drawing.curve(edge).T
        line = {"color": drawing.colour[edge.feature], "width": 1.4 * _thickness(edge), "dash": _dash(edge)}
        figure.add_scatter(
            x=x, y=y, mode="lines", line=line, opacity=0.95 if edge.confirmed else 0.5, name=html.escape(edge.feature),
            legendgroup=edge.feature, showlegend=False, hoverinfo="text", text=[_hover(edge)] * len(x),
        )  # fmt: skip
    for feature, colour in drawing.colour.items():
        figure.add_scatter(
            x=[None], y=[None], mode="lines", line={"color": colour, "width": 5}, name=html.escape(feature), legendgroup=feature
        )
    heads = [n for names in drawing.heads.values() for n in names]
    bits = {node.name: _in_all(node) for node in flow.nodes}
    streams = [name for _, name in drawing.streams()]
    _nodes(figure, drawing, streams, "circle", 9, ["" for _ in streams], bits)
    _nodes(figure, drawing, heads, "square", 34, [n.partition("@")[0] for n in heads], bits)
    _nodes(figure, drawing, [flow.target], "square", 34, [f"<b>{html.escape(flow.target)}</b>"], bits)
    lasting = len(drawing.colour) + 3
    shown = {step: set(map(id, flow.shown(step))) for step in steps}
    visible = {step: [id(edge) in shown[step] for edge in drawing.edges] + [True] * lasting for step in steps}
    figure.update_traces(visible=True)
    for trace, seen in zip(figure.data, visible[flow.threshold], strict=True):
        trace.visible = seen
    slider = {
        "active": steps.index(flow.threshold), "currentvalue": {"prefix": "edges that carry at least "}, "pad": {"t": 50},
        "steps": [{"label": f"{step:.0%}", "method": "update", "args": [{"visible": visible[step]}]} for step in steps],
    }  # fmt: skip
    columns = {**drawing.columns, **({OTHERS: 0.0} if OTHERS in drawing.places else {})}
    levels = range(flow.layers + 1)
    figure.update_layout(
        title=f"{html.escape(title_of(flow))}<br><sup>solid: confirmed by patching; dashed: known, not confirmed; dotted: "
        "confirmed, hardly read; width: bits</sup>",
        sliders=[slider], template="plotly_white", height=220 + 150 * (2 * flow.layers + 1),
        hovermode="closest",
        xaxis={"tickvals": list(columns.values()), "ticktext": [f"<b>{html.escape(c)}</b>" for c in columns], "showgrid": False,
               "zeroline": False, "range": [-0.8, drawing.width]},
        yaxis={"tickvals": [2 * i for i in levels], "ticktext": [stream(i).short for i in levels], "zeroline": False,
               "range": [-0.4, 2 * flow.layers + 1.5]},
    )  # fmt: skip
    return figure


def _in_all(node: Node) -> str:
    if node.bits is None:
        return ""
    return f"<br>{f'{node.bits:.2f}' if node.least is None else at_least(node.least)} bits in all"


def _nodes(
    figure: Any, drawing: Drawing, names: Sequence[str], symbol: str, size: int, labels: Sequence[str], bits: dict[str, str]
) -> None:
    said = [html.escape(n) + bits.get(n, "") for n in names]
    figure.add_scatter(
        x=[drawing.places[n].x for n in names], y=[drawing.places[n].y for n in names], mode="markers+text", text=labels,
        hovertext=said, hoverinfo="text", showlegend=False, textfont={"size": 11},
        marker={"symbol": symbol, "size": size, "color": "white", "line": {"color": "#444444", "width": 1.2}},
    )  # fmt: skip


def _hover(edge: Edge) -> str:
    lines = [
        f"<b>{html.escape(edge.feature)}</b>: {html.escape(edge.source)} → {html.escape(edge.to)} ({_SAID[edge.kind]})",
        "{:.2f} bits, {:.0%} of its entropy".format(*_told(edge)),
    ]
    if edge.attention is not None:
        lines.append(f"attention {edge.attention:.2f}")
    if edge.effect is None:
        lines.append("no contrast alters it")
    else:
        e = edge.effect
        lines.append(f"patching {html.escape(edge.via)}: {e.value:.0%} [{e.low:.0%}, {e.high:.0%}] of the whole effect")
    return "<br>".join(lines)

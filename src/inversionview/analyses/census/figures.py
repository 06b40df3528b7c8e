"""Figures of a census: layers × components, a panel for each feature; matplotlib for PNG and SVG, plotly for a page."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inversionview.analyses.census.result import Census
from inversionview.analyses.inform.result import Cell
from inversionview.core.scope import epsilon_text
from inversionview.model.distances.said import measure_of
from inversionview.model.sites.site import Site

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCALE = [[0.0, "#ffffff"], [0.05, "#f3f7fb"], [0.5, "#6aaed6"], [1.0, "#08306b"]]
"""White to dark blue: nothing to the most that any site tells; told apart in grey, too."""
_NOTHING = "#e8e8e8"
"""Where there is no such site, or hardly a query has another occurrence inside ε."""
_LEAST = 0.02
"""Of a feature's entropy: where no site tells more, its panel stays pale."""
_ACROSS = 5


@dataclass(frozen=True)
class Panel:
    """One heat map."""

    title: str
    top: float
    """What the darkest colour means, in bits: the most that any site is sure to tell."""
    values: npt.NDArray[np.float64]
    """``[layer, component]``, the lower ends of intervals; NaN where nothing is known."""
    said: list[list[str]]
    """Of each cell, for the page."""


def _columns(census: Census) -> list[str]:
    """Return the components of a layer, in the order of computation: heads by number, others by kind."""
    found: dict[str, None] = {}
    for site in sorted((Site.parse(total.site) for total in census.totals), key=lambda s: (s.layer > 0, s.layer)):
        found.setdefault(_column(site))
    heads = sorted((name for name in found if name.isdigit()), key=int)
    before = [name for name in found if name in ("embed", "pos_embed", "pre")]
    return [*before, *heads, *(name for name in found if name not in heads and name not in before)]


def _column(site: Site) -> str:
    return str(site.head) if site.is_head else site.kind


def panels(census: Census) -> tuple[list[Panel], list[str], list[int]]:
    """Return a panel for all bits and one for each feature, the names of the columns, and the layers."""
    columns = _columns(census)
    layers = sorted({Site.parse(total.site).layer for total in census.totals})
    at = {t.site: (layers.index(Site.parse(t.site).layer), columns.index(_column(Site.parse(t.site)))) for t in census.totals}
    shape = (len(layers), len(columns))

    def panel(title: str, told: dict[str, tuple[float, str]], entropy: float | None) -> Panel:
        values, said = np.full(shape, np.nan), [[""] * shape[1] for _ in range(shape[0])]
        for site, (bits, text) in told.items():
            i, j = at[site]
            values[i, j], said[i][j] = bits, text
        most = max(0.0, float(np.nanmax(values, initial=0.0)))
        top = max(most, _LEAST * (entropy or 1.0), 1e-6)
        of = "" if entropy is None else f" of {entropy:.2g}"
        return Panel(f"{title}\nup to {most:.2g}{of} bits", top, values, said)

    everything = {
        t.site: (t.least, f"{t.site}: {t.bits.value:.2f} bits [{t.bits.low:.2f}, {t.bits.high:.2f}]") for t in census.totals
    }
    drawn = [panel("all that is told", everything, None)]
    for feature in census.features:
        entropy = next(cell.entropy for cell in census.alone if cell.feature == feature)
        cells = {
            cell.site: (min(cell.bits.low, cell.entropy), _hover(cell)) for cell in census.known if cell.feature == feature
        }
        drawn.append(panel(feature, cells, entropy))
    return drawn, columns, layers


def _hover(cell: Cell) -> str:
    bits, same = cell.bits, f"{cell.consistency.value:.0%} of the preimage"
    told = f"{bits.value:.2f} bits [{bits.low:.2f}, {bits.high:.2f}] of {cell.entropy:.2f}"
    return html.escape(f"{cell.site}, {cell.feature}: {told}") + f"<br>same value in {same}; {cell.queries} queries"


def _title(census: Census) -> str:
    return (
        f"{Path(census.study).name}: bits about features of {census.occurrences:,} occurrences in {census.texts}; "
        f"{epsilon_text(census.epsilon, measure_of(census.distance, (t.site for t in census.totals)))}"
    )


def figure(census: Census) -> Figure:
    """Return a heat map for each feature: layers × heads and streams, dark where a site tells most of all."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    steps: Any = [tuple(each) for each in _SCALE]
    colours = LinearSegmentedColormap.from_list("bits", steps).with_extremes(bad=_NOTHING)
    drawn, columns, layers = panels(census)
    rows = -(-len(drawn) // _ACROSS)
    size = (0.7 + _ACROSS * (0.35 + 0.155 * len(columns)), 0.8 + rows * (0.85 + 0.105 * len(layers)))
    made = Figure(figsize=size, layout="constrained")
    axes = made.subplots(rows, _ACROSS, squeeze=False)
    for ax in axes.flat:
        ax.set_visible(False)
    for ax, each in zip(axes.flat, drawn, strict=False):
        ax.set_visible(True)
        ax.imshow(each.values, cmap=colours, vmin=0, vmax=each.top, aspect="auto", interpolation="none")
        ax.set_title(each.title, fontsize=8, parse_math=False)
        ax.set_xticks(range(len(columns)), columns, fontsize=5.5, rotation=90 if len(columns) > 12 else 0)
        for label in ax.get_xticklabels():
            label.set_rotation(0 if label.get_text().isdigit() else 90)
        step = 1 if len(layers) <= 12 else 5
        ax.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]], fontsize=6)
        ax.tick_params(length=0, pad=1.5)
        for spine in ax.spines.values():
            spine.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("layer", fontsize=7)
    made.suptitle(
        f"{_title(census)}\nLower ends of 95 % intervals: white at 0 bits, darkest at the most in a panel",
        fontsize=9,
        parse_math=False,
    )
    return made


def page(census: Census) -> Any:
    """Return the same as a plotly figure, with intervals on hover."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    drawn, columns, layers = panels(census)
    across = min(_ACROSS, len(drawn))
    rows = -(-len(drawn) // across)
    height = 120 + rows * (70 + 13 * len(layers))
    titles = [html.escape(each.title).replace("\n", "<br>") for each in drawn]
    made = make_subplots(rows, across, subplot_titles=titles, horizontal_spacing=0.03, vertical_spacing=70 / height)
    for number, each in enumerate(drawn):
        heat = graph_objects.Heatmap(
            z=[[None if np.isnan(v) else v for v in row] for row in each.values.tolist()], x=columns, y=layers,
            zmin=0, zmax=each.top, colorscale=_SCALE, hovertext=each.said, hoverinfo="text", xgap=1, ygap=1, showscale=False,
        )  # fmt: skip
        row, column = number // across + 1, number % across + 1
        made.add_trace(heat, row=row, col=column)
        made.update_yaxes(autorange="reversed", row=row, col=column)
        made.update_xaxes(type="category", row=row, col=column)
    made.update_layout(
        title=html.escape(_title(census)), height=height, width=max(900, across * (60 + 17 * len(columns))),
        plot_bgcolor=_NOTHING, font={"size": 10},
    )  # fmt: skip
    return made

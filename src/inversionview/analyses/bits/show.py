"""Bits over ε as table, figure and page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.bits.result import Curve
from inversionview.analyses.inform.figures import axis, split
from inversionview.analyses.threshold.show import BOUNDED
from inversionview.preimage.show import at_least
from inversionview.show.files import TABLE_FORMATS, check_formats, write_figure, write_page, write_records

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curve_figure(curves: Sequence[Curve]) -> Figure:
    """Return mean bits against ε, a panel for each position, a line for each site with its interval."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    positions = list(dict.fromkeys(c.position for c in curves))
    figure = Figure(figsize=(1.6 + 2.9 * len(positions), 3.4), layout="constrained")
    axes = figure.subplots(1, len(positions), sharey=True, squeeze=False)[0]
    sites = list(dict.fromkeys(c.site for c in curves))
    for ax, position in zip(axes, positions, strict=True):
        for c in (c for c in curves if c.position == position):
            colour = colormaps["viridis"](sites.index(c.site) / max(1, len(sites) - 1) * 0.92)
            dashes = ("-", "--", ":", "-.")[sites.index(c.site) % 4]
            known, bounded, values = split(c)
            ax.plot(c.epsilons, values, dashes, color=colour, label=c.site, linewidth=1.4)
            ax.plot(np.array(c.epsilons)[bounded], values[bounded], "^", color=colour, markerfacecolor="white", markersize=4.5)
            low, high = (np.where(known, [getattr(m, part) for m in c.bits], np.nan) for part in ("low", "high"))
            ax.fill_between(c.epsilons, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.set_xscale("log")
        ax.set_xticks(curves[0].epsilons, [f"{e:g}" for e in curves[0].epsilons], fontsize=8)
        ax.minorticks_off()
        ax.set_title(f"at {position}", fontsize=10)
        ax.set_xlabel(f"ε ({curves[0].distance})")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(axis(curves))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure


def curve_page(curves: Sequence[Curve]) -> Any:
    """Return the same as a plotly figure."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    positions = list(dict.fromkeys(c.position for c in curves))
    figure = make_subplots(1, len(positions), subplot_titles=[f"at {p}" for p in positions], shared_yaxes=True)
    for c in curves:
        known, _, values = split(c)
        low, high = ([getattr(m, part) for m in c.bits] for part in ("low", "high"))
        bars = {"array": np.where(known, high - values, 0), "arrayminus": np.where(known, values - low, 0)}
        said = [f"{c.site} at {c.position}, ε = {e:g}: {_bits_at(c, i)}" for i, e in enumerate(c.epsilons)]
        line = graph_objects.Scatter(
            x=c.epsilons, y=values, error_y=bars, name=c.site, legendgroup=c.site, showlegend=c.position == positions[0],
            mode="lines+markers", marker={"symbol": np.where(known, "circle", "triangle-up-open").tolist(), "size": 8},
            hovertext=said, hoverinfo="text",
        )  # fmt: skip
        figure.add_trace(line, row=1, col=positions.index(c.position) + 1)
    figure.update_xaxes(type="log", title=f"ε ({curves[0].distance})")
    figure.update_yaxes(title=axis(curves).replace("\n", "<br>"), col=1)
    return figure.update_layout(title="Information by ε", width=240 + 380 * len(positions), height=480)


def _bits_at(curve: Curve, rung: int) -> str:
    bits, known = curve.bits[rung], not curve.bounded[rung]
    return f"{bits.value:.2f} bits [{bits.low:.2f}, {bits.high:.2f}]" if known else f"{at_least(curve.least[rung])} bits"


def save_curves(curves: Sequence[Curve], path: Path) -> None:
    """Write bit curves in the format that ``path`` ends in; raises as ``save_features``."""
    check_formats([path], TABLE_FORMATS)
    if path.suffix.lower() in (".csv", ".parquet"):
        write_records(
            [
                {
                    "site": c.site,
                    "position": c.position,
                    "distance": c.distance,
                    "epsilon": e,
                    "bits": m.value,
                    "bits_low": m.low,
                    "bits_high": m.high,
                    "bits_least": least,
                }
                for c in curves
                for e, m, least in zip(c.epsilons, c.bits, c.least, strict=True)
            ],
            path,
        )
    elif path.suffix.lower() == ".html":
        write_page(curve_page(curves), path)
    else:
        write_figure(lambda: curve_figure(curves), path)


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
    return Group(grid, Text(), Text(f"mean bits, {BOUNDED}.", style="dim"))

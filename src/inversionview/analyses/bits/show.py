"""Bits over ε as table, figure and page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.bits.result import Curve, Curves
from inversionview.analyses.threshold.show import BOUNDED
from inversionview.core.results import several
from inversionview.model.distances.said import measure_of
from inversionview.preimage.show import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def split(curve: Curve) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Return at which ε the mean is known, at which only a bound, and the means and bounds, ``[epsilon]``."""
    known = ~np.array(curve.bounded)
    return known, ~known, np.where(known, [m.value for m in curve.bits], curve.least)


def axis(curves: Sequence[Curve]) -> str:
    """Return what the axis of bits is called."""
    bounded = any(any(curve.bounded) for curve in curves)
    return "mean information (bits)" + "\n△: at least; some queries have hardly any other input inside" * bounded


def figure(result: Curve | Curves) -> Figure:
    """Return mean bits against ε, a panel for each position, a line for each site with its interval."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    curves = several(result)
    positions = list(dict.fromkeys(c.position for c in curves))
    drawn = Figure(figsize=(1.6 + 2.9 * len(positions), 3.4), layout="constrained")
    axes = drawn.subplots(1, len(positions), sharey=True, squeeze=False)[0]
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
        ax.set_xlabel(f"ε ({measure_of(curves[0].distance, (c.site for c in curves))})")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(axis(curves))
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return drawn


def page(result: Curve | Curves) -> Any:
    """Return the same as a plotly figure."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    curves = several(result)
    positions = list(dict.fromkeys(c.position for c in curves))
    drawn = make_subplots(1, len(positions), subplot_titles=[f"at {p}" for p in positions], shared_yaxes=True)
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
        drawn.add_trace(line, row=1, col=positions.index(c.position) + 1)
    drawn.update_xaxes(type="log", title=f"ε ({measure_of(curves[0].distance, (c.site for c in curves))})")
    drawn.update_yaxes(title=axis(curves).replace("\n", "<br>"), col=1)
    return drawn.update_layout(title="Information by ε", width=240 + 380 * len(positions), height=480)


def _bits_at(curve: Curve, rung: int) -> str:
    bits, known = curve.bits[rung], not curve.bounded[rung]
    return f"{bits.value:.2f} bits [{bits.low:.2f}, {bits.high:.2f}]" if known else f"{at_least(curve.least[rung])} bits"


def table(result: Curve | Curves) -> Group:
    """Return mean bits of every site and position, a column for each ε."""
    curves = several(result)
    about = f"mean bits by ε ({measure_of(curves[0].distance, (c.site for c in curves))})"
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

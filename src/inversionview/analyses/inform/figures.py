"""Figures of feature tables: matplotlib for PNG and SVG, plotly for a page that needs no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inversionview.analyses.inform.result import Cell, FeatureTable, Total
from inversionview.core.scope import epsilon_text
from inversionview.preimage.show import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SCALE = [[0.0, "#ffffff"], [0.05, "#f3f7fb"], [0.5, "#6aaed6"], [1.0, "#08306b"]]
"""White to dark blue: nothing known to all known; told apart in grey, too."""


def _panels(table: FeatureTable) -> dict[str, tuple[list[str], dict[tuple[str, str], Cell]]]:
    """Return for each position its sites and its cells by (site, feature)."""
    panels: dict[str, tuple[list[str], dict[tuple[str, str], Cell]]] = {}
    for total in table.totals:
        panels.setdefault(total.position, ([], {}))[0].append(total.site)
    for cell in table.cells:
        panels[cell.position][1][cell.site, cell.feature] = cell
    return panels


def _features(table: FeatureTable) -> list[str]:
    return list(dict.fromkeys(cell.feature for cell in table.cells))


def _shares(sites: Sequence[str], features: Sequence[str], cells: dict[tuple[str, str], Cell]) -> npt.NDArray[np.float64]:
    return np.array([[min(1.0, max(0.0, cells[s, f].share)) if (s, f) in cells else 0.0 for f in features] for s in sites])


def _bits(cells: dict[tuple[str, str], Cell], site: str, feature: str) -> float:
    """Return the bits about a feature, at most its entropy, which an estimate may pass by the chance of its queries."""
    cell = cells.get((site, feature))
    return 0.0 if cell is None else min(cell.bits.value, cell.entropy)


def _total(total: Total) -> str:
    return at_least(total.least, 1).replace(" ", "") if total.bounded else f"{total.bits.value:.1f}"


def _title(table: FeatureTable) -> tuple[str, str]:
    """Return two lines, which a narrow figure has room for."""
    which = f" where {', '.join(table.where)}" if table.where else ""
    bounded = "; ≥: hardly any other input inside" if any(t.bounded for t in table.totals) else ""
    return f"{table.study}: bits about each feature{which}", f"{epsilon_text(table.epsilon, table.measure)}{bounded}"


def figure(table: FeatureTable) -> Figure:
    """Return a heat map for each position: sites × features, the bits in the cells."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colours = LinearSegmentedColormap.from_list("share", [tuple(each) for each in _SCALE])  # type: ignore[arg-type]
    panels, features = _panels(table), _features(table)
    totals = {(t.position, t.site): _total(t) for t in table.totals}
    rows = [len(sites) for sites, _ in panels.values()]
    drawn = Figure(figsize=(2.2 + 0.46 * (len(features) + 1), 1.1 + sum(0.24 * n + 0.75 for n in rows)), layout="constrained")
    axes = drawn.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": [n + 1 for n in rows]})[:, 0]
    image: Any = None
    for ax, (position, (sites, cells)) in zip(axes, panels.items(), strict=True):
        shares = np.pad(_shares(sites, features, cells), ((0, 0), (1, 0)))
        image = ax.imshow(shares, cmap=colours, vmin=0, vmax=1, aspect="auto")
        for i, site in enumerate(sites):
            ax.text(0, i, totals[position, site], ha="center", va="center", fontsize=7, fontweight="bold")
            for j, feature in enumerate(features, 1):
                if (bits := _bits(cells, site, feature)) >= 0.05:
                    ink = "white" if shares[i, j] > 0.6 else "black"
                    ax.text(j, i, f"{bits:.1f}", ha="center", va="center", fontsize=7, color=ink)
        ax.axvline(0.5, color="black", linewidth=0.8)
        ax.set_yticks(range(len(sites)), sites, fontsize=7.5, family="monospace")
        ax.set_xticks(range(len(features) + 1), ["all", *features], fontsize=7.5, rotation=45, ha="left")
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.set_ylabel(f"at {position}", fontsize=10, fontweight="bold")
        for spine in ax.spines.values():
            spine.set_visible(False)
    bar = drawn.colorbar(image, ax=axes, fraction=0.02, aspect=40, pad=0.015)
    bar.set_label("share of the feature's entropy", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    drawn.suptitle("\n".join(_title(table)), fontsize=10, parse_math=False)
    return drawn


def page(table: FeatureTable) -> Any:
    """Return the same as a plotly figure, with intervals on hover."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    panels, features = _panels(table), _features(table)
    rows = [len(sites) for sites, _ in panels.values()]
    height = 160 + sum(26 * n + 64 for n in rows)
    drawn = make_subplots(
        len(panels), 1, subplot_titles=[f"at {position}" for position in panels], row_heights=[n / sum(rows) for n in rows],
        vertical_spacing=64 / height if len(rows) > 1 else 0,
    )  # fmt: skip
    for number, (sites, cells) in enumerate(panels.values(), 1):
        said = [
            [_hover(cells[s, f]) if (s, f) in cells else "no query has another input inside ε" for f in features] for s in sites
        ]
        inside = [[f"{bits:.1f}" if (bits := _bits(cells, s, f)) >= 0.05 else "" for f in features] for s in sites]
        heat = graph_objects.Heatmap(
            z=_shares(sites, features, cells), x=features, y=sites, zmin=0, zmax=1, colorscale=_SCALE, hovertext=said,
            hoverinfo="text", text=inside, texttemplate="%{text}", xgap=1, ygap=1, showscale=number == 1,
            colorbar={"title": "share of entropy", "tickformat": ".0%"},
        )  # fmt: skip
        drawn.add_trace(heat, row=number, col=1)
        drawn.update_yaxes(autorange="reversed", row=number, col=1)
    drawn.update_layout(
        title="<br>".join(map(html.escape, _title(table))), height=height, width=max(720, 60 * len(features) + 240),
        plot_bgcolor="#e8e8e8", font={"size": 12},
    )  # fmt: skip
    return drawn


def _hover(cell: Cell | None) -> str:
    if cell is None:
        return "no query has another input inside ε"
    b, c = cell.bits, cell.consistency
    low, told, high = (min(bits, cell.entropy) for bits in (b.low, b.value, b.high))
    rarer = ": less common inside ε than elsewhere" if told < 0 else f", {min(cell.share, 1.0):.0%} of {cell.entropy:.2f}"
    where, same = (
        f"{cell.feature} at {cell.position}, {cell.site}",
        f"{c.value:.0%} of the preimage [{c.low:.0%}, {c.high:.0%}]",
    )
    return f"{where}<br>{told:.2f} bits [{low:.2f}, {high:.2f}]{rarer}<br>same value in {same}"

"""Figures of feature tables and bit curves: matplotlib for PNG and SVG, plotly for a page that needs no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inversionview.analysis.features import Cell, FeatureTable, Total
from inversionview.analysis.places import Curve
from inversionview.scope import epsilon_text
from inversionview.views.files import TABLE_FORMATS, check_formats, write_figure, write_page, write_records
from inversionview.views.text import at_least

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
    return f"{table.study}: bits about each feature{which}", f"{epsilon_text(table.epsilon, table.distance)}{bounded}"


def feature_figure(table: FeatureTable) -> Figure:
    """Return a heat map for each position: sites × features, the bits in the cells."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colours = LinearSegmentedColormap.from_list("share", [tuple(each) for each in _SCALE])  # type: ignore[arg-type]
    panels, features = _panels(table), _features(table)
    totals = {(t.position, t.site): _total(t) for t in table.totals}
    rows = [len(sites) for sites, _ in panels.values()]
    figure = Figure(figsize=(2.2 + 0.46 * (len(features) + 1), 1.1 + sum(0.24 * n + 0.75 for n in rows)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": [n + 1 for n in rows]})[:, 0]
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
    bar = figure.colorbar(image, ax=axes, fraction=0.02, aspect=40, pad=0.015)
    bar.set_label("share of the feature's entropy", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle("\n".join(_title(table)), fontsize=10, parse_math=False)
    return figure


def feature_page(table: FeatureTable) -> Any:
    """Return the same as a plotly figure, with intervals on hover."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    panels, features = _panels(table), _features(table)
    rows = [len(sites) for sites, _ in panels.values()]
    height = 160 + sum(26 * n + 64 for n in rows)
    figure = make_subplots(
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
        figure.add_trace(heat, row=number, col=1)
        figure.update_yaxes(autorange="reversed", row=number, col=1)
    figure.update_layout(
        title="<br>".join(map(html.escape, _title(table))), height=height, width=max(720, 60 * len(features) + 240),
        plot_bgcolor="#e8e8e8", font={"size": 12},
    )  # fmt: skip
    return figure


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


def _split(curve: Curve) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Return at which ε the mean is known, at which only a bound, and the means and bounds, ``[epsilon]``."""
    known = ~np.array(curve.bounded)
    return known, ~known, np.where(known, [m.value for m in curve.bits], curve.least)


def _axis(curves: Sequence[Curve]) -> str:
    bounded = any(any(curve.bounded) for curve in curves)
    return "mean information (bits)" + "\n△: at least; some queries have hardly any other input inside" * bounded


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
            known, bounded, values = _split(c)
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
    axes[0].set_ylabel(_axis(curves))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure


def curve_page(curves: Sequence[Curve]) -> Any:
    """Return the same as a plotly figure."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    positions = list(dict.fromkeys(c.position for c in curves))
    figure = make_subplots(1, len(positions), subplot_titles=[f"at {p}" for p in positions], shared_yaxes=True)
    for c in curves:
        known, _, values = _split(c)
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
    figure.update_yaxes(title=_axis(curves).replace("\n", "<br>"), col=1)
    return figure.update_layout(title="Information by ε", width=240 + 380 * len(positions), height=480)


def _bits_at(curve: Curve, rung: int) -> str:
    bits, known = curve.bits[rung], not curve.bounded[rung]
    return f"{bits.value:.2f} bits [{bits.low:.2f}, {bits.high:.2f}]" if known else f"{at_least(curve.least[rung])} bits"


def save_features(table: FeatureTable, path: Path) -> None:
    """Write a feature table in the format that ``path`` ends in, one of ``TABLE_FORMATS``.

    Raises:
        SettingError: the format is none.
        StorageError: the file cannot be written.
    """
    check_formats([path], TABLE_FORMATS)
    if path.suffix.lower() in (".csv", ".parquet"):
        write_records(table.records(), path)
    elif path.suffix.lower() == ".html":
        write_page(feature_page(table), path)
    else:
        write_figure(lambda: feature_figure(table), path)


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

"""The heat map of a calibration: sites by kind and depth × distances; matplotlib for PNG and SVG, plotly for a page."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from inversionview.analyses.calibrate.result import Calibration
from inversionview.core.scope import DISTANCES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FAMILIES = {"residual": "streams", "mlp": "MLPs", "head": "heads"}


def _grid(result: Calibration) -> tuple[Float[np.ndarray, "site distance"], list[str], list[str], list[list[str]]]:
    """Return correlations, the sites by kind and then depth, the distances, and what is said of each."""
    sites = [site for group in result.kinds for site in group.sites]
    there = {row.distance for row in result.rows}
    names = [d for d in DISTANCES if d in there]
    values, said = np.full((len(sites), len(names)), np.nan), [[""] * len(names) for _ in sites]
    for row in result.rows:
        i, j, c = sites.index(row.site), names.index(row.distance), row.correlation
        values[i, j] = c.value
        said[i][j] = f"{row.site}, {row.distance}: {c.value:.3f} [{c.low:.3f}, {c.high:.3f}], {row.inside:.2%} inside 0.1"
    return values, sites, list(names), said


def _title(result: Calibration) -> str:
    return f"{Path(result.study).name}: how well D foretells interchangeability (Spearman's ρ with nats), {result.texts}"


def figure(result: Calibration) -> Figure:
    """Return the heat map; the best of each site is framed."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    values, sites, names, _ = _grid(result)
    made = Figure(figsize=(2.2 + 0.62 * len(names), 1.6 + 0.2 * len(sites)), layout="constrained")
    ax = made.subplots()
    low = min(0.0, float(np.nanmin(values)))
    shades = ax.imshow(values, cmap="cividis", vmin=low, vmax=max(1e-6, float(np.nanmax(values))), aspect="auto")
    for i, j in np.ndindex(values.shape):
        if np.isfinite(values[i, j]):
            ax.text(
                j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=6, color=_ink(float(values[i, j]), values, low)
            )
    for i, row in enumerate(values):
        ax.add_patch(
            Rectangle((float(np.nanargmax(row)) - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="crimson", lw=1.2, zorder=3)
        )
    ax.set_xticks(range(len(names)), [name.replace("-", "-\n") for name in names], fontsize=6)
    ax.set_yticks(range(len(sites)), sites, fontsize=6, family="DejaVu Sans Mono")
    ax.tick_params(length=0)
    for at, label in _kinds(result):
        ax.axhline(at - 0.5, color="white", lw=2) if at else None
        ax.text(1.01, 1 - at / len(sites), label, transform=ax.transAxes, fontsize=7, va="top", rotation=90)
    made.colorbar(shades, ax=ax, label="ρ", shrink=0.6, pad=0.06)
    ax.set_title(_title(result), fontsize=7, parse_math=False)
    return made


def _ink(value: float, values: Float[np.ndarray, "site distance"], low: float) -> str:
    return "black" if (value - low) / max(1e-6, float(np.nanmax(values)) - low) > 0.6 else "white"


def _kinds(result: Calibration) -> list[tuple[int, str]]:
    """Return where each kind of sites begins, and what it is called."""
    found, at = [], 0
    for group in result.kinds:
        found.append((at, _FAMILIES[group.kind]))
        at += len(group.sites)
    return found


def page(result: Calibration) -> Any:
    """Return the same as a plotly figure, with intervals on hover."""
    from plotly import graph_objects

    values, sites, names, said = _grid(result)
    heat = graph_objects.Heatmap(
        z=[[None if np.isnan(v) else v for v in row] for row in values.tolist()], x=names, y=sites, colorscale="Cividis",
        hovertext=[[html.escape(text) for text in row] for row in said], hoverinfo="text", texttemplate="%{z:.2f}", xgap=1,
        ygap=1, colorbar={"title": "ρ"},
    )  # fmt: skip
    made = graph_objects.Figure(heat)
    made.update_yaxes(autorange="reversed", type="category")
    made.update_layout(title=html.escape(_title(result)), height=200 + 22 * len(sites), width=max(700, 200 + 80 * len(names)))
    return made

"""Figures of completeness checks: PNG and SVG by matplotlib, interactive HTML by plotly.

A page holds plotly itself and needs no network. Inputs inside ε and the nearest outside are drawn one by one; the rest, up to
some hundred thousand a panel, as a density.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inversionview.analyses.complete.result import Completeness, CompletenessTable, Scores
from inversionview.core.results import several
from inversionview.drawing.colours import EPSILON, KNOWN
from inversionview.drawing.tokens import visible
from inversionview.preimage.preimage import Query

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_POINTS = 3000
"""Most inputs that are drawn one by one, inside ε and outside, in a panel."""


def label(query: Query) -> str:
    """Return a query as one line of plain text, its position in parentheses: ``615+861(=)1476 · a0.0``."""
    shown = [f"({visible(t)})" if i == query.position else visible(t) for i, t in enumerate(query.tokens)]
    return f"{''.join(shown)} · {query.site.short}"


def chosen(mask: npt.NDArray[np.bool_], most: int = _POINTS) -> npt.NDArray[np.int64]:
    """Return the places where ``mask`` holds, a random ``most`` of them where there are more."""
    places = np.flatnonzero(mask)
    return places if len(places) <= most else np.sort(np.random.default_rng(0).choice(places, most, replace=False))


def density(
    result: Completeness, scores: Scores
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the inputs outside ε counted in bins, ``[D, log p]``, and the bins' edges; D in steps of its square root."""
    shown = ~result.inside & (scores.log_p >= _lowest(scores))
    distance, log_p = result.distance[shown], scores.log_p[shown]
    edges = np.linspace(0, np.sqrt(max(result.distance.max(), result.epsilon)), 121) ** 2
    counts, edges, levels = np.histogram2d(distance, log_p, bins=(edges, np.linspace(*_range(scores), 81)))
    return counts, edges, levels


def _lowest(scores: Scores) -> float:
    return -np.inf if scores.floor is None else scores.floor


def _range(scores: Scores) -> tuple[float, float]:
    low = float(scores.log_p.min()) if scores.floor is None else scores.floor
    high = float(scores.log_p.max())
    room = max(0.03 * (high - low), 0.5)
    below = room if scores.floor is None else 0.16 * (high - low)  # there stands how many inputs are below the floor
    return low - below, high + room


def rank_text(scores: Scores) -> str:
    """Return the rank of the least probable input inside ε as text; ``> 1,000`` where it is a lower bound."""
    if scores.lowest_rank is None:
        return "–"
    return f"{scores.lowest_rank:,}" if scores.rank_is_exact else f"> {scores.lowest_rank - 1:,}"


def _title(scores: Scores) -> str:
    recall = "–" if scores.recall is None else f"{scores.recall:.3f}"
    return f"{scores.name}:  recall {recall},  lowest rank {rank_text(scores)}"


def _row_title(result: Completeness) -> str:
    return f"{label(result.query)} · {int(result.inside.sum()):,} of {len(result.rows):,} inside"


def _below(result: Completeness, scores: Scores) -> str:
    """Say what lies below the panel."""
    below = scores.log_p < _lowest(scores)
    members = int((below & result.inside).sum())
    return f"▾ {int(below.sum()):,} inputs below, {members:,} of them inside" if below.any() else ""


def figure(result: Completeness | CompletenessTable) -> Figure:
    """Return checks, one row for each query and one column for each variant."""
    from matplotlib.figure import Figure

    results = several(result)
    columns, rows = len(results[0].variants), len(results)
    drawn = Figure(figsize=(3.0 * columns, 1.6 * rows + 0.5), layout="constrained")
    parts = drawn.subfigures(rows + 1, 1, squeeze=False, height_ratios=[1.6] * rows + [0.3])[:, 0]
    for number, (each, part) in enumerate(zip(results, parts[:-1], strict=True)):
        title = part.suptitle(_row_title(each), x=0.01, ha="left", fontsize=8.5, family="DejaVu Sans Mono", weight="bold")
        title.set_parse_math(False)
        axes = part.subplots(1, columns, squeeze=False)[0]
        for panel, scores in zip(axes, each.variants, strict=True):
            _panel(panel, each, scores)
            if number == rows - 1:
                panel.set_xlabel("D(z$_q$, x)")
        axes[0].set_ylabel("log p(x ∣ z$_q$)")
    _legend(parts[-1])
    return drawn


def _panel(axes: Any, result: Completeness, scores: Scores) -> None:
    from matplotlib.colors import LogNorm

    counts, edges, levels = density(result, scores)
    if counts.any():
        shades = LogNorm(0.2, max(counts.max(), 10))
        axes.pcolormesh(edges, levels, np.ma.masked_equal(counts.T, 0), cmap="Greys", norm=shades, rasterized=True)
    drawn = chosen(result.inside & (scores.log_p >= _lowest(scores)))
    axes.plot(result.distance[drawn], scores.log_p[drawn], ".", ms=2.5, mew=0, color=KNOWN, rasterized=len(drawn) > 500)
    axes.axvline(result.epsilon, color=EPSILON, lw=1)
    if scores.percentile is not None:
        axes.axhline(scores.percentile, color="0.3", lw=0.7, ls=(0, (4, 3)))
    axes.set_xscale("function", functions=(lambda d: np.sign(d) * np.sqrt(np.abs(d)), lambda r: np.sign(r) * np.square(r)))
    axes.set(xlim=(-edges[-1] / 2500, edges[-1]), ylim=_range(scores))
    axes.set_xticks(ticks := _ticks(edges[-1]), [f"{tick:g}" for tick in ticks])
    axes.set_title(_title(scores), fontsize=6.3, loc="left", pad=3)
    if below := _below(result, scores):
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
        axes.text(0.99, 0.02, below, transform=axes.transAxes, ha="right", va="bottom", fontsize=6, bbox=box)


def _legend(part: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys = [
        Line2D([], [], color=KNOWN, marker=".", ls="", label=f"inside ε (at most {_POINTS:,} drawn)"),
        Patch(color="0.55", label="density of all outside (log scale)"),
        Line2D([], [], color=EPSILON, lw=1, label="ε"),
        Line2D([], [], color="0.3", lw=0.7, ls=(0, (4, 3)), label="95th percentile outside"),
    ]
    part.legend(handles=keys, loc="center", ncols=4, fontsize=7, frameon=False)


def _ticks(most: float) -> list[float]:
    """Return places for the labels of a square-root axis that do not touch."""
    kept: list[float] = []
    for tick in (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0):
        if tick <= most and (not kept or np.sqrt(tick) - np.sqrt(kept[-1]) >= 0.14 * np.sqrt(most)):
            kept.append(tick)
    return kept


def page(results: CompletenessTable) -> Any:
    """Return the same as a plotly figure, which names an input where one points at it."""
    from plotly.subplots import make_subplots

    rows, columns = len(results), len(results[0].variants)
    titles = []
    for result in results:
        heads = [f"<b>{html.escape(_row_title(result))}</b><br>", *[""] * (columns - 1)]
        lines = (f"{_title(scores)}<br>{_below(result, scores)}".removesuffix("<br>") for scores in result.variants)
        titles += [head + line for head, line in zip(heads, lines, strict=True)]
    drawn = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.42 / (rows + 2), horizontal_spacing=0.05)
    for row, result in enumerate(results, 1):
        near = chosen(result.inside), chosen(~result.inside & (result.distance <= 2 * result.epsilon))
        hover = [[html.escape(text) for text in _texts(results, result, places)] for places in near]
        for column, scores in enumerate(result.variants, 1):
            _page_panel(drawn, result, scores, near, hover, {"row": row, "col": column})
    drawn.update_annotations(font_size=12)
    drawn.update_yaxes(title_text="log p(x ∣ z_q)", col=1)
    drawn.update_xaxes(title_text="D(z_q, x), square-root scale", row=rows)
    note = (
        f"Blue: inputs inside ε; grey points: inputs outside with D ≤ 2ε (at most {_POINTS:,} of each are drawn). Shading: "
        "all inputs outside. Red: ε. Dashed: 95th percentile outside."
    )
    drawn.update_layout(
        height=300 * rows + 120, template="plotly_white", showlegend=False, hovermode="closest",
        title={"text": note, "font_size": 13},
    )  # fmt: skip
    return drawn


def _texts(results: CompletenessTable, result: Completeness, places: npt.NDArray[np.int64]) -> list[str]:
    return [""] * len(places) if results.texts is None else results.texts(result, places)


def _page_panel(
    figure: Any,
    result: Completeness,
    scores: Scores,
    near: Sequence[npt.NDArray[np.int64]],
    hover: Sequence[Sequence[str]],
    where: dict[str, int],
) -> None:
    import plotly.graph_objects as go

    counts, edges, levels = density(result, scores)
    shades = np.where(counts > 0, np.log10(np.maximum(counts, 1)) + 0.3, np.nan).T
    roots = np.sqrt(edges)
    shading = go.Heatmap(
        x=(roots[:-1] + roots[1:]) / 2, y=(levels[:-1] + levels[1:]) / 2, z=shades, colorscale="Greys", zmin=0, showscale=False,
        hoverinfo="skip",
    )  # fmt: skip
    figure.add_trace(shading, **where)
    for places, text, colour in reversed(list(zip(near, hover, (KNOWN, "#777777"), strict=True))):
        shown = scores.log_p[places] >= _lowest(scores)
        distance, log_p = result.distance[places[shown]], scores.log_p[places[shown]]
        points = go.Scattergl(
            x=np.sqrt(distance), y=log_p, mode="markers", marker={"size": 4, "color": colour}, text=np.array(text)[shown],
            customdata=distance, hovertemplate="%{text}<br>D %{customdata:.3f}, log p %{y:.2f}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(points, **where)
    figure.add_vline(float(np.sqrt(result.epsilon)), line_color=EPSILON, line_width=1.5, **where)
    if scores.percentile is not None:
        figure.add_hline(scores.percentile, line_color="#444444", line_width=1, line_dash="dash", **where)
    ticks = _ticks(edges[-1])
    named = {"tickvals": np.sqrt(ticks), "ticktext": [f"{tick:g}" for tick in ticks]}
    figure.update_xaxes(**named, range=[-0.02 * roots[-1], roots[-1]], **where)
    figure.update_yaxes(range=list(_range(scores)), **where)

"""Thresholds as table, figure and page."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.complete.figures import label
from inversionview.analyses.threshold.result import Threshold
from inversionview.core.information import least
from inversionview.core.scope import epsilon_text
from inversionview.drawing.colours import EPSILON, SUGGESTED
from inversionview.drawing.tokens import visible
from inversionview.preimage.show import at_least, query_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COLUMNS = 7
"""Features in the table of a threshold study."""
BOUNDED = "95 % intervals; ≥: some queries had one other input inside ε or none and count as the least that this can mean"


def _curves(study: Threshold) -> tuple[npt.NDArray[np.float64], dict[str, npt.NDArray[np.float64]]]:
    """Return a fine ladder of ε, and at each step the share of the inputs inside that have the query's value."""
    low = max(float(np.quantile(study.distance, 5 / max(len(study.distance), 6))), 0.005)
    ladder = np.geomspace(min(low, study.epsilon / 2), max(float(study.distance[-1]), 2 * study.epsilon), 121)
    inside = np.searchsorted(study.distance, ladder, side="right")
    sums = {name: np.concatenate([[0], np.cumsum(values)]) for name, values in study.same.items()}
    return ladder, {name: np.where(inside > 0, total[inside] / np.maximum(inside, 1), np.nan) for name, total in sums.items()}


def _histogram(study: Threshold, ladder: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the inputs in each step of the ladder (what is below it in the first), and those inside each."""
    counts = np.histogram(np.maximum(study.distance, ladder[0]), bins=ladder)[0]
    return counts, np.searchsorted(study.distance, ladder, side="right")


def figure(study: Threshold) -> Figure:
    """Return how many inputs lie inside every ε, and below the share of them with each of the query's features."""
    from matplotlib.figure import Figure

    ladder, curves = _curves(study)
    counts, inside = _histogram(study, ladder)
    drawn = Figure(figsize=(6.4, 2.6 + 0.2 * len(curves)), layout="constrained")
    top, bottom = drawn.subplots(2, 1, sharex=True, height_ratios=[2, 0.2 * len(curves) + 0.3])
    top.set_title(label(study.query), family="DejaVu Sans Mono", weight="bold", fontsize=9, loc="left", parse_math=False)
    top.stairs(counts, ladder, fill=True, color="0.7", label="inputs at this D")
    top.plot(ladder, np.maximum(inside, 0.5), color="black", lw=1, label="inputs inside ε = D")
    top.set(yscale="log", ylim=(0.7, 2 * len(study.distance)), ylabel="inputs", xscale="log", xlim=(ladder[0], ladder[-1]))
    shades = bottom.pcolormesh(
        ladder, np.arange(len(curves) + 1), np.stack([c[1:] for c in curves.values()]), cmap="cividis", vmin=0, vmax=1,
        rasterized=True,
    )  # fmt: skip
    names = [f"{name} = {visible(str(study.values[name]))}" for name in curves]
    bottom.set_yticks(np.arange(len(curves)) + 0.5, names, parse_math=False)
    bottom.set(xlabel=f"ε ({study.kind})")
    bottom.invert_yaxis()
    drawn.colorbar(shades, ax=bottom, label="share inside", pad=0.01)
    for number, gap in enumerate(study.gaps):
        top.axvspan(gap.start, gap.stop, color=SUGGESTED, alpha=0.18, lw=0, label=None if number else "gaps")
    for axes in (top, bottom):
        axes.axvline(study.epsilon, color=EPSILON, lw=1.2, label=f"ε of the study, {study.epsilon:g} ({study.measure})")
        if study.suggested is not None:
            axes.axvline(study.suggested, color=SUGGESTED, lw=1.2, ls="--", label=f"suggested ε, {study.suggested:.3f}")
    top.legend(fontsize=6.5, frameon=False, loc="upper left")
    ticks = [t for t in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if ladder[0] <= t <= ladder[-1]]
    bottom.set_xticks(ticks, [f"{t:g}" for t in ticks])
    bottom.minorticks_off()
    return drawn


def page(study: Threshold) -> Any:
    """Return the same as a plotly figure."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    ladder, curves = _curves(study)
    counts, inside = _histogram(study, ladder)
    middle = np.sqrt(ladder[1:] * ladder[:-1])
    drawn = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.04)
    drawn.add_trace(go.Bar(x=middle, y=counts, width=np.diff(ladder), marker_color="#aaaaaa", name="inputs at this D"), 1, 1)
    drawn.add_trace(go.Scatter(x=ladder, y=inside, line_color="black", name="inputs inside ε = D"), 1, 1)
    names = [html.escape(f"{name} = {visible(str(study.values[name]))}") for name in curves]
    shares = go.Heatmap(
        x=ladder, y=names, z=np.stack(list(curves.values())), colorscale="Cividis", zmin=0, zmax=1,
        colorbar={"title": "share inside", "len": 0.5, "y": 0.22},
        hovertemplate="ε %{x:.3f}, %{y}: %{z:.3f}<extra></extra>",
    )  # fmt: skip
    drawn.add_trace(shares, 2, 1)
    for gap in study.gaps:
        drawn.add_vrect(gap.start, gap.stop, fillcolor=SUGGESTED, opacity=0.18, line_width=0, row=1, col=1)
    for row in (1, 2):
        drawn.add_vline(study.epsilon, line_color=EPSILON, row=row, col=1)
        if study.suggested is not None:
            drawn.add_vline(study.suggested, line_color=SUGGESTED, line_dash="dash", row=row, col=1)
    drawn.update_xaxes(type="log", range=np.log10([ladder[0], ladder[-1]]).tolist())
    drawn.update_xaxes(title_text=f"ε ({study.kind})", row=2)
    drawn.update_yaxes(type="log", title_text="inputs", row=1)
    drawn.update_yaxes(autorange="reversed", row=2)
    note = f"<b>{html.escape(label(study.query))}</b> Red: ε of the study. Green: gaps, dashed the suggested ε."
    drawn.update_layout(height=420 + 26 * len(curves), template="plotly_white", title={"text": note, "font_size": 14})
    return drawn


def table(study: Threshold) -> Group:
    """Return a threshold study: for every ε the inputs inside, the bits, and the share with each of the query's features.

    Of many features those are shown whose share at the study's ε is farthest above chance.
    """
    grid = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    marked_rung = min(study.rungs, key=lambda rung: abs(rung.epsilon - study.epsilon))
    gain = {name: (marked_rung.shares or study.base)[name] - share for name, share in study.base.items()}
    names = [name for name in study.base if name in sorted(gain, key=lambda name: -gain[name])[:_COLUMNS]]
    for title in ("ε", "inside", "bits", *names):
        grid.add_column(title, justify="right", no_wrap=True)
    for rung in study.rungs:
        bits = at_least(least(rung.inside, len(study.distance)), 1) if rung.inside < 2 else f"{rung.bits:.1f}"
        shares = [Text("–", style="dim") if rung.shares is None else _share(rung.shares[name]) for name in names]
        style = "bold red" if rung.marks else ""
        grid.add_row(Text(f"{rung.epsilon:.3f}", style=style), f"{rung.inside:,}", bits, *shares)
    chance = [Text(f"{share:.2f}", style="dim") for share in (study.base[name] for name in names)]
    grid.add_row(Text("all", style="dim"), f"{len(study.distance):,}", "0.0", *chance)
    grid.add_row(Text("query", style="dim"), "", "", *(visible(str(study.values[name])) for name in names))
    own = f"{epsilon_text(study.epsilon, study.measure)} is the study's"
    lines = [f"{own}. Features: share of the inputs inside, the query left out, with its value."]
    if study.suggested is None:
        lines.append("No ε is suggested: the distances have no gap.")
    for i, gap in enumerate(study.gaps):
        what = (
            f"Suggested: {epsilon_text(round(gap.epsilon, 3), study.measure)}, in the widest gap"
            if i == 0
            else f"Another gap is at {gap.epsilon:.3f}"
        )
        lines.append(f"{what}: from {gap.start:.3f} to {gap.stop:.3f} the {gap.inside:,} inputs inside grow by 10 % at most.")
    return Group(query_line(study.query), Text(), grid, Text(), *(Text(line, style="dim") for line in lines))


def _share(share: float) -> Text:
    return Text(f"{share:.2f}", style="bold green" if share > 0.995 else "")

"""Figures of completeness checks and threshold studies: PNG and SVG by matplotlib, interactive HTML by plotly.

A page holds plotly itself and needs no network. Inputs inside ε and the nearest outside are drawn one by one; the rest, up to
some hundred thousand a panel, as a density.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inversionview.errors import SettingError
from inversionview.preimage.completeness import Completeness, Scores
from inversionview.preimage.core import Query
from inversionview.preimage.threshold import Threshold
from inversionview.storage import replacing
from inversionview.views.text import rank_text, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".html")
INSIDE, LINE, SUGGESTED = "#d55e00", "#0072b2", "#009e73"
"""Okabe and Ito's colours, which the colour-blind tell apart; density is grey."""
_POINTS = 3000
"""Most inputs that are drawn one by one, inside ε and outside, in a panel."""
_STYLE = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "svg.fonttype": "path", "svg.hashsalt": "inversionview",
}  # fmt: skip


def check_format(path: Path) -> Path:
    """Return ``path`` if a figure can be written there.

    Raises:
        SettingError: its extension is none of png, svg, html.
    """
    if path.suffix.lower() not in FORMATS:
        raise SettingError(f"A figure ends in {', '.join(FORMATS)}, but {path.name!r} in {path.suffix or 'nothing'!r}.")
    return path


def label(query: Query) -> str:
    """Return a query as one line of plain text, its position in parentheses: ``615+861(=)1476 · a0.0``."""
    shown = [f"({visible(t)})" if i == query.position else visible(t) for i, t in enumerate(query.tokens)]
    return f"{''.join(shown)} · {query.site.short}"


def save_completeness(results: Sequence[Completeness], path: Path, texts: Callable[[Completeness, npt.NDArray[np.int64]], list[str]]) -> None:
    """Draw completeness checks, one row for each query and one column for each variant, and write them to ``path``.

    ``texts`` gives the inputs at some places of a result as text, for the page.

    Raises:
        SettingError: the extension is unknown.
        StorageError: the file cannot be written.
    """
    if check_format(path).suffix.lower() == ".html":
        _write_page(_completeness_page(results, texts), path)
    else:
        _write_figure(lambda: _completeness_figure(results), path)


def save_threshold(study: Threshold, path: Path) -> None:
    """Draw a threshold study and write it to ``path``; raises as ``save_completeness``."""
    if check_format(path).suffix.lower() == ".html":
        _write_page(_threshold_page(study), path)
    else:
        _write_figure(lambda: _threshold_figure(study), path)


def _write_figure(draw: Callable[[], Figure], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    kind = path.suffix.lower()[1:]
    with matplotlib.rc_context(_STYLE), replacing(path) as temporary:
        draw().savefig(temporary, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def _write_page(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(figure.to_html(include_plotlyjs=True, full_html=True), encoding="utf-8")


# -- completeness -----------------------------------------------------------------------------------------------------


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
    return low - room, high + room


def _note(result: Completeness, scores: Scores) -> list[str]:
    inside = int(result.inside.sum())
    recall = "recall –" if scores.recall is None else f"recall {scores.recall:.3f}"
    below = int((scores.log_p < _lowest(scores)).sum())
    return [f"{recall}, {inside:,} inside", f"lowest rank {rank_text(scores)}", *([f"▾ {below:,} further inputs below"] if below else [])]


def _completeness_figure(results: Sequence[Completeness]) -> Figure:
    from matplotlib.figure import Figure

    columns, rows = len(results[0].variants), len(results)
    figure = Figure(figsize=(2.6 * columns, 1.55 * rows + 0.75), layout="constrained")
    parts = figure.subfigures(rows, 1, squeeze=False)[:, 0]
    for number, (result, part) in enumerate(zip(results, parts, strict=True)):
        part.suptitle(label(result.query), x=0.01, ha="left", fontsize=8, family="DejaVu Sans Mono", parse_math=False)
        for axes, scores in zip(part.subplots(1, columns), result.variants, strict=True):
            _panel(axes, result, scores)
            if number == 0:
                axes.set_title(scores.name, fontsize=9)
            if number == rows - 1:
                axes.set_xlabel("D(z_q, x)")
    figure.supylabel("log p(x ∣ z)", fontsize=8)
    return figure


def _panel(axes: Any, result: Completeness, scores: Scores) -> None:
    from matplotlib.colors import LogNorm

    counts, edges, levels = density(result, scores)
    if counts.any():
        axes.pcolormesh(edges, levels, np.ma.masked_equal(counts.T, 0), cmap="Greys", norm=LogNorm(0.3), rasterized=True)
    drawn = chosen(result.inside)
    axes.plot(result.distance[drawn], scores.log_p[drawn], ".", ms=2, mew=0, color=INSIDE, rasterized=len(drawn) > 500)
    axes.axvline(result.epsilon, color=LINE, lw=0.9)
    if scores.percentile is not None and scores.percentile >= _range(scores)[0]:
        axes.axhline(scores.percentile, color="0.35", lw=0.7, ls=(0, (4, 3)))
    axes.set_xscale("function", functions=(lambda d: np.sqrt(np.maximum(d, 0)), np.square))
    axes.set(xlim=(0, edges[-1]), ylim=_range(scores), xticks=_ticks(edges[-1]))
    axes.text(0.98, 0.97, "\n".join(_note(result, scores)), transform=axes.transAxes, ha="right", va="top", fontsize=6.5)


def _ticks(most: float) -> list[float]:
    return [t for t in (0.0, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0) if t <= most]


def _completeness_page(results: Sequence[Completeness], texts: Any) -> Any: ...
def _threshold_figure(study: Threshold) -> Any: ...
def _threshold_page(study: Threshold) -> Any: ...

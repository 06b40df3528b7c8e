"""Patching: a table in a terminal, bars and lines as PNG, SVG and a page (Huang et al. 2024, Figs. 4a, 16, 32)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.patch.result import Effects, Patching
from inversionview.core.information import Mean
from inversionview.drawing.colours import BACKWARD, FORWARD, SINGLE
from inversionview.drawing.numbers import errors, mean, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


COLOURS = {"forward": FORWARD, "backward": BACKWARD, "single": SINGLE}
_SAID = {"forward": "from the first on", "backward": "from the last back", "single": "each alone"}


# -- terminal ---------------------------------------------------------------------------------------------------------


def table(result: Patching) -> Group:
    """Return what patching did: for each activation its increment, and the effect with all before it replaced."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("activation", no_wrap=True)
    for direction in result.effects:
        grid.add_column("effect alone" if direction == "single" else f"{direction}: adds", justify="right", no_wrap=True)
        grid.add_column("LD patched", justify="right", no_wrap=True)
    columns = [
        (_aligned(result, direction, effects.increment), _aligned(result, direction, effects.effect))
        for direction, effects in result.effects.items()
    ]
    for i, name in enumerate(result.activations):
        cells: list[Text | str] = []
        for adds, effect in columns:
            cells += [mean(adds[i], strong=result.total), number(result.ld_orig.value - effect[i].value)]
        grid.add_row(Text(name), *cells)
    ld, everything = result.ld_orig, result.total
    head = Text.assemble(
        (f"{result.study}{_settings(result)}: ", "bold"),
        f"{result.pairs:,} pairs, LD {ld.value:.3f} [{ld.low:.3f}, {ld.high:.3f}], in the "
        f"contrast runs {result.ld_contrast.value:.3f}",
    )  # fmt: skip
    left = f"; {result.left_out:,} inputs without a contrast are left out" if result.left_out else ""
    share = f" ({result.together.value / everything:.0%} of what patching everything does)" if everything else ""
    note = (
        f"All at once: {result.together.value:.3f} [{result.together.low:.3f}, {result.together.high:.3f}]{share}.\n"
        f"LD = logit(original answer) − logit(contrast answer), effect = LD_orig − LD_patched; 95 % bootstrap intervals; the "
        f"model answers {result.accuracy:.1%} of the originals{left}."
    )
    return Group(head, Text(), grid, Text(), Text(note, style="dim"))


def _settings(result: Patching) -> str:
    said = [str(result.settings[key]) for key in ("target",) if result.settings.get(key)]
    said += [f"{', '.join(result.settings['changes'])} changed"] if result.settings.get("changes") else []
    return f", {' by '.join(said)}" * bool(said) + "".join(f", {each}" for each in result.settings.get("where") or ())


# -- figures ----------------------------------------------------------------------------------------------------------


def _title(result: Patching) -> str:
    return f"{result.study}{_settings(result)}: {result.pairs:,} pairs, LD {result.ld_orig.value:.2f}"


def _aligned(result: Patching, direction: Any, means: Sequence[Mean]) -> list[Mean]:
    """Return a direction's numbers in the order of the activations."""
    effects: Effects = result.effects[direction]
    return [means[effects.activations.index(name)] for name in result.activations]


def figure(result: Patching) -> Figure:
    """Return bars of what each activation adds, and lines of the effect so far."""
    from matplotlib.figure import Figure

    cumulative = [direction for direction in result.effects if direction != "single"]
    names, places = result.activations, np.arange(len(result.activations))
    each = max(2.2, 0.42 * len(names) + 1.2)
    drawn = Figure(figsize=(each * (1 + bool(cumulative)) + 0.4, 2.9), layout="constrained")
    axes = drawn.subplots(1, 1 + bool(cumulative), squeeze=False)[0]
    width = 0.8 / len(result.effects)
    for i, (direction, effects) in enumerate(result.effects.items()):
        means = _aligned(result, direction, effects.increment)
        axes[0].bar(
            places + (i - (len(result.effects) - 1) / 2) * width, [m.value for m in means], width, yerr=errors(means),
            color=COLOURS[direction], label=_SAID[direction], error_kw={"lw": 0.8, "capsize": 1.5},
        )  # fmt: skip
    for direction in cumulative:
        means = _aligned(result, direction, result.effects[direction].effect)
        marker = ">" if direction == "forward" else "<"
        axes[1].plot(
            places, [m.value for m in means], marker + "-", ms=4, lw=1.3, color=COLOURS[direction], label=_SAID[direction]
        )
        low, high = [m.low for m in means], [m.high for m in means]
        axes[1].fill_between(places, low, high, color=COLOURS[direction], alpha=0.2, lw=0)
    axes[0].set_ylabel("increment of LD$_{orig}$ − LD$_{patched}$")
    if cumulative:
        axes[1].axhline(result.total, color="0.4", lw=0.8, ls=(0, (4, 3)), label="everything patched")
        axes[1].set_ylabel("LD$_{orig}$ − LD$_{patched}$ so far")
    for panel in axes:
        panel.axhline(0, color="black", lw=0.6)
        panel.set_xticks(
            places, names, rotation=60, ha="right", rotation_mode="anchor", family="DejaVu Sans Mono", parse_math=False
        )
        panel.margins(y=0.08)
    axes[-1].legend(frameon=False, fontsize=6.5)
    drawn.suptitle(_title(result), fontsize=9, parse_math=False)
    return drawn


def page(result: Patching) -> Any:
    """Return the same as a plotly figure."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    cumulative = [direction for direction in result.effects if direction != "single"]
    names = [html.escape(name) for name in result.activations]
    titles = ["what each activation adds", "effect so far"][: 1 + bool(cumulative)]
    figure = make_subplots(1, len(titles), subplot_titles=titles)
    for direction, effects in result.effects.items():
        means = _aligned(result, direction, effects.increment)
        below, above = errors(means)
        bar = graph_objects.Bar(
            x=names, y=[m.value for m in means], name=_SAID[direction], marker_color=COLOURS[direction],
            error_y={"array": above, "arrayminus": below}, legendgroup=direction,
        )  # fmt: skip
        figure.add_trace(bar, row=1, col=1)
    for direction in cumulative:
        means = _aligned(result, direction, result.effects[direction].effect)
        below, above = errors(means)
        line = graph_objects.Scatter(
            x=names, y=[m.value for m in means], name=_SAID[direction], line_color=COLOURS[direction],
            error_y={"array": above, "arrayminus": below}, legendgroup=direction, showlegend=False,
        )  # fmt: skip
        figure.add_trace(line, row=1, col=2)
        figure.add_hline(result.total, line_dash="dash", line_color="#777777", row=1, col=2)
    figure.update_yaxes(title_text="LD_orig − LD_patched (nats)", col=1)
    figure.update_layout(
        title=html.escape(_title(result)), template="plotly_white", height=460, barmode="group",
        width=240 + (120 + 60 * len(result.activations)) * len(titles),
    )  # fmt: skip
    return figure

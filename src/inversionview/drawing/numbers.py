"""Numbers in tables and figures."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from inversionview.core.information import Mean


def mean(mean: Mean, strong: float = 0.0) -> Text:
    """Return a mean with half its interval, bold where it is strong."""
    half = (mean.high - mean.low) / 2
    return Text(f"{number(mean.value)} ±{half:.3f}", style="bold" if strong and mean.value > 0.1 * abs(strong) else "")


def number(value: float) -> str:
    """Return a number in thousandths, without a sign before 0."""
    return f"{round(value, 3) + 0.0:.3f}"


def errors(means: Sequence[Mean]) -> tuple[list[float], list[float]]:
    """Return what lies below and above the means."""
    return [m.value - m.low for m in means], [m.high - m.value for m in means]

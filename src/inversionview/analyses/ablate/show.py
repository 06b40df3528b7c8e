"""Ablations as a table."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.ablate.result import Ablation
from inversionview.drawing.numbers import mean, number


def table(result: Ablation) -> Group:
    """Return for each set of activations and each target what is lost."""
    parts: list[Table | Text] = [Text(f"{result.study}: ablation by {result.by}", style="bold")]
    for each in result.sets:
        grid = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("target", "KL (nats)", "top logit", "falls by", "in %", "accuracy"):
            grid.add_column(title, justify="left" if title == "target" else "right", no_wrap=True)
        for loss in each.losses:
            relative = (loss.relative.high - loss.relative.low) / 2
            grid.add_row(
                loss.target, mean(loss.kl), f"{loss.top_logit.value:.2f}", mean(loss.decrement),
                f"{number(100 * loss.relative.value)} ±{100 * relative:.3f}",
                f"{loss.accuracy:.1%} → {loss.accuracy_patched:.1%}",
            )  # fmt: skip
        parts += [Text(f"\n{' '.join(each.activations)}"), grid]
    ways = {"mean": "its mean over them", "zero": "zero", "resample": "that of another of them"}
    where = "".join(f", {each}" for each in result.where)
    note = (
        f"{result.inputs:,} inputs{where}; every activation is replaced by {ways[result.by]}. KL(original ‖ ablated); the "
        "logit of the originally first token, its fall in % of its mean; accuracy before and after; 95 % bootstrap intervals."
    )
    return Group(*parts, Text(f"\n{note}", style="dim"))

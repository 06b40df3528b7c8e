"""What flows to an answer: nodes and edges."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from inversionview.core.information import Mean
from inversionview.core.results import Result
from inversionview.core.scope import Distance
from inversionview.model.sites.site import Site

Kind = Literal["read", "write", "keep", "answer"]
OTHERS = "elsewhere"
"""All positions without a name, BOS left out: they are seen by heads, but not read."""
FLOOR = 0.1
"""Edges that carry a smaller share of a feature's entropy are kept only where patching says that they matter all the same."""


@dataclass(frozen=True)
class Edge:
    """A feature on its way from one site × position to the next."""

    kind: Kind
    """``read``: a head reads the residual stream somewhere; ``write``: it adds to the stream at its own position; ``keep``: the
    stream goes on; ``answer``: the end of the stream tells the answer."""
    source: str
    """``x0.pre@F1``; ``elsewhere`` stands for all positions without a name."""
    to: str
    feature: str
    bits: float
    """What both ends know of the feature."""
    share: float
    """Of the feature's entropy."""
    via: str
    """The activation whose patching confirms the edge, the head or the end of a step of the stream; where an edge begins at the
    stream, that must do something, too."""
    attention: float | None = None
    """Mean weight with which the head looks there."""
    effect: Mean | None = None
    """What patching ``via`` (or the edge's beginning, if that is less) does to LD, as a share of what patching everything does,
    over pairs that differ in the feature.
    ``None``: no contrast, or next to none, alters the feature."""
    confirmed: bool = False

    def record(self) -> dict[str, Any]:
        """Return it as a flat row."""
        low, value, high = (getattr(self.effect, part, None) for part in ("low", "value", "high"))
        plain = {name: value for name, value in vars(self).items() if name != "effect"}
        return {**plain, "effect": value, "effect_low": low, "effect_high": high}


@dataclass(frozen=True)
class Node:
    """A site at a position."""

    name: str
    site: str
    position: str
    bits: float | None
    """All that it tells; ``None`` for ``elsewhere`` and the target, which are no sites."""
    least: float | None = None
    """The least that this can be, where that is all that is known; else ``None``."""


@dataclass(frozen=True, repr=False)
class Flow(Result):
    """How information flows to an answer token."""

    formats: ClassVar[tuple[str, ...]] = (".png", ".svg", ".html", ".csv", ".parquet")

    study: str
    model: str
    target: str
    where: tuple[str, ...]
    position: str
    """Which predicts the target."""
    positions: tuple[str, ...]
    """Those on the way, in their order in the input."""
    layers: int
    epsilon: float
    distance: Distance
    least_attention: float
    least_effect: float
    """A patched activation confirms an edge where the lower end of its effect is at least this share."""
    inputs: int
    """Of the corpus that satisfy the filters."""
    pairs: dict[str, int]
    """Contrasts for each set of changes."""
    seed: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    threshold: float = 0.15
    """Edges that carry a smaller share of their feature are not shown unless asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; all edges, whatever share they carry."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each edge, for a data frame."""
        return [edge.record() for edge in self.edges]

    def shown(self, threshold: float) -> list[Edge]:
        """Return the edges that carry at least a share of their feature, or matter all the same, and lead to the answer."""
        kept = [edge for edge in self.edges if edge.share >= threshold or edge.share < FLOOR or edge.kind == "answer"]
        while True:
            used = {edge.source for edge in kept}
            on = [edge for edge in kept if edge.kind == "answer" or edge.to in used or edge.to.endswith(f"@{self.position}")]
            if len(on) == len(kept):
                return on
            kept = on


def stream(level: int) -> Site:
    """Return the residual stream that layer ``level`` reads; one past the last layer, its end."""
    return Site(0, "pre") if level == 0 else Site(level - 1, "post")

"""How far sources agree."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from inversionview.core.results import Result
from inversionview.core.scope import Distance
from inversionview.model.distances.said import measure_of
from inversionview.preimage.preimage import Query


@dataclass(frozen=True)
class Pair:
    """Two sources on one feature."""

    first: str
    second: str
    feature: str
    tv: float
    """Total variation ½ Σ |p − q| of the feature's values inside ε, in [0, 1]."""
    chance: float
    """What it would be on average, were both independent draws from one distribution, or one of them the full list ``all``."""


@dataclass(frozen=True, repr=False)
class Agreement(Result):
    """What the sources say of one query."""

    query: Query
    epsilon: float
    draws: dict[str, int]
    """Inputs inside ε of each source; repeats counted where they are draws."""
    mixed: bool | None
    """Whether the walk was mixed; ``None`` without one."""
    pairs: tuple[Pair, ...]
    distance: Distance = "euclidean"

    def worst(self, first: str, second: str) -> Pair | None:
        """Return the feature on which two sources differ most."""
        found = [p for p in self.pairs if {p.first, p.second} == {first, second}]
        return max(found, key=lambda p: p.tv) if found else None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        rest = {
            "distance": measure_of(self.distance, [self.query.site.short]),
            "epsilon": self.epsilon,
            "draws": self.draws,
            "mixed": self.mixed,
        }
        return {"query": self.query.to_json(), **rest, "pairs": [asdict(p) for p in self.pairs]}

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each two sources and feature, for a data frame."""
        return [asdict(pair) for pair in self.pairs]

"""A reading over a ladder of ε."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from inversionview.analyses.all_inputs import Values
from inversionview.core.files import TABLE_FORMATS
from inversionview.core.results import Result
from inversionview.core.scope import Distance
from inversionview.model.distances.said import measure_of
from inversionview.preimage.preimage import Query


@dataclass(frozen=True)
class Gap:
    """A range of ε over which a reading hardly changes."""

    start: float
    stop: float
    inside: int
    """Inputs inside at ``start``, the query left out."""
    epsilon: float
    """Its geometric middle."""


@dataclass(frozen=True)
class Rung:
    """The reading at one ε."""

    epsilon: float
    inside: int
    """Inputs inside, the query left out."""
    bits: float | None
    """−log₂ of their share of all inputs; ``None`` where there are none: see ``information.least``."""
    shares: dict[str, float] | None
    """For each feature the share of the inputs inside that have the query's value; ``None`` where there are none."""
    marks: tuple[str, ...] = ()
    """``study`` for the study's ε, ``suggested``, and ``gap`` for the middle of another gap."""


@dataclass(frozen=True, eq=False, repr=False)
class Threshold(Result):
    """The threshold study of one query."""

    formats: ClassVar[tuple[str, ...]] = TABLE_FORMATS

    query: Query
    kind: Distance
    epsilon: float
    """The study's."""
    distance: Values = field(repr=False)
    """D(z_q, x) of every input but the query, sorted."""
    gaps: tuple[Gap, ...]
    """Widest first; the middle of the first is the suggested ε."""
    rungs: tuple[Rung, ...]
    base: dict[str, float]
    """For each feature the share of all inputs that have the query's value: what chance would give."""
    values: dict[str, Any]
    """The query's own features."""
    same: dict[str, npt.NDArray[np.bool_]] = field(repr=False)
    """For each feature, which inputs have the query's value, in the order of ``distance``."""

    @property
    def suggested(self) -> float | None:
        """The suggested ε; ``None`` where there is no gap."""
        return self.gaps[0].epsilon if self.gaps else None

    @property
    def measure(self) -> str:
        """What its distance is called."""
        return measure_of(self.kind, [self.query.site.short])

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        return {
            "query": self.query.to_json(),
            "distance": self.measure,
            "epsilon": self.epsilon,
            "inputs": len(self.distance),
            "suggested": self.suggested,
            "gaps": [asdict(gap) for gap in self.gaps],
            "features": {name: {"value": self.values[name], "share": share} for name, share in self.base.items()},
            "ladder": [asdict(rung) for rung in self.rungs],
        }

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each ε, for a data frame: beside its numbers the share of each feature."""
        shares = [rung.shares or dict.fromkeys(self.base) for rung in self.rungs]
        return [
            {"epsilon": rung.epsilon, "inside": rung.inside, "bits": rung.bits, "marks": " ".join(rung.marks), **each}
            for rung, each in zip(self.rungs, shares, strict=True)
        ]

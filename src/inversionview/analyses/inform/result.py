"""How many bits each site tells at each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from inversionview.core.files import TABLE_FORMATS
from inversionview.core.information import Mean
from inversionview.core.results import Result
from inversionview.core.scope import Distance
from inversionview.model.distances.said import measure_of, singles

_ENDS = {"value": "", "low": "_low", "high": "_high"}


@dataclass(frozen=True)
class Cell:
    """One feature at one site and position."""

    site: str
    position: str
    feature: str
    bits: Mean
    """What the activation tells about the feature: an estimate from the queries that were drawn. By their chance it may exceed
    the entropy, which what it estimates cannot; below 0, the query's value is less common inside ε than among all inputs."""
    share: float
    """Of the feature's entropy; 1 means that it is known in full. An estimate, as ``bits``."""
    entropy: float
    """H(φ) over the table's inputs, in bits."""
    consistency: Mean
    """P(φ = φ(x_q) ∣ preimage)."""
    queries: int
    """Those with another input inside ε, or whose whole preimage is known; the others say nothing of features."""


@dataclass(frozen=True)
class Total:
    """All that one site and position tell."""

    site: str
    position: str
    bits: Mean
    """The mean of I_ε(q) over the queries."""
    found: float
    """Share of queries with any input inside ε; the others count as log₂ of the table's inputs, the most these can show."""
    queries: int
    least: float
    """The mean where queries with one other input inside ε or none count as the least that this can mean."""

    @property
    def bounded(self) -> bool:
        """There are such queries, so ``least`` is all that is known."""
        return self.least < self.bits.value - 1e-9


@dataclass(frozen=True, repr=False)
class FeatureTable(Result):
    """Sites × positions × features."""

    formats: ClassVar[tuple[str, ...]] = TABLE_FORMATS

    study: str
    inputs: int
    """How many the bank has that satisfy ``where``."""
    epsilon: float
    distance: Distance
    fixed: bool
    """D was compared at the query's own position only."""
    seed: int
    totals: tuple[Total, ...]
    cells: tuple[Cell, ...]
    where: tuple[str, ...] = ()
    """Filters: all is told of the inputs that satisfy them, and among these."""

    @property
    def measure(self) -> str:
        """What its distance is called: at sites of one number it is that of the spread."""
        return measure_of(self.distance, (total.site for total in self.totals))

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain JSON values; ``spread`` are the sites of one number, if there are some."""
        single = singles(total.site for total in self.totals)
        return {**asdict(self), **({"spread": single} if single else {})}

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each site × position × feature, for a data frame."""
        where = {"where": ",".join(self.where)} if self.where else {}
        return [{**row, **where} for row in rows(self.cells, self.totals)]


def rows(cells: Sequence[Cell], totals: Sequence[Total]) -> list[dict[str, Any]]:
    """Return each cell, with the total of its site and position, as a flat row."""
    known = {(total.site, total.position): total for total in totals}
    return [_row(cell, known[cell.site, cell.position]) for cell in cells]


def _row(cell: Cell, total: Total) -> dict[str, Any]:
    means = {"bits": cell.bits, "consistency": cell.consistency, "site_bits": total.bits}
    flat = {name + end: getattr(m, part) for name, m in means.items() for part, end in _ENDS.items()}
    plain = {"site": cell.site, "position": cell.position, "feature": cell.feature}
    more = {"share": cell.share, "entropy": cell.entropy, "queries": cell.queries, "found": total.found}
    return {**plain, **flat, **more, "site_bits_least": total.least}

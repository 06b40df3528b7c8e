"""A census: how many bits each site of a model tells about features of natural text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from inversionview.analyses.inform.result import Cell, Total, rows
from inversionview.core.files import TABLE_FORMATS
from inversionview.core.results import Result
from inversionview.core.scope import Distance

ENOUGH = 10
"""Where fewer queries, or fewer than a quarter, have another occurrence inside ε, their mean is not shown."""


@dataclass(frozen=True, repr=False)
class Census(Result):
    """Sites × features, over the occurrences of a corpus."""

    formats: ClassVar[tuple[str, ...]] = TABLE_FORMATS

    study: str
    texts: str
    """The corpus, as it was named."""
    occurrences: int
    """How many were searched."""
    windows: int
    """In which these lie."""
    context: int
    """Tokens of a window at most."""
    epsilon: float
    distance: Distance
    seed: int
    totals: tuple[Total, ...]
    """For each site."""
    cells: tuple[Cell, ...]
    """For each site and feature; none of a site where no query has another occurrence inside ε."""
    alone: tuple[Cell, ...]
    """What each feature tells of each: as if a site knew the one, that which its ``site`` names, in full and nothing else."""

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        return list(dict.fromkeys(cell.feature for cell in self.alone))

    @property
    def known(self) -> list[Cell]:
        """The cells that enough queries speak for."""
        least = min(ENOUGH, max(total.queries for total in self.totals) // 4)
        return [cell for cell in self.cells if cell.queries >= least]

    def to_json(self) -> dict[str, Any]:
        """Return the census as plain JSON values."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each site × feature, for a data frame."""
        return rows(self.cells, self.totals)

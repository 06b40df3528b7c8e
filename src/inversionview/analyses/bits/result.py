"""Bits over ε."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from inversionview.core.files import TABLE_FORMATS
from inversionview.core.information import Mean
from inversionview.core.results import Result, Results
from inversionview.core.scope import Distance


@dataclass(frozen=True, repr=False)
class Curve(Result):
    """How much one site and position tell as ε grows."""

    formats: ClassVar[tuple[str, ...]] = TABLE_FORMATS

    site: str
    position: str
    epsilons: tuple[float, ...]
    bits: tuple[Mean, ...]
    """Queries with one other input inside ε or none count as log₂ of the bank, the most that it can show."""
    least: tuple[float, ...]
    """The same means, but these queries count as the least that they can mean: where there are any, all that is known."""
    distance: Distance = "euclidean"

    @property
    def bounded(self) -> tuple[bool, ...]:
        """At which ε ``least`` is all that is known."""
        return tuple(low < bits.value - 1e-9 for low, bits in zip(self.least, self.bits, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each ε, for a data frame."""
        where = {"site": self.site, "position": self.position, "distance": self.distance}
        return [
            {**where, "epsilon": epsilon, "bits": m.value, "bits_low": m.low, "bits_high": m.high, "bits_least": least}
            for epsilon, m, least in zip(self.epsilons, self.bits, self.least, strict=True)
        ]


class Curves(Results[Curve]):
    """One for each site × position, over the same ε."""

    formats: ClassVar[tuple[str, ...]] = TABLE_FORMATS

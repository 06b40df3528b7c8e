"""Bits over ε."""

from __future__ import annotations

from dataclasses import dataclass

from inversionview.core.information import Mean
from inversionview.core.scope import Distance


@dataclass(frozen=True)
class Curve:
    """How much one site and position tell as ε grows."""

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

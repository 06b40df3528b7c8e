"""How inputs are compared with a query: within which ε, by which distance, and at which positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from inversionview.scope import Distance

At = TypeVar("At", covariant=True)
"""What names the positions: it depends on what is read."""
Own = Literal["own"]
"""Many queries are read, each compared at the named position that it was read at."""
OWN: Own = "own"


@dataclass(frozen=True)
class Scope(Generic[At]):
    """What makes an input a member of a preimage; by default as in Huang et al. 2024."""

    epsilon: float = 0.1
    """D ≤ ε."""
    distance: Distance = "euclidean"
    at: At | None = None
    """The positions at which D may be reached; ``None`` is all: D is the minimum over them."""


PAPER = Scope[Any]()
"""Huang et al. 2024: ε = 0.1, Euclidean, over all positions."""

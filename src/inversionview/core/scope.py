"""How inputs are compared with a query: within which ε, by which distance, and at which positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

from inversionview.core.errors import SettingError

Distance = Literal[
    "euclidean",
    "cosine",
    "cosine-normed",
    "cosine-fisher",
    "cosine-centred",
    "cosine-normed-centred",
    "cosine-scored",
    "cosine-whitened",
    "euclidean-whitened",
]
"""What each does is told by ``model/distances/registry.py``."""
DISTANCES: tuple[Distance, ...] = get_args(Distance)
MOST_EPSILON = 1e6
"""No threshold is larger: cosine distances end at 2, and single precision far above."""


def check_distance(kind: str) -> Distance:
    """Return ``kind`` if it names a distance.

    Raises:
        SettingError: it does not.
    """
    for known in DISTANCES:
        if kind == known:
            return known
    raise SettingError(f"There is no distance {kind!r}: choose {', '.join(DISTANCES[:-1])} or {DISTANCES[-1]}.")


def check_epsilon(epsilon: float) -> float:
    """Return ``epsilon`` if it can be a threshold.

    Raises:
        SettingError: it is not a positive number, or beyond ``MOST_EPSILON``.
    """
    if not 0 < epsilon < float("inf"):
        raise SettingError(f"ε must be a positive number, but is {epsilon}: the paper uses 0.1.")
    if epsilon > MOST_EPSILON:
        raise SettingError(f"ε must be at most {MOST_EPSILON:,.0f}, but is {epsilon:.3g}: the paper uses 0.1.")
    return epsilon


def epsilon_text(epsilon: float, kind: Distance) -> str:
    """Return ε with its distance, without which the number means nothing: ``ε = 0.1 (cosine)``."""
    return f"ε = {epsilon:g} ({kind})"


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

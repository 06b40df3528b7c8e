"""What counts as near a query: the names of the two distances, and the threshold ε. Nothing here computes a distance."""

from __future__ import annotations

from typing import Literal, get_args

from inversionview.errors import SettingError

Distance = Literal["euclidean", "cosine"]
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
    raise SettingError(f"There is no distance {kind!r}: choose euclidean or cosine.")


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

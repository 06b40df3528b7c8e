"""How inputs are compared with a query: within which ε, by which distance, and at which positions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

from inversionview.core.errors import SettingError
from inversionview.core.ranges import positive

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
    "euclidean-fisher",
]
"""What each does is told by ``model/distances/registry.py``."""
DISTANCES: tuple[Distance, ...] = get_args(Distance)
SPREAD = "spread"
"""What the distance of single numbers is called, whatever was asked for; see ``model.distances.metric``."""
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


Unit = Literal["share", "bits", "nats"]


@dataclass(frozen=True)
class Meaning:
    """A threshold by what it means for one query; the number that this comes to depends on query, site, distance and corpus."""

    amount: float
    unit: Unit
    """``share``: so large a share of random inputs lies inside. ``bits``: 2 to the minus so many. ``nats``: members, put in the
    query's place, change what the model says next by so much in the median (Kullback-Leibler divergence)."""

    def __str__(self) -> str:
        if self.unit == "share":
            return f"1/{1 / self.amount:g}"
        return f"{self.amount:g} {self.unit}"

    @property
    def share(self) -> float:
        """The share of random inputs inside, of the first two units."""
        return self.amount if self.unit == "share" else 2.0**-self.amount


Epsilon = float | str
"""A threshold: a number, or what it shall mean: ``1/1000``, ``10bits``, ``0.1nat``."""
_MOST = {"bits": 60.0, "nats": 1000.0}
_UNITS: dict[str, Unit] = {"bit": "bits", "bits": "bits", "nat": "nats", "nats": "nats"}


def epsilon_named(text: Epsilon) -> float | Meaning:
    """Return the threshold that is written so.

    Raises:
        SettingError: it is none.
    """
    if not isinstance(text, str):
        return check_epsilon(text)
    found = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(?:/\s*([0-9.eE+]+)|([a-z]+))?\s*", text)
    number, of, name = (None, None, "") if found is None else found.groups()
    try:
        if number is None or (name and name not in _UNITS):
            raise ValueError
        amount = float(number) / float(of or 1)
    except (ValueError, ZeroDivisionError):
        raise SettingError(f"ε can be a number, a share as 1/1000, 10bits or 0.1nat, but not {text!r}{_hint(text)}.") from None
    if not of and not name:
        return check_epsilon(amount)
    unit = "share" if of else _UNITS[name]
    if not 0 < amount < (1 if unit == "share" else _MOST[unit]):
        most = {"share": "between 0 and 1", "bits": "above 0 and below 60", "nats": "above 0 and below 1,000"}[unit]
        raise SettingError(f"ε = {text} cannot be: its amount must be {most}.")
    return Meaning(amount, unit)


def check_apart(within: float | None, epsilon: Epsilon | None) -> None:
    """Raise ``SettingError`` where δ of p_q ± δ can be none, or stands beside an ε."""
    if within is None:
        return
    positive(within, "δ of p_q ± δ (within)")
    if epsilon is not None:
        raise SettingError("Both ε and within say how near is near enough: give one of them.")


def _hint(text: str) -> str:
    """Return what may be meant, where that is plain: ``: write 0.25``."""
    said = text.strip().replace(",", ".").removesuffix("%")
    try:
        amount = float(said) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        return ""
    return f": write {amount:g}" if 0 < amount < float("inf") else ""


def epsilon_text(epsilon: float, kind: str) -> str:
    """Return ε with its distance, without which the number means nothing: ``ε = 0.1 (cosine)``, ``ε = 0.1 of the spread``."""
    return f"ε = {epsilon:.4g} of the spread" if kind == SPREAD else f"ε = {epsilon:.4g} ({kind})"


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

"""What the norms of activations are made of, site by site."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from inversionview.core.results import Result

MASSIVE = 1000
"""A number is massive that is so many times the median magnitude of all at its site (Sun et al. 2024)."""


@dataclass(frozen=True)
class Coordinate:
    """One number of the activations at a site."""

    index: int
    share: float
    """Of ‖z‖²; the mean over tokens but BOS."""
    ratio: float | None
    """Its median magnitude over that of the median coordinate; ``None`` where that is 0."""


@dataclass(frozen=True)
class Massive:
    """Tokens at which some coordinate is massive."""

    tokens: float
    """Their share of all tokens, BOS among them."""
    coordinates: tuple[int, ...]
    """Which are massive most often."""
    on: dict[str, float]
    """Of these tokens, the share that is ``BOS``, the ``first token`` of a text, ``delimiters``, or ``others``."""


@dataclass(frozen=True)
class SiteNorms:
    """One site."""

    site: str
    norm: float
    """Median over tokens but BOS."""
    bos: float | None
    """Median at BOS, where texts begin with one."""
    coordinates: tuple[Coordinate, ...]
    """Those with the largest share, the largest first."""
    massive: Massive | None
    """``None`` where nothing is."""


@dataclass(frozen=True, repr=False)
class Norms(Result):
    """Sites of the residual stream."""

    texts: str
    """The corpus, as it was named."""
    tokens: int
    """How many were looked at."""
    sites: tuple[SiteNorms, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """Return the sites as plain JSON values."""
        return [asdict(site) for site in self.sites]

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each site, for a data frame."""
        return [
            {
                "site": s.site, "norm": s.norm, "bos": s.bos, "coordinate": s.coordinates[0].index,
                "share": s.coordinates[0].share, "ratio": s.coordinates[0].ratio,
                "massive": s.massive.tokens if s.massive else 0.0,
            }
            for s in self.sites
        ]  # fmt: skip

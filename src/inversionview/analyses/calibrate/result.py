"""A calibration: how well each distance foretells interchangeability at each site, and what ε means there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from inversionview.core.files import TABLE_FORMATS
from inversionview.core.information import Mean
from inversionview.core.results import Result
from inversionview.core.scope import Distance

DEPTHS = ("first third", "middle third", "last third")


@dataclass(frozen=True)
class Quartiles:
    """A median over queries with its quartiles."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Foretold:
    """One distance at one site."""

    site: str
    distance: Distance
    correlation: Mean
    """Of D with nats, within a query; the mean over queries with its 95 % bootstrap interval."""
    behind: Mean
    """By how much the best distance of the site is ahead, over the same queries; 0 of the best itself."""
    inside: float
    """Share of random occurrences at D ≤ 0.1."""
    epsilons: dict[str, Quartiles | None]
    """ε for bits and nats; ``None`` where the corpus is too small, or nothing is so near."""


@dataclass(frozen=True)
class SiteGroup:
    """Sites of one kind and depth together, or all sites."""

    kind: str
    """``residual``, ``head`` or ``mlp``; ``all``."""
    depth: str
    """One of ``DEPTHS``, or ``all``."""
    sites: tuple[str, ...]
    correlations: dict[Distance, Mean]
    """Of the mean over the sites."""
    best: Distance
    """The one of the largest mean."""
    as_good: tuple[Distance, ...]
    """Others that may be as good: the interval of the difference over the same queries reaches 0."""


@dataclass(frozen=True, repr=False)
class Calibration(Result):
    """Sites × distances."""

    formats: ClassVar[tuple[str, ...]] = TABLE_FORMATS

    study: str
    texts: str
    """The corpus, as it was named."""
    occurrences: int
    queries: int
    partners: int
    seed: int
    rows: tuple[Foretold, ...]
    groups: tuple[SiteGroup, ...]
    """By kind and depth, after those of a kind the kind as a whole; the last one is all sites."""
    left_out: dict[str, str]
    """Sites where nothing can be told, and why, in a sentence."""

    @property
    def overall(self) -> SiteGroup:
        """All sites together."""
        return self.groups[-1]

    @property
    def sites(self) -> list[str]:
        """The sites in the order of computation."""
        return list(dict.fromkeys(row.site for row in self.rows))

    def at(self, site: str) -> list[Foretold]:
        """Return the rows of a site."""
        return [row for row in self.rows if row.site == site]

    @property
    def kinds(self) -> list[SiteGroup]:
        """The sites of each kind together."""
        return [group for group in self.groups if group.depth == "all" and group.kind != "all"]

    def thirds(self, kind: str) -> list[SiteGroup]:
        """Return the sites of a kind by depth."""
        return [group for group in self.groups if group.kind == kind and group.depth != "all"]

    def advised(self, site: str) -> Distance:
        """Return which distance is advised at a site: the best of its kind, or of its depth where that is better for sure.

        Not the best of the site itself: the queries of one are too few to choose by.
        """
        kind = next(group for group in self.kinds if site in group.sites)
        depth = next(group for group in self.thirds(kind.kind) if site in group.sites)
        return depth.best if differs(depth, kind.best) else kind.best

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as plain JSON values."""
        return {**asdict(self), "advice": {site: self.advised(site) for site in self.sites}}

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each site × distance, for a data frame."""
        return [_record(row, self.advised(row.site)) for row in self.rows]


def differs(group: SiteGroup, distance: Distance) -> bool:
    """Return whether some other distance is better than this one for sure in a group."""
    return group.best != distance and distance not in group.as_good


def _record(row: Foretold, advised: Distance) -> dict[str, Any]:
    c, b = row.correlation, row.behind
    flat: dict[str, Any] = {
        "site": row.site, "distance": row.distance, "correlation": c.value, "low": c.low, "high": c.high,
        "behind": b.value, "behind_low": b.low, "behind_high": b.high, "advised": row.distance == advised, "inside": row.inside,
    }  # fmt: skip
    for unit, found in row.epsilons.items():
        flat |= {f"epsilon {unit}": None if found is None else found.value}
        flat |= {f"epsilon {unit} {end}": None if found is None else getattr(found, end) for end in ("low", "high")}
    return flat

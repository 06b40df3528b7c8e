"""A decoder's good ratio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inversionview.core.results import Result
from inversionview.core.scope import Distance


@dataclass(frozen=True, eq=False, repr=False)
class GoodRatio(Result, Mapping[str, Any]):
    """Share of a decoder's samples inside ε, on held-out queries; also a mapping, ``{"mean": …, "sites": {"a0.0": …}}``."""

    mean: float
    sites: dict[str, float]
    epsilon: float
    distance: Distance
    queries: int
    """At each site."""
    samples: int
    """Of each query, at temperature 1."""

    def to_json(self) -> dict[str, Any]:
        """Return the ratios as plain JSON values."""
        return {"mean": self.mean, "sites": self.sites}

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each site, for a data frame."""
        return [{"site": site, "good_ratio": ratio} for site, ratio in self.sites.items()]

    def __getitem__(self, name: str) -> Any:
        return self.to_json()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_json())

    def __len__(self) -> int:
        return len(self.to_json())

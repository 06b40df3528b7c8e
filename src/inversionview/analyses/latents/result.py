"""Latents that fire at one activation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from inversionview.core.information import Bits
from inversionview.core.results import Result
from inversionview.preimage.preimage import Query


@dataclass(frozen=True)
class Occurrence:
    """Where a latent fires."""

    tokens: tuple[str, ...]
    """Labels as a query's."""
    position: int
    code: float


@dataclass(frozen=True)
class Feature:
    """What most of the strongest of a latent have in common."""

    name: str
    value: str
    share: float
    """Of the strongest."""
    base: float
    """Of a random sample of the corpus."""


@dataclass(frozen=True)
class Fired:
    """One latent that fires at the query."""

    latent: int
    code: float
    """At the query."""
    bits: Bits
    """−log₂ of the share of the corpus whose code lies within ε of the query's."""
    fires: int
    """On how many of the corpus' activations it fires at all."""
    spread: float | None
    """The interquartile range of its codes where it fires, of which ε is a share; ``None`` where it fires on no other."""
    unsure: int = 0
    """Of how many the rounding of stored vectors could decide whether they lie inside ε."""
    feature: Feature | None = None
    strongest: tuple[Occurrence, ...] = ()
    """Where it fires most; of the first latents alone."""


@dataclass(frozen=True, repr=False)
class LatentRanking(Result):
    """All latents of a dictionary at one activation: those that fire, ranked by their bits, and how many do not."""

    query: Query
    epsilon: float
    items: tuple[Fired, ...]
    """Those that fire, the most bits first."""
    off: int
    """How many latents are off at the query."""
    dead: int
    """How many of these never fire in the corpus."""
    rows: int
    """Activations of the corpus."""
    unit: str
    """What these are: tokens, or inputs."""
    compared: tuple[str, ...]
    """At which positions inputs are compared."""
    detailed: int
    """Of so many of the first it is said on what they fire."""

    def __len__(self) -> int:
        return len(self.items)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        told = [{**asdict(each), "bits": each.bits.to_json(), "share": each.fires / self.rows} for each in self.items]
        return {
            "query": self.query.to_json(),
            "epsilon": self.epsilon,
            "latents": len(self.items) + self.off,
            "fire": len(self.items),
            "off": self.off,
            "dead": self.dead,
            "rows": self.rows,
            "unit": self.unit,
            "positions": list(self.compared),
            "items": told,
        }

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each latent that fires, for a data frame."""
        return [
            {
                "latent": each.latent, "code": each.code, "bits": each.bits.value, "bits_low": each.bits.low,
                "bits_high": each.bits.high, "inside": each.bits.hits, "inputs": each.bits.inputs, "fires": each.fires,
                "share": each.fires / self.rows, "spread": each.spread, "unsure": each.unsure,
                "feature": None if each.feature is None else f"{each.feature.name} {each.feature.value}",
                "feature_share": None if each.feature is None else each.feature.share,
            }
            for each in self.items
        ]  # fmt: skip

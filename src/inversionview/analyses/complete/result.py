"""log p against D for every input of a study."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.analyses.listing import Values
from inversionview.core.scope import Distance
from inversionview.preimage.preimage import Query
from inversionview.sources.settings import Setting


@dataclass(frozen=True, eq=False)
class Scores:
    """log p of every input under one variant, and what it says about the inputs inside ε."""

    setting: Setting
    draws: int
    """Draws of the noise that the probability is a mean over; 1 without noise."""
    log_p: Values = field(repr=False)
    """Of every input; below ``floor`` an upper bound, itself below it."""
    floor: float | None
    """``None``: all of ``log_p`` is exact."""
    recall: float | None
    """Over inputs inside ε except the query: the share with log p above ``percentile``; ``None`` where either side is empty."""
    percentile: float | None
    """The 95th percentile of log p of the inputs outside ε."""
    lowest: float | None
    """log p of the least probable input inside ε."""
    lowest_rank: int | None
    """Its rank: 1 is the most probable input of all. A lower bound if ``lowest`` is below the floor."""

    @property
    def rank_is_exact(self) -> bool:
        """Whether ``lowest_rank`` is the rank, not a lower bound of it."""
        return self.lowest is None or self.floor is None or self.lowest >= self.floor

    @property
    def name(self) -> str:
        """How a figure calls the variant."""
        return f"noise η = {self.setting.noise:g}" if self.setting.noise else f"τ = {self.setting.temperature:g}"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without the values of single inputs."""
        return {
            "temperature": self.setting.temperature,
            "noise": self.setting.noise,
            "draws": self.draws,
            "recall": self.recall,
            "outside_95th_percentile": self.percentile,
            "lowest_log_p_inside": self.lowest,
            "lowest_rank_inside": self.lowest_rank,
            "lowest_rank_is_exact": self.rank_is_exact,
            "exact_above": self.floor,
        }


@dataclass(frozen=True, eq=False)
class Completeness:
    """The completeness check of one query."""

    query: Query
    kind: Distance
    epsilon: float
    seed: int
    rows: npt.NDArray[np.int64] = field(repr=False)
    """Which rows of the study's inputs were scored."""
    distance: Values = field(repr=False)
    """D(z_q, x) of each."""
    variants: tuple[Scores, ...]

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Which inputs lie inside ε."""
        return self.distance <= self.epsilon

    def log_p(self, variant: int = 0) -> Values:
        """Return log p of every input under one of the variants."""
        return self.variants[variant].log_p

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        return {
            "query": self.query.to_json(),
            "distance": self.kind,
            "epsilon": self.epsilon,
            "seed": self.seed,
            "inputs": len(self.rows),
            "inside": int(self.inside.sum()),
            "variants": [scores.to_json() for scores in self.variants],
        }

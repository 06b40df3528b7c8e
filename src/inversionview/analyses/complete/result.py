"""log p against D for every input of a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from inversionview.analyses.all_inputs import Values
from inversionview.core.files import COLUMN_FORMATS, FIGURE_FORMATS, write_columns
from inversionview.core.results import Result, Results
from inversionview.core.scope import Distance
from inversionview.model.distances.said import measure_of
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


@dataclass(frozen=True, eq=False, repr=False)
class Completeness(Result):
    """The completeness check of one query."""

    formats: ClassVar[tuple[str, ...]] = (".csv", ".parquet", ".png", ".svg")

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

    @property
    def measure(self) -> str:
        """What its distance is called."""
        return measure_of(self.kind, [self.query.site.short])

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        return {
            "query": self.query.to_json(),
            "distance": self.measure,
            "epsilon": self.epsilon,
            "seed": self.seed,
            "inputs": len(self.rows),
            "inside": int(self.inside.sum()),
            "variants": [scores.to_json() for scores in self.variants],
        }

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each variant, for a data frame."""
        place = {"text": self.query.text, "position": self.query.position, "site": self.query.site.short}
        where = {**place, "distance": self.measure, "epsilon": self.epsilon, "inputs": len(self.rows)}
        return [{**where, "inside": int(self.inside.sum()), **scores.to_json()} for scores in self.variants]


Texts = Callable[[Completeness, npt.NDArray[np.int64]], list[str]]
"""Gives the inputs at some places of a result as text."""


@dataclass(frozen=True, eq=False, repr=False)
class CompletenessTable(Results[Completeness]):
    """The checks of several queries over the same inputs."""

    formats: ClassVar[tuple[str, ...]] = (*FIGURE_FORMATS, *COLUMN_FORMATS)
    texts: Texts | None = None
    """By which the page names an input where one points at it; without it the page names none."""

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the inputs' row numbers, and for query i ``query{i}_distance`` and ``query{i}_log_p{j}`` under variant j."""
        table: dict[str, npt.NDArray[Any]] = {"row": self[0].rows}
        for i, result in enumerate(self):
            table[f"query{i}_distance"] = result.distance
            table |= {f"query{i}_log_p{j}": scores.log_p for j, scores in enumerate(result.variants)}
        return table

    def save(self, path: str | Path) -> Path:
        """Draw it, or write its ``columns``, as ``path`` ends; see ``Result.save``."""
        path = Path(path)
        if path.suffix.lower() not in COLUMN_FORMATS:
            return super().save(path)
        self.check_files([path])
        write_columns(self.columns(), path)
        return path

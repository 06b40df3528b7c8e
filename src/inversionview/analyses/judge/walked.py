"""Inputs inside ε that a walk finds, for statements of activations that tell more than a corpus can show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inversionview.analyses.judge.evidence import MOST, Evidence
from inversionview.analyses.judge.subjects import Subject
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.ranges import check_seconds
from inversionview.sources.walk import walk
from inversionview.studies.study import Study


@dataclass(frozen=True)
class Walker:
    """Walks from a query, each time for so long.

    Raises:
        SettingError: the study declares no moves of its own, or the time is none.
    """

    study: Study
    seconds: float
    seed: int

    def __post_init__(self) -> None:
        check_seconds(self.seconds, "The time of a walk")
        if not self.study.definition.moves:
            raise SettingError(
                f"Statements about {self.study.name} are tested on its corpus alone, as its inputs have no moves of their own: "
                "leave the walk out."
            )

    def found(self, subject: Subject, known: Evidence) -> Ids:
        """Return inputs inside ε that are neither the query nor known, each once, ``[input, pos]``; of a vector alone none."""
        query, pad = subject.query, known.bank.inputs.pad
        if query.textless:
            return np.empty((0, known.tokens.shape[1]), dtype=np.int64)
        made = walk(
            self.study, query, epsilon=subject.epsilon, distance=subject.distance,
            fixed=None if subject.names is None else subject.names[0], count=2 * MOST, seed=self.seed, seconds=self.seconds,
        )  # fmt: skip
        seen = {tuple(i for i in row if i != pad) for row in known.tokens[known.inside].tolist()} | {query.ids}
        fresh = [each.ids for each in made.samples if each.inside and each.ids not in seen]
        lot = np.random.default_rng((self.seed, 53)).permutation(len(fresh))[:MOST]
        tokens = np.full((len(lot), max(known.tokens.shape[1], max((len(ids) for ids in fresh), default=0))), pad)
        for row, number in zip(tokens, lot.tolist(), strict=True):
            row[: len(fresh[number])] = fresh[number]
        return tokens

"""What a calibration looks at: occurrences of a corpus, and random ones of them as queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.corpora.places import Marks, prefix_marks
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site
from inversionview.studies.statistics import sampled
from inversionview.studies.study import Study

_TOKENS = 4096
"""Run at once."""


@dataclass(frozen=True, eq=False)
class Occurrences:
    """Tokens of a random sample of a corpus' inputs at which D may be reached, those of the longest inputs first."""

    tokens: Ids
    """``[input, pos]``"""
    there: Bool[np.ndarray, "input pos"]
    """Which of the tokens are occurrences."""
    asked: Bool[np.ndarray, " occurrence"]
    """Which of the occurrences may be queries."""
    marks: Marks
    """Of what comes up to each: two of one mark have one activation."""
    inputs: Int[np.ndarray, " occurrence"]
    """Which input each is in."""
    positions: Int[np.ndarray, " occurrence"]

    @classmethod
    def of(cls, study: Study, count: int) -> Occurrences:
        """Return those of the corpus' first inputs that hold about so many."""
        _, there, tokens = sampled(study, count)
        order = np.argsort(-there.sum(1), kind="stable")
        tokens, there = tokens[order], there[order]
        inputs, positions = there.nonzero()
        asked = study.inputs.trained_positions(tokens)[there]
        return cls(tokens, there, asked, prefix_marks(tokens)[there], inputs, positions)

    def __len__(self) -> int:
        return len(self.marks)

    def queries(self, count: int, seed: int) -> Int[np.ndarray, " query"]:
        """Return random occurrences, each of another input; fewer where there are fewer inputs.

        Raises:
            SettingError: there are fewer than two.
        """
        rng = np.random.default_rng((seed, 53))
        drawn = rng.permutation(np.flatnonzero(self.asked))
        _, first = np.unique(self.inputs[drawn], return_index=True)
        chosen: Int[np.ndarray, " query"] = drawn[np.sort(first)][:count]
        if len(chosen) < 2:
            raise SettingError("The corpus has a single text, and queries are compared with others: give more text.")
        return chosen

    def ids(self, occurrence: int) -> list[int]:
        """Return the tokens up to an occurrence, itself included."""
        return [int(t) for t in self.tokens[self.inputs[occurrence], : self.positions[occurrence] + 1]]

    def others(self, query: int) -> Bool[np.ndarray, " occurrence"]:
        """Return which occurrences count for a query: those of other inputs that do not begin as it does."""
        found: Bool[np.ndarray, " occurrence"] = (self.inputs != self.inputs[query]) & (self.marks != self.marks[query])
        return found

    def activations(
        self, model: ProbedModel, sites: Sequence[Site], told: Callable[[float], None]
    ) -> list[Float[Tensor, "occurrence width"]]:
        """Return the activations of all occurrences at some sites, from one pass.

        Args:
            model: the probed model.
            sites: where.
            told: called with the share that is done.
        """
        found = [torch.empty(len(self), model.width(site)) for site in sites]
        done = 0
        for rows in self._blocks():
            there = self.there[rows]
            width = int(there.nonzero()[1].max()) + 1
            last = width - 1 - there[:, width - 1 :: -1].argmax(1)
            at = np.minimum(np.arange(width), last[:, None])
            mask = torch.from_numpy(there[:, :width])
            stop = done + int(mask.sum())
            for all_of_site, part in zip(found, model.harvest_compact(self.tokens[rows], sites, at), strict=True):
                all_of_site[done:stop] = part[mask]
            done = stop
            told(done / len(self))
        return found

    def _blocks(self) -> Iterator[slice]:
        """Yield inputs that are run together."""
        start = 0
        while start < len(self.tokens) and self.there[start].any():
            longest = int(self.there[start].nonzero()[0].max()) + 1
            step = max(1, _TOKENS // longest)
            yield slice(start, start + step)
            start += step

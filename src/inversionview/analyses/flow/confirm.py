"""Whether patching confirms the edges of a flow: what each goes through is replaced, in contrasts that alter its feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from inversionview.analyses.flow.result import FLOOR, Edge
from inversionview.core.errors import SettingError
from inversionview.core.information import Mean, interval, resampled
from inversionview.corpora.contrasts import Pairs, study_pairs
from inversionview.corpora.filters import Filter
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.positions import Positions
from inversionview.intervene.activations import Activation
from inversionview.intervene.patched_runs import PatchedRuns
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

_FEWEST = 20
"""Fewer pairs that differ in a feature confirm nothing."""


@dataclass(frozen=True)
class Confirming:
    """Patches what edges go through, in contrasts that alter their features."""

    model: ProbedModel
    inputs: Inputs
    positions: Positions
    target: str
    filters: Sequence[Filter]
    """Which original and contrast satisfy."""
    limit: int
    """Contrasts for each set of changes."""
    seed: int
    counts: dict[str, int] = field(default_factory=dict)
    """For each set of changes so far how many pairs there were."""

    def tested(self, edges: Sequence[Edge], least: float, report: Callable[[float], None]) -> Iterator[Edge]:
        """Yield the edges with the effect of patching, which confirms those where its lower end is at least ``least``."""
        groups: dict[tuple[str, ...], list[Edge]] = {}
        for edge in edges:
            groups.setdefault(self.inputs.changes_of(edge.feature), []).append(edge)
        found: dict[int, Edge] = {}
        for number, (changes, members) in enumerate(groups.items()):
            try:
                pairs = self._pairs(changes)
            except SettingError:  # the edges stay unconfirmed
                continue
            finally:
                report((number + 1) / len(groups))
            self.counts[",".join(changes)] = len(pairs)
            for edge, effect in self._effects(pairs, members):
                found[id(edge)] = replace(edge, effect=effect, confirmed=effect.low >= least)
        tested = (found.get(id(edge), edge) for edge in edges)
        yield from (edge for edge in tested if edge.share >= FLOOR or edge.confirmed)

    def _pairs(self, changes: Sequence[str]) -> Pairs:
        if not changes:
            raise SettingError("No contrast alters these features.")
        return study_pairs(self.inputs, self.target, changes=changes, filters=self.filters, limit=self.limit, seed=self.seed)

    def _effects(self, pairs: Pairs, edges: Sequence[Edge]) -> Iterator[tuple[Edge, Mean]]:
        """Yield the effect of patching each edge's activation alone, over the pairs that differ in its feature.

        An edge that begins at the stream does what the lesser of its ends does: a head reads several positions, and the stream
        at a position is read by several heads.
        """
        vias = list(dict.fromkeys(via for edge in edges for via in _vias(edge)))
        activations = [Activation(Site.parse(via.rpartition(":")[2]), via.rpartition(":")[0]) for via in vias]
        runs = PatchedRuns(self.model, pairs, activations, self.positions).differences([(i,) for i in range(len(vias))])
        before, after = self.inputs.features(pairs.original), self.inputs.features(pairs.contrast)
        for edge in edges:
            differ = before[edge.feature] != after[edge.feature]
            if differ.sum() >= _FEWEST:
                patched = runs.original[differ, None] - runs.patched[differ][:, [vias.index(via) for via in _vias(edge)]]
                whole = runs.original[differ] - runs.contrast[differ]
                columns = np.column_stack([whole, patched]).astype(np.float64)
                drawn, value = resampled(columns, seed=self.seed), columns.mean(0)
                least = 1 + int(value[1:].argmin())
                yield edge, interval(float(value[least] / value[0]), drawn[:, least] / drawn[:, 0])


def _vias(edge: Edge) -> list[str]:
    """Return the activations that are patched, each alone, to confirm an edge."""
    site, _, position = edge.source.partition("@")
    return [edge.via, f"{position}:{site}"] if edge.kind in ("read", "keep") and position else [edge.via]

"""What the explorer asks of a study: functions that return models of ``contract``; no web here.

The numbers are those of the library: each function calls the same method of ``Study`` as the command line does. Long work calls
``report`` again and again; what that raises ends the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.explorer.banks import bank_of
from inversionview.page import contract
from inversionview.preimage.preimage import Preimage, Query, Sample
from inversionview.preimage.reading import features, reading
from inversionview.sources.corpus import search
from inversionview.sources.decoder import sample
from inversionview.sources.quick import holds, lacking
from inversionview.sources.registry import Source, first_source, sources
from inversionview.sources.settings import AUTO, Setting
from inversionview.sources.walk import target_of, walk
from inversionview.sources.walked import measured
from inversionview.studies.study import Study

Rows = Callable[[list[contract.Sample], list[list[contract.Value]]], None]
"""Called with samples and the values of their features as they are measured."""
_EACH = 64
"""Candidates of each of the pool's settings; one setting alone has as many as the pool has together."""


def read(
    study: Study,
    query: Query,
    *,
    source: Source | Literal["all"] | None = None,
    epsilon: float | None = None,
    distance: Distance | None = None,
    count: int = 100,
    seed: int = 0,
    temperature: float | None = None,
    noise: float = 0.0,
    fixed: str | None = None,
    seconds: float = 5.0,
    report: Progress | None = None,
    rows: Rows | None = None,
    id: str | None = None,
) -> contract.Reading:
    """Read an activation.

    Args:
        study: the study.
        query: from ``Study.query``.
        source: ``"decoder"``, ``"corpus"``, ``"walk"``, or ``"all"`` that can be read now, merged; by default the
            first that can read this query, see ``first_source``.
        epsilon: threshold; by default the study's.
        distance: by default the study's.
        count: samples at most; ``"all"`` shares them out evenly.
        seed: the same seed gives the same reading, except where the walk ends by time.
        temperature: of the decoder; by default a pool of several.
        noise: with a decoder: on the activation, in units of std(z).
        fixed: compare this position only.
        seconds: how long the walk goes.
        report: called with the share of the work that is done, and a note.
        rows: called with samples as they are measured; at most ``count`` of each source. What is returned may have others.
        id: what the reading calls the study.

    Raises:
        SettingError: the study has no such source, or a setting is out of range.
        BankError: the corpus' bank lacks, and takes long to build.
        InversionViewError: see ``Study.preimage``, ``Study.search`` and ``Study.walk``.
    """
    known = sources(study)
    now: list[Source] = [each for each in known if each != "corpus" or (lacking(study) is None and holds(study, query, fixed))]
    chosen = now if source == "all" else [source or first_source(study, query, fixed, temperature is not None or noise > 0)]
    if chosen[0] not in known:
        raise SettingError(f"{study.name} has no source {chosen[0]!r}: choose {', '.join(known)}.")
    asked = _Asked(study, query, epsilon, distance, -(-count // len(chosen)), seed, fixed, len(chosen), report, rows)
    made: list[Preimage] = []
    for number, each in enumerate(chosen):
        asked.begin(number, each)
        if each == "decoder":
            made.append(asked.decoder(temperature, noise))
        else:
            made.append(asked.corpus() if each == "corpus" else asked.walk(seconds))
    return reading(study, merged(made, count) if source == "all" else made[0], id, made)


@dataclass
class _Asked:
    """What every source is asked."""

    study: Study
    query: Query
    epsilon: float | None
    distance: Distance | None
    count: int
    seed: int
    fixed: str | None
    sources: int
    told: Progress | None
    rows: Rows | None
    done: int = 0
    source: str = ""

    def begin(self, done: int, source: Source) -> None:
        """Go on to the next source."""
        self.done, self.source = done, source
        if self.told is not None:
            self.told(done / self.sources, source)

    @property
    def report(self) -> Progress | None:
        """Report over all sources."""
        return None if self.told is None else self._tell

    def _tell(self, share: float, note: str) -> None:
        assert self.told is not None
        self.told((self.done + share) / self.sources, f"{self.source}: {note}" if note else self.source)

    @property
    def _where(self) -> dict[str, Any]:
        names = ("epsilon", "distance", "count", "seed", "fixed")
        return {name: getattr(self, name) for name in names}

    def decoder(self, temperature: float | None, noise: float) -> Preimage:
        settings: Sequence[Setting] | Literal["auto"] = "auto"
        each = _EACH
        if temperature is not None or noise:
            settings, each = [Setting(1.0 if temperature is None else temperature, noise)], _EACH * len(AUTO)
        found = None if self.rows is None else self._show
        return sample(self.study, self.query, settings=settings, each=each, report=self.report, found=found, **self._where)

    def corpus(self) -> Preimage:
        bank = bank_of(self.study, self.report)
        return search(self.study, self.query, bank=bank, found=None if self.rows is None else self._show, **self._where)

    def walk(self, seconds: float) -> Preimage:
        found = None if self.rows is None else _Members(self).take
        return walk(self.study, self.query, seconds=seconds, report=self.report, found=found, **self._where)

    def _show(self, samples: Sequence[Sample]) -> None:
        assert self.rows is not None
        values = features(self.study, self.query, samples)
        shown = [contract.Sample.model_validate(s.to_json()) for s in samples]
        self.rows(shown, [[]] * len(shown) if values is None else values.values)


class _Members:
    """Shows the first members that a walk finds, run through the model again for the distances of all their tokens."""

    def __init__(self, asked: _Asked) -> None:
        self.asked, self.left = asked, asked.count

    def take(self, tokens: Ids, distances: npt.NDArray[np.float64], positions: Ids) -> None:
        some, self.left = tokens[: self.left], self.left - min(self.left, len(tokens))
        if len(some):
            asked = self.asked
            target = target_of(asked.study, asked.query, asked.distance, asked.fixed, epsilon=asked.epsilon)
            asked._show(measured(asked.study.model, target, some, np.ones(len(some), np.int64)))


def merged(preimages: Sequence[Preimage], count: int) -> Preimage:
    """Return the preimages of several sources as one: every input once, as the first source has it, by distance.

    The bits are those of the first source that tells them, the corpus before the walk.
    """
    samples = {sample.ids: sample for preimage in reversed(preimages) for sample in preimage.samples}
    every = replace(
        preimages[0],
        samples=tuple(sorted(samples.values(), key=lambda sample: sample.distance)),
        candidates=sum(p.candidates for p in preimages),
        source="all",
        bits=next((p.bits for p in preimages if p.bits is not None), None),
        walk=next((p.walk for p in preimages if p.walk is not None), None),
        notes=tuple(dict.fromkeys(note for p in preimages for note in p.notes)),
        draws=None,
        inside_count=None,
        distinct=None,
    )
    return every if len(every) <= count else every.choice(count)

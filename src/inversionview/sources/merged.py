"""Several sources asked one after the other, and what they found as one preimage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from inversionview.bank.store import ActivationBank
from inversionview.core.information import METHODS
from inversionview.core.progress import Progress
from inversionview.core.scope import Scope
from inversionview.preimage.preimage import Preimage, Query
from inversionview.sources.registry import ALL
from inversionview.sources.source import Source, Watch
from inversionview.studies.study import Study


@dataclass(frozen=True)
class Asked:
    """What is asked of each of several sources."""

    study: Study
    query: Query
    scope: Scope[Any]
    count: int
    """Samples of all together at most, shared out evenly."""
    seed: int = 0
    report: Progress | None = None
    """Called with the share of all that is done, and a note that begins with the source's name."""
    watch: Watch | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of any of the sources: each takes those that are its own."""
    onwards: bool = False
    """What can start elsewhere than at the query starts at what was found before, too."""

    def of(self, some: Sequence[Source], bank: Callable[[Progress | None], ActivationBank] | None = None) -> list[Preimage]:
        """Return the preimage that each source makes.

        ``bank`` opens the bank, or builds it, for sources that need one; by default they open the study's themselves.
        """
        made: list[Preimage] = []
        for number, source in enumerate(some):
            if self.query.textless and source.begins and not any(each.inside for each in made):
                continue  # nowhere to begin is known
            told = None if self.report is None else partial(_part, self.report, source.name, number, len(some))
            if told is not None:
                told(0.0, "")
            own = {name: value for name, value in self.options.items() if name in source.options}
            if source.needs_bank and bank is not None:
                own["bank"] = bank(told)
            if self.onwards and "starts" in source.options:
                own["starts"] = [*own.get("starts", ()), *made]
            made.append(
                source.read(
                    self.study,
                    self.query,
                    self.scope,
                    count=-(-self.count // len(some)),
                    seed=self.seed,
                    report=told,
                    watch=self.watch,
                    **own,
                )
            )
        return made


def _part(report: Progress, source: str, number: int, of: int, share: float, note: str) -> None:
    report((number + share) / of, f"{source}: {note}" if note else source)


def merged(preimages: Sequence[Preimage], count: int) -> Preimage:
    """Return the preimages of several sources as one: every input once, as the first source has it, by distance.

    The bits are those of the most exact source that knows both ends of their interval: the corpus, the walk, the decoder.
    """
    told = min(preimages, key=_unsure)
    notes = (note for p in preimages for note in p.notes if p is told or p.weighed is None or note not in p.weighed.doubts)
    samples = {sample.ids: sample for preimage in reversed(preimages) for sample in preimage.samples}
    every = replace(
        preimages[0],
        samples=tuple(sorted(samples.values(), key=lambda sample: sample.distance)),
        candidates=sum(p.candidates for p in preimages),
        source=ALL,
        bits=told.bits,
        weighed=None,
        walk=next((p.walk for p in preimages if p.walk is not None), None),
        notes=tuple(dict.fromkeys(notes)),
        draws=None,
        inside_count=None,
        distinct=None,
    )
    return every if len(every) <= count else every.choice(count)


def _unsure(preimage: Preimage) -> tuple[bool, bool, int]:
    """Return how far down a source's bits stand among those of others."""
    bits = preimage.bits
    return (True, True, 0) if bits is None else (False, bits.high is None, METHODS.index(bits.method))

"""Judging: one search for all statements of an activation, all of them and their controls on the same unseen inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from inversionview.analyses.feature_codes import Codes
from inversionview.analyses.interpret.readings import measured
from inversionview.analyses.interpret.sides import Sides
from inversionview.analyses.judge.claims import Claim
from inversionview.analyses.judge.conditions import Condition, Said
from inversionview.analyses.judge.controls import Controls, Makers, search
from inversionview.analyses.judge.evidence import Evidence, apart, joined, matched, of_input
from inversionview.analyses.judge.exactness import Corpus
from inversionview.analyses.judge.result import CONTROLS, Exhibit, Judgement, Rival
from inversionview.analyses.judge.rulings import BAR, LEAST, Measured, gain, ruled, untestable
from inversionview.analyses.judge.subjects import Subject, together, vectors
from inversionview.analyses.judge.walked import Walker
from inversionview.bank.store import ActivationBank
from inversionview.core.progress import Progress
from inversionview.studies.study import Study

_TOGETHER = 16
"""Activations that are searched at once."""
_SHOWN = 3
"""Inputs of each kind that a verdict shows: on either side, told right and told wrong."""


@dataclass(frozen=True, eq=False)
class Bench:
    """All that the statements of one activation are judged on."""

    subject: Subject
    sides: Sides
    evidence: Evidence
    """Unseen inputs on both sides, as many inside as outside."""
    line: Evidence | None
    """Such right beside ε."""
    controls: Controls
    walked: int

    @property
    def enough(self) -> bool:
        """A statement can be proven on it."""
        return min(int(self.evidence.inside.sum()), int((~self.evidence.inside).sum())) >= LEAST


@dataclass(frozen=True)
class Judging:
    """How statements are judged.

    Attributes:
        study, bank, codes: what is searched, and its features.
        gap: inputs outside begin at ``gap`` · ε.
        seed: of the choice of random inputs, and of walks.
        controls: names of those that are asked for.
        walker: makes more inputs inside where a corpus has too few; ``None``: nothing does.
    """

    study: Study
    bank: ActivationBank
    codes: Codes
    gap: float
    seed: int
    controls: Sequence[str] = tuple(CONTROLS)
    walker: Walker | None = None

    @cached_property
    def corpus(self) -> Corpus:
        """Unseen inputs without regard to ε."""
        return Corpus(self.bank, self.gap)

    def benches(self, subjects: Sequence[Subject], report: Progress) -> Iterator[tuple[int, Bench]]:
        """Yield for each activation, in the order of the searches, its number and what its statements are judged on."""
        makers, done = Makers(self.study, self.bank, self.codes, self.gap, self.seed), 0
        for numbers in together(subjects, _TOGETHER):
            some = [subjects[number] for number in numbers]
            z = vectors([subject.query for subject in some])
            found = search(self.bank, some[0], some[0].query.site, z, [subject.own for subject in some], self.gap)
            controls = makers.of(some, found, self.controls)
            for number, subject, side, held in zip(numbers, some, found, controls, strict=True):
                yield number, self._bench(subject, side, held)
            done += len(numbers)
            report(done / len(subjects), f"{done} of {len(subjects)} activations")

    def _bench(self, subject: Subject, side: Sides, controls: Controls) -> Bench:
        evidence, walked = matched(self.bank, side.test), 0
        few, outside = int(evidence.inside.sum()), len(apart(self.bank, side.test).outside)
        if self.walker is not None and few < LEAST <= outside:
            tokens = self.walker.found(subject, evidence)
            evidence, walked = joined(evidence, tokens, side.test), len(tokens)
        line = matched(self.bank, side.line) if side.line.enough else None
        return Bench(subject, side, evidence, line, controls, walked)

    # -- verdicts -----------------------------------------------------------------------------------------------------

    def ruling(
        self,
        bench: Bench,
        claim: Claim,
        said: Said,
        on: Evidence,
        of_query: bool | None,
        condition: Condition | None = None,
    ) -> Judgement:
        """Return the verdict on a statement.

        Args:
            bench: of its activation.
            claim: the statement.
            said: what the judge says of inputs.
            on: these: all of the bench's evidence, or some.
            of_query: whether the statement is true of the query's own input, if that is known.
            condition: what can be asked of more inputs: those beside ε, and of the whole corpus.
        """
        told, beside = Measured.of(on.inside, said.holds, said.grades), None
        if condition is not None:
            told = (
                replace(told, exactness=self.corpus.exactness(bench.subject, condition))
                if told.precision.low >= BAR or told.partly
                else told
            )
            beside = None if bench.line is None else _beside(bench.line, condition)
        verdict, why = ruled(told, of_query)
        rivals = {name: None if held is None else _rival(held.statement, held.condition.of(on), said, on)
                  for name, held in bench.controls.items()}  # fmt: skip
        return Judgement(
            claim, verdict, why, bench.sides.bits, told, beside, rivals, self._exhibits(bench, said, on), bench.walked
        )

    def too_few(self, bench: Bench, claim: Claim) -> Judgement:
        """Return that a statement cannot be tested here, and what it would take."""
        test = apart(self.bank, bench.sides.test)
        inside = max(len(test.inside), int(bench.evidence.inside.sum()))
        why = untestable(inside, len(test.outside), bench.sides.bits, len(self.bank))
        return Judgement(claim, "not testable here", why, bench.sides.bits, walked=bench.walked)

    def _exhibits(self, bench: Bench, said: Said, on: Evidence) -> tuple[Exhibit, ...]:
        """Return some inputs of the corpus on both sides, those first that contradict the statement, run again."""
        subject, shown = bench.subject, []
        for inside, holds in ((True, False), (False, True), (True, True), (False, False)):
            shown += np.flatnonzero((on.inside == inside) & (said.holds == holds) & (on.rows >= 0))[:_SHOWN].tolist()
        if not shown:
            return ()
        names = self.bank.manifest.positions if subject.names is None else subject.names
        texts, near = measured(self.bank, on.rows[shown], subject.query.z, subject.query.site, subject.distance, names)
        return tuple(
            Exhibit(text.text(), float(distance), bool(on.inside[i]), bool(said.holds[i]))
            for i, text, distance in zip(shown, texts, near.tolist(), strict=True)
            if (distance <= subject.epsilon) == on.inside[i]
        )


def _rival(statement: str, other: Said, said: Said, on: Evidence) -> Rival:
    return Rival(statement, Measured.of(on.inside, other.holds, other.grades), gain(on.inside, said.holds, other.holds))


def _beside(line: Evidence, condition: Condition) -> Measured:
    said = condition.of(line)
    return Measured.of(line.inside, said.holds, said.grades)


def offline(
    judging: Judging, subjects: Sequence[Subject], conditions: Sequence[Sequence[Condition]], report: Progress
) -> list[list[Judgement]]:
    """Return the verdicts on statements that can be checked, for each activation in turn.

    Args:
        judging: how.
        subjects: the activations.
        conditions: what is said of each, one for each of its claims.
        report: called with the share that is done, and a note.
    """
    made: list[list[Judgement]] = [[] for _ in subjects]
    for number, bench in judging.benches(subjects, report):
        subject = subjects[number]
        if not bench.enough:
            made[number] = [judging.too_few(bench, claim) for claim in subject.claims]
            continue
        query = None if subject.query.textless else of_input(judging.bank, subject.query.ids, subject.query.position)
        for claim, each in zip(subject.claims, conditions[number], strict=True):
            own = None if query is None else bool(each.of(query).holds[0])
            made[number].append(judging.ruling(bench, claim, each.of(bench.evidence), bench.evidence, own, each))
    return made

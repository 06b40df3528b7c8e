"""Interpreting sites and positions: by features alone, or by a language model whose statements are then tested by simulation.

A language model is asked once for each query, once for each site × position, and, to test what it wrote, twice for each of at
most four queries of a site × position: with its own statement and with that of another site. So 100 queries at each of 10 sites
take 1,000 + 10 + 80 = 1,090 requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inversionview.analyses.feature_codes import Codes
from inversionview.analyses.interpret.clauses import FeatureStatement, summary
from inversionview.analyses.interpret.client import Client, Estimate, Outcome
from inversionview.analyses.interpret.prompts import (
    MOST_TEXT,
    Guesses,
    Prompt,
    Shown,
    Statement,
    Summary,
    judge_prompt,
    probabilities,
    statement_prompt,
    summary_prompt,
)
from inversionview.analyses.interpret.readings import Queries, ReadCell, labelled, read_cells, rival, shown
from inversionview.analyses.interpret.result import Costs, Example, Interpretation, Interpretations, QueryReading
from inversionview.analyses.interpret.scoring import Score, Verdict, beats
from inversionview.analyses.interpret.sides import GAP
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import InversionViewError
from inversionview.core.information import mean
from inversionview.core.progress import Progress
from inversionview.core.scope import Own, Scope
from inversionview.model.sites.site import Site

Confirm = Callable[[Estimate], None]
"""Called with what a run will take at most, before anything is sent; what it raises ends the run."""
_JUDGED = 4
"""Queries of a site × position whose statements are tested by simulation."""
_PAIRS = 16
"""Inputs on each side that a simulation is shown."""
_INSIDE, _OUTSIDE = 12, 6
"""Samples that a prompt shows."""
_SAMPLES = 3
_NO_INPUTS = "There are too few inputs inside ε, or clearly outside, to make a statement from and to test it on."


def interpretations(
    bank: ActivationBank,
    codes: Codes,
    *,
    study: str,
    cells: Sequence[tuple[Site, str]],
    queries: Queries,
    scope: Scope[Own],
    gap: float = GAP,
    client: Client | None = None,
    confirm: Confirm | None = None,
    report: Progress | None = None,
) -> Interpretations:
    """Return what sites × positions encode, in sentences with scores.

    Args:
        bank: the corpus.
        codes: its features.
        study: its name.
        cells: which sites at which named positions.
        queries: which inputs are read there.
        scope: how preimages are compared: at a query's own position only, or, without ``at``, over all of the bank's.
        gap: inputs outside, which a statement is tested on, begin at ``gap`` · ε.
        client: the language model; without one statements are made from features.
        confirm: called with the estimate before the first request.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError, UnknownSiteError, UnknownPositionError: something named is not there, or out of range.
        BudgetError: the estimate exceeds the client's budget.
        EndpointError: no request can succeed.
    """
    run = _Run(bank, codes, queries, scope, gap, report or (lambda share, note: None), 0.4 if client else 1.0)
    groups = run.groups(cells)
    made = [run.by_features(group, number) for group, wanted in groups for number in wanted]
    costs = None
    if client is not None:
        model = _Model(client, bank.inputs.glossary, queries.seed, run.report)
        made = model.interpret([(group, number) for group, wanted in groups for number in wanted], made, confirm)
        used = client.usage
        costs = Costs(
            client.model, used.requests, used.cached, used.failed, used.prompt_tokens, used.answer_tokens,
            client.cost(used.prompt_tokens, used.answer_tokens),
        )  # fmt: skip
    order = {cell: number for number, cell in enumerate((site.short, position) for site, position in cells)}
    made.sort(key=lambda each: order[each.site, each.position])
    asked = queries.count if queries.ids is None else len(queries.ids)
    return Interpretations(
        study,
        len(bank),
        scope.epsilon,
        scope.distance,
        scope.at is not None,
        gap,
        queries.seed,
        asked,
        tuple(made),
        costs,
    )


@dataclass
class _Run:
    """Readings and feature statements."""

    bank: ActivationBank
    codes: Codes
    queries: Queries
    scope: Scope[Own]
    gap: float
    report: Progress
    part: float
    """Share of the work that this is."""

    def groups(self, cells: Sequence[tuple[Site, str]]) -> list[tuple[list[ReadCell], list[int]]]:
        """Return for each position its cells and which of them were asked for; one alone has another to be compared with."""
        wanted: dict[str, list[Site]] = {}
        for site, position in cells:
            wanted.setdefault(position, []).append(site)
        every = {position: self._with_rival(sites) for position, sites in wanted.items()}
        total, done, groups = sum(map(len, every.values())), 0, []

        def after() -> None:
            nonlocal done
            done += 1
            self.report(self.part * done / total, f"{done} of {total} sites × positions")

        for position, sites in every.items():
            read = read_cells(self.bank, self.codes, sites, position, self.queries, self.scope, self.gap, after)
            groups.append((read, list(range(len(wanted[position])))))
        return groups

    def _with_rival(self, sites: list[Site]) -> list[Site]:
        if len(sites) > 1:
            return sites
        every = self.bank.sites
        after = every[(every.index(sites[0]) + 1) % len(every)]
        return sites if after == sites[0] else [*sites, after]

    def by_features(self, group: Sequence[ReadCell], number: int) -> Interpretation:
        """Return what features tell of a cell."""
        cell, seed, count = group[number], self.queries.seed, len(group[number].sides)
        scored = [i for i in range(count) if cell.statements[i] is not None]
        statements = {i: each for i in scored if (each := cell.statements[i]) is not None}
        own = {i: told for i, each in statements.items() if (told := cell.told(i, each)) is not None}
        line = [told for i, each in statements.items() if (told := cell.told(i, each, line=True)) is not None]
        against = {i: other for i in own if (other := rival(group, number, i)) is not None}
        others = {i: told for i, other in against.items() if (told := cell.told(i, other)) is not None}
        bits = mean([each.bits for each in cell.sides], seed=seed)
        held_out = self.bank.half(1)
        gained = [each.information(cell.sides[i].test.inside, held_out) for i, each in statements.items()]
        of = [cell.sides[i].bits for i in scored]
        information, scored_bits = (float(np.mean(values)) if scored else None for values in (gained, of))
        known = scored_bits is not None and scored_bits >= 0.05
        return Interpretation(
            cell.site.short, cell.position,
            statement=_NO_INPUTS if not scored else summary(
                self.bank.inputs, list(statements.values()), scored_bits or 0.0, information or 0.0
            ),
            source="features", bits=bits, information=information, scored_bits=scored_bits,
            share=(information or 0.0) / (scored_bits or 1.0) if known else None,
            score=Score.of(list(own.values()), seed), line=Score.of(line, seed), other=Score.of(list(others.values()), seed),
            features=None, proven=beats([own[i] for i in others], list(others.values())) if own else None,
            queries=tuple(self._reading(cell, i, own.get(i)) for i in range(count)),
            note=None if scored else _NO_INPUTS,
            least=float(np.mean(low)) if (low := [s.least for s in cell.sides]) != [s.bits for s in cell.sides] else None,
        )  # fmt: skip

    def _reading(self, cell: ReadCell, query: int, told: Verdict | None) -> QueryReading:
        statement, side = cell.statements[query], cell.sides[query]
        inside = np.sort(np.concatenate([side.fit.inside, side.test.inside]))[: 2 * _SAMPLES]  # by row: a random choice
        samples = sorted(cell.verified(query, inside, True)[:_SAMPLES], key=lambda each: each[1])
        return QueryReading(
            query=cell.shown(query).text(),
            bits=side.bits,
            statement=None if statement is None else statement.said(self.bank.inputs, cell.own[query], side.bits),
            varies=None,
            clauses=() if statement is None else tuple(statement.to_json()),
            told=told,
            problem=None if statement is not None else _NO_INPUTS,
            samples=tuple(Example(text.text(), distance) for text, distance in samples),
        )


@dataclass(frozen=True)
class _Test:
    """One query's unseen inputs, as a simulation sees them."""

    query: int
    inputs: tuple[Shown, ...]
    inside: np.ndarray
    rows: np.ndarray
    other: FeatureStatement


@dataclass
class _Model:
    """A language model's statements, summaries and simulations."""

    client: Client
    glossary: dict[str, str]
    seed: int
    report: Progress

    def interpret(
        self, cells: Sequence[tuple[Sequence[ReadCell], int]], made: Sequence[Interpretation], confirm: Confirm | None
    ) -> list[Interpretation]:
        """Return the interpretations with what the model says in place of what features tell."""
        readable = [[i for i, side in enumerate(group[n].sides) if len(side.fit.inside)] for group, n in cells]
        asked = [[self._statement(group[n], i) for i in own] for (group, n), own in zip(cells, readable, strict=True)]
        tests = [self._tests(group, n) for group, n in cells]
        estimate = self._estimate(cells, asked, readable, tests)
        self.client.check_budget(estimate)
        if confirm is not None:
            confirm(estimate)
        total, before = max(1, sum(map(len, asked)) + len(cells) + 2 * sum(map(len, tests))), 0

        def ask(prompts: Sequence[Prompt], what: str) -> list[Outcome]:
            nonlocal before
            start = before
            tell = lambda share, note: self.report(0.4 + 0.6 * (start + share * len(prompts)) / total, f"{what}: {note}")  # noqa: E731
            got = self.client.ask(prompts, tell)
            before += len(prompts)
            return got

        said = _split(ask([prompt for own in asked for prompt in own], "statements"), asked)
        by_query = [dict(zip(own, outcomes, strict=True)) for own, outcomes in zip(readable, said, strict=True)]
        summaries = ask([self._summary(group[n], said) for (group, n), said in zip(cells, by_query, strict=True)], "summaries")
        usable = [
            [test for test in own if isinstance(said[test.query], Statement)] for own, said in zip(tests, by_query, strict=True)
        ]
        prompts = [self._judged(group[n], own, said) for (group, n), own, said in zip(cells, usable, by_query, strict=True)]
        judged = _split(ask([prompt for own in prompts for prompt in own], "simulations"), prompts)
        return [
            self._interpretation(group[n], each, outcomes, summarized, own, guesses)
            for (group, n), each, outcomes, summarized, own, guesses in zip(
                cells, made, by_query, summaries, usable, judged, strict=True
            )
        ]

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _statement(self, cell: ReadCell, query: int) -> Prompt:
        half = cell.sides[query].fit
        inside = cell.verified(query, np.sort(half.inside)[:_INSIDE], True)  # by row: a random choice
        outside = cell.verified(query, half.outside[:_OUTSIDE], False)
        shown = [[each for each, _ in side] for side in (inside, outside)]
        return statement_prompt(cell.place, cell.shown(query), shown[0], shown[1], self.glossary)

    def _summary(self, cell: ReadCell, said: dict[int, Outcome]) -> Prompt:
        return summary_prompt(
            cell.place, [each.statement for each in said.values() if isinstance(each, Statement)], self.glossary
        )

    def _tests(self, group: Sequence[ReadCell], number: int) -> list[_Test]:
        """Return the unseen inputs of the first few queries that have enough, in random order."""
        cell, tests = group[number], list[_Test]()
        for query, side in enumerate(cell.sides):
            other = rival(group, number, query)
            if len(tests) == _JUDGED or not side.usable or other is None:
                continue
            rows, inside = labelled(side.test, _PAIRS)
            lot = np.random.default_rng((self.seed, query, 41)).permutation(len(rows))
            tokens = cell.bank.tokens(rows[lot])
            inputs = tuple(shown(cell.bank, each) for each in tokens)
            tests.append(_Test(query, inputs, inside[lot], rows[lot], other))
        return tests

    def _judged(self, cell: ReadCell, tests: Sequence[_Test], said: dict[int, Outcome]) -> list[Prompt]:
        prompts = []
        for test in tests:
            own = said[test.query]
            assert isinstance(own, Statement)
            other = test.other.said(cell.bank.inputs, cell.own[test.query], cell.sides[test.query].bits)
            prompts += [judge_prompt(each, test.inputs, self.glossary) for each in (own.statement, other)]
        return prompts

    def _estimate(
        self,
        cells: Sequence[tuple[Sequence[ReadCell], int]],
        asked: Sequence[Sequence[Prompt]],
        readable: Sequence[Sequence[int]],
        tests: Sequence[Sequence[_Test]],
    ) -> Estimate:
        """Return what all will take at most; what an answer in the cache decides is known, other statements count as long."""
        prompts: list[Prompt] = []
        longest = Statement(statement="x" * MOST_TEXT, varies="")
        for (group, n), own, queries, judged in zip(cells, asked, readable, tests, strict=True):
            said: dict[int, Outcome] = {
                query: self.client.kept(prompt) or longest for query, prompt in zip(queries, own, strict=True)
            }
            prompts += [*own, self._summary(group[n], said), *self._judged(group[n], judged, said)]
        return self.client.estimate(prompts)

    # -- what became of it --------------------------------------------------------------------------------------------

    def _interpretation(
        self,
        cell: ReadCell,
        made: Interpretation,
        said: dict[int, Outcome],
        summarized: Outcome,
        tests: Sequence[_Test],
        guesses: Sequence[Outcome],
    ) -> Interpretation:
        own, others, features, problems = dict[int, Verdict](), dict[int, Verdict](), dict[int, Verdict](), dict[int, str]()
        for number, test in enumerate(tests):
            pair = guesses[2 * number : 2 * number + 2]
            if all(isinstance(each, Guesses) for each in pair):
                own[test.query], others[test.query] = (_told(test, each) for each in pair if isinstance(each, Guesses))
                statement = cell.statements[test.query]
                assert statement is not None
                features[test.query] = Verdict.of(test.inside, statement.holds(test.rows), statement.agreement(test.rows))
            else:
                problems[test.query] = next(str(each) for each in pair if isinstance(each, InversionViewError))
        score, by_features = Score.of(list(own.values()), self.seed), Score.of(list(features.values()), self.seed)
        proven = None
        if score is not None and by_features is not None:
            level = score.balanced_accuracy.value >= by_features.balanced_accuracy.value
            proven = level and beats(list(own.values()), list(others.values()))
        queries = tuple(
            self._reading(reading, said.get(i), own.get(i), problems.get(i)) for i, reading in enumerate(made.queries)
        )
        spoken = isinstance(summarized, Summary)
        return replace(
            made, statement=summarized.summary if isinstance(summarized, Summary) else made.statement,
            source=self.client.model if spoken else "features", score=score, other=Score.of(list(others.values()), self.seed),
            features=by_features, proven=proven, queries=queries,
            note=str(summarized) if isinstance(summarized, InversionViewError) else made.note,
        )  # fmt: skip

    def _reading(
        self, reading: QueryReading, outcome: Outcome | None, told: Verdict | None, problem: str | None
    ) -> QueryReading:
        if isinstance(outcome, Statement):
            return replace(reading, statement=outcome.statement, varies=outcome.varies, told=told, problem=problem)
        why = "There is no other input inside ε." if outcome is None else str(outcome)
        return replace(reading, statement=None, told=None, problem=why)


def _told(test: _Test, guesses: Guesses) -> Verdict:
    graded = np.array(probabilities(guesses, len(test.inputs)))
    return Verdict.of(test.inside, graded > 0.5, graded)


def _split(outcomes: Sequence[Outcome], like: Sequence[Sequence[Prompt]]) -> list[list[Outcome]]:
    """Return outcomes in groups as long as those that were asked."""
    every = iter(outcomes)
    return [[next(every) for _ in own] for own in like]

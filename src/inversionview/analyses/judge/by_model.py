"""A language model as the judge: it is shown a statement and inputs in random order, and says of which it is true.

It never sees the site, the side or the distance of an input, nor how many lie on each side. Of each statement it is asked three
times at most, and of a few *checks*, no more than there are statements: what single features say, which is true of some inputs
and false of others by definition. A judge that cannot tell these apart has its verdicts withheld.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from inversionview.analyses.interpret.client import Client, Estimate, Outcome
from inversionview.analyses.interpret.prompts import Guesses, Prompt, Shown, judge_prompt, probabilities
from inversionview.analyses.interpret.scoring import Labels
from inversionview.analyses.judge.claims import Claim
from inversionview.analyses.judge.conditions import Said
from inversionview.analyses.judge.evidence import Evidence, of_input, of_rows
from inversionview.analyses.judge.result import Judgement
from inversionview.analyses.judge.rulings import Measured
from inversionview.analyses.judge.run import Bench, Judging
from inversionview.analyses.judge.subjects import Subject
from inversionview.core.errors import InversionViewError
from inversionview.core.progress import Progress

_PAIRS = 72
"""Inputs on each side that it is shown: so few mistakes as 2 still prove a statement."""
_AT_ONCE = 48
"""Inputs of one request."""
_CHECKS = 4
"""Checks of a run, at most one for each statement."""
_CHECKED = 24
"""Inputs of a check of which it is true at most, and as many of which it is false."""
_FEWEST = 8
"""A check needs so many of each."""
Confirm = Callable[[Estimate], None]


@dataclass(frozen=True, eq=False)
class _Asked:
    """One statement's inputs, as they are shown, and the requests."""

    number: int
    """Of its activation."""
    bench: Bench
    claim: Claim
    on: Evidence
    own: bool
    """The first input that is shown is the query's own."""
    prompts: tuple[Prompt, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Check:
    prompt: Prompt
    true: Labels


def by_model(
    judging: Judging, subjects: Sequence[Subject], client: Client, confirm: Confirm | None, report: Progress
) -> tuple[list[list[Judgement]], str | None]:
    """Return a language model's verdicts on the statements about each activation, and what is wrong with it, if anything is.

    Args:
        judging: how.
        subjects: the activations.
        client: the language model.
        confirm: called with the estimate of what it will be asked, before it is.
        report: called with the share that is done, and a note.

    Raises:
        BudgetError: the estimate exceeds the client's budget.
        EndpointError: no request can succeed.
    """
    made: list[list[Judgement]] = [[] for _ in subjects]
    asked, checks = list[_Asked](), list[_Check]()
    for number, bench in judging.benches(subjects, lambda share, note: report(0.3 * share, note)):
        if not bench.enough:
            made[number] = [judging.too_few(bench, claim) for claim in bench.subject.claims]
            continue
        shown = _spread(bench, judging.seed)
        asked += [_requests(judging, number, bench, claim, shown) for claim in bench.subject.claims]
        if len(checks) < min(_CHECKS, len(asked)) and (check := _check(judging, shown)) is not None:
            checks.append(check)
    prompts = [*(prompt for each in asked for prompt in each.prompts), *(check.prompt for check in checks)]
    estimate = client.estimate(prompts)
    client.check_budget(estimate)
    if confirm is not None:
        confirm(estimate)
    said = iter(client.ask(prompts, lambda share, note: report(0.3 + 0.7 * share, note)))
    for each in asked:
        made[each.number].append(_judgement(judging, each, [next(said) for _ in each.prompts]))
    note = _wrong(client, checks, list(said))
    if note is not None:
        made = [[_withheld(each, note) for each in own] for own in made]
    return made, note


def _spread(bench: Bench, seed: int) -> Evidence:
    """Return some of the inputs on both sides, in random order."""
    found, lot = bench.evidence, np.random.default_rng((seed, 61))
    kept = [side[np.arange(min(len(side), _PAIRS)) * len(side) // min(len(side), _PAIRS)]
            for side in (np.flatnonzero(found.inside), np.flatnonzero(~found.inside))]  # fmt: skip
    order = lot.permutation(np.concatenate(kept))
    at = None if found.at is None else found.at[order]
    return Evidence(found.bank, found.tokens[order], at, found.inside[order], found.rows[order])


def _requests(judging: Judging, number: int, bench: Bench, claim: Claim, shown: Evidence) -> _Asked:
    query, texts = bench.subject.query, shown.texts
    own = not query.textless
    if own:
        texts = [of_input(judging.bank, query.ids, query.position).texts[0], *texts]
    parts = [texts[start : start + _AT_ONCE + 1] for start in range(0, len(texts), _AT_ONCE + 1)]
    glossary = judging.bank.inputs.glossary
    prompts = tuple(judge_prompt(claim.statement, [Shown((text,)) for text in part], glossary, halves=False) for part in parts)
    return _Asked(number, bench, claim, shown, own, prompts, tuple(map(len, parts)))


def _judgement(judging: Judging, asked: _Asked, outcomes: Sequence[Outcome]) -> Judgement:
    failed = next((each for each in outcomes if isinstance(each, InversionViewError)), None)
    if failed is not None:
        return Judgement(asked.claim, None, str(failed), asked.bench.sides.bits, walked=asked.bench.walked)
    graded = np.array([
        guess
        for each, size in zip(outcomes, asked.sizes, strict=True)
        if isinstance(each, Guesses)
        for guess in probabilities(each, size)
    ])  # fmt: skip
    own = bool(graded[0] > 0.5) if asked.own else None
    graded = graded[1:] if asked.own else graded
    return judging.ruling(asked.bench, asked.claim, Said(graded > 0.5, graded), asked.on, own)


# -- is it a judge? -----------------------------------------------------------------------------------------------------


def _check(judging: Judging, shown: Evidence) -> _Check | None:
    """Return a statement of one feature that is true of about half of some inputs by definition; ``None``: there is none."""
    bank, known = judging.bank, judging.bank.inputs.glossary
    rows = shown.rows[shown.rows >= 0]
    found = of_rows(bank, rows, np.ones(len(rows), dtype=bool))
    best: tuple[int, str, Labels] | None = None
    for name, column in found.features.items():
        values, counts = np.unique(column, return_counts=True)
        value = values[np.argmin(np.abs(counts - len(column) / 2))]
        true = column == value
        few = int(min(true.sum(), (~true).sum()))
        if few >= _FEWEST and (best is None or few > best[0]):
            best = few, f"{known.get(name, name)}: {bank.inputs.said(name, value.item())}", true
    if best is None:
        return None
    few, statement, true = best
    some = np.sort(np.concatenate([np.flatnonzero(true)[:_CHECKED], np.flatnonzero(~true)[:_CHECKED]]))
    texts = [Shown((found.texts[i],)) for i in some.tolist()]
    return _Check(judge_prompt(statement, texts, known, halves=False), true[some])


def _wrong(client: Client, checks: Sequence[_Check], outcomes: Sequence[Outcome]) -> str | None:
    """Return why a judge is none, as a sentence; ``None`` where it tells true from false."""
    graded = [
        (check.true, np.array(probabilities(each, len(check.true))))
        for check, each in zip(checks, outcomes, strict=True)
        if isinstance(each, Guesses)
    ]
    if not graded:
        return None
    true, guesses = (np.concatenate(column) for column in zip(*graded, strict=True))
    told = Measured.of(true, guesses > 0.5, guesses)
    if told.balanced_accuracy.low > 0.5:
        return None
    return (
        f"{client.model} is no judge: of {len(true)} inputs whose answer is known it calls {told.precision.value:.0%} of the "
        f"true ones true and {1 - told.coverage.value:.0%} of the false ones, so its verdicts are withheld; take "
        "another with --by."
    )


def _withheld(judgement: Judgement, note: str) -> Judgement:
    if judgement.told is None:
        return judgement
    return replace(judgement, verdict=None, why=note)

"""``judge``: whether statements about activations are true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from inversionview.analyses.feature_codes import codes_of
from inversionview.analyses.interpret.client import Client
from inversionview.analyses.interpret.sides import GAP
from inversionview.analyses.judge.by_model import Confirm, by_model
from inversionview.analyses.judge.claims import Claim, checked, read_claims
from inversionview.analyses.judge.conditions import Condition, condition
from inversionview.analyses.judge.evidence import Columns, of_rows
from inversionview.analyses.judge.result import CONTROLS, Judgements
from inversionview.analyses.judge.run import Judging, offline
from inversionview.analyses.judge.subjects import Subject, fixed_names, sites_of, subjects_of, told_at
from inversionview.analyses.judge.walked import Walker
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import InversionViewError, SettingError, did_you_mean
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, finite
from inversionview.core.scope import Distance, Epsilon
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study

FEATURES = "features"
"""Who judges offline."""
Statements = str | Path | Sequence[Claim | Mapping[str, Any]]
"""A file, see ``read_claims``, or what its records would be."""


class SideOptions(TypedDict, total=False):
    """What is inside and what outside."""

    epsilon: Epsilon | None
    """Threshold; by default the study's."""
    distance: Distance | None
    """By default the study's."""
    fixed: bool
    """Compare at the queries' own positions only, in place of the minimum over the bank's positions."""
    gap: float
    """Inputs outside begin at ``gap`` · ε."""


@accepting
def judge(
    study: Study,
    statements: Statements,
    *,
    client: Client | None = None,
    bank: ActivationBank | str | Path | None = None,
    controls: Sequence[str] | None = None,
    lines: bool = False,
    seconds: float | None = None,
    seed: int = 0,
    confirm: Confirm | None = None,
    report: Progress | None = None,
    **sides: Unpack[SideOptions],
) -> Judgements:
    """Say of statements about activations whether they are true, and whether they are about the activation.

    Each is tested on inputs that it was not made from: such inside ε of its activation, and as many clearly outside.

    Args:
        study: from ``load``.
        statements: a file, or records with ``statement``, ``text``, ``at`` and ``site`` (or ``vector`` and ``site``), and
            perhaps ``id`` and ``by``.
        client: a language model that judges, prose as well; without one filters and regular expressions are checked offline.
        bank: as in ``search``.
        controls: which of ``CONTROLS`` each is held against; by default all.
        lines: take each line of a statement for a claim of its own.
        seconds: of a walk for each activation of which the corpus has too few inputs inside; by default none is made.
        seed: of random inputs and walks.
        confirm: called with the estimate of what a language model will be asked, before it is.
        report: called with the share of the work that is done, and a note.
        sides: ``epsilon``, ``distance``, ``fixed`` and ``gap``; see ``SideOptions``.

    Raises:
        InputError, UnknownSiteError, UnknownPositionError: a statement is empty, or says not of which activation it speaks, or
            there is no such; the line is named.
        SettingError: a statement cannot be checked offline; a setting is out of range.
        BudgetError, EndpointError: the language model would take too much, or cannot be asked at all.
        BankError, MismatchError: the bank is damaged or another model's.
    """
    check_seed(seed)
    gap = finite(sides.get("gap", GAP), "The gap, by which outside begins outside ε,", 1)
    wanted = check_controls(controls)
    claims = claims_of(statements, lines)
    subjects = subjects_of(study, claims)
    walker = None if seconds is None else Walker(study, seconds, seed)
    searched = study.bank(bank, report=report, site=sites_of(study, claims))
    conditions = None if client is not None else _conditions(searched, subjects)
    placed = [_placed(study, searched, subject, sides) for subject in subjects]
    judging = Judging(study, searched, codes_of(searched), gap, seed, wanted, walker)
    tell, note = report or (lambda share, note: None), None
    if conditions is not None:
        made = offline(judging, placed, conditions, tell)
    else:
        assert client is not None
        made, note = by_model(judging, placed, client, confirm, tell)
    found = {id(each.claim): each for own in made for each in own}
    judgements = tuple(found[id(claim)] for claim in claims)
    return Judgements(study.name, client.model if client else FEATURES, len(searched), gap, seed, judgements, note)


def claims_of(statements: Statements, lines: bool = False) -> list[Claim]:
    """Return the statements that are meant; see ``read_claims``."""
    if isinstance(statements, str | Path):
        return read_claims(statements, lines)
    made = [each for each in statements if isinstance(each, Claim)]
    if made and len(made) == len(statements):
        return made
    records = [vars(each) if isinstance(each, Claim) else each for each in statements]
    return checked(((f"Statement {number}", record) for number, record in enumerate(records, 1)), "The list", lines)


def check_controls(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the controls of these names, by default all, in their order.

    Raises:
        SettingError: there is none of a name.
    """
    for name in names or ():
        if name not in CONTROLS and name != "none":
            raise SettingError(f"There is no control {name!r}; there are {', '.join(CONTROLS)}.{did_you_mean(name, CONTROLS)}")
    return tuple(name for name in CONTROLS if names is None or name in names)


def _conditions(bank: ActivationBank, subjects: Sequence[Subject]) -> list[list[Condition]]:
    """Return what is said of each activation as what can be checked.

    Raises:
        SettingError: a statement cannot be; its line is named.
    """
    some = min(16, len(bank))
    known = of_rows(bank, np.arange(some), np.ones(some, dtype=bool)).features
    return [[_condition(claim, known) for claim in subject.claims] for subject in subjects]


def _condition(claim: Claim, known: Columns) -> Condition:
    try:
        return condition(claim.statement, known)
    except InversionViewError as error:
        raise told_at(claim, error) from error


def _placed(study: Study, bank: ActivationBank, subject: Subject, sides: SideOptions) -> Subject:
    """Return an activation with what it is compared by, and which rows of the bank are its own input."""
    query = subject.query
    try:
        bank.site_number(query.site)
        scope = resolved(
            study, query.site, epsilon=sides.get("epsilon"), distance=sides.get("distance"), query=query, bank=bank
        )
        names = fixed_names(study, bank, query) if sides.get("fixed") else None
    except InversionViewError as error:
        raise told_at(subject.claims[0], error) from error
    own = bank.rows_of(query.ids, query.position)
    return replace(subject, epsilon=scope.epsilon, distance=scope.distance, names=names, own=own)

"""``interpret``: what sites encode, in sentences with a score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from inversionview.analyses.feature_codes import codes_of
from inversionview.analyses.interpret.client import Client
from inversionview.analyses.interpret.readings import Queries
from inversionview.analyses.interpret.result import Interpretations
from inversionview.analyses.interpret.run import Confirm, interpretations
from inversionview.analyses.interpret.sides import GAP
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.scope import OWN, Distance, Epsilon
from inversionview.model.sites.patterns import expand
from inversionview.model.sites.site import Site
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import resolved
from inversionview.studies.statistics import learn
from inversionview.studies.study import Study


class Compared(TypedDict, total=False):
    """What is inside and what outside."""

    epsilon: Epsilon | None
    """Threshold; by default the study's."""
    distance: Distance | None
    """By default the study's."""
    fixed: bool
    """Compare at the queries' own position only, in place of the minimum over the bank's positions."""
    gap: float
    """Inputs outside, which a statement is tested on, begin at ``gap`` · ε."""


@accepting
def interpret(
    study: Study,
    queries: int | Sequence[str] = 10,
    site: str | Sequence[str | Site] | None = None,
    at: str | Sequence[str] | None = None,
    *,
    client: Client | None = None,
    bank: ActivationBank | str | Path | None = None,
    seed: int = 0,
    confirm: Confirm | None = None,
    report: Progress | None = None,
    **sides: Unpack[Compared],
) -> Interpretations:
    """Say in sentences what sites encode at positions, and score whether it is true.

    Args:
        study: from ``load``.
        queries: so many random inputs of the bank at each site and position, or texts.
        site: one, several or patterns over the bank's sites; by default the study's, ``"*"`` is all.
        at: one or several named positions; by default the study's, ``"*"`` is all of the bank's. Of natural text the token at
            which given texts are read; random queries are read at any.
        client: a language model that writes the statements; without one they are made from the study's features.
        bank: as in ``search``.
        seed: of the choice of queries and the bootstrap.
        confirm: called with the estimate of what a language model will be asked, before it is.
        report: called with the share of the work that is done, and a note.
        sides: ``epsilon``, ``distance``, ``fixed`` and ``gap``; see ``Compared``.

    Raises:
        SettingError, UnknownSiteError, UnknownPositionError, InputError: something named is not there, or out of range.
        BudgetError: the estimate exceeds the client's budget.
        EndpointError: the language model cannot be asked at all.
    """
    wanted = None if site in (None, "*") else expand(site, study.model.sites)
    searched = study.bank(bank, site=wanted)
    sites = expand(study.spec.site if site is None else site, searched.sites)
    names = study.spec.at if at is None else at
    texts = None if isinstance(queries, int) else tuple(tuple(study.model.encode(text)) for text in queries)
    places = None
    if study.inputs.every_token:
        places = None if texts is None else tuple(study.locate(ids, _one(names)) for ids in texts)
        names = "*"
    positions = [searched.manifest.positions[p] for p in searched.position_numbers(None if names == "*" else names)]
    at = OWN if sides.get("fixed") else None
    scope = resolved(study, epsilon=sides.get("epsilon"), distance=sides.get("distance"), at=at)
    learn(study, [scope.distance], sites)
    return interpretations(
        searched,
        codes_of(searched),
        study=study.name,
        cells=[(each, name) for name in positions for each in sites],
        queries=Queries(queries if isinstance(queries, int) else len(queries), seed, texts, places),
        scope=scope,
        gap=sides.get("gap", GAP),
        client=client,
        confirm=confirm,
        report=report,
    )


def _one(names: str | Sequence[str]) -> str:
    """Return the only position that is named.

    Raises:
        SettingError: there are several.
    """
    if isinstance(names, str):
        return names
    if len(names) != 1:
        raise SettingError(f"Of natural text one token of each query is read: name one position, not {len(names)}.")
    return names[0]

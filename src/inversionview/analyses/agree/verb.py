"""``agree``: what the sources say of one preimage, against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from inversionview.analyses.agree.measure import agreement
from inversionview.analyses.agree.result import Agreement
from inversionview.analyses.all_inputs import is_query
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.scope import Epsilon, Scope
from inversionview.preimage.preimage import Preimage, Query
from inversionview.sources.registry import every, named, one_of
from inversionview.sources.settings import Setting
from inversionview.sources.source import Source
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study

ALL = "all"
"""Every input of a study, listed: what the sources are held against."""


@accepting
def agree(
    study: Study,
    query: Query,
    *,
    sources: Sequence[str] = ("walk", "corpus", "decoder"),
    epsilon: Epsilon | None = None,
    seconds: float = 30,
    bank: ActivationBank | str | Path | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> Agreement:
    """Compare what the sources say of the features inside a query's ε-preimage, at its own named position.

    Args:
        study: from ``load``.
        query: from ``query``.
        sources: of ``"walk"``, ``"corpus"``, ``"decoder"`` (samples at temperature 1) and ``"all"``, every input of a study
            that can be listed.
        epsilon: threshold; by default the study's.
        seconds: how long the walk may take; it ends as soon as it is mixed.
        bank: as in ``search``.
        seed: the same seed and a walk that ends by mixing give the same result.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: there is no such source, the inputs cannot be listed, the position has no name, or the corpus is natural
            text, whose features are of no named positions.
    """
    if study.inputs.every_token:
        raise SettingError(
            "agree compares features of whole inputs at named positions, and natural text has neither: read the query with "
            "--source all, and compare the rows."
        )
    scope = resolved(study, query.site, epsilon=epsilon, query=query)
    tokens = np.array([query.ids])
    name = next((name for name, at in study.named(tokens).items() if at[0] == query.position), None)
    if name is None:
        raise SettingError(
            f"Position {query.position} has no name: sources are compared at " + ", ".join(study.named(tokens)) + "."
        )
    known = [each.name for each in reversed(every())]
    unknown = [source for source in sources if source not in (*known, ALL)]
    if unknown or (ALL in sources and study.inputs.corpus_size is None):
        said = f"There is no source {unknown[0]!r}" if unknown else f"The inputs of {study.name} have no end"
        raise SettingError(f"{said}: choose among {one_of(known, 'and')} and, where inputs can be listed, all.")
    options = {"seconds": seconds, "until_mixed": True, "bank": bank, "settings": [Setting()], "each": 2000, "weighed": 0}
    at = replace(scope, at=name)
    made = {source: _read(study, query, at, named(source), options, seed, report) for source in sources if source != ALL}
    found = {source: preimage.draws for source, preimage in made.items() if preimage.draws is not None}
    mixed = None
    for source, preimage in made.items():
        if preimage.walk is not None:  # as many of its draws as they are worth
            lot = np.random.default_rng((seed, 19)).permutation(len(found[source]))[: max(1, int(preimage.walk.ess))]
            found[source], mixed = found[source][lot], preimage.walk.mixed
    if ALL in sources:
        found[ALL] = _listed(study, query, at)
    found = {source: tokens[~is_query(tokens, query, study.inputs.pad)] for source, tokens in found.items()}
    return agreement(study.inputs, query, scope, found, mixed, seed)


def _read(
    study: Study,
    query: Query,
    scope: Scope[str],
    source: Source,
    options: dict[str, Any],
    seed: int,
    report: Progress | None,
) -> Preimage:
    """Return what a source finds; of the options it takes its own."""
    own = {name: value for name, value in options.items() if name in source.options}
    made = source.read(study, query, scope, count=1, seed=seed, report=report if source.bar else None, **own)
    if made.walk is not None and made.walk.interrupted:
        raise KeyboardInterrupt  # which a walk takes for its end; a part of it can be compared with nothing
    return made


def _listed(study: Study, query: Query, scope: Scope[str]) -> Ids:
    """Return every input of the study inside ε at a named position."""
    assert scope.at is not None
    tokens = study.inputs.tokens(np.arange(len(study.inputs)))
    at = study.named(tokens)[scope.at]
    tokens, at = tokens[at >= 0], at[at >= 0]
    z = study.model.harvest(tokens, [query.site], at[:, None])[0, :, 0]
    near = study.model.metric(scope.distance, query.site).between(query.z, z)
    return tokens[(near <= scope.epsilon).numpy()]

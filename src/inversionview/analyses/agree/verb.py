"""``agree``: what the sources say of one preimage, against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inversionview.analyses.agree.measure import agreement
from inversionview.analyses.agree.result import Agreement
from inversionview.analyses.listing import is_query
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.scope import Scope, check_epsilon
from inversionview.model.distances import between
from inversionview.preimage.preimage import Preimage, Query
from inversionview.sources.corpus import search
from inversionview.sources.decoder import sample
from inversionview.sources.settings import Setting
from inversionview.sources.walk import walk
from inversionview.studies.study import Study


def agree(
    study: Study,
    query: Query,
    *,
    sources: Sequence[str] = ("walk", "corpus", "decoder"),
    epsilon: float | None = None,
    seconds: float = 30,
    bank: ActivationBank | str | Path | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> Agreement:
    """Compare what the sources say of the features inside a query's ε-preimage, at its own named position.

    Args:
        query: from ``query``.
        sources: of ``"walk"``, ``"corpus"``, ``"decoder"`` (samples at temperature 1) and ``"all"``, every input of a study
            that can be listed.
        epsilon: threshold; by default the study's.
        seconds: how long the walk may take; it ends as soon as it is mixed.
        bank: as in ``search``.
        seed: the same seed and a walk that ends by mixing give the same result.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: there is no such source, the inputs cannot be listed, or the position has no name.
    """
    limit = check_epsilon(study.epsilon_at(query.site) if epsilon is None else epsilon)
    tokens = np.array([query.ids])
    name = next((name for name, at in study.named(tokens).items() if at[0] == query.position), None)
    if name is None:
        raise SettingError(
            f"Position {query.position} has no name: sources are compared at " + ", ".join(study.named(tokens)) + "."
        )
    at: dict[str, Any] = {"epsilon": limit, "fixed": name, "seed": seed, "count": 1}
    make: dict[str, Callable[[], Preimage]] = {
        "walk": lambda: _walked_to_its_end(study, query, seconds=seconds, until_mixed=True, report=report, **at),
        "corpus": lambda: search(study, query, bank=bank, **at),
        "decoder": lambda: sample(study, query, settings=[Setting()], each=2000, **at),
    }
    unknown = [source for source in sources if source not in (*make, "all")]
    if unknown or ("all" in sources and study.inputs.corpus_size is None):
        said = f"There is no source {unknown[0]!r}" if unknown else f"The inputs of {study.name} have no end"
        raise SettingError(f"{said}: choose among walk, corpus and decoder and, where inputs can be listed, all.")
    made = {source: make[source]() for source in sources if source in make}
    found = {source: preimage.draws for source, preimage in made.items() if preimage.draws is not None}
    walked = made["walk"].walk if "walk" in made else None
    if walked is not None:  # as many of its draws as they are worth
        lot = np.random.default_rng((seed, 19)).permutation(len(found["walk"]))[: max(1, int(walked.ess))]
        found["walk"] = found["walk"][lot]
    if "all" in sources:
        found["all"] = _listed(study, query, name, limit)
    found = {source: tokens[~is_query(tokens, query, study.inputs.pad)] for source, tokens in found.items()}
    mixed = None if walked is None else walked.mixed
    return agreement(study.inputs, query, Scope(limit, study.spec.distance), found, mixed, seed)


def _walked_to_its_end(study: Study, query: Query, **options: Any) -> Preimage:
    made = walk(study, query, **options)
    if made.walk is not None and made.walk.interrupted:
        raise KeyboardInterrupt  # which a walk takes for its end; a part of it can be compared with nothing
    return made


def _listed(study: Study, query: Query, name: str, epsilon: float) -> Ids:
    """Return every input of the study inside ε at a named position."""
    tokens = study.inputs.tokens(np.arange(len(study.inputs)))
    at = study.named(tokens)[name]
    tokens, at = tokens[at >= 0], at[at >= 0]
    z = study.model.harvest(tokens, [query.site], at[:, None])[0, :, 0]
    return tokens[(between(study.spec.distance, query.z, z) <= epsilon).numpy()]

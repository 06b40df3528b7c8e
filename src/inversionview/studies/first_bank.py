"""What a bank holds that nobody has described: of natural text one site, of as many tokens as take a short while."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from inversionview.bank import folders
from inversionview.bank.harvest import harvest_bank
from inversionview.bank.manifest import check_positions, check_rows
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.naming import ALL
from inversionview.corpora.places import EveryToken
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site
from inversionview.studies.spec import StudySpec
from inversionview.studies.statistics import Sampled, learn

SECONDS = 40
"""The first search of a text waits about so long for its bank."""
_TOKENS, _INPUTS = 100_000, 200_000
"""Of natural text and of a study, where nobody says how many."""
_TRIED = 12
"""Windows or inputs that are harvested to see how long all take."""
_STEPS = (1, 1.5, 2, 3, 5, 7)
"""Leading digits of a bank's size."""


BeginBank = Callable[[Path, int], None]
"""Called with the folder and the size of a bank that is begun."""


class Read(Sampled, Protocol):
    """What is read; see ``Study``."""

    spec: StudySpec
    sites: list[Site]


def wanted_sites(study: Read, site: Site | Sequence[Site] | None) -> list[Site]:
    """Return which sites a bank must hold: of a study those that are asked for, unless all are its own."""
    asked = [] if site is None else [site] if isinstance(site, Site) else list(site)
    return asked if study.inputs.every_token or set(asked) - set(study.sites) else []


def build_first(
    study: Read, wanted: Sequence[Site], report: Progress | None = None, begin: BeginBank | None = None
) -> ActivationBank:
    """Build a bank of a study that nobody has described, in the user's cache; see ``first_bank``.

    Args:
        study: whose.
        wanted: sites that it must hold, if any are named.
        report: called with the share of the inputs that is done, and a note.
        begin: called before that, with its folder and size.
    """
    rows, sites = first_bank(study, wanted)
    learn(study, [study.spec.distance], [each for each in sites if each.single], report)
    distance, some = served(study, sites), study.inputs.every_token or sites != study.sites
    path = folders.cached(study.model, study.inputs, rows, sites if some else (), distance)
    if begin is not None:
        begin(path, rows)
    return harvest_bank(path, study.model, study.inputs, rows=rows, sites=sites, distance=distance, report=report)


def first_bank(study: Read, wanted: Sequence[Site]) -> tuple[int, Sequence[Site]]:
    """Return how many rows a bank of a study has that nobody has described, and which sites.

    Of a study its own, if none are ``wanted``. Of natural text the wanted ones alone, by default the last, and as many tokens
    as are asked for, or take about 40 seconds.
    """
    inputs, spec = study.inputs, study.spec
    if not inputs.every_token:
        return min(spec.rows, inputs.corpus_size or spec.rows), wanted or study.sites
    chosen = wanted or study.sites[-1:]
    every = inputs.placed([ALL]).size or 1
    return wanted_tokens(study) or min(every, affordable(study.model, inputs, max(chosen))), chosen


def served(study: Read, sites: Sequence[Site]) -> Distance:
    """Return which distance the index of a new bank serves: the study's, or the cosine where that lacks statistics."""
    try:
        for site in sites:
            study.model.metric(study.spec.distance, site)
    except SettingError:
        return "cosine"
    return study.spec.distance


def wanted_tokens(study: Read) -> int:
    """Return how many tokens of natural text a bank must hold, as many as there are; 0 where nobody says, or of a study."""
    if not study.inputs.every_token or "tokens" not in study.spec.options:
        return 0
    return min(int(str(study.spec.options["tokens"])), study.inputs.placed([ALL]).size or 1)


def bank_rows(study: Read, inputs: int | None, positions: Sequence[str] | None) -> int:
    """Return how many rows a bank shall have of which no more is said.

    Args:
        study: whose.
        inputs: how many of its inputs; by default 200,000, or all if they are fewer.
        positions: of these; ``["all"]``: each token is a row.

    Raises:
        SettingError: there are not so many inputs.
    """
    corpus = study.inputs
    if corpus.every_token:
        return wanted_tokens(study) or min(_TOKENS, corpus.placed([ALL]).size or 1)
    chosen = inputs or min(_INPUTS, corpus.corpus_size or _INPUTS)
    if list(positions or ()) != [ALL]:
        return chosen
    check_rows(chosen, corpus.corpus_size)
    return EveryToken(corpus).begun(chosen)


def affordable(model: ProbedModel, inputs: Inputs, site: Site, seconds: float = SECONDS) -> int:
    """Return how many tokens are harvested at a site in about so many seconds, as a round number; at least 1,000."""
    wanted = max(1000.0, seconds * speed(model, inputs, site))
    unit = 10.0 ** int(np.log10(wanted))
    return int(max(step * unit for step in _STEPS if step * unit <= wanted))


def speed(model: ProbedModel, inputs: Inputs, site: Site) -> float:
    """Return how many tokens of natural text are harvested in a second at a site, by a few windows."""
    tokens = inputs.corpus(np.arange(min(_TRIED, len(inputs))))
    mask = inputs.occurring(tokens)
    return float(mask.sum()) / _seconds(model, tokens, [site], np.where(mask, np.arange(tokens.shape[1]), 0))


def seconds_of(study: Read, rows: int) -> float:
    """Return how long it takes to harvest so many inputs of a study at its sites and named positions, by a few of them."""
    tokens = study.inputs.corpus(np.arange(_TRIED))
    named = study.inputs.named_positions(tokens)
    positions = np.stack([named[name].clip(min=0) for name in check_positions(study.inputs, None)], axis=1)
    return _seconds(study.model, tokens, study.sites, positions) * rows / len(tokens)


def _seconds(model: ProbedModel, tokens: Ids, sites: Sequence[Site], positions: Ids) -> float:
    """Return how long a harvest takes."""
    found = []
    for _ in range(2):  # the first one is slow
        began = time.perf_counter()
        model.harvest_compact(tokens, sites, positions)
        found.append(time.perf_counter() - began)
    return max(min(found), 1e-9)

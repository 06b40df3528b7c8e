"""Statistics of a study's corpus, which some distances need: of its run, of its bank, of the user's cache, or measured now."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Int

from inversionview.core.arrays import Ids
from inversionview.core.errors import BankError, MismatchError, StorageError
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.windows import WindowInputs
from inversionview.model.distances.measuring import TOKENS, measured
from inversionview.model.distances.registry import moments_needed
from inversionview.model.distances.statistics import FILE, Moment, Statistics
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site


class Sampled(Protocol):
    """What has a corpus; see ``Study``."""

    name: str
    model: ProbedModel
    folder: Path | None

    @property
    def bare(self) -> bool:
        """It is a model alone."""
        ...

    @property
    def inputs(self) -> Inputs:
        """Its inputs."""
        ...


def learn(
    study: Sampled, distances: Sequence[Distance], sites: Sequence[Site], report: Progress | None = None, tokens: int = TOKENS
) -> None:
    """See to it that the study's model knows what some distances need at some sites, of the study's corpus.

    What was measured before is taken from the run's folder or the user's cache; what is measured now is kept there.

    Args:
        study: from ``load``; a model alone has no corpus, and a distance that needs one is refused when it is used.
        distances: which.
        sites: where.
        report: called with the share of the work that is done, and a note.
        tokens: how many of the corpus are looked at.

    Raises:
        SettingError: there is no such distance.
    """
    if study.bare:
        return
    for single in (False, True):
        some = [site for site in sites if site.single == single]
        if some:
            _learn_alike(study, moments_needed(distances, some[0]), some, report, tokens)


def _learn_alike(study: Sampled, needed: Sequence[Moment], sites: Sequence[Site], report: Progress | None, tokens: int) -> None:
    """Do what ``learn`` does at sites that need the same."""
    if not needed:
        return
    for path in (*_of_run(study), cached(study)):
        if path.exists() and _lacking(study, needed, sites):
            with suppress(BankError, MismatchError):
                found = Statistics.load(path)
                if found.fingerprint == study.inputs.fingerprint and found.tokens >= tokens:
                    study.model.learn(found)
    where = _lacking(study, needed, sites)
    if not where:
        return
    _, mask, rows = sampled(study, tokens)
    made = measured(
        study.model,
        rows,
        torch.from_numpy(mask),
        where,
        needed,
        corpus=corpus_name(study),
        fingerprint=study.inputs.fingerprint,
        report=report,
    )
    study.model.learn(made)
    _keep(study, made)


def sampled(study: Sampled, tokens: int) -> tuple[Int[np.ndarray, " row"], Bool[np.ndarray, "row pos"], Ids]:
    """Return a random sample of a study's inputs of about so many tokens: their numbers, which tokens count, and all tokens.

    Those count at which D may be reached, of natural text its occurrences.
    """
    inputs, numbers = study.inputs, np.arange(min(len(study.inputs), tokens))
    upto = int(np.searchsorted(inputs.occurrences(numbers).cumsum(), tokens)) + 1
    numbers = numbers[:upto]
    rows = inputs.corpus(numbers)
    return numbers, inputs.occurring(rows), rows


def corpus_name(study: Sampled) -> str:
    """Return what a study's corpus is called: natural text as its source was named."""
    return study.inputs.about.source if isinstance(study.inputs, WindowInputs) else study.name


def cached(study: Sampled) -> Path:
    """Return where statistics of a study's model and corpus lie in the user's cache."""
    from platformdirs import user_cache_path

    name = f"{study.model.fingerprint}-{study.inputs.fingerprint}"
    return user_cache_path("inversionview") / "statistics" / "format-1" / name / FILE


def _of_run(study: Sampled) -> list[Path]:
    """Return where statistics of a run may lie: in its folder, and with its bank."""
    return [] if study.folder is None else [study.folder / FILE, study.folder / "bank" / FILE]


def _lacking(study: Sampled, needed: Sequence[Moment], sites: Sequence[Site]) -> list[Site]:
    """Return the sites of which the model does not know all that is needed, of this corpus."""
    known = study.model.statistics
    if known is None or known.fingerprint != study.inputs.fingerprint:
        return list(sites)
    return [site for site in sites if not set(needed) <= set(known.moments.get(site.key, {}))]


def _keep(study: Sampled, made: Statistics) -> None:
    """Write what was measured to the user's cache, with what lies there of as many tokens."""
    path = cached(study)
    with suppress(BankError, OSError):
        held = Statistics.load(path)
        made = held.joined(made) if held.tokens == made.tokens else made
    with suppress(StorageError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)

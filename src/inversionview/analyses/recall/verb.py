"""Factual recall of a study ``facts``: which facts its model knows, which heads retrieve them, and what these carry."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.analyses.recall.contents import head_contents
from inversionview.analyses.recall.result import ContentTable
from inversionview.analyses.recall.retrieval import LEAST_SHARE, RetrievalHead, heads_by_proximity
from inversionview.bank.folders import cache
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.core.scope import OWN, Distance, Epsilon
from inversionview.studies.accepting import accepting_as
from inversionview.studies.banks import build_bank
from inversionview.studies.facts.corpus import FactsInputs
from inversionview.studies.facts.known import check_known, keep_known, measured_known
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study


def facts_of(study: Study) -> FactsInputs:
    """Return a study's statements.

    Raises:
        SettingError: it is no study of facts.
    """
    if study.bare or not isinstance(study.inputs, FactsInputs):
        raise SettingError(f"{study.name} is no study of facts: load facts, with statements of your own by facts=PATH.")
    return study.inputs


@accepting_as("facts")
def known_facts(study: Study, *, report: Progress | None = None) -> npt.NDArray[np.bool_]:
    """Return which facts the model completes rightly, ``[row]``: measured once, then kept in the user's cache.

    From then on ``known`` is a feature of the study's inputs.

    Args:
        study: of facts.
        report: called with the share of the work that is done, where it must be measured.

    Raises:
        SettingError: it is no study of facts.
    """
    inputs = facts_of(study)
    if inputs.known is None:
        inputs.known = measured_known(study.model, inputs, report)
        keep_known(study.model, inputs, inputs.known)
    return inputs.known


@accepting_as("facts")
def retrieval_heads(
    study: Study, *, limit: int = 1000, least: float = LEAST_SHARE, seed: int = 0, report: Progress | None = None
) -> list[RetrievalHead]:
    """Return the heads that retrieve facts: of the upper half of the layers those with a large share of the stream at END.

    Args:
        study: of facts.
        limit: over a random choice of so many facts that the model knows (Huang et al. 2024).
        least: share of the L1 proximity that a head must exceed.
        seed: of the choice.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: it is no study of facts, or a setting is out of range.
        InputError: the model knows next to none of the facts.
    """
    inputs = facts_of(study)
    whole(limit, "The number of facts")
    check_seed(seed)
    if not 0 <= least < 1:
        raise SettingError(f"The least share must be from 0 to below 1, but is {least:g}.")
    known = known_facts(study, report=report)
    check_known(known, inputs.facts, study.model.name)
    rows = np.random.default_rng((seed, 41)).permutation(np.flatnonzero(known))[:limit]
    tokens = inputs.tokens(rows)
    return heads_by_proximity(study.model, tokens, inputs.named_positions(tokens)["END"], least=least, report=report)


@accepting_as("facts")
def recall(
    study: Study,
    best: Sequence[RetrievalHead] | None = None,
    *,
    bank: ActivationBank | str | Path | None = None,
    count: int = 10,
    epsilon: Epsilon | None = None,
    distance: Distance | None = None,
    report: Progress | None = None,
    **options: Any,
) -> ContentTable:
    """Return which attributes the best retrieval heads carry, and whether what they retrieve depends on what is asked.

    Attributes are those that some relation of the study asks for.

    Args:
        study: of facts.
        best: heads; by default those that ``retrieval_heads`` finds.
        bank: that holds these heads, or its folder; by default one of them alone is made of all prompts, in the user's cache.
        count: so many heads at most.
        epsilon: threshold; by default the study's.
        distance: by default the study's.
        report: called with the share of the work that is done, and a note.
        options: ``queries`` and ``seed`` of ``head_contents``.

    Raises:
        SettingError, InputError: as in ``retrieval_heads``.
    """
    inputs = facts_of(study)
    scope = resolved(study, epsilon=epsilon, distance=distance, at=OWN)
    whole(count, "The number of heads")
    chosen = (retrieval_heads(study, report=report) if best is None else list(best))[:count]
    known = known_facts(study, report=report)
    if bank is None and chosen:
        bank = _bank_of(study, chosen, _told(report, "bank"))
    asked = [name for name in inputs.attributes if name in inputs.relations]
    return head_contents(
        study.bank(bank), chosen, asked, known=float(known.sum() / inputs.facts),
        scope=scope, report=_told(report, "preimages"), **options,
    )  # fmt: skip


def _bank_of(study: Study, chosen: Sequence[RetrievalHead], report: Progress | None) -> ActivationBank:
    """Return a bank of some heads over all prompts; what lacks of it is built."""
    sites = sorted({head.site for head in chosen})
    mark = hashlib.sha256(" ".join(sites).encode()).hexdigest()[:8]
    folder = cache() / "heads" / f"{study.model.fingerprint}-{study.inputs.fingerprint}-{mark}"
    positions = list(dict.fromkeys(head.position for head in chosen))
    return build_bank(study, folder, rows=len(study.inputs), sites=sites, positions=positions, report=report)


def _told(report: Progress | None, what: str) -> Progress | None:
    return None if report is None else lambda share, _: report(share, what)

"""``flow``: how information flows to an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inversionview.analyses.flow.measure import trace_flow
from inversionview.analyses.flow.result import Flow
from inversionview.bank.store import ActivationBank
from inversionview.core.scope import OWN, Distance, Epsilon
from inversionview.corpora.contrasts import check_target
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study


@accepting
def flow(
    study: Study,
    target: str | None = None,
    *,
    bank: ActivationBank | str | Path | None = None,
    where: Sequence[str] = (),
    epsilon: Epsilon | None = None,
    distance: Distance | None = None,
    threshold: float = Flow.threshold,
    **options: Any,
) -> Flow:
    """Return the flow of information to an answer token: which site × position carries which feature, from where, and
    whether patching confirms it.

    Args:
        study: from ``load``.
        target: name of the answer token; by default the first.
        bank: as in ``search``.
        where: filters on the inputs, such as ``"A1=1"``.
        epsilon: threshold of the preimages; by default the study's.
        distance: by default the study's.
        threshold: edges that carry a smaller share of their feature are not shown.
        options: ``queries``, ``limit``, ``least_attention``, ``least_effect``, ``seed`` and ``report`` of ``trace_flow``.

    Raises:
        SettingError: there is no such target or feature, nothing satisfies the filters, or a setting is out of range.
        InputError: the study declares no answers.
        UnknownSiteError, UnknownPositionError: the bank does not hold a head, the residual stream or a position.
    """
    check_target(study.inputs, target)
    scope = resolved(study, epsilon=epsilon, distance=distance, at=OWN)
    traced = trace_flow(study.bank(bank), study.positions, target, where=where, study=study.name, scope=scope, **options)
    return replace(traced, threshold=threshold)

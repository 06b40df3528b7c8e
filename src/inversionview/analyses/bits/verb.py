"""``bits``: how much every site tells at every position, as ε grows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inversionview.analyses.bits.measure import bits_curve
from inversionview.analyses.bits.result import Curves
from inversionview.bank.store import ActivationBank
from inversionview.core.scope import Distance
from inversionview.model.sites.patterns import expand
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import resolved
from inversionview.studies.statistics import learn
from inversionview.studies.study import Study


@accepting
def bits(
    study: Study,
    epsilons: Sequence[float],
    *,
    bank: ActivationBank | str | Path | None = None,
    distance: Distance | None = None,
    **options: Any,
) -> Curves:
    """Return the mean bits that every site tells at every position, for each of some ε.

    Args:
        study: the study.
        epsilons: the thresholds.
        bank: to search, or its folder; by default as in ``search``.
        distance: by default the study's.
        options: ``queries``, ``sites``, ``positions``, ``fixed``, ``seed`` and ``report`` of ``inform``.

    Raises:
        SettingError: there is no ε, or one is not positive.
    """
    wanted = expand(options["sites"], study.model.sites) if options.get("sites") else None
    chosen = resolved(study, distance=distance).distance
    learn(study, [chosen], wanted or ())
    return Curves(tuple(bits_curve(study.bank(bank, site=wanted), epsilons, distance=chosen, **options)))

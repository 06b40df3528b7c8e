"""``inform``: how many bits every site tells at every position, and about which features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inversionview.analyses.census.result import Census
from inversionview.analyses.census.verb import census
from inversionview.analyses.inform.measure import feature_information
from inversionview.analyses.inform.result import FeatureTable
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError
from inversionview.core.scope import OWN, Distance, Epsilon
from inversionview.corpora.windows import WindowInputs
from inversionview.model.sites.patterns import expand
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import resolved
from inversionview.studies.statistics import learn
from inversionview.studies.study import Study


@accepting
def inform(
    study: Study,
    *,
    bank: ActivationBank | str | Path | None = None,
    epsilon: Epsilon | None = None,
    distance: Distance | None = None,
    fixed: bool = False,
    **options: Any,
) -> FeatureTable | Census:
    """Return how many bits every site tells at every position, and about which features.

    Of natural text, as ``load(model=…, texts=…)`` gives it, at every token: a census, in one pass over it and without a bank.

    Args:
        study: from ``load``.
        bank: to search, or its folder; by default as in ``search``.
        epsilon: threshold; by default the study's.
        distance: by default the study's.
        fixed: compare at the query's own position only, in place of the minimum over the bank's positions.
        options: ``queries``, ``sites``, ``positions``, ``features``, ``extra``, ``where``, ``seed`` and
            ``report`` of ``feature_information``; of natural text those of ``census``.

    Raises:
        SettingError, UnknownSiteError, UnknownPositionError: something named is not there, or out of range.
        BankError, MismatchError: the bank is damaged or another model's.
    """
    wanted = expand(options["sites"], study.model.sites) if options.get("sites") else None
    if isinstance(study.inputs, WindowInputs):
        if bank is not None or fixed:
            raise SettingError(
                "In natural text every token is searched, in one pass and without a bank: leave out --bank and --fixed."
            )
        within = resolved(study, epsilon=epsilon, distance=distance)
        learn(study, [within.distance], wanted or ())
        return census(study.model, study.inputs, study=study.name, scope=within, **options)
    scope = resolved(study, epsilon=epsilon, distance=distance, at=OWN if fixed else None)
    learn(study, [scope.distance], wanted or ())
    return feature_information(study.bank(bank, site=wanted), study=study.name, scope=scope, **options)

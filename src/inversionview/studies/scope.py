"""How inputs are compared with a query, where a study says what was not named: ε and the distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inversionview.core.progress import Progress
from inversionview.core.scope import Distance, Scope, check_distance, check_epsilon
from inversionview.studies.statistics import learn

if TYPE_CHECKING:
    from inversionview.model.sites.site import Site
    from inversionview.studies.study import Study


def resolved(
    study: Study,
    site: Site | None = None,
    *,
    epsilon: float | None = None,
    distance: Distance | None = None,
    at: Any = None,
    report: Progress | None = None,
) -> Scope[Any]:
    """Return within which ε, by which distance and at which positions inputs are compared.

    Args:
        study: whose ε and distance are taken where none is named. The ε of a run may be another at each kind of site; these are
            of the run's own distance.
        site: of the query; where many sites are compared, none: then the study has one ε for all.
        epsilon: threshold, if it is named.
        distance: if it is named.
        at: what names the positions; all of them by default.
        report: called with the share that is done of statistics of the corpus, where the distance needs some.

    Raises:
        SettingError: ε is out of range, or there is no such distance.
    """
    chosen = study.spec.distance if distance is None else check_distance(distance)
    learn(study, [chosen], study.sites if site is None else [site], report)
    return Scope(_own(study, site, distance) if epsilon is None else check_epsilon(epsilon), chosen, at)


def _own(study: Study, site: Site | None, distance: Distance | None) -> float:
    """Return the study's ε: for a site the one of its kind, where a run has some."""
    if site is None or distance not in (None, study.spec.distance):
        return study.spec.epsilon
    return study.spec.epsilons.get(site.family, study.spec.epsilon)

"""How inputs are compared with a query, where a study says what was not named: ε and the distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance, Epsilon, Meaning, Scope, check_distance, epsilon_named
from inversionview.studies.calibrated import FILE, Advice, read_calibration
from inversionview.studies.latents import searchable, teach_known
from inversionview.studies.meaning import epsilon_meant
from inversionview.studies.statistics import learn

if TYPE_CHECKING:
    from pathlib import Path

    from inversionview.bank.store import ActivationBank
    from inversionview.model.sites.site import Site
    from inversionview.preimage.preimage import Query
    from inversionview.studies.study import Study

_ADVISED = "10bits"
"""Of a calibrated run, the ε that is taken where none is named: within it lies about one of a thousand random inputs."""


def resolved(
    study: Study,
    site: Site | None = None,
    *,
    epsilon: Epsilon | None = None,
    distance: Distance | None = None,
    at: Any = None,
    query: Query | None = None,
    bank: ActivationBank | str | Path | None = None,
    report: Progress | None = None,
) -> Scope[Any]:
    """Return within which ε, by which distance and at which positions inputs are compared.

    Args:
        study: whose ε and distance are taken where none is named. The ε of a run may be another at each kind of site; these are
            of the run's own distance. At a site that was calibrated in the run, distance and ε (of 10 bits) are those advised.
        site: of the query; where many sites are compared, none: then the study has one ε for all.
        epsilon: threshold, if it is named: a number or, of one query, what it shall mean: ``1/1000``, ``10bits``, ``0.1nat``.
        distance: if it is named.
        at: what names the positions; all of them by default.
        query: of which a threshold means something.
        bank: with whose inputs it is compared for that; by default the study's.
        report: called with the share of the work that is done, and a note, where statistics or a bank must be made first.

    Raises:
        SettingError: ε is out of range, or cannot be told of many queries or without a corpus; there is no such distance.
        MismatchError: the model was changed since it was wrapped.
    """
    study.model.check_unchanged()
    advice = _advised(study, site)
    chosen = (advice.distance if advice else study.spec.distance) if distance is None else check_distance(distance)
    if site is not None:
        teach_known(study, bank, site)
    learn(study, [chosen], study.sites if site is None else [site], report)
    told = advice.epsilons.get(_ADVISED) if advice and chosen == advice.distance else None
    named = (told or own_epsilon(study, site, distance)) if epsilon is None else epsilon_named(epsilon)
    if isinstance(named, Meaning):
        if query is None:
            raise SettingError(f"ε = {epsilon} is another number for each query, and here there are many: give a number.")
        if study.bare:
            raise SettingError(
                f"What ε = {epsilon} is, a corpus tells: give texts (`read` and `search` take --texts), or a number."
            )
        named = epsilon_meant(searchable(study, bank, query.site, report), query, chosen, named)
    return Scope(named, chosen, at)


def _advised(study: Study, site: Site | None) -> Advice | None:
    """Return what the calibration in a run's folder advises at a site."""
    if study.folder is None or site is None or not (study.folder / FILE).exists():
        return None
    return read_calibration(study).get(site.short)


def own_epsilon(study: Study, site: Site | None, distance: Distance | None = None) -> float:
    """Return the study's ε: for a site the one of its kind, where a run has some."""
    if site is None or distance not in (None, study.spec.distance):
        return study.spec.epsilon
    return study.spec.epsilons.get(site.family, study.spec.epsilon)

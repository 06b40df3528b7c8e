"""How inputs are compared with a query, where a study says what was not named: ε and the distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.scope import MOST_EPSILON, Distance, Epsilon, Meaning, Scope, check_apart, check_distance, epsilon_named
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


def check_within(within: float | None, epsilon: Epsilon | None, site: Site) -> None:
    """Raise ``SettingError`` where δ of p_q ± δ is given, but is none, stands beside an ε, or a site has several numbers."""
    check_apart(within, epsilon)
    if within is not None and not site.single:
        raise SettingError(
            f"{site} has several numbers, so there is no p_q ± {within:g}: give ε, or read a neuron, a latent or a coordinate."
        )


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
    within: float | None = None,
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
        within: in place of ε, of a site of one number: δ, where members shall lie in p_q ± δ in the number's own units.

    Raises:
        SettingError: ε or δ is out of range, or cannot be told of many queries or without a corpus; there are both; δ is
            given at a site of several numbers; there is no such distance.
        MismatchError: the model was changed since it was wrapped.
    """
    study.model.check_unchanged()
    if within is not None:
        assert query is not None
        check_within(within, epsilon, query.site)
    advice = _advised(study, site)
    chosen = (advice.distance if advice else study.spec.distance) if distance is None else check_distance(distance)
    if site is not None:
        teach_known(study, bank, site)
    learn(study, [chosen], study.sites if site is None else [site], report)
    if within is not None and query is not None:
        return Scope(_of_own_units(study, query, chosen, within), chosen, at)
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


def _of_own_units(study: Study, query: Query, distance: Distance, within: float) -> float:
    """Return the ε that p_q ± ``within`` is."""
    metric = study.model.metric(distance, query.site)
    found = metric.within(query.z, within)
    if found > MOST_EPSILON:
        raise SettingError(
            f"p_q ± {within:g} is {found:.3g} times the spread of {query.site}, {metric.spread:.3g}: give at most "
            f"{MOST_EPSILON * metric.spread:.3g}."
        )
    return found


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

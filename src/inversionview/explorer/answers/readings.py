"""What the explorer asks of a study: functions that return models of ``contract``; no web here.

The numbers are those of the library: each function calls the same function as the command line does. Long work calls
``report`` again and again; what that raises ends the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.explorer.banks import all_now, bank_of, first_now, held, lacking_site, of_texts
from inversionview.page import contract, preimages
from inversionview.preimage.preimage import Query, Sample
from inversionview.preimage.reading import features, reading
from inversionview.sources.merged import Asked, merged
from inversionview.sources.registry import ALL, sources
from inversionview.sources.settings import AUTO
from inversionview.sources.source import SHOWN
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study

Rows = Callable[[list[preimages.Sample], list[list[contract.Value]]], None]
"""Called with samples and the values of their features as they are measured."""
_CANDIDATES = 64 * len(AUTO)
"""Of one setting alone: as many as the pool's settings have together."""


def read(
    study: Study,
    query: Query,
    *,
    source: str | None = None,
    epsilon: float | None = None,
    distance: Distance | None = None,
    count: int = SHOWN,
    seed: int = 0,
    fixed: str | None = None,
    report: Progress | None = None,
    rows: Rows | None = None,
    id: str | None = None,
    **options: Any,
) -> contract.Reading:
    """Read an activation.

    Args:
        study: the study.
        query: from ``Study.query``.
        source: ``"decoder"``, ``"corpus"``, ``"walk"``, or ``"all"`` that can read this query now, merged; by default the
            first that can, see ``first_now``.
        epsilon: threshold; by default the study's.
        distance: by default the study's.
        count: samples at most; ``"all"`` shares them out evenly.
        seed: the same seed gives the same reading, except where the walk ends by time.
        fixed: compare this position only.
        report: called with the share of the work that is done, and a note.
        rows: called with samples as they are measured; at most ``count`` of each source. What is returned may have others.
        id: what the reading calls the study.
        options: ``temperature``, ``noise`` and ``seconds``; see ``told``.

    Raises:
        SettingError: the study has no such source, or a setting is out of range.
        BankError: the corpus' bank lacks, or the site in it, and takes long to build.
        InversionViewError: see ``sources.verb.read``.
    """
    given = {**told(**options), **({"per_window": 1} if of_texts(study) else {})}  # rows of one passage are much alike
    known = {each.name: each for each in sources(study)}
    if source == ALL:
        chosen = all_now(study, query, fixed)
    else:
        name = first_now(study, query, fixed, given).name if source is None else source
        if name not in known:
            raise SettingError(f"{study.name} has no source {name!r}: choose {', '.join(known)}.")
        chosen = [known[name]]
    scope = resolved(study, query.site, epsilon=epsilon, distance=distance, at=fixed)
    watch = None if rows is None else partial(_show, study, query, rows)
    made = Asked(study, query, scope, count, seed, report, watch, given).of(chosen, partial(bank_of, study, site=query.site))
    found = merged(made, count) if source == ALL else made[0]
    if not held(study, query.site):
        found = replace(found, notes=(lacking_site(study, query.site), *found.notes))
    return reading(study, found, id, made)


def told(temperature: float | None = None, noise: float = 0.0, seconds: float = 5.0) -> dict[str, Any]:
    """Return the options that sources are told.

    Args:
        temperature: of the decoder; by default a pool of several.
        noise: with a decoder: on the activation, in units of std(z).
        seconds: how long a walk goes.
    """
    if temperature is None and not noise:
        return {"seconds": seconds}
    drawn = {"temperature": [1.0 if temperature is None else temperature], "noise": noise, "candidates": _CANDIDATES}
    return {**drawn, "seconds": seconds}


def _show(study: Study, query: Query, rows: Rows, samples: tuple[Sample, ...]) -> None:
    values = features(study, query, samples)
    shown = [preimages.Sample.model_validate(s.to_json()) for s in samples]
    rows(shown, [[]] * len(shown) if values is None else values.values)

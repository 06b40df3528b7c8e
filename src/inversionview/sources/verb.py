"""``read``: what an activation encodes, by whichever source can tell it best."""

from __future__ import annotations

from typing import Any

from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance, Epsilon
from inversionview.preimage.preimage import Preimage, Query
from inversionview.sources.merged import Asked, merged
from inversionview.sources.registry import ALL, every, first_source, named, one_after_another, reading_now
from inversionview.sources.source import SHOWN, Watch
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study


@accepting
def read(
    study: Study,
    query: Query,
    *,
    source: str | None = None,
    epsilon: Epsilon | None = None,
    within: float | None = None,
    distance: Distance | None = None,
    fixed: Any = None,
    count: int | None = None,
    seed: int = 0,
    report: Progress | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> Preimage:
    """Return the query's preimage; every input in it was run through the probed model.

    Args:
        study: the study.
        query: from ``Study.query``.
        source: ``"corpus"``, ``"decoder"`` or ``"walk"``; by default the exact one where that takes seconds; of natural
            text the corpus, then a walk from what it found. ``"all"`` merges what all find that can read the query now.
        epsilon: threshold, a number, ``"1/1000"``, ``"10bits"`` or ``"0.1nat"``; by default the study's.
        within: in place of ε, of a neuron, a latent or a coordinate: δ of p_q ± δ, in the number's own units.
        distance: one of ``core.scope.DISTANCES``; by default the study's.
        fixed: compare this position only, in place of the nearest of all; the corpus takes several.
        count: how many samples to show at most; by default 100, of the corpus all inside ε.
        seed: the same seed gives the same preimage, unless a walk ends by time.
        report: called with the share of the work that is done, and a note.
        watch: called with samples as they are measured.
        options: the source's own, of ``search``, ``sample`` or ``walk``; with ``"all"`` each takes those that are its own.

    Raises:
        SettingError: there is no such source, or a setting is out of range.
        InversionViewError: see ``search``, ``sample`` and ``walk``.
    """
    near: dict[str, Any] = {"epsilon": epsilon, "within": within, "distance": distance, "at": fixed}
    several = one_after_another(study, query, fixed, options) if source is None else []
    if source == ALL or len(several) > 1:
        known = {name for each in every() for name in each.options}
        if unknown := [name for name in options if name not in known]:
            raise SettingError(f"No source has an option {unknown[0]!r}: name a source, or leave it out.")
        shown = SHOWN if count is None else count
        scope = resolved(study, query.site, **near, query=query, report=report)
        asked = Asked(study, query, scope, shown, seed, report, watch, options, onwards=bool(several))
        return merged(asked.of(several or reading_now(study, query, fixed)), shown)
    chosen = first_source(study, query, fixed, options) if source is None else named(source, ALL)
    scope = resolved(study, query.site, **near, query=query, report=report)
    return chosen.read(study, query, scope, count=count, seed=seed, report=report, watch=watch, **options)

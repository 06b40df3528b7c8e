"""The decoder as a source: samples of the preimage, each verified in the probed model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from inversionview.core.progress import Progress
from inversionview.core.scope import Distance, Scope
from inversionview.preimage.preimage import Preimage, Query
from inversionview.sources.noted import noted
from inversionview.sources.sampled import Found as Sampled
from inversionview.sources.sampled import sampled_preimage
from inversionview.sources.settings import Setting
from inversionview.studies.study import Study


def sample(
    study: Study,
    query: Query,
    *,
    epsilon: float | None = None,
    distance: Distance | None = None,
    count: int = 100,
    settings: Sequence[Setting] | Literal["auto"] = "auto",
    each: int = 64,
    fixed: str | int | None = None,
    seed: int = 0,
    report: Progress | None = None,
    found: Sampled | None = None,
) -> Preimage:
    """Sample the query's preimage with the decoder; every sample is verified in the probed model.

    Args:
        query: from ``query``.
        epsilon: threshold; by default the study's.
        distance: ``"euclidean"`` or ``"cosine"``; by default the study's.
        count: how many distinct samples to show at most.
        settings: temperatures and noise to draw under, or ``"auto"`` for the paper's pool: of ``facts`` another than else.
        each: candidates of each setting.
        fixed: compare this position only, in place of the minimum over positions.
        seed: the same seed gives the same preimage.
        report: called with the share of the work that is done, and a note.
        found: called with a first look, drawn and measured ahead; see ``sampled_preimage``.

    Raises:
        SettingError: a setting is out of range.
        UnknownSiteError: the decoder was not trained on the query's site.
        UnknownPositionError: ``fixed`` is no named position, and none of the query; or no candidate has it.
        MismatchError: the decoder belongs to another probed model.
    """
    if fixed is not None and str(fixed) not in study.position_names:
        study.locate(query.ids, fixed)
    made = sampled_preimage(
        study.decoder,
        study.model,
        query,
        Scope(
            study.epsilon_at(query.site, distance) if epsilon is None else epsilon,
            distance or study.spec.distance,
            None if fixed is None else study.positions.finder(query.ids, fixed),
        ),
        count=count,
        settings=study.definition.pool if settings == "auto" else settings,
        each=each,
        seed=seed,
        report=report,
        found=found,
    )
    return noted(study, made, fixed)

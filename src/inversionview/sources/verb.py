"""``read``: what an activation encodes, by whichever source can tell it best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inversionview.core.errors import SettingError
from inversionview.preimage.preimage import Preimage, Query
from inversionview.sources.corpus import search
from inversionview.sources.decoder import sample
from inversionview.sources.registry import Source, first_source
from inversionview.sources.walk import walk
from inversionview.studies.study import Study


def read(study: Study, query: Query, *, source: Source | None = None, **options: Any) -> Preimage:
    """Return the query's preimage; every input in it was run through the probed model.

    Args:
        study: the study.
        query: from ``Study.query``.
        source: ``"corpus"``, ``"decoder"`` or ``"walk"``; by default the exact one where that takes seconds.
        options: of ``search``, ``sample`` or ``walk``: ``epsilon``, ``distance``, ``count``, ``fixed``, ``seed``, ``report``, …

    Raises:
        SettingError: there is no such source, or a setting is out of range.
        InversionViewError: see ``search``, ``sample`` and ``walk``.
    """
    made: dict[str, Callable[..., Preimage]] = {"corpus": search, "decoder": sample, "walk": walk}
    chosen = source or first_source(study, query, options.get("fixed"))
    if chosen not in made:
        raise SettingError(f"There is no source {chosen!r}: choose decoder, corpus or walk.")
    return made[chosen](study, query, **options)

"""Which sources can make a preimage of a study, and which one reads a query unless another is named."""

from __future__ import annotations

from typing import Literal

from inversionview.core.errors import MismatchError, WeightsError
from inversionview.preimage.preimage import Query
from inversionview.sources.quick import holds, lacking
from inversionview.studies.study import Study

Source = Literal["decoder", "corpus", "walk"]


def sources(study: Study) -> list[Source]:
    """Return what can make a preimage of the study, the exact one first: its corpus, its decoder if it has one, and a walk.

    The corpus comes last while a bank lacks that takes long to build, so that nothing is read from it by default.
    """
    if study.bare:
        return ["walk"]
    try:
        study.decoder  # noqa: B018
        others: list[Source] = ["decoder", "walk"]
    except (WeightsError, MismatchError):
        others = ["walk"]
    return ["corpus", *others] if lacking(study) is None else [*others, "corpus"]


def first_source(study: Study, query: Query, fixed: str | None = None, drawn: bool = False) -> Source:
    """Return what reads a query unless another source is named: the decoder where it is told how to draw, else the first of
    ``sources`` that can.

    The corpus can where its bank holds the site and the named position, or will hold them once it is built, which takes
    seconds; a decoder where it was trained on the site; a walk always.
    """
    if drawn:
        return "decoder"
    for source in sources(study):
        if source == "corpus" and (lacking(study) is not None or not holds(study, query, fixed)):
            continue
        if source == "decoder" and query.site.short not in study.decoder.config.sites:
            continue
        return source
    return "walk"

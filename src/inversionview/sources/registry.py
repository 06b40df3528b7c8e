"""All sources of preimages: which can read a study, and which one reads a query unless another is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from inversionview.core.errors import SettingError
from inversionview.sources.corpus import CORPUS
from inversionview.sources.decoder import DECODER
from inversionview.sources.source import Source
from inversionview.sources.walk import WALK

if TYPE_CHECKING:
    from inversionview.preimage.preimage import Query
    from inversionview.studies.study import Study

SOURCES: tuple[Source, ...] = (DECODER, CORPUS, WALK)
"""In the order in which they are told. A new one is a module of this package, and its place here: reading, the command line,
the API, ``"all"`` and ``agree`` look here each time."""
ALL = "all"
"""What is asked for all sources that can read a query, as one; see ``verb.read``."""


def every() -> tuple[Source, ...]:
    """Return all sources."""
    return SOURCES


def names() -> list[str]:
    """Return what sources are called."""
    return [source.name for source in SOURCES]


def named(name: str, *others: str) -> Source:
    """Return the source of a name.

    Raises:
        SettingError: there is none; the sentence lists them, and ``others`` that might have been named.
    """
    for source in SOURCES:
        if source.name == name:
            return source
    raise SettingError(f"There is no source {name!r}: choose {one_of([*names(), *others])}.")


def sources_named(name: str) -> list[Source]:
    """Return the source of a name, or all of them."""
    return list(SOURCES) if name == ALL else [named(name)]


def one_of(some: Sequence[str], last: str = "or") -> str:
    """Return names as a sentence lists them: ``decoder, corpus or walk``."""
    return f" {last} ".join([", ".join(some[:-1]), some[-1]] if some[1:] else some)


def exact_first() -> list[Source]:
    """Return all sources, the exact ones before the others."""
    return sorted(SOURCES, key=lambda source: not source.exact)


def sources(study: Study) -> list[Source]:
    """Return what can make a preimage of the study, the exact one first: its corpus, its decoder if it has one, and a walk.

    What lacks something that takes long to make, as the corpus does without a bank, comes last, so that by default nothing is
    read from it.
    """
    some = [source for source in exact_first() if source.available(study)]
    return sorted(some, key=lambda source: source.lacking(study) is not None)


def reading_now(study: Study, query: Query, fixed: Any = None) -> list[Source]:
    """Return those of ``sources`` that can read a query now: each reads it for ``"all"``."""
    return [source for source in sources(study) if source.reads(study, query, fixed)]


def one_after_another(study: Study, query: Query, fixed: Any = None, told: Iterable[str] = ()) -> list[Source]:
    """Return the sources that read a query one after the other unless one is named; none where a single one does."""
    told = set(told)
    if query.textless:  # a walk begins at what the others find
        return [source for source in exact_first() if source.available(study) and source.reads(study, query, fixed)]
    if any(told & set(source.asked_by) for source in SOURCES):
        return []
    some = [named(name) for name in study.definition.read_by]
    return [source for source in some if source.available(study) and source.reads(study, query, fixed)]


def first_source(study: Study, query: Query, fixed: Any = None, told: Iterable[str] = ()) -> Source:
    """Return what reads a query unless a source is named: the decoder where it is told how to draw, else the first of
    ``sources`` that can.

    The corpus can where its bank holds the site and the named position, or will hold them once it is built, which takes
    seconds; a decoder where it was trained on the site; a walk always.

    Args:
        study: the study.
        query: from ``Study.query``.
        fixed: the position that is compared, in place of the nearest of all.
        told: names of options that are given: some ask for a source.
    """
    told = set(told)
    asked = (source for source in SOURCES if told & set(source.asked_by))
    return next(asked, None) or next(source for source in sources(study) if source.reads(study, query, fixed))

"""What the distance of a table over sites is called: at sites of one number it is another, whatever was asked for."""

from __future__ import annotations

from collections.abc import Iterable

from inversionview.core.errors import InversionViewError
from inversionview.core.scope import SPREAD
from inversionview.model.sites.site import Site

_NAMED = 3
"""So many sites are named, others counted."""


def singles(sites: Iterable[str]) -> list[str]:
    """Return those of some sites that are one number; what can no longer be read through its file is not."""
    return [name for name in dict.fromkeys(sites) if _single(name)]


def _single(name: str) -> bool:
    try:
        return Site.parse(name).single
    except InversionViewError:
        return False


def measure_of(distance: str, sites: Iterable[str]) -> str:
    """Return the name of a distance at some sites: as it is, ``spread``, or ``cosine; of the spread at n0.5``."""
    every = list(dict.fromkeys(sites))
    single = singles(every)
    if not single or len(single) == len(every):
        return SPREAD if single else distance
    more = f" and {len(single) - _NAMED} more" if len(single) > _NAMED else ""
    return f"{distance}; of the spread at {', '.join(single[:_NAMED])}{more}"

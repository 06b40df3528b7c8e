"""Activations to replace: how they are named, and where they are in an input."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError, UnknownPositionError, UnknownSiteError
from inversionview.corpora.contrasts import Pairs
from inversionview.corpora.positions import Positions, as_number
from inversionview.model.sites.patterns import expand
from inversionview.model.sites.site import EMBEDDINGS, Site
from inversionview.model.sites.through import split

EMBED, POS_EMBED = EMBEDDINGS
PRE = Site(0, "pre")


@dataclass(frozen=True)
class Activation:
    """What is replaced: a site at a position, or at every position."""

    site: Site
    at: str | None
    """A named position, a token or an index; ``None`` is every position."""

    def __str__(self) -> str:
        return f"{'*' if self.at is None else self.at}:{self.site.short}"


def parse_activations(texts: Sequence[str], known: Sequence[Site], example: str = "END:a0.0") -> list[Activation]:
    """Return the activations that ``POSITION:SITE`` texts mean, in the order given.

    ``query:a0.0`` is one; a pattern such as ``=:a*.*`` means all that match, in the order of computation; ``*:x0.pre`` is every
    position; ``embed`` and ``pos_embed`` are the token and the position embedding. ``example``: for errors, one that there is.

    Raises:
        SettingError: a text is not of that form, or none is given, or one is given twice.
        UnknownSiteError: the model has no such site.
    """
    found: list[Activation] = []
    for text in texts:
        named, through = split(text)
        at, colon, site = named.rpartition(":")
        if not colon or not at or not site:
            raise SettingError(f"{text!r} names no activation: write POSITION:SITE, such as {example!r}.")
        found += [Activation(each, None if at == "*" else at) for each in _meant(site.strip() + through, known)]
    if not found:
        raise SettingError(f"No activation is named: write for instance --at {example!r}.")
    if len(set(found)) < len(found):
        twice = next(a for a in found if found.count(a) > 1)
        raise SettingError(f"{twice} is named twice: name every activation once.")
    return found


def _meant(text: str, known: Sequence[Site]) -> list[Site]:
    """Return the sites that a pattern means, or one of the two embeddings."""
    with suppress(UnknownSiteError):
        if (site := Site.parse(text)) in EMBEDDINGS:
            return [site]
    return expand(text, known)


# -- running ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairPlace:
    """Where one position lies in every pair."""

    original: Ids
    """``[pair, 1]``, or ``[1, pos]`` for every position."""
    contrast: Ids


def place_of(at: str | None, pairs: Pairs, positions: Positions) -> PairPlace | None:
    """Return where a position lies in originals and contrasts; ``None`` for every position.

    Raises:
        UnknownPositionError: some input lacks it.
        SettingError: positions of originals and contrasts do not correspond.
    """
    if (at is None or as_number(at) is not None) and (pairs.read != pairs.contrast_read).any():
        i = int(np.flatnonzero(pairs.read != pairs.contrast_read)[0])
        raise SettingError(
            f"The original of pair {i + 1} is read at position {pairs.read[i]} and its contrast at {pairs.contrast_read[i]}: "
            "their positions do not correspond, so name positions that both have, such as END."
        )
    if at is None:
        return None
    both = positions.many(pairs.original, at), positions.many(pairs.contrast, at)
    lacking = (both[0] < 0) | (both[1] < 0)
    if lacking.any():
        row = pairs.original[np.flatnonzero(lacking)[0]]
        text = positions.vocabulary.decode([i for i in row if i != positions.vocabulary.pad])
        raise UnknownPositionError(
            f"{int(lacking.sum()):,} of {len(pairs):,} pairs have no single position {at!r}, such as {text!r} and its "
            f"contrast: name another position ({', '.join(positions.named(pairs.original))}), or filter the inputs."
        )
    return PairPlace(both[0], both[1])

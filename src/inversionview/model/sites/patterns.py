"""Patterns over the sites of a model: which of them a name, ``a*.*``, a range of layers or a list of heads means."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Sequence

from inversionview.core.errors import SettingError, UnknownSiteError, did_you_mean
from inversionview.model.sites.neurons import NEURON
from inversionview.model.sites.site import FAMILIES, KINDS, Site, Sites
from inversionview.model.sites.through import split


def find_site(name: str | Site, known: Sequence[Site]) -> Site:
    """Return the site of that name, if it is one of ``known``.

    Raises:
        UnknownSiteError: it is not; the message lists what exists.
    """
    short = name.short if isinstance(name, Site) else name
    try:
        site = Site.parse(name)
    except UnknownSiteError:
        site = None
    if site is None or site not in known:
        _check_offered(short, known)
        names = [s.short for s in known]
        listing = ", ".join(names) if len(names) <= 24 else ", ".join(names[:12]) + f", … ({len(names)} sites)"
        said = f"there are {listing}.{did_you_mean(short, names)}" if site is None else _instead(site, known, listing)
        raise UnknownSiteError(f"There is no site {short!r}; {said}")
    if isinstance(known, Sites) and known.widths is not None:
        site.check(known.widths)
    return site


def _check_offered(name: str, known: Sequence[Site]) -> None:
    """Raise ``UnknownSiteError`` with the reason where a name or pattern means a kind of sites that is not offered."""
    try:
        site = Site.parse(name.replace("*", "0"))
    except UnknownSiteError:
        return
    name, kind = name if "*" in name else site.short, site.kind
    if isinstance(known, Sites) and kind in known.withheld:
        there = next((site.short for site in reversed(known) if site.family == FAMILIES.get(kind)), known[-1].short)
        raise UnknownSiteError(f"{name} is not offered: {known.withheld[kind]}; choose another site, such as {there}.")


def _instead(site: Site, known: Sequence[Site], listing: str) -> str:
    """Return which layers or heads there are in place of a site's."""
    same = known.of_kind(site.kind) if isinstance(known, Sites) else [s for s in known if s.kind == site.kind]
    if not same:
        return f"none of this kind is there, there are {listing}."
    layers = {s.layer for s in same}
    if site.layer not in layers:
        return f"{site.readout.plural} are in {_ranges('layer', layers)}."
    return f"layer {site.layer} has {_ranges(site.readout.each, {s.head or 0 for s in same if s.layer == site.layer})}."


def _ranges(what: str, numbers: Collection[int]) -> str:
    """Return numbers as ``layers 0–29`` or ``heads 1, 4 and 6–8``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else parts[0]
    return f"{what}{'s' if len(numbers) > 1 else ''} {listed}"


def expand(patterns: str | Sequence[str | Site], known: Sequence[Site]) -> list[Site]:
    """Return the sites that patterns such as ``"a*.*,x*.post"`` mean, in the order of ``known``.

    Raises:
        UnknownSiteError: a pattern matches none of ``known``, or there is no pattern.
    """
    listed = patterns.split(",") if isinstance(patterns, str) and "{" not in patterns else patterns
    listed = [listed] if isinstance(listed, str) else list(listed)
    chosen: set[Site] = set()
    names = {s.short: s for s in known}
    for pattern in listed:
        text = pattern.strip() if isinstance(pattern, str) else pattern
        matches: list[Site] = []
        if text in names:
            matches = [names[text]]
        elif isinstance(text, str):
            matches = _matching(text, known)
        chosen.update(matches or [find_site(text, known)])
    if not chosen:
        raise UnknownSiteError("No site is asked for: write for instance --sites 'a*.*,x*.post'.")
    usual = [s for s in known if s in chosen]
    return usual if len(usual) == len(chosen) else sorted(chosen)


def _matching(pattern: str, known: Sequence[Site]) -> list[Site]:
    """Return the sites whose names follow a pattern; those of unusual kinds only where none of the others do."""

    def among(sites: Sequence[Site]) -> list[Site]:
        return [site for site in sites if fnmatch.fnmatchcase(site.short, pattern)]

    if not any(each in pattern for each in "*?[") or split(pattern)[1]:
        return []
    own = next((kind for kind, name in KINDS.items() if name == pattern), None)
    if own is not None and isinstance(known, Sites):
        return known.of_kind(own)
    found = among(known)
    if found or not isinstance(known, Sites):
        return found
    return among(known.others) or (among(known.of_kind(NEURON.name)) if pattern.startswith("n") else [])


def select(sites: Sequence[Site], layers: str | None = None, heads: str | None = None) -> list[Site]:
    """Return those of ``sites`` that lie in some layers, such as ``12-20,25``, or are some heads, such as ``16.3,17.0``.

    With both, a head must be named and lie in one of the layers.

    Raises:
        UnknownSiteError: a head is none of ``sites``, or nothing is left.
        SettingError: the layers or heads are not written like that.
    """
    chosen = list(sites)
    if layers is not None:
        wanted = {n for part in layers.split(",") for n in _layers(part)}
        if lacking := sorted(wanted - {s.layer for s in chosen}):
            there = _ranges("layer", {s.layer for s in chosen})
            raise UnknownSiteError(f"There is no site in layer {lacking[0]}: there are sites in {there}.")
        chosen = [s for s in chosen if s.layer in wanted]
    if heads is not None:
        named = [part.strip().removeprefix("a") for part in heads.split(",")]
        if wrong := next((part for part in named if not re.fullmatch(r"\d+\.\d+", part)), None):
            raise SettingError(f"{wrong!r} is no head: write layer.head, for instance 16.3,17.0.")
        known = [s for s in sites if s.is_head]
        wanted_heads = {find_site(f"a{part}", known) for part in named}
        chosen = [s for s in chosen if s in wanted_heads]
    if not chosen:
        raise UnknownSiteError("No site is left: none of these heads lies in one of these layers.")
    return chosen


def _layers(part: str) -> range:
    found = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise SettingError(f"{part.strip()!r} is no layer or range of layers: write for instance 12-20,25.")
    return range(int(found[1]), int(found[2] or found[1]) + 1)

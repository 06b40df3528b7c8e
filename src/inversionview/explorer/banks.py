"""The bank that a study's readings search: built in sight where that is a matter of a minute, else by the user's own command.

A click must not begin what takes long: a study of a language model without a bank is read by walks until it has one. So is a
site that no bank of natural text holds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from inversionview.bank import folders
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import BankError
from inversionview.core.progress import Progress
from inversionview.explorer.queue import BusyError
from inversionview.model.sites.site import Site
from inversionview.preimage.preimage import Query
from inversionview.sources.bank_cost import harvest_command, lacking, lacks_other
from inversionview.sources.registry import first_source, reading_now
from inversionview.sources.source import Source
from inversionview.studies.first_bank import bank_rows, speed, wanted_tokens
from inversionview.studies.study import Study

_BUILDING: WeakKeyDictionary[Study, float] = WeakKeyDictionary()
"""Banks that a request is building, and the seconds until they are there: it may have to wait for others in the middle."""


def bank_of(study: Study, report: Progress | None, site: Site | None = None) -> ActivationBank:
    """Return the bank to search, built first where there is none and it does not take long.

    Raises:
        BankError: there is none yet, and to build it takes long; see ``lacking``. Or none of natural text holds ``site``.
        BusyError: another request is building it.
        InputError: the study is a model alone.
    """
    if of_texts(study):
        held = text_banks(study)
        if not held or (site is not None and site not in held):
            raise BankError(lacking_site(study, site))
        return next(iter(held.values())) if site is None else held[site]
    why = None if study.bare else lacking(study)
    if why is not None:
        raise BankError(why)

    began, ahead = time.monotonic(), _BUILDING.get(study)
    if ahead is not None and not study.bare:
        raise BusyError(ahead, f"Another request is building the bank of {study.name}")

    def built(share: float, note: str) -> None:
        _BUILDING[study] = (time.monotonic() - began) * (1 / max(share, 1e-9) - 1)
        if report is not None:
            report(share, f"building a bank, once: {note}")

    try:
        return study.bank(report=built, site=site)
    finally:
        _BUILDING.pop(study, None)


# -- natural text -----------------------------------------------------------------------------------------------------


def of_texts(study: Study) -> bool:
    """Whether a study searches natural text, of which a bank need not hold every site."""
    return not study.bare and study.inputs.every_token


_OPENED: WeakKeyDictionary[Study, dict[Path, ActivationBank]] = WeakKeyDictionary()
_SPEEDS: WeakKeyDictionary[Study, float] = WeakKeyDictionary()
"""How many tokens are harvested at the last site in a second."""


def text_banks(study: Study) -> dict[Site, ActivationBank]:
    """Return for each site that a bank of natural text holds that bank: the run's own, else the largest in the user's cache.

    Raises:
        BankError, MismatchError: the run's own is damaged, unfinished or another model's.
    """
    own = [study.folder / "bank"] if study.folder else []
    opened, found = _OPENED.setdefault(study, {}), dict[Site, ActivationBank]()
    for path in [*filter(folders.begun, own), *folders.kept(study.model, study.inputs)]:
        if path not in opened:
            try:
                opened[path] = ActivationBank.open(path, study.model, study.inputs)
            except BankError:
                if path in own:
                    raise
                continue  # being built by another process, or interrupted
        bank = opened[path]
        if path in own or len(bank) >= wanted_tokens(study):
            for site in bank.sites:
                found.setdefault(site, bank)
    return found


def lacking_site(study: Study, site: Site | None) -> str:
    """Return that no bank holds a site, or any of natural text, how long harvesting it takes, and which command does."""
    if site is not None and not of_texts(study):
        return lacks_other(study, site)
    last, rows = study.sites[-1], bank_rows(study, None, None)
    if study not in _SPEEDS:
        _SPEEDS[study] = speed(study.model, study.inputs, last)
    depth = ((last if site is None else site).layer + 1) / (last.layer + 1)
    seconds = max(10, math.ceil(rows / _SPEEDS[study] * depth / 10) * 10)
    long = f"{seconds} seconds" if seconds <= 90 else f"{math.ceil(seconds / 60)} minutes"
    missing = f"No bank of these texts holds {site}" if site is not None else "There is no bank of these texts"
    return f"{missing} yet. `{harvest_command(study, site)}` harvests {rows:,} tokens, once: about {long} here."


def held(study: Study, site: Site) -> bool:
    """Whether a site can be searched, or, if it is one of a study's own, can soon."""
    if study.bare or (not of_texts(study) and site in study.sites):
        return True
    return site in text_banks(study) if of_texts(study) else study.known_bank(site) is not None


def default_site(study: Study) -> str:
    """Return the site that is read when none is named: of natural text one that the first of its banks holds."""
    first = next(iter(text_banks(study).values()), None) if of_texts(study) else None
    some = [] if first is None else [site.short for site in first.sites]
    return study.spec.site if not some or study.spec.site in some else some[-1]


def first_now(study: Study, query: Query, fixed: Any = None, told: Collection[str] = ()) -> Source:
    """Return what reads a query unless a source is named, nothing being harvested for it; see ``first_source``."""
    chosen = first_source(study, query, fixed, told)
    if not chosen.needs_bank or held(study, query.site):
        return chosen
    return next(source for source in reading_now(study, query, fixed) if not source.needs_bank)


def all_now(study: Study, query: Query, fixed: Any = None) -> list[Source]:
    """Return all that can read a query, nothing being harvested for it."""
    there = held(study, query.site)
    return [source for source in reading_now(study, query, fixed) if there or not source.needs_bank]

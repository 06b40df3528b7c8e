"""Whether the corpus can be searched soon: what it takes to build a bank that is not there yet."""

from __future__ import annotations

import shlex
from weakref import WeakKeyDictionary

import numpy as np

from inversionview.bank.manifest import check_positions
from inversionview.bank.store import ActivationBank
from inversionview.core.progress import duration
from inversionview.corpora.naming import ALL
from inversionview.model.sites.site import Site
from inversionview.preimage.preimage import Query
from inversionview.studies.first_bank import seconds_of, speed
from inversionview.studies.latents import searched_site
from inversionview.studies.study import Study

QUICK = 1e13
"""Floating-point operations that a bank may take to be built in sight: a minute's work of a laptop, or less."""
_NAMED = 6
"""Sites of a bank that are named."""
_SECONDS: WeakKeyDictionary[Study, float] = WeakKeyDictionary()


def lacking(study: Study) -> str | None:
    """Return why the study's corpus cannot be searched yet, and the way out; ``None`` where it can, or soon can."""
    if study.bare or study.inputs.every_token or study.known_bank() is not None or _work(study) <= QUICK:
        return None  # of natural text as much is harvested as is done soon
    each = len(check_positions(study.inputs, None)) * sum(map(study.model.width, study.sites)) * np.dtype("float16").itemsize
    return (
        f"{study.name} has no bank yet. `{_command(study)}` builds one, once: about {duration(_seconds(study))} here, "
        f"{_rows(study) * each / 1e9:.1f} GB. Until then walks read it."
    )


def holds(study: Study, query: Query, fixed: str | None = None) -> bool:
    """Whether the study's bank, or the one that would be built, holds a query's site and position, and the one ``fixed``."""
    if study.inputs.every_token:
        return fixed is None and (query.textless or query.position >= int(query.bos))
    site = searched_site(study, query.site)
    bank = study.known_bank(site)
    sites = [site] if bank is None and site in study.model.sites else study.sites if bank is None else bank.sites
    if bank is not None and bank.manifest.positions == [ALL]:
        return site in sites and fixed is None
    names = check_positions(study.inputs, None) if bank is None else bank.manifest.positions
    if query.textless:
        return site in sites and (fixed is None or fixed in names)
    places = study.positions.names(query.ids)
    here = {name for name in names if places.get(name) == query.position}
    return site in sites and bool(here) and (fixed is None or fixed in names)


def lacks_site(study: Study, bank: ActivationBank, site: Site) -> str:
    """Return why a bank of natural text cannot be searched at a site, how long harvesting that takes, and the command."""
    seconds = len(bank) / speed(study.model, study.inputs, site)
    held = ", ".join(each.short for each in bank.sites[:_NAMED]) + (", …" if len(bank.sites) > _NAMED else "")
    return (
        f"The bank {bank.folder} holds {held}, not {site.short}: search without --bank, or harvest it of as many tokens, "
        f"about {duration(seconds)} here, with `{harvest_command(study, site)}`."
    )


def lacks_other(study: Study, site: Site) -> str:
    """Return that no bank of a study holds a site that is none of its own, and what builds one."""
    soon = _work(study) <= QUICK
    way = "Ask for the corpus, which builds one first" if soon else f"`{_command(study, site)}` builds one, once"
    return f"No bank of {study.name} holds {site} yet. {way}: about {duration(_seconds(study))} here."


def harvest_command(study: Study, site: Site | None) -> str:
    """Return the command that harvests a site of a study's texts, or all streams of the residual."""
    if study.model.in_memory:
        return f"iv.build_bank(study, sites={'x*.post' if site is None else site.short!r})"
    parts = [str(study.folder)] if study.folder else ["--model", study.spec.model]
    if not study.folder:
        told = {"texts": "", "field": "", "per": "line", "context": "128", "tokens": ""}
        options = {name: str(study.spec.options[name]) for name in told if name in study.spec.options}
        parts += [part for name, value in options.items() if value != told[name] for part in (f"--{name}", value)]
    return shlex.join(["inversionview", "bank", *parts, "--sites", "x*.post" if site is None else site.short])


def _rows(study: Study) -> int:
    return min(study.spec.rows, study.inputs.corpus_size or study.spec.rows)


def _work(study: Study) -> float:
    """Return about how many floating-point operations a bank takes: twice the parameters for each token."""
    parameters = sum(weight.numel() for _, weight in study.model.backend.weights())
    return 2.0 * parameters * _rows(study) * study.inputs.max_length


def _seconds(study: Study) -> float:
    """Return how long a bank will take, by the time of a few inputs; measured once."""
    if study not in _SECONDS:
        _SECONDS[study] = seconds_of(study, _rows(study))
    return _SECONDS[study]


def _command(study: Study, site: Site | None = None) -> str:
    """Return the command that builds the bank which the study's readings then find; of its own sites, or of another."""
    some = [] if site is None else ["--sites", site.short]
    parts = ["inversionview", "bank", study.name, "--inputs", str(_rows(study)), *some]
    own = study.definition
    if study.model.in_memory:
        return f"iv.build_bank(study, rows={_rows(study)}{f', sites={site.short!r}' if site else ''})"
    if own.any_model and not study.spec.model and study.model.name != own.default_name:
        parts += ["--model", study.model.name]
    return shlex.join(parts)

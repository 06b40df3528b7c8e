"""``latents``: all latents of a dictionary that fire at one activation, by how much each tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from inversionview.analyses.latents.measure import MeasuredCodes
from inversionview.analyses.latents.result import LatentRanking
from inversionview.bank.latents.codes import codes_of, dictionary_of
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError, UnknownSiteError
from inversionview.core.progress import Progress
from inversionview.core.ranges import whole
from inversionview.core.scope import check_epsilon
from inversionview.model.sites.site import Site
from inversionview.preimage.preimage import Query
from inversionview.sources.bank_cost import lacks_site
from inversionview.sources.searched import held_names
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import own_epsilon
from inversionview.studies.study import Study


@accepting
def latents(
    study: Study,
    query: Query,
    *,
    epsilon: float | None = None,
    fixed: str | int | Sequence[str | int] | None = None,
    count: int = 30,
    bank: ActivationBank | str | Path | None = None,
    verify: bool = False,
    report: Progress | None = None,
) -> LatentRanking:
    """Return all latents of a dictionary that fire at one activation, ranked by bits, and how many are off.

    A latent's bits are −log₂ of the share of the corpus whose code lies within ε of the query's, in units of the spread of its
    codes, as ``search`` at that latent tells them. The codes are encoded from the bank's vectors when they are first asked for.

    Args:
        study: from ``load``.
        query: at all latents of a dictionary, as of the site ``x5.post|sae:FOLDER``.
        epsilon: threshold, a number; by default the study's.
        fixed: compare at these positions only, in place of the nearest of all of the bank's.
        count: of so many of the first it is told on what they fire.
        bank: to search, or its folder; by default as in ``search``.
        verify: run through the model what lies so near ε that the rounding of stored vectors could decide, as ``search`` does;
            without, ``unsure`` says of how many it could.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: the site is no dictionary's, or one latent of it; ε or ``count`` is out of range.
        UnknownSiteError, UnknownPositionError: the bank does not hold what the dictionary reads, or the position.
        BankError, MismatchError: the bank or its codes are damaged, or another model's.
    """
    site = check_all(query.site)
    whole(count, "The count of latents", 0)
    threshold = check_epsilon(own_epsilon(study, site) if epsilon is None else epsilon)
    searched = study.bank(bank, report=report, site=site.base)
    if site.base not in searched.sites:
        raise UnknownSiteError(lacks_site(study, searched, site.base))
    names = None if fixed is None else held_names(searched, study.positions, query, fixed)
    codes = codes_of(searched, site, report)
    own = searched.rows_of(query.ids, query.position)
    measured = MeasuredCodes(codes, site, own, searched.position_numbers(names), threshold)
    items = measured.fired(query.z.float().cpu().numpy(), verify, report)
    told = measured.strongest([each.latent for each in items[:count]])
    items[:count] = [replace(each, feature=told[each.latent][0], strongest=told[each.latent][1]) for each in items[:count]]
    never = int((codes.summary.counts == 0).sum())
    dead = never - sum(codes.summary.counts[each.latent] == 0 for each in items)
    compared = searched.manifest.positions if names is None else names
    return LatentRanking(
        query, threshold, tuple(items), codes.latents - len(items), int(dead), codes.summary.rows, searched.manifest.unit,
        tuple(compared), count,
    )  # fmt: skip


def check_all(site: Site) -> Site:
    """Return a site if it is all latents of a dictionary.

    Raises:
        SettingError: it is not.
    """
    part = dictionary_of(site)
    if part is None:
        raise SettingError(f"{site} names no dictionary: write for instance x5.post|sae:FOLDER.")
    if part.latent is not None:
        raise SettingError(f"{site} is one latent, which `search` reads: leave #{part.latent} out to rank all of them.")
    return site

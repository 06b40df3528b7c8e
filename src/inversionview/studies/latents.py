"""Latents of a dictionary are searched in a bank of the vectors that it reads: no harvest of their own is needed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from inversionview.bank.latents.codes import codes_of, is_latent, opened, served
from inversionview.core.errors import BankError, SettingError
from inversionview.core.progress import Progress
from inversionview.model.sites.site import Site

if TYPE_CHECKING:
    from inversionview.bank.store import ActivationBank
    from inversionview.studies.study import Study


def searched_site(study: Study, site: Site) -> Site:
    """Return which site a bank must hold that is searched at ``site``: of a latent the one whose vectors the dictionary reads.

    Unless there is a bank that holds the latent's own codes.
    """
    if not is_latent(site):
        return site
    held = study.known_bank(site)
    return site if held is not None and site in held.sites else site.base


def searchable(
    study: Study, bank: ActivationBank | str | Path | None, site: Site, report: Progress | None = None
) -> ActivationBank:
    """Return the bank that is searched at a site, see ``Study.bank``; where that is a latent its codes are encoded first.

    Raises:
        BankError, MismatchError: the bank is damaged or another model's.
        SettingError: the latent never fires in it.
    """
    found = study.bank(bank, report=report, site=searched_site(study, site))
    if served(found, site):
        codes_of(found, site, report).teach(site)
    return found


def teach_known(study: Study, bank: ActivationBank | str | Path | None, site: Site) -> None:
    """Let the model know the spread of a latent over the study's bank, if its codes are encoded already."""
    if study.bare or not is_latent(site):
        return
    found = study.known_bank(searched_site(study, site)) if bank is None else study.bank(bank)
    if found is not None and served(found, site):
        with suppress(BankError, SettingError):  # told where it is searched
            codes = opened(found, site)
            if codes.there:
                codes.teach(site)

"""The banks of a study that are open: that of its own sites, and those of others that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from inversionview.bank import folders
from inversionview.bank.store import ActivationBank
from inversionview.core.progress import Progress
from inversionview.model.sites.site import Site
from inversionview.studies.first_bank import BeginBank, Read, build_first, wanted_sites, wanted_tokens


class Searched(Read, Protocol):
    """Whose banks they are; see ``Study``."""

    folder: Path | None


class OpenBanks:
    """See the module's text; opened once, and kept.

    Args:
        study: whose.
    """

    def __init__(self, study: Searched) -> None:
        self.study = study
        self.own: ActivationBank | None = None
        self.further: list[ActivationBank] = []

    def known(self, site: Site | Sequence[Site] | None) -> ActivationBank | None:
        """See ``Study.known_bank``."""
        study, wanted = self.study, wanted_sites(self.study, site)
        for bank in filter(None, (self.own, *self.further) if wanted else (self.own,)):
            if not set(wanted) - set(bank.sites):
                return bank
        own, usual = [study.folder / "bank"] if study.folder else [], [] if study.inputs.every_token else study.sites
        found = folders.find(study.model, study.inputs, own, wanted, usual, wanted_tokens(study), study.spec.distance)
        return None if found is None else self._kept(found, wanted)

    def first(self, site: Site | Sequence[Site] | None, report: Progress | None, begin: BeginBank | None) -> ActivationBank:
        """Return a bank that is built now; see ``Study.bank``."""
        wanted = wanted_sites(self.study, site)
        return self._kept(build_first(self.study, wanted, report, begin), wanted)

    def _kept(self, bank: ActivationBank, wanted: Sequence[Site]) -> ActivationBank:
        if self.own is None and (self.study.inputs.every_token or not wanted):
            self.own = bank
        else:
            self.further.append(bank)
        return bank

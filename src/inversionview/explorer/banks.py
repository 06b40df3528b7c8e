"""The bank that a study's readings search: built in sight where that is a matter of a minute, else by the user's own command.

A click must not begin what takes long: a study of a language model without a bank is read by walks until it has one.
"""

from __future__ import annotations

import time
from weakref import WeakKeyDictionary

from inversionview.bank.store import ActivationBank
from inversionview.core.errors import BankError
from inversionview.core.progress import Progress
from inversionview.explorer.queue import BusyError
from inversionview.sources.bank_cost import lacking
from inversionview.studies.study import Study

_BUILDING: WeakKeyDictionary[Study, float] = WeakKeyDictionary()
"""Banks that a request is building, and the seconds until they are there: it may have to wait for others in the middle."""


def bank_of(study: Study, report: Progress | None) -> ActivationBank:
    """Return the bank to search, built first where there is none and it does not take long.

    Raises:
        BankError: there is none yet, and to build it takes long; see ``lacking``.
        BusyError: another request is building it.
        InputError: the study is a model alone.
    """
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
        return study.bank(report=built)
    finally:
        _BUILDING.pop(study, None)

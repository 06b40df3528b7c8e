"""The bank that a study's readings search: built in sight where that is a matter of a minute, else by the user's own command.

A click must not begin what takes long: a study of a language model without a bank is read by walks until it has one.
"""

from __future__ import annotations

import math
import shlex
import time
from weakref import WeakKeyDictionary

import numpy as np

from inversionview.bank.manifest import check_positions
from inversionview.bank.store import ActivationBank
from inversionview.errors import BankError
from inversionview.explorer.queue import BusyError
from inversionview.preimage.core import Query
from inversionview.progress import Progress
from inversionview.study import Study

QUICK = 1e13
"""Floating-point operations that a bank may take to be built in sight: a minute's work of a laptop, or less."""
_TRIED = 16
"""Inputs that are harvested to see how long all will take."""
_SECONDS: WeakKeyDictionary[Study, float] = WeakKeyDictionary()
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


def lacking(study: Study) -> str | None:
    """Return why the study's corpus cannot be searched yet, and the way out; ``None`` where it can, or soon can."""
    if study.bare or study.known_bank() is not None or _work(study) <= QUICK:
        return None
    each = len(check_positions(study.inputs, None)) * sum(map(study.model.width, study.sites)) * np.dtype("float16").itemsize
    return (
        f"{study.name} has no bank yet. `{_command(study)}` builds one, once: about {_duration(_seconds(study))} here, "
        f"{_rows(study) * each / 1e9:.1f} GB. Until then walks read it."
    )


def holds(study: Study, query: Query, fixed: str | None = None) -> bool:
    """Whether the study's bank, or the one that would be built, holds a query's site and position, and the one ``fixed``."""
    bank = study.known_bank()
    sites = study.sites if bank is None else bank.sites
    names = check_positions(study.inputs, None) if bank is None else bank.manifest.positions
    places = study.positions.names(query.ids)
    here = {name for name in names if places.get(name) == query.position}
    return query.site in sites and bool(here) and (fixed is None or fixed in names)


def _rows(study: Study) -> int:
    return min(study.spec.rows, study.inputs.corpus_size or study.spec.rows)


def _work(study: Study) -> float:
    """Return about how many floating-point operations a bank takes: twice the parameters for each token."""
    parameters = sum(weight.numel() for _, weight in study.model.backend.weights())
    return 2.0 * parameters * _rows(study) * study.inputs.max_length


def _seconds(study: Study) -> float:
    """Return how long a bank will take, by the time of a few inputs; measured once."""
    if study not in _SECONDS:
        tokens = study.inputs.corpus(np.arange(_TRIED))
        named = study.inputs.named_positions(tokens)
        positions = np.stack([named[name].clip(min=0) for name in check_positions(study.inputs, None)], axis=1)
        began = time.perf_counter()
        study.model.harvest_compact(tokens, study.sites, positions)
        _SECONDS[study] = (time.perf_counter() - began) * _rows(study) / len(tokens)
    return _SECONDS[study]


def _duration(seconds: float) -> str:
    """Return a time as a reader would say it."""
    if seconds < 90:
        return f"{math.ceil(seconds / 10) * 10} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _command(study: Study) -> str:
    """Return the command that builds the bank which the study's readings then find."""
    parts = ["inversionview", "bank", study.name, "--inputs", str(_rows(study))]
    own = study.definition
    if own.any_model and not study.spec.model and study.model.name != own.default_name:
        parts += ["--model", study.model.name]
    return shlex.join(parts)

"""Maps of bits and of good ratios."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from inversionview.bank.hits import Hits
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core import information
from inversionview.core.errors import SettingError, UnknownPositionError
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.corpora.windows import WindowInputs
from inversionview.decoder.evaluation import good_shares
from inversionview.explorer.answers.info import place
from inversionview.explorer.banks import bank_of, of_texts, text_banks
from inversionview.page import contract
from inversionview.preimage.notes import BOS_TELLS_NOTHING
from inversionview.sources.text_hits import TextHits
from inversionview.studies.calibrated import read_calibration
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study

_VERIFIED = 64
"""Sites of a map, at most, of which what lies near ε is measured again in the model."""
_RATIO = {"queries": 25, "samples": 8}


# -- the map ----------------------------------------------------------------------------------------------------------


def bits_map(
    study: Study,
    text: str,
    at: str | int | None = None,
    *,
    epsilon: float | None = None,
    distance: Distance | None = None,
    report: Progress | None = None,
) -> contract.Map:
    """Return how many bits each site tells at a position of an input, as ``search`` says them.

    All activations come from one forward pass; a site that the bank lacks is not read, and has no value. Of more than 64 sites,
    the distances that the bank stores are taken as they are, to within the rounding of fp16: see ``search``.

    Raises:
        BankError: the bank lacks, and takes long to build.
        UnknownPositionError: it is BOS of natural text.
    """
    bank, here = bank_of(study, report), place(study, text, at)
    banks = text_banks(study) if of_texts(study) else dict.fromkeys(bank.sites, bank)
    if of_texts(study) and here.bos and here.position == 0:
        raise UnknownPositionError(BOS_TELLS_NOTHING)
    held = [site for site in study.sites if site in banks]
    z = study.model.activations(torch.tensor([here.ids]), held, torch.tensor([[here.position]]))[:, 0].float().cpu()
    scope = resolved(study, epsilon=epsilon, distance=distance)
    own = {each: each.rows_of(here.ids, here.position) for each in {banks[site] for site in held}}
    told = {}
    for number, site in enumerate(held):
        if report is not None:
            report(number / len(held), site.short)
        each, verify, query = banks[site], len(held) <= _VERIFIED, study.model.own(z[number], site)
        hits = next(search(each, site, query, epsilon=scope.epsilon, distance=scope.distance, verify=verify))
        told[site] = _bits(each, hits.part(~np.isin(hits.rows, own[each])), own[each])
    cells = [_cell(site.short, told.get(site)) for site in study.sites]
    return contract.Map(kind="bits", position=here.position, epsilon=scope.epsilon, distance=scope.distance, cells=cells)


def _bits(bank: ActivationBank, inside: Hits, own: npt.NDArray[np.int64]) -> information.Bits:
    """Return what hits mean, the query's own rows left out."""
    if isinstance(bank.inputs, WindowInputs):
        return TextHits(bank, bank.inputs, own).bits(inside)
    return information.bits(len(inside), len(bank) - len(own))


def _cell(site: str, bits: information.Bits | None) -> contract.Cell:
    if bits is None:
        return contract.Cell(site=site, value=None, low=None, high=None)
    return contract.Cell(site=site, value=bits.value, low=bits.low, high=bits.high, hits=bits.hits, inputs=bits.inputs)


def ratio_map(study: Study, text: str, at: str | int | None = None, *, report: Progress | None = None) -> contract.Map:
    """Return the decoder's good ratio of each site at the study's ε, with a 95 % interval over 25 held-out queries a site.

    It belongs to the study, not to the input; it is measured once.
    """
    position = place(study, text, at).position
    if study not in _RATIOS:

        def measured(share: float, _: str) -> None:
            if report is not None:
                report(share, "measuring the decoder's good ratio, once")

        measured(0, "")
        shares, _ = good_shares(
            study.decoder,
            study.model,
            study.inputs,
            study.decoded_sites,
            scope=resolved(study),
            report=measured,
            **_RATIO,
        )
        _RATIOS[study] = information.means(shares.T)
    told = {site: (m.value, m.low, m.high) for site, m in zip(study.decoded_sites, _RATIOS[study], strict=True)}
    ends = {site.short: told.get(site, (None, None, None)) for site in study.sites}
    cells = [contract.Cell(site=site, value=value, low=low, high=high) for site, (value, low, high) in ends.items()]
    scope = resolved(study)
    return contract.Map(kind="ratio", position=position, epsilon=scope.epsilon, distance=scope.distance, cells=cells)


def foretold_map(study: Study, text: str, at: str | int | None = None) -> contract.Map:
    """Return how well D foretells, at each site, that one activation can stand in for another, by the distance advised there.

    It belongs to model and corpus, not to the input: see ``iv.calibrate``.

    Raises:
        SettingError: that was not measured.
    """
    known, position = read_calibration(study), place(study, text, at).position
    if not known:
        raise SettingError("Where vectors of equal distance can stand in for one another, `inversionview calibrate` measures.")
    told = {site: each.foretells for site, each in known.items() if each.foretells is not None}
    ends = {site.short: told.get(site.short, (None, None, None)) for site in study.sites}
    cells = [contract.Cell(site=site, value=value, low=low, high=high) for site, (value, low, high) in ends.items()]
    scope = resolved(study)
    return contract.Map(kind="foretold", position=position, epsilon=scope.epsilon, distance=scope.distance, cells=cells)


_RATIOS: WeakKeyDictionary[Study, list[information.Mean]] = WeakKeyDictionary()

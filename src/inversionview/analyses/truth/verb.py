"""``truth``: the decoder's samples against exact preimages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inversionview.analyses.truth.measure import decoder_against_truth
from inversionview.analyses.truth.result import TruthTable
from inversionview.bank.store import ActivationBank
from inversionview.core.scope import Scope
from inversionview.decoder.bias import SiteTruth, Truth, weights_of
from inversionview.studies.accepting import accepting
from inversionview.studies.decoders import check_whole
from inversionview.studies.study import Study


@accepting
def truth(study: Study, *, bank: ActivationBank | str | Path | None = None, **options: Any) -> TruthTable:
    """Return for each site how the decoder's samples compare with exact preimages: good ratio, recall, KL by feature.

    Args:
        study: from ``load``.
        bank: to search, or its folder; by default as in ``search``.
        options: ``queries``, ``samples``, ``seed`` and ``report`` of ``decoder_against_truth``.

    Raises:
        WeightsError, BankError, MismatchError: decoder or bank are missing, damaged or another model's.
        SettingError: a setting is out of range, or it writes what precedes tokens of natural text.
    """
    check_whole(study.decoder, "truth")
    scope = Scope[Any](study.spec.epsilon, study.spec.distance)
    made = decoder_against_truth(study.decoder, study.bank(bank), study.sites, scope=scope, **options)
    return TruthTable(tuple(made), study.spec.epsilon, study.spec.distance)


def keep_truth(study: Study, sites: Sequence[SiteTruth], bank: ActivationBank, *, samples: int = 128, seed: int = 0) -> Path:
    """Keep what ``truth`` found beside the decoder, so that readings tell its bias.

    Args:
        study: from ``load``.
        sites: what was found.
        bank: against which.
        samples: as they were asked for.
        seed: likewise.

    Raises:
        StorageError: it cannot be written.
    """
    made = Truth(
        decoder=weights_of(study.decoder_path), epsilon=study.spec.epsilon, distance=study.spec.distance,
        positions=tuple(bank.manifest.positions), inputs=len(bank), samples=samples, seed=seed, sites=tuple(sites),
    )  # fmt: skip
    study.__dict__.pop("truth", None)
    return made.keep(study.decoder_path)

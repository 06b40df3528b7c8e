"""How far a decoder's samples are from exact preimages."""

from __future__ import annotations

from dataclasses import dataclass

from inversionview.core.results import Results
from inversionview.core.scope import Distance
from inversionview.decoder.bias import SiteTruth


@dataclass(frozen=True, eq=False, repr=False)
class TruthTable(Results[SiteTruth]):
    """What was measured, site by site."""

    epsilon: float
    distance: Distance

"""Bits over ε, at every site × position of a bank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from inversionview.analyses.bits.result import Curve
from inversionview.analyses.site_positions import Place, bits_of, least_of, places
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError
from inversionview.core.information import mean
from inversionview.core.progress import Progress
from inversionview.core.scope import OWN, Distance, Own, Scope, check_epsilon
from inversionview.model.sites.site import Site


def bits_curve(
    bank: ActivationBank,
    epsilons: Sequence[float],
    *,
    queries: int = 200,
    sites: str | Sequence[str | Site] = "*",
    positions: Sequence[str] | None = None,
    distance: Distance = "euclidean",
    fixed: bool = False,
    seed: int = 0,
    report: Progress | None = None,
) -> list[Curve]:
    """Return the mean of I_ε(q) at every site and position for a ladder of ε; arguments as in ``feature_information``.

    Raises:
        SettingError: there is no ε, or one is not positive.
    """
    if not epsilons:
        raise SettingError("Name at least one ε.")
    ladder, curves = sorted(check_epsilon(e) for e in epsilons), []
    for place in places(bank, sites, positions, queries, seed, report):
        told = [_told(place, Scope(epsilon, distance, OWN if fixed else None)) for epsilon in ladder]
        bits, low = tuple(mean(each[:, 0], seed=seed) for each in told), tuple(float(each[:, 1].mean()) for each in told)
        curves.append(Curve(place.site.short, place.position, tuple(ladder), bits, low, distance))
    return curves


def _told(place: Place, scope: Scope[Own]) -> npt.NDArray[np.float64]:
    """Return each query's bits and the least that they can be, ``[query, 2]``."""
    every = zip(place.rows.tolist(), place.preimages(scope), strict=True)
    return np.array([(bits_of(row, hits), least_of(place.bank, row, hits)) for row, hits in every])

"""Do the sources of preimages agree? Total variation between what decoder, corpus, walk and a full list say of every feature.

Each source is made otherwise: the decoder is trained, the corpus searched, the walk starts at the query. Where all three show
the same features, a reading can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.analyses.agree.result import Agreement, Pair
from inversionview.core.arrays import Ids
from inversionview.core.scope import Scope
from inversionview.corpora.inputs import Inputs
from inversionview.preimage.preimage import Query

_SPLITS = 20
"""Random splits that tell how far apart two samples of one distribution are."""


def agreement(
    inputs: Inputs,
    query: Query,
    scope: Scope[Any],
    found: Mapping[str, Ids],
    mixed: bool | None = None,
    seed: int = 0,
) -> Agreement:
    """Compare what sources found inside ε, feature by feature.

    Args:
        inputs: whose features are compared.
        query: what was read.
        scope: within which ε, by which distance.
        found: for each source the token ids of its inputs inside ε, ``[n, pos]``; those with none are left out.
        mixed: whether the walk was mixed.
        seed: of the splits.
    """
    values = {name: inputs.features(tokens) for name, tokens in found.items() if len(tokens)}
    rng = np.random.default_rng((seed, 13))
    pairs = [
        Pair(a, b, feature, total_variation(values[a][feature], values[b][feature]),
             _chance(values[a][feature], values[b][feature], b == "all", rng))
        for a, b in combinations(values, 2)
        for feature in values[a]
    ]  # fmt: skip
    draws = {name: len(tokens) for name, tokens in found.items()}
    return Agreement(query, scope.epsilon, draws, mixed, tuple(pairs), scope.distance)


def total_variation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Return ½ Σ |p − q| between the distributions of two samples.

    >>> total_variation(np.array([1, 1, 2, 2]), np.array([2, 2, 2, 2]))
    0.5
    """
    both = np.concatenate([first, second])
    values, codes = np.unique(both, return_inverse=True)
    p = np.bincount(codes[: len(first)], minlength=len(values)) / len(first)
    q = np.bincount(codes[len(first) :], minlength=len(values)) / len(second)
    return float(np.abs(p - q).sum() / 2)


def _chance(first: npt.NDArray[Any], second: npt.NDArray[Any], known: bool, rng: np.random.Generator) -> float:
    """Return the mean total variation that there would be were both the same.

    Where ``second`` is ``known``, a full list, that of draws from it; else that of random splits of both taken together.
    """
    _, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    a, b = codes[: len(first)], codes[len(first) :]
    found = []
    for _ in range(_SPLITS):
        if known:
            a = rng.choice(b, size=len(first))
        else:
            codes = rng.permutation(codes)
            a, b = codes[: len(first)], codes[len(first) :]
        found.append(total_variation(a, b))
    return float(np.mean(found))

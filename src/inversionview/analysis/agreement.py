"""Do the sources of preimages agree? Total variation between what decoder, corpus, walk and a full list say of every feature.

Each source is made otherwise: the decoder is trained, the corpus searched, the walk starts at the query. Where all three show
the same features, a reading can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.inputs import Ids, Inputs
from inversionview.preimage.core import Query
from inversionview.scope import Distance

_SPLITS = 20
"""Random splits that tell how far apart two samples of one distribution are."""


@dataclass(frozen=True)
class Pair:
    """Two sources on one feature."""

    first: str
    second: str
    feature: str
    tv: float
    """Total variation ½ Σ |p − q| of the feature's values inside ε, in [0, 1]."""
    chance: float
    """What it would be on average, were both independent draws from one distribution, or one of them the full list ``all``."""


@dataclass(frozen=True)
class Agreement:
    """What the sources say of one query."""

    query: Query
    epsilon: float
    draws: dict[str, int]
    """Inputs inside ε of each source; repeats counted where they are draws."""
    mixed: bool | None
    """Whether the walk was mixed; ``None`` without one."""
    pairs: tuple[Pair, ...]
    distance: Distance = "euclidean"

    def worst(self, first: str, second: str) -> Pair | None:
        """Return the feature on which two sources differ most."""
        found = [p for p in self.pairs if {p.first, p.second} == {first, second}]
        return max(found, key=lambda p: p.tv) if found else None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        rest = {"distance": self.distance, "epsilon": self.epsilon, "draws": self.draws, "mixed": self.mixed}
        return {"query": self.query.to_json(), **rest, "pairs": [asdict(p) for p in self.pairs]}


def agreement(
    inputs: Inputs,
    query: Query,
    epsilon: float,
    found: Mapping[str, Ids],
    mixed: bool | None = None,
    seed: int = 0,
    distance: Distance = "euclidean",
) -> Agreement:
    """Compare what sources found inside ε, feature by feature.

    Args:
        inputs: whose features are compared.
        query: what was read.
        epsilon: threshold.
        found: for each source the token ids of its inputs inside ε, ``[n, pos]``; those with none are left out.
        mixed: whether the walk was mixed.
        seed: of the splits.
        distance: by which ε is one.
    """
    values = {name: inputs.features(tokens) for name, tokens in found.items() if len(tokens)}
    rng = np.random.default_rng((seed, 13))
    pairs = [
        Pair(a, b, feature, total_variation(values[a][feature], values[b][feature]),
             _chance(values[a][feature], values[b][feature], b == "all", rng))
        for a, b in combinations(values, 2)
        for feature in values[a]
    ]  # fmt: skip
    return Agreement(query, epsilon, {name: len(tokens) for name, tokens in found.items()}, mixed, tuple(pairs), distance)


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

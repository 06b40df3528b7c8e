"""All inputs of a study, or some by lot."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.core.ranges import check_seed, whole
from inversionview.corpora.inputs import Inputs
from inversionview.preimage.preimage import Query

Values = npt.NDArray[np.float32]


def is_query(tokens: Ids, query: Query, pad: int) -> npt.NDArray[np.bool_]:
    """Return which of the inputs is the query's own."""
    width = tokens.shape[1]
    ids = np.array([*query.ids, *[pad] * (width - len(query.ids))])
    same: npt.NDArray[np.bool_] = (tokens == ids[:width]).all(1) & (len(query.ids) <= width)
    return same


def chosen_rows(inputs: Inputs, limit: int | None, seed: int) -> npt.NDArray[np.int64]:
    """Return all rows of the inputs, or a random ``limit`` of them, in order.

    Raises:
        SettingError: the limit is below 1.
    """
    check_seed(seed)
    if limit is None or whole(limit, "The number of inputs") >= len(inputs):
        return np.arange(len(inputs))
    return np.sort(np.random.default_rng((seed, 6)).choice(len(inputs), limit, replace=False))

"""What follows what in a corpus: a guess at how well a kept text goes on after a new token, without a run of the model."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int
from scipy.sparse import csc_array

_WEIGHT = 5.0
"""The distribution of all tokens counts as so many occurrences of each token."""
_RARE = 0.1
"""And in it each token counts as so many occurrences more than it has."""
_REMEMBERED = 256


class Bigrams:
    """How often each token stands at some distance behind each other one.

    Args:
        rows: token ids of padded texts, ``[text, pos]``.
        text: which belong to a text.
        size: how many ids there are.
        gap: 1 counts the next token, 2 the one after it.
    """

    def __init__(self, rows: Int[np.ndarray, "text pos"], text: Bool[np.ndarray, "text pos"], size: int, gap: int = 1) -> None:
        both = text[:, :-gap] & text[:, gap:]
        before, after = rows[:, :-gap][both], rows[:, gap:][both]
        self._counts = csc_array((np.ones(len(before), dtype=np.float32), (before, after)), shape=(size, size))
        self._counts.sum_duplicates()
        self._total = np.log(np.bincount(before, minlength=size) + _WEIGHT)
        self._share = (np.bincount(after, minlength=size) + _RARE) / (len(after) + _RARE * size)
        self.following = lru_cache(_REMEMBERED)(self._following)

    def _following(self, token: int) -> Float[np.ndarray, " vocabulary"]:
        """Return log c(token ∣ w) for every w: its share of what stands there, smoothed by its share of all tokens."""
        start, stop = self._counts.indptr[token : token + 2]
        smooth = _WEIGHT * self._share[token]
        out = np.full(len(self._total), np.log(smooth))
        out[self._counts.indices[start:stop]] = np.log(self._counts.data[start:stop] + smooth)
        made: npt.NDArray[np.float32] = (out - self._total).astype(np.float32)
        return made

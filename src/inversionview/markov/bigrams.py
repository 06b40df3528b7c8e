"""What follows what in a corpus: a guess at how well a kept text goes on after a new token, without a run of the model."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_array

from inversionview.core.arrays import Ids

_WEIGHT = 5.0
"""The distribution of all tokens counts as so many occurrences of each token."""


class Bigrams:
    """Counts of the tokens that follow each token at some distance.

    Args:
        tokens: occurrences in a row, ``[occurrence]``, as ids.
        size: how many ids there are.
        gap: 1 counts the next token, 2 the one after it.
        ends: occurrences that no other follows, ``[occurrence]``.
    """

    def __init__(self, tokens: Ids, size: int, gap: int = 1, starts: Ids | None = None) -> None:
        before, after = tokens[:-gap], tokens[gap:]
        if starts is not None:
            text = np.zeros(len(tokens), dtype=np.int64)
            text[starts] = 1
            text = text.cumsum()
            before, after = before[text[:-gap] == text[gap:]], after[text[:-gap] == text[gap:]]
        counts = csc_array((np.ones(len(before), dtype=np.float32), (before, after)), shape=(size, size))
        counts.sum_duplicates()
        self._counts = counts
        self._total = np.log(np.bincount(before, minlength=size) + _WEIGHT)
        self._share = (np.bincount(after, minlength=size) + 0.1) / (len(after) + 0.1 * size)
        self.following = lru_cache(4096)(self._following)

    def _following(self, token: int) -> npt.NDArray[np.float32]:
        """Return log c(token ∣ w) for every w, ``[vocabulary]``."""
        start, stop = self._counts.indptr[token : token + 2]
        some = _WEIGHT * self._share[token]
        out = np.full(len(self._total), np.log(some))
        out[self._counts.indices[start:stop]] = np.log(self._counts.data[start:stop] + some)
        made: npt.NDArray[np.float32] = (out - self._total).astype(np.float32)
        return made


def of_texts(rows: Ids, text: npt.NDArray[np.bool_], size: int) -> tuple[Bigrams, Bigrams]:
    """Return what follows each token, and what follows that, in padded texts.

    Args:
        rows: token ids, ``[text, pos]``.
        text: which belong to a text.
        size: how many ids there are.
    """
    starts = np.concatenate([[0], text.sum(1).cumsum()[:-1]])
    return Bigrams(rows[text], size, 1, starts), Bigrams(rows[text], size, 2, starts)

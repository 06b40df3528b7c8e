"""Character counting: how often does the queried letter occur in the string? (Huang et al. 2024, section 3.1)

An input is ``B`` + a shuffled string of three distinct lower-case letters, each 1–9 times + ``|`` + one of the three +
``:`` + its count + ``E``. Every triple of letters comes with 200 of the 729 count configurations, and each of these with
all three query letters: C(26, 3) × 200 × 3 = 1,560,000 inputs.
"""

from __future__ import annotations

import string
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.inputs import Ids, Inputs, mix

TOKENS = [*string.ascii_lowercase, *"123456789", "|", ":", "B", "E", "P"]
BAR, COLON = TOKENS.index("|"), TOKENS.index(":")
CONFIGURATIONS = 200


class CountingInputs(Inputs):
    """All 1.56 million counting inputs; a row is (letter triple, count configuration, query letter)."""

    bos, eos, pad = TOKENS.index("B"), TOKENS.index("E"), TOKENS.index("P")
    vocabulary = TOKENS
    max_length = 33
    redrawn = True

    def __len__(self) -> int:
        return 2600 * CONFIGURATIONS * 3

    @cached_property
    def _triples(self) -> npt.NDArray[np.int64]:
        """Letters of each triple, ``[2600, 3]``."""
        return np.array(list(combinations(range(26), 3)))

    @cached_property
    def _configurations(self) -> npt.NDArray[np.int64]:
        """The 200 configurations chosen for each triple, as numbers below 9³, ``[2600, 200]``."""
        keys = mix(np.arange(2600 * 729, dtype=np.uint64), salt=1).reshape(2600, 729)
        return np.argsort(keys, axis=1)[:, :CONFIGURATIONS]

    def tokens(self, rows: npt.NDArray[np.int64], salt: int = 0) -> Ids:
        """Return the tokens of ``rows``, ``[len(rows), 33]``; another ``salt`` shuffles the letters otherwise."""
        which, asked = np.divmod(rows, 3)
        triple, slot = np.divmod(which, CONFIGURATIONS)
        number = self._configurations[triple, slot]
        counts = np.stack([number // 81, number // 9 % 9, number % 9], axis=1) + 1
        ends = counts.cumsum(1)
        length = ends[:, 2]

        cells = np.arange(27)
        member = (cells[None, :, None] >= ends[:, None, :]).sum(2).clip(max=2)
        letters = np.take_along_axis(self._triples[triple], member, axis=1)
        keys = mix(rows.astype(np.uint64)[:, None] * np.uint64(27) + cells.astype(np.uint64), salt=salt + 2)
        keys[cells[None] >= length[:, None]] = np.iinfo(np.uint64).max
        letters = np.take_along_axis(letters, np.argsort(keys, axis=1), axis=1)

        out = np.full((len(rows), 33), self.pad, dtype=np.int64)
        out[:, 0] = self.bos
        out[:, 1:28] = np.where(cells[None] < length[:, None], letters, self.pad)
        each = np.arange(len(rows))
        tail: list[Ids | int] = [BAR, self._triples[triple, asked], COLON, 25 + counts[each, asked], self.eos]
        for offset, column in enumerate(tail):
            out[each, 1 + length + offset] = column
        return out

    def named_positions(self, tokens: Ids) -> dict[str, Ids]:
        """Name the query character ``query``, the colon ``:`` and the last token before EOS ``END``."""
        bar = np.where((tokens == BAR).any(1), (tokens == BAR).argmax(1) + 1, -1)
        colon = np.where((tokens == COLON).any(1), (tokens == COLON).argmax(1), -1)
        return {"query": bar, ":": colon, **super().named_positions(tokens)}

    def trained_positions(self, tokens: Ids) -> npt.NDArray[np.bool_]:
        """Return the query character and ``:`` (Huang et al. 2024, appendix on the counting task)."""
        colon = tokens == COLON
        after_bar = np.zeros_like(colon)
        after_bar[:, 1:] = tokens[:, :-1] == BAR
        return colon | after_bar

    def features(self, tokens: Ids) -> dict[str, npt.NDArray[Any]]:
        """Return the query letter, its count and the string's length; the other two letters, and their counts in that order."""
        asked = np.take_along_axis(tokens, self.named_positions(tokens)["query"][:, None], axis=1)
        string_length = (tokens == BAR).argmax(1) - 1
        inside = (np.arange(tokens.shape[1])[None] <= string_length[:, None]) & (tokens < 26)
        counts = np.stack([((tokens == letter) & inside).sum(1) for letter in range(26)], axis=1)  # (row, letter)
        count = np.take_along_axis(counts, asked.clip(max=25), axis=1)[:, 0]
        others = counts.copy()
        np.put_along_axis(others, asked.clip(max=25), 0, axis=1)
        second = 25 - (others[:, ::-1] > 0).argmax(1)
        first = (others > 0).argmax(1)
        each = np.arange(len(tokens))
        letters = np.array(TOKENS)
        return {
            "letter": letters[asked[:, 0]],
            "count": count,
            "length": string_length,
            "others": np.char.add(letters[first], letters[second]),
            "counts": others[each, first] * 10 + others[each, second],
        }

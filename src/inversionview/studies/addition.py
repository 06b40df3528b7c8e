"""3-digit addition: ``B`` + ``F1F2F3+S1S2S3=A1A2A3(A4)`` + ``E``, operands 100–999 (Huang et al. 2024, section 3.3).

All 900 × 900 = 810,000 inputs; row ``r`` adds ``100 + r // 900`` and ``100 + r % 900``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.inputs import Ids, Inputs

TOKENS = [*"0123456789", "B", "+", "=", "E", "P"]
PLUS, EQUALS = TOKENS.index("+"), TOKENS.index("=")
POSITIONS = {"F1": 1, "F2": 2, "F3": 3, "+": 4, "S1": 5, "S2": 6, "S3": 7, "=": 8, "A1": 9, "A2": 10, "A3": 11}


class AdditionInputs(Inputs):
    """All 810,000 additions of two three-digit numbers."""

    bos, eos, pad = TOKENS.index("B"), TOKENS.index("E"), TOKENS.index("P")
    vocabulary = TOKENS
    max_length = 14

    def __len__(self) -> int:
        return 900 * 900

    def tokens(self, rows: npt.NDArray[np.int64], salt: int = 0) -> Ids:
        """Return the tokens of ``rows``, ``[len(rows), 14]``; an addition has no free part to draw anew."""
        first, second = 100 + rows // 900, 100 + rows % 900
        total = first + second
        out = np.full((len(rows), 14), self.pad, dtype=np.int64)
        out[:, 0], out[:, 4], out[:, 8] = self.bos, PLUS, EQUALS
        for place, scale in enumerate((100, 10, 1)):
            out[:, 1 + place] = first // scale % 10
            out[:, 5 + place] = second // scale % 10
        long = total >= 1000
        for place in range(4):
            four, three = total // 10 ** (3 - place) % 10, total // 10 ** max(2 - place, 0) % 10
            out[:, 9 + place] = np.where(long, four, three if place < 3 else self.eos)
        out[long, 13] = self.eos
        return out

    def named_positions(self, tokens: Ids) -> dict[str, Ids]:
        """Name the digits F1–F3, S1–S3, A1–A4, ``+``, ``=``, and END, the last token before EOS."""
        rows = len(tokens)
        names = {name: np.full(rows, index) for name, index in POSITIONS.items()}
        fourth = np.full(rows, -1)
        if tokens.shape[1] > 12:
            fourth = np.where(tokens[:, 12] < 10, 12, -1)
        return {**names, "A4": fourth, **super().named_positions(tokens)}

    def features(self, tokens: Ids) -> dict[str, npt.NDArray[Any]]:
        """Return the features of Huang et al. 2024, Table 3.

        The digits F1 … S3 and A1 … A4 (A4 is E in a sum of three digits); per place the digits of both operands in either
        order (``{F1,S1}`` is 68 for 6 and 8) and their sum; the carries C3 out of the ones and C2 out of the tens.
        """
        digits = {name: tokens[:, index] for name, index in POSITIONS.items() if name not in "+="}
        features: dict[str, npt.NDArray[Any]] = {**digits, "A4": np.array(TOKENS)[tokens[:, 12]]}
        for place in "123":
            first, second = digits[f"F{place}"], digits[f"S{place}"]
            features[f"{{F{place},S{place}}}"] = np.minimum(first, second) * 10 + np.maximum(first, second)
            features[f"F{place}+S{place}"] = first + second
        ones = features["F3+S3"] >= 10
        tens = features["F2+S2"] + ones >= 10
        return {**features, "C2": tens.astype(np.int64), "C3": ones.astype(np.int64)}

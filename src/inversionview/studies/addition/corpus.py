"""3-digit addition: ``B`` + ``F1F2F3+S1S2S3=A1A2A3(A4)`` + ``E``, operands 100–999 (Huang et al. 2024, section 3.3).

All 900 × 900 = 810,000 inputs; row ``r`` adds ``100 + r // 900`` and ``100 + r % 900``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.moves import Move, Proposal, symmetric

TOKENS = [*"0123456789", "B", "+", "=", "E", "P"]
PLUS, EQUALS = TOKENS.index("+"), TOKENS.index("=")
POSITIONS = {"F1": 1, "F2": 2, "F3": 3, "+": 4, "S1": 5, "S2": 6, "S3": 7, "=": 8, "A1": 9, "A2": 10, "A3": 11}
ANSWERS = {"A1": 9, "A2": 10, "A3": 11, "A4": 12}
_PLACES = {"1": "hundreds", "2": "tens", "3": "ones"}
_GLOSSARY = {
    **{f"F{i}": f"the first operand's {place} digit" for i, place in _PLACES.items()},
    **{f"S{i}": f"the second operand's {place} digit" for i, place in _PLACES.items()},
    **{f"A{i}": f"the {rank} digit of the sum" for i, rank in enumerate(("first", "second", "third"), start=1)},
    "A4": "the fourth digit of the sum (E: it has three)",
    **{f"{{F{i},S{i}}}": f"the {place} digits in either order" for i, place in _PLACES.items()},
    **{f"F{i}+S{i}": f"the sum of the {place} digits" for i, place in _PLACES.items()},
    "C2": "the carry from the tens",
    "C3": "the carry from the ones",
}
"""Features in words."""


class AdditionInputs(Inputs):
    """All 810,000 additions of two three-digit numbers."""

    bos, eos, pad = TOKENS.index("B"), TOKENS.index("E"), TOKENS.index("P")
    vocabulary = TOKENS
    max_length = 14
    sampled = False

    def __len__(self) -> int:
        return 900 * 900

    def tokens(self, rows: npt.NDArray[np.int64], salt: int = 0) -> Ids:
        """Return the tokens of ``rows``, ``[len(rows), 14]``; an addition has no free part to draw anew."""
        return written(100 + rows // 900, 100 + rows % 900)

    # -- contrasts ----------------------------------------------------------------------------------------------------

    @property
    def answers(self) -> tuple[str, ...]:
        """The digits of the sum; A4 is EOS where it has three."""
        return tuple(ANSWERS)

    def read_at(self, tokens: Ids, target: str) -> Ids:
        """Return the index of the position before a digit of the sum, which predicts it."""
        return np.full(len(tokens), ANSWERS[target] - 1)

    @property
    def changes(self) -> tuple[str, ...]:
        """The digits of both operands."""
        return ("F1", "F2", "F3", "S1", "S2", "S3")

    def changes_of(self, feature: str) -> tuple[str, ...]:
        """Return the digits of the places that a feature is about: ``F1,S1`` for ``{F1,S1}``, ``F2,S2`` for the carry C2."""
        places = dict.fromkeys(digit for name, digit in re.findall(r"([FSC])(\d)", feature))
        return tuple(f"{name}{place}" for place in places for name in "FS") or self.changes

    def contrast(self, tokens: Ids, changes: Sequence[str], rng: np.random.Generator) -> Proposal:
        """Redraw digits uniformly from 0–9, so a leading zero may occur (Huang et al. 2024, section 3.3, activation patching).

        A sum of fewer than three digits is no contrast: the model has never seen its like.
        """
        new = tokens.copy()
        for name in changes:
            new[:, POSITIONS[name]] = rng.integers(10, size=len(tokens))
        first, second = operands(new)
        return symmetric(written(first, second), first + second >= 100)

    # -- the walk -----------------------------------------------------------------------------------------------------

    def log_prior(self, tokens: Ids) -> npt.NDArray[np.float64]:
        """Return log p(x): 0 for each of the 810,000 additions, all equally likely, and −∞ for anything else."""
        first, second = operands(tokens)
        real = (np.minimum(first, second) >= 100) & (np.maximum(first, second) <= 999)
        rows = np.where(real, (first - 100) * 900 + second - 100, 0)
        same = (self.tokens(rows)[:, : tokens.shape[1]] == tokens[:, :14]).all(1)
        return np.where(real & same, 0.0, -np.inf)

    @cached_property
    def log_total(self) -> float:
        """All additions are equally likely."""
        return math.log(len(self))

    def fresh(self, count: int, rng: np.random.Generator) -> Ids:
        """Draw additions, all equally likely."""
        return self.tokens(rng.integers(len(self), size=count))

    @property
    def moves(self) -> tuple[Move, ...]:
        """Digits redrawn (one, two, both of a place, an operand, all), operands or a place swapped, an amount moved over."""
        return tuple(Move(name, partial(self._move, change)) for name, change in _MOVES.items())

    def _move(self, change: _Change, tokens: Ids, rng: np.random.Generator) -> Proposal:
        """Change both operands and write the sum anew; as likely as the way back, so long as both have three digits."""
        first, second = change(*operands(tokens), rng)
        possible = (np.minimum(first, second) >= 100) & (np.maximum(first, second) <= 999)
        return symmetric(self.tokens(np.where(possible, (first - 100) * 900 + second - 100, 0)), possible)

    # -- positions and features ---------------------------------------------------------------------------------------

    def why_not(self, ids: Sequence[int]) -> str | None:
        """Return why a text is no addition of two three-digit numbers, as a clause."""
        text = "".join(TOKENS[i] for i in ids[1:] if i != self.eos)
        parts = re.fullmatch(r"(\d+)\+(\d+)=(\d*)", text)
        if parts is None:
            return "it is not of the form 615+861=1476"
        first, second, total = parts.groups()
        if odd := next((number for number in (first, second) if not re.fullmatch(r"[1-9]\d\d", number)), None):
            return f"both operands are numbers from 100 to 999, but one is {odd}"
        right = str(int(first) + int(second))
        if not total or total != right:
            return f"{first} + {second} is {right}, " + (f"not {total}" if total else "and the sum is missing")
        return None

    def named_positions(self, tokens: Ids) -> dict[str, Ids]:
        """Name the digits F1–F3, S1–S3, A1–A4, ``+``, ``=``, and END, the last token before EOS.

        Digits are named where ``+`` and ``=`` stand as they do between operands of three digits.
        """
        signs = {name: _only(tokens == sign) for name, sign in (("+", PLUS), ("=", EQUALS))}
        first = signs["+"] == POSITIONS["+"]
        both = first & (signs["="] == POSITIONS["="])
        names = {name: signs.get(name, np.where(first if name[0] == "F" else both, at, -1)) for name, at in POSITIONS.items()}
        for name, at in ANSWERS.items():
            there = both & (tokens[:, at] < 10) if at < tokens.shape[1] else np.zeros_like(both)
            names[name] = np.where(there, at, -1)
        return {**names, **super().named_positions(tokens)}

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

    @property
    def glossary(self) -> dict[str, str]:
        """What the features are called in a sentence."""
        return dict(_GLOSSARY)

    def said(self, feature: str, value: Any) -> str:
        """Return the digits of ``{F1,S1}`` one by one, and E where a sum has no fourth digit."""
        return f"{value // 10} and {value % 10}" if feature.startswith("{") else str(value)


def written(first: Ids, second: Ids) -> Ids:
    """Write additions of two numbers below 1,000 whose sum has three or four digits, ``[rows, 14]``."""
    total = first + second
    out = np.full((len(first), 14), AdditionInputs.pad, dtype=np.int64)
    out[:, 0], out[:, 4], out[:, 8] = AdditionInputs.bos, PLUS, EQUALS
    for place, scale in enumerate((100, 10, 1)):
        out[:, 1 + place] = first // scale % 10
        out[:, 5 + place] = second // scale % 10
    long = total >= 1000
    for place in range(4):
        four, three = total // 10 ** (3 - place) % 10, total // 10 ** max(2 - place, 0) % 10
        out[:, 9 + place] = np.where(long, four, three if place < 3 else AdditionInputs.eos)
    out[long, 13] = AdditionInputs.eos
    return out


def _only(mask: npt.NDArray[np.bool_]) -> Ids:
    """Return where the only true value of each row is, −1 where there is none or several."""
    return np.where(mask.sum(1) == 1, mask.argmax(1), -1)


def operands(tokens: Ids) -> tuple[Ids, Ids]:
    """Return the two numbers that are added, ``[rows]`` each."""
    scale = np.array([100, 10, 1])
    return tokens[:, 1:4] @ scale, tokens[:, 5:8] @ scale


_Change = Callable[[Ids, Ids, np.random.Generator], tuple[Ids, Ids]]
_SCALE = np.array([1, 10, 100])


def _redraw_digits(places: int, first: Ids, second: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Redraw so many of the six digits (the same one may be drawn twice)."""
    both = np.stack([first, second], axis=1)
    each = np.arange(len(both))
    for _ in range(places):
        which, scale = rng.integers(2, size=len(both)), _SCALE[rng.integers(3, size=len(both))]
        old = both[each, which] // scale % 10
        both[each, which] += (rng.integers(10, size=len(both)) - old) * scale
    return both[:, 0], both[:, 1]


def _redraw_place(first: Ids, second: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
    scale = _SCALE[rng.integers(3, size=len(first))]
    return tuple(number + (rng.integers(10, size=len(first)) - number // scale % 10) * scale for number in (first, second))


def _redraw_operand(first: Ids, second: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
    which, new = rng.random(len(first)) < 0.5, rng.integers(100, 1000, size=len(first))
    return np.where(which, new, first), np.where(which, second, new)


def _redraw(first: Ids, second: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
    return rng.integers(100, 1000, size=len(first)), rng.integers(100, 1000, size=len(first))


def _swap(first: Ids, second: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
    return second, first


def _swap_place(first: Ids, second: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
    scale = _SCALE[rng.integers(3, size=len(first))]
    gap = (first // scale % 10 - second // scale % 10) * scale
    return first - gap, second + gap


def _amount(rng: np.random.Generator, count: int) -> Ids:
    """Draw ± 1–9 ones, tens or hundreds."""
    return rng.choice([-1, 1], size=count) * rng.integers(1, 10, size=count) * _SCALE[rng.integers(3, size=count)]


def _transfer(first: Ids, second: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Move an amount from one operand to the other: the sum stays."""
    amount = _amount(rng, len(first))
    return first + amount, second - amount


def _add(first: Ids, second: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Add an amount to one operand, with carries."""
    amount, which = _amount(rng, len(first)), rng.random(len(first)) < 0.5
    return first + amount * which, second + amount * ~which


_MOVES: dict[str, _Change] = {
    "digit": partial(_redraw_digits, 1),
    "two digits": partial(_redraw_digits, 2),
    "place": _redraw_place,
    "operand": _redraw_operand,
    "all": _redraw,
    "swap": _swap,
    "swap place": _swap_place,
    "transfer": _transfer,
    "add": _add,
}

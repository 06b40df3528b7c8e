"""Character counting: how often does the queried letter occur in the string? (Huang et al. 2024, section 3.1)

An input is ``B`` + a shuffled string of three distinct lower-case letters, each 1–9 times + ``|`` + one of the three +
``:`` + its count + ``E``. Every triple of letters comes with 200 of the 729 count configurations, and each of these with
all three query letters: C(26, 3) × 200 × 3 = 1,560,000 inputs.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.core.mixing import mix
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.moves import Move, Proposal, pick, symmetric

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
        return written(letters, length, self._triples[triple, asked])

    def in_corpus(self, tokens: Ids) -> npt.NDArray[np.bool_]:
        """Return which inputs have one of the 200 count configurations that the corpus has of their letters."""
        letters, length, _ = read(tokens)
        counts = letter_counts(letters, length)
        real = ((counts > 0).sum(1) == 3) & (counts.max(1) <= 9)
        three = np.sort(np.argsort(counts == 0, axis=1, kind="stable")[:, :3], axis=1)
        number = ((np.take_along_axis(counts, three, axis=1) - 1).clip(min=0) * np.array([81, 9, 1])).sum(1)
        triple = self._number_of[three[:, 0], three[:, 1], three[:, 2]]
        known: npt.NDArray[np.bool_] = real & (self._configurations[triple] == number[:, None]).any(1)
        return known

    @cached_property
    def _number_of(self) -> npt.NDArray[np.int64]:
        """The number of each triple by its letters, ``[26, 26, 26]``."""
        out = np.zeros((26, 26, 26), dtype=np.int64)
        out[tuple(self._triples.T)] = np.arange(len(self._triples))
        return out

    # -- the walk -----------------------------------------------------------------------------------------------------

    def log_prior(self, tokens: Ids) -> npt.NDArray[np.float64]:
        """Return log p(x) up to a constant: letters, counts (each of 1–9), query and order are drawn uniformly in turn.

        So an order of the letters has the probability 1 / multinomial(counts). The corpus holds 200 random ones of the 729
        count configurations of each triple; here all are inputs. −∞ for what is no counting input.
        """
        from scipy.special import gammaln

        letters, length, asked = read(tokens)
        counts = letter_counts(letters, length)
        three = ((counts > 0).sum(1) == 3) & (counts.max(1) <= 9) & (counts.sum(1) == length)
        real = three & (asked < 26) & (counts[np.arange(len(counts)), asked.clip(max=25)] > 0)
        same = (written(letters, length, np.where(real, asked, 0))[:, : tokens.shape[1]] == tokens).all(1)
        orders = gammaln(length + 1) - gammaln(counts + 1).sum(1)
        return np.where(real & same, -orders, -np.inf)

    @cached_property
    def log_total(self) -> float:
        """Each of C(26, 3) triples with 9³ count configurations and three query letters has orders that sum to 1."""
        return math.log(len(self._triples) * 9**3 * 3)

    def fresh(self, count: int, rng: np.random.Generator) -> Ids:
        """Draw inputs from that distribution."""
        triples = self._triples[rng.integers(len(self._triples), size=count)]
        counts = rng.integers(1, 10, size=(count, 3))
        ends, cells = counts.cumsum(1), np.arange(27)
        member = (cells[None, :, None] >= ends[:, None, :]).sum(2).clip(max=2)
        letters = np.take_along_axis(triples, member, axis=1)
        keys = np.where(cells[None] < ends[:, 2:], rng.random((count, 27)), 2.0)
        letters = np.take_along_axis(letters, np.argsort(keys, axis=1), axis=1)
        return written(letters, ends[:, 2], triples[np.arange(count), rng.integers(3, size=count)])

    @property
    def moves(self) -> tuple[Move, ...]:
        """Two letters swapped, one replaced, a stretch shuffled, one more or fewer, letters renamed, another asked, all new."""
        moves = {
            "swap": _swap, "replace": _replace, "shuffle": _shuffle, "resize": _resize, "rename": _rename,
            "exchange": _exchange, "ask": _ask,
        }  # fmt: skip
        return (*(Move(name, move) for name, move in moves.items()), Move("all", self._redraw))

    def _redraw(self, tokens: Ids, rng: np.random.Generator) -> Proposal:
        """Draw a new input: the proposal's ratio undoes the prior's."""
        new = self.fresh(len(tokens), rng)
        return Proposal(new, self.log_prior(tokens) - self.log_prior(new))

    # -- contrasts ----------------------------------------------------------------------------------------------------

    @property
    def answers(self) -> tuple[str, ...]:
        """The count."""
        return ("count",)

    def read_at(self, tokens: Ids, target: str) -> Ids:
        """Return the index of ``:``, which predicts the count."""
        return self.named_positions(tokens)[":"]

    @property
    def changes(self) -> tuple[str, ...]:
        """One letter of the string."""
        return ("string",)

    def changes_of(self, feature: str) -> tuple[str, ...]:
        """Return the string for the counts; the letters stay."""
        return self.changes if feature in ("count", "counts") else ()

    def contrast(self, tokens: Ids, changes: Sequence[str], rng: np.random.Generator) -> Proposal:
        """Replace one letter of the string by another of its three (Huang et al. 2024, section 3.1, activation patching)."""
        return _replace(tokens, rng)

    # -- positions and features ---------------------------------------------------------------------------------------

    def why_not(self, ids: Sequence[int]) -> str | None:
        """Return why a text is no counting input, as a clause."""
        parts = re.fullmatch(r"([a-z]+)\|([a-z]):([1-9]?)", "".join(TOKENS[i] for i in ids[1:] if i != self.eos))
        if parts is None:
            return "it is not of the form vvc|v:2"
        letters, asked, said = parts.groups()
        counts = Counter(letters)
        if len(counts) != 3:
            return f"a string holds three distinct letters, but this one {len(counts)}"
        if most := next((letter for letter, count in counts.items() if count > 9), None):
            return f"a letter occurs at most nine times, but {most} {counts[most]} times"
        if asked not in counts:
            return f"the letter that is asked for, {asked}, is not in the string"
        if str(counts[asked]) != said:
            return f"{asked} occurs {counts[asked]} times, " + (f"not {said}" if said else "and the count is missing")
        return None

    def named_positions(self, tokens: Ids) -> dict[str, Ids]:
        """Name the query character ``query``, the colon ``:`` and the last token before EOS ``END``."""
        bar = np.where((tokens == BAR)[:, :-1].any(1), (tokens == BAR).argmax(1) + 1, -1)  # a bar at the end asks for nothing
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
        letters, string_length, _ = read(tokens)
        counts = letter_counts(letters, string_length)
        count = np.take_along_axis(counts, asked.clip(max=25), axis=1)[:, 0]
        others = counts.copy()
        np.put_along_axis(others, asked.clip(max=25), 0, axis=1)
        second = 25 - (others[:, ::-1] > 0).argmax(1)
        first = (others > 0).argmax(1)
        each = np.arange(len(tokens))
        names = np.array(TOKENS)
        return {
            "letter": names[asked[:, 0]],
            "count": count,
            "length": string_length,
            "others": np.char.add(names[first], names[second]),
            "counts": others[each, first] * 10 + others[each, second],
        }

    @property
    def glossary(self) -> dict[str, str]:
        """What the features are called in a sentence."""
        return {
            "letter": "the letter that is asked for",
            "count": "how often it occurs",
            "length": "the length of the string",
            "others": "the other two letters",
            "counts": "how often these occur, in the order of the alphabet",
        }

    def said(self, feature: str, value: Any) -> str:
        """Return what is of two letters one by one."""
        return " and ".join(str(value)) if feature in ("others", "counts") else str(value)


def written(letters: Ids, length: Ids, asked: Ids) -> Ids:
    """Write inputs: their letters, ``[rows, 27]``, of which ``length`` count, and the letter asked for."""
    each, cells = np.arange(len(letters)), np.arange(27)
    inside = cells[None] < length[:, None]
    count = ((letters == asked[:, None]) & inside).sum(1)
    out = np.full((len(letters), 33), CountingInputs.pad, dtype=np.int64)
    out[:, 0] = CountingInputs.bos
    out[:, 1:28] = np.where(inside, letters, CountingInputs.pad)
    for offset, column in enumerate((BAR, asked, COLON, 25 + count, CountingInputs.eos)):
        out[each, 1 + length + offset] = column
    return out


def read(tokens: Ids) -> tuple[Ids, Ids, Ids]:
    """Return the letters of inputs (``[rows, 27]``, of which ``length`` count), that length, and the letter asked for."""
    length = ((tokens == BAR).argmax(1) - 1).clip(min=0, max=27)
    padded = np.pad(tokens, ((0, 0), (0, max(0, 33 - tokens.shape[1]))), constant_values=CountingInputs.pad)
    return padded[:, 1:28], length, padded[np.arange(len(tokens)), length + 2]


def letter_counts(letters: Ids, length: Ids) -> Ids:
    """Return how often each letter occurs, ``[rows, 26]``."""
    inside = (np.arange(27)[None] < length[:, None]) & (letters < 26)
    cells = np.arange(len(letters))[:, None] * 26 + letters
    return np.bincount(cells[inside], minlength=26 * len(letters)).reshape(-1, 26)


def _present(letters: Ids, length: Ids) -> npt.NDArray[np.bool_]:
    present: npt.NDArray[np.bool_] = letter_counts(letters, length) > 0
    return present


def _but(mask: npt.NDArray[np.bool_], column: Ids) -> npt.NDArray[np.bool_]:
    """Return ``mask`` without one column of each row."""
    out = mask.copy()
    out[np.arange(len(out)), column] = False
    return out


def _swap(tokens: Ids, rng: np.random.Generator) -> Proposal:
    """Swap the letters at two places."""
    letters, length, asked = read(tokens)
    new, each = letters.copy(), np.arange(len(letters))
    i, j = rng.integers(length), rng.integers(length)
    new[each, i], new[each, j] = letters[each, j], letters[each, i]
    return symmetric(written(new, length, asked))


def _replace(tokens: Ids, rng: np.random.Generator) -> Proposal:
    """Put another of the three letters in a place: two counts change. The three letters stay, so it is symmetric."""
    letters, length, asked = read(tokens)
    counts, each = letter_counts(letters, length), np.arange(len(letters))
    i = rng.integers(length)
    old = letters[each, i]
    chosen = pick(_but(counts > 0, old), rng)
    new = letters.copy()
    new[each, i] = chosen
    return symmetric(written(new, length, asked), (counts[each, old] > 1) & (counts[each, chosen] < 9))


def _shuffle(tokens: Ids, rng: np.random.Generator) -> Proposal:
    """Shuffle a stretch of the string."""
    letters, length, asked = read(tokens)
    cells = np.arange(27)[None]
    ends = np.sort(rng.integers(np.stack([length, length], axis=1)), axis=1)
    stretch = (cells >= ends[:, :1]) & (cells <= ends[:, 1:])
    keys = np.where(stretch, ends[:, :1] + rng.random(letters.shape) * (ends[:, 1:] - ends[:, :1]), cells)
    return symmetric(written(np.take_along_axis(letters, np.argsort(keys, axis=1, kind="stable"), axis=1), length, asked))


def _resize(tokens: Ids, rng: np.random.Generator) -> Proposal:
    """Put one of the three letters in somewhere, or take a letter out.

    Slot n + 1 and letter 3 lead in, place n + 1 leads out: log q(out) − log q(in) = log 3. A run of equal letters is entered
    and left by as many ways, so they cancel.
    """
    letters, length, asked = read(tokens)
    counts, each, cells = letter_counts(letters, length), np.arange(len(letters)), np.arange(27)[None]
    grow = rng.random(len(letters)) < 0.5
    slot = rng.integers(length + grow)  # n + 1 slots, or n letters
    chosen = pick(counts > 0, rng)
    gone = letters[each, slot.clip(max=26)]
    source = np.where(grow[:, None], cells - (cells > slot[:, None]), cells + (cells >= slot[:, None])).clip(max=26)
    new = np.take_along_axis(letters, source, axis=1)
    new[each[grow], slot[grow].clip(max=26)] = chosen[grow]
    possible = np.where(grow, counts[each, chosen] < 9, counts[each, gone.clip(max=25)] > 1)
    longer = np.where(possible, length + np.where(grow, 1, -1), length)
    return Proposal(written(new, longer, asked), np.where(possible, np.where(grow, np.log(3), -np.log(3)), -np.inf))


def _rename(tokens: Ids, rng: np.random.Generator) -> Proposal:
    """Write another letter, which does not occur, for one of the three, everywhere."""
    letters, length, asked = read(tokens)
    present = _present(letters, length)
    old, new = pick(present, rng), pick(~present, rng)
    return symmetric(
        written(np.where(letters == old[:, None], new[:, None], letters), length, np.where(asked == old, new, asked))
    )


def _exchange(tokens: Ids, rng: np.random.Generator) -> Proposal:
    """Let two of the three letters change places everywhere; the letter asked for stays."""
    letters, length, asked = read(tokens)
    present = _present(letters, length)
    a = pick(present, rng)
    b = pick(_but(present, a), rng)
    new = np.where(letters == a[:, None], b[:, None], np.where(letters == b[:, None], a[:, None], letters))
    return symmetric(written(new, length, asked))


def _ask(tokens: Ids, rng: np.random.Generator) -> Proposal:
    """Ask for another of the three letters."""
    letters, length, asked = read(tokens)
    return symmetric(written(letters, length, pick(_but(_present(letters, length), asked), rng)))

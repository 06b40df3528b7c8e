"""Inputs: tokenized sequences with named positions and feature values.

A study's inputs are either *generated* (an enumerable space, any row made on demand from its index) or *texts* kept in a
memory-mapped Arrow file, see ``texts.py``. Both answer the same questions: the tokens of given rows, which positions have a
name, which positions a decoder is trained on, and what the value of a feature is.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids, Split
from inversionview.core.errors import InputError
from inversionview.core.memory import check_memory
from inversionview.corpora.moves import Move, Proposal
from inversionview.corpora.naming import ALL
from inversionview.corpora.places import EveryToken, NamedPlaces, Placing

_MANY = 2**16
"""Of more inputs than so many it is asked whether they fit in memory."""


class Inputs(ABC):
    """Rows of token ids. Subclasses say how many there are, how to make them, and what their positions mean."""

    pad: int
    bos: int | None
    eos: int | None
    vocabulary: Sequence[str] = ()
    """The characters of a generated study, in the order of their ids."""
    max_length: int
    """Longest row in tokens, BOS and EOS included."""
    test_share: float = 0.25
    sampled: bool = True
    """The corpus is a sample of the inputs that there could be: a preimage in it is one of a preimage. Not where it is all."""
    redrawn: bool = False
    """Rows have a free part that another salt draws anew, so the corpus has no end."""
    every_token: bool = False
    """A bank holds every token as a place of its own, unless positions are named."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def tokens(self, rows: npt.NDArray[np.int64], salt: int = 0) -> Ids:
        """Return the token ids of ``rows``, ``[len(rows), max_length]``, padded on the right.

        ``salt`` draws again whatever a row leaves free (the order of the letters in counting); 0 is the row itself.
        """

    def named_positions(self, tokens: Ids) -> dict[str, Ids]:
        """Return for each named position its index in each row, ``[rows]``; −1 where a row lacks it."""
        return {"END": self.lengths(tokens) - 1 - (tokens == self.eos).any(1)}

    @cached_property
    def position_names(self) -> list[str]:
        """What named positions are called."""
        return list(self.named_positions(self.tokens(np.arange(1))))

    def placed(self, names: Sequence[str]) -> Placing:
        """Return where the places of these names are: a bank of them holds these in its rows; of ``all`` every token."""
        return EveryToken(self) if tuple(names) == (ALL,) else NamedPlaces(tuple(names), self)

    def occurring(self, tokens: Ids) -> npt.NDArray[np.bool_]:
        """Return which tokens are places where every one is, ``[row, pos]``: all but padding and EOS, as D has it; BOS is."""
        end = tokens == self.eos
        end[:, 0] = False
        mask: npt.NDArray[np.bool_] = (tokens != self.pad) & ~end
        return mask

    def occurrences(self, numbers: npt.NDArray[np.int64]) -> Ids:
        """Return how many such tokens the corpus' inputs of these numbers have."""
        found: Ids = self.occurring(self.corpus(numbers)).sum(1)
        return found

    default_positions: Sequence[str] = ()
    """Names of the positions that a decoder is trained on and a bank holds; by default all tokens, and all names but END."""

    def places(self, tokens: Ids) -> Ids:
        """Return which of the named positions each position is, ``[rows, positions]``, counted from 1; 0 where it has no name.

        A position of several names has the first one's number.
        """
        places = np.zeros_like(tokens)
        for number, at in reversed(list(enumerate(self.named_positions(tokens).values(), start=1))):
            rows = np.flatnonzero(at >= 0)
            places[rows, at[rows]] = number
        return places

    @cached_property
    def place_count(self) -> int:
        """How many kinds of position ``places`` tells apart."""
        return 1 + len(self.position_names)

    def trained_positions(self, tokens: Ids) -> npt.NDArray[np.bool_]:
        """Return which positions a decoder is trained on, ``[rows, max_length]``: by default all but EOS and padding."""
        if self.default_positions:
            named = self.named_positions(tokens)
            own = np.stack([named[name] for name in self.default_positions], axis=1)
            return (np.arange(tokens.shape[1]) == own[:, :, None]).any(1)
        mask: npt.NDArray[np.bool_] = (tokens != self.pad) & (tokens != self.eos)
        if self.bos is not None:
            mask[:, 0] = False
        return mask

    def in_corpus(self, tokens: Ids) -> npt.NDArray[np.bool_]:
        """Return which inputs of the study are in the corpus, whatever their free part, ``[rows]``: by default all of them."""
        return np.ones(len(tokens), dtype=bool)

    def why_not(self, ids: Sequence[int]) -> str | None:
        """Return why a text's ids, BOS and EOS included, are none of the inputs, as a clause; ``None`` where they are.

        ``None``, too, where any text is one.
        """
        return None

    def features(self, tokens: Ids) -> dict[str, npt.NDArray[Any]]:
        """Return for each feature its value in each row, ``[rows]``."""
        return {"length": self.lengths(tokens)}

    def features_at(self, tokens: Ids, positions: Ids) -> dict[str, npt.NDArray[Any]]:
        """Return for each feature its value in each row as it is read at a position, ``[rows]``: here the same at all."""
        return self.features(tokens)

    def example_features(self, count: int) -> dict[str, npt.NDArray[Any]]:
        """Return the features of a random sample of what is counted in the corpus, at most ``count``: here of inputs."""
        return self.features(self.corpus(np.arange(min(count, self.corpus_size or count))))

    @property
    def glossary(self) -> dict[str, str]:
        """What features are called in a sentence, where their names do not say it: ``{"C2": "the carry from the tens"}``."""
        return {}

    def said(self, feature: str, value: Any) -> str:
        """Return a value of a feature as a sentence says it."""
        return str(value)

    # -- contrasts ----------------------------------------------------------------------------------------------------

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of the answer tokens, those that the model must predict; none where a study declares none."""
        return ()

    def read_at(self, tokens: Ids, target: str) -> Ids:
        """Return the index of the position that predicts an answer in each row, ``[rows]``; negative where there is none.

        Raises:
            InputError: the study declares no answer of that name.
        """
        raise InputError("These inputs declare no answer: give pairs of an original and a contrast with their answers.")

    def answer_of(self, tokens: Ids, target: str) -> Ids:
        """Return the answer token of each row, ``[rows]``: the one that follows, where the inputs hold their answers."""
        return np.take_along_axis(tokens, self.read_at(tokens, target)[:, None] + 1, axis=1)[:, 0]

    def forms(self, answer: int) -> tuple[int, ...]:
        """Return the tokens that say the same as an answer token, itself among them: with and without a space before it."""
        return (answer,)

    @property
    def changes(self) -> tuple[str, ...]:
        """What a contrast may change, by name."""
        return ()

    @property
    def default_changes(self) -> tuple[str, ...]:
        """What a contrast changes where nothing is named; by default all that may be."""
        return self.changes

    def changes_of(self, feature: str) -> tuple[str, ...]:
        """Return which of the ``changes`` alter a feature; none where a contrast never does."""
        return self.changes

    def contrast(self, tokens: Ids, changes: Sequence[str], rng: np.random.Generator) -> Proposal:
        """Change each input at random, only in what ``changes`` names; the answer may by chance stay what it was.

        Raises:
            InputError: the study declares no contrasts.
        """
        raise InputError("These inputs declare no contrasts: give pairs of an original and a contrast with their answers.")

    # -- the walk -----------------------------------------------------------------------------------------------------

    @property
    def moves(self) -> tuple[Move, ...]:
        """Ways to change an input that keep it valid, for a walk; none where a study declares none."""
        return ()

    def log_prior(self, tokens: Ids) -> npt.NDArray[np.float64]:
        """Return log p(x) of each row under the distribution that the study draws from, up to a constant; −∞ for no input.

        Raises:
            InputError: the study declares none.
        """
        raise InputError("These inputs have no distribution of their own: walk under the model's, prior='model'.")

    @cached_property
    def log_total(self) -> float | None:
        """log Σ exp(``log_prior``) over all inputs, by which that becomes a probability; ``None`` where it is not known."""
        return None

    def fresh(self, count: int, rng: np.random.Generator) -> Ids:
        """Draw inputs from that distribution, independent of one another, ``[count, max_length]``.

        Raises:
            InputError: the study declares none.
        """
        raise InputError("These inputs have no distribution of their own: walk under the model's, prior='model'.")

    # -- rows ---------------------------------------------------------------------------------------------------------

    def lengths(self, tokens: Ids) -> Ids:
        """Return the number of tokens of each row, BOS and EOS included, padding not."""
        lengths: Ids = (tokens != self.pad).sum(1)
        return lengths

    @cached_property
    def _order(self) -> Ids:
        """A fixed shuffle of all rows; the split is a cut through it."""
        return np.random.default_rng(0).permutation(len(self))

    def split(self, name: Split) -> Ids:
        """Return the row numbers of the train or the test split (disjoint, the same in every run)."""
        cut = len(self) - round(len(self) * self.test_share)
        return self._order[:cut] if name == "train" else self._order[cut:]

    def draw(self, count: int, *, split: Split, seed: Sequence[int], fresh: bool = False) -> Ids:
        """Draw ``count`` rows of a split at random and return their tokens, ``[count, max_length]``.

        With ``fresh`` the rows' free part is drawn anew, so that repeated draws do not repeat inputs.

        Raises:
            SettingError: so many do not fit in memory.
        """
        if count > _MANY:
            check_memory(count, "inputs", 8 * 6 * self.max_length)
        rng = np.random.default_rng(list(seed))
        rows = self.split(split)
        rows = rows[rng.integers(len(rows), size=count)]
        return self.tokens(rows, salt=int(rng.integers(1, 2**31)) if fresh else 0)

    @property
    def corpus_size(self) -> int | None:
        """How many inputs the corpus has; ``None`` where it has no end."""
        return None if self.redrawn else len(self)

    def corpus(self, numbers: npt.NDArray[np.int64]) -> Ids:
        """Return the tokens of the corpus' inputs of these numbers, ``[len(numbers), max_length]``.

        The corpus is all rows in a fixed random order, so its first n are a random sample; where rows have a free part, it
        goes on with every row drawn anew.
        """
        laps, places = np.divmod(numbers, len(self))
        out = np.empty((len(numbers), self.max_length), dtype=np.int64)
        for lap in np.unique(laps):
            out[laps == lap] = self.tokens(self._order[places[laps == lap]], salt=int(lap))
        return out

    @cached_property
    def fingerprint(self) -> str:
        """What tells this corpus from another: SHA-256 over its size and 4,096 of its inputs, 16 hexadecimal digits."""
        count = min(len(self), 4096)
        sample = self.corpus(np.linspace(0, len(self) - 1, count).astype(np.int64))
        return _digest(f"{len(self)} {self.redrawn}".encode(), sample.tobytes())

    def stream(self, batch: int, *, split: Split, seed: int, start: int = 0) -> Iterator[Ids]:
        """Yield fresh batches ``[batch, max_length]`` without end; batch ``start`` onwards, the same in every run."""
        step = start
        while True:
            yield self.draw(batch, split=split, seed=(seed, step), fresh=True)
            step += 1


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

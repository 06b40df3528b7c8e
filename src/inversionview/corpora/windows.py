"""Windows of natural text: a text is cut every so many tokens, and each token of a window is an occurrence that can be found.

An occurrence is (window, position), BOS and padding never. In a causal model an activation depends on the tokens up to its own
alone, so occurrences with the same prefix are one; see ``places.EveryOccurrence``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from inversionview.core.arrays import Ids, Split
from inversionview.core.errors import InputError, SettingError
from inversionview.core.integrity import read_sealed, reason, sealed
from inversionview.core.ranges import whole
from inversionview.core.storage import write_json
from inversionview.corpora.encoding import in_memory, longest, on_disk, placed_error
from inversionview.corpora.kept import KeptInputs, numbers, open_kept
from inversionview.corpora.naming import ALL
from inversionview.corpora.places import EveryOccurrence, Placing
from inversionview.corpora.token_features import FEATURES, Windows, label_all
from inversionview.model.backend import Shape
from inversionview.model.tokens import Vocabulary, fingerprint
from inversionview.records.texts import left_out

CONTEXT = 128
"""Tokens of a window at most, BOS counted."""
ABOUT = "windows.json"
_AT_ONCE = 1 << 20
"""Characters that are tokenized at once; a longer text is cut before a space."""


class About(BaseModel):
    """What the windows were cut from; kept beside them."""

    model_config = ConfigDict(extra="forbid")

    source: str
    """As it was named."""
    texts: int = Field(ge=1)
    context: int = Field(ge=2)
    licence: str = ""
    share: float = 1.0
    """Of the source's texts, so many were taken, by lot."""
    tokenizer: str = ""
    """What tells in whose tokens they are; see ``model.tokens.fingerprint``."""


class WindowInputs(KeptInputs):
    """Windows of texts, in a fixed random order; every token but BOS is a place of its own.

    Attributes:
        about: what they were cut from.
        front: what each begins with: BOS, or nothing.
        folder: where they are kept; ``None`` in memory.
        read_by: the vocabulary.
    """

    every_token = True
    test_share = 0.05

    def __init__(self, table: Any, vocabulary: Vocabulary, about: About, folder: Path | None = None) -> None:
        super().__init__(table, vocabulary, longest(table))
        self.about, self.front, self.folder, self.read_by = about, vocabulary.front, folder, vocabulary

    @cached_property
    def _counts(self) -> Ids:
        """Occurrences of each window, ``[window]``, in the order of the corpus."""
        chunks = self.table.column("tokens").chunks
        lengths = np.concatenate([numbers(chunk.value_lengths()) for chunk in chunks]).astype(np.int64)
        return lengths[self._order] - len(self.front) - 1

    def occurrences(self, numbers: npt.NDArray[np.int64]) -> Ids:
        """Return how many occurrences the windows of these numbers have."""
        return self._counts[numbers]

    def occurring(self, tokens: Ids) -> npt.NDArray[np.bool_]:
        """Return which tokens are occurrences, ``[row, pos]``: not what stands before a text, nor EOS, nor padding."""
        mask: npt.NDArray[np.bool_] = (tokens != self.pad) & (tokens != self.eos)
        mask[:, : len(self.front)] = False
        return mask

    def placed(self, names: Sequence[str]) -> Placing:
        """Return where the places of these names are; of ``all`` every occurrence is one of its own."""
        return EveryOccurrence(self) if tuple(names) == (ALL,) else super().placed(names)

    def features_at(self, tokens: Ids, positions: Ids) -> dict[str, npt.NDArray[Any]]:
        """Return for each of ``token_features.FEATURES`` its value where each window is read, as people see it, ``[rows]``."""
        windows, rows = Windows(tokens, self.read_by), np.arange(len(tokens))
        return {each.name: label_all(each, each.codes(windows)[rows, positions], self.read_by) for each in FEATURES}

    def example_features(self, count: int) -> dict[str, npt.NDArray[Any]]:
        """Return the features of the corpus' first occurrences, which are a random sample."""
        tokens = self.corpus(np.arange(min(len(self), self.windows_of(count))))
        windows, there = Windows(tokens, self.read_by), self.occurring(tokens)
        return {each.name: label_all(each, each.codes(windows)[there][:count], self.read_by) for each in FEATURES}

    def windows_of(self, occurrences: int) -> int:
        """Return how many of the first windows hold so many occurrences, or all windows where they hold fewer."""
        found = int(np.searchsorted(self._counts.cumsum(), occurrences)) + 1
        return min(found, len(self))

    @property
    def glossary(self) -> dict[str, str]:
        """What the features of occurrences are called in a sentence."""
        return {each.name: each.meaning for each in FEATURES}

    def split(self, name: Split) -> Ids:
        """Return the windows of a split: the last of the fixed order are for tests; of very few all are for either."""
        found = super().split(name)
        return found if len(found) else self._order

    def trained_positions(self, tokens: Ids) -> npt.NDArray[np.bool_]:
        """Return which tokens may be asked for at random: every occurrence."""
        return self.occurring(tokens)

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> WindowInputs:
        """Open windows that were kept, memory-mapped.

        Raises:
            InputError: there are none, or they are damaged.
        """
        table, _ = open_kept(folder, vocabulary, "make them anew")
        try:
            about = About.model_validate(read_sealed(folder / ABOUT))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder / ABOUT} is damaged ({reason(error)}): delete {folder}, and make it anew.") from error
        if about.tokenizer not in ("", fingerprint(vocabulary)):
            raise InputError(
                f"The windows in {folder} are in the tokens of another tokenizer than this model's: make a corpus for it, with "
                f"--model and --texts {about.source}."
            )
        return cls(table, vocabulary, about, folder)

    @classmethod
    def cut(
        cls,
        texts: Iterable[str],
        vocabulary: Vocabulary,
        *,
        context: int = CONTEXT,
        source: str = "texts",
        licence: str = "",
        share: float = 1.0,
        folder: Path | None = None,
    ) -> WindowInputs:
        """Cut texts into windows and keep them as an Arrow dataset; texts that cannot be encoded are left out.

        Args:
            texts: read once, and not held in memory.
            vocabulary: in whose tokens.
            context: tokens of a window at most, BOS counted; see ``check_context``.
            source: what they are called.
            licence: theirs.
            share: of the source's texts, so many are these.
            folder: they are written there and memory-mapped; without, they stay in memory.

        Warns:
            LeftOut: texts are left out; how many, and where the first stands.

        Raises:
            InputError: none is left.
        """
        counted = _Counted(vocabulary, context)
        rows = counted.windows(texts)
        table = in_memory(rows) if folder is None else on_disk(rows, folder)
        about = About(source=source, texts=counted.texts, context=context, licence=licence, share=share)
        return cls._described(table, vocabulary, about, folder)

    @classmethod
    def keep(
        cls, rows: Iterable[list[list[int]]], vocabulary: Vocabulary, about: About, folder: Path | None = None
    ) -> WindowInputs:
        """Keep windows that are tokens already, in their frame; see ``cut``."""
        return cls._described(in_memory(rows) if folder is None else on_disk(rows, folder), vocabulary, about, folder)

    @classmethod
    def _described(cls, table: Any, vocabulary: Vocabulary, about: About, folder: Path | None) -> WindowInputs:
        about = about.model_copy(update={"tokenizer": fingerprint(vocabulary)})
        if folder is not None:
            write_json(folder / ABOUT, sealed(about.model_dump()))
        return cls(table, vocabulary, about, folder)


def check_context(context: int | None, vocabulary: Vocabulary, shape: Shape) -> int:
    """Return how many tokens windows have at most: ``context``, by default 128 or as many as the model can be run on.

    Raises:
        SettingError: the model cannot be run on so many, or no token of text would be left.
    """
    most = min(shape.max_length, shape.steady or shape.max_length)
    if context is None:
        return min(CONTEXT, most)
    whole(context, "--context", least=len(vocabulary.front) + 1)
    if context > most:
        why = "the model reads" if most == shape.max_length else "its activations do not depend on how long the text is up to"
        raise SettingError(f"--context is {context:,}, {why} {most:,} tokens: choose at most {most:,}.")
    return context


class _Counted:
    """Cuts texts, and counts them."""

    def __init__(self, vocabulary: Vocabulary, context: int) -> None:
        self.vocabulary, self.room = vocabulary, context - len(vocabulary.front)
        self.texts = self.failed = 0
        self._example: InputError | None = None

    def windows(self, texts: Iterable[str]) -> Iterator[list[list[int]]]:
        """Yield windows in their frame, some at once; say at the end what was left out."""
        for batch in _batches(texts):
            self.texts += sum(first for first, _ in batch)
            rows: list[list[int]] = []
            for (_, piece), ids in zip(batch, self.vocabulary.encode_many([piece for _, piece in batch]), strict=True):
                if isinstance(ids, InputError):
                    self.failed += 1
                    self._example = self._example or placed_error(piece, ids)
                else:
                    rows += self._cut(ids[len(self.vocabulary.front) : -1])
            if rows:
                yield rows
        if self._example is not None:
            many = "1 text is" if self.failed == 1 else f"{self.failed:,} texts are"
            left_out(f"{many} left out, which the tokenizer cannot encode; the first is {self._example}")
        if self.texts == self.failed:
            raise self._example or InputError("There is no text in the corpus: every line is empty.")

    def _cut(self, body: Sequence[int]) -> Iterator[list[int]]:
        """Yield the windows of a text; where it holds EOS itself, another text begins."""
        v = self.vocabulary
        yield from ([*v.front, *ids, v.eos] for ids in cut(body, self.room, lambda number: number == v.eos))


def cut(body: Sequence[int], room: int, ends: Callable[[int], bool]) -> Iterator[list[int]]:
    """Yield what a text's tokens are cut into, at most ``room`` each; one that ``ends`` a text is left out."""
    for end, part in groupby(body, key=ends):
        if not end:
            ids = list(part)
            yield from (ids[i : i + room] for i in range(0, len(ids), room))


def _batches(texts: Iterable[str]) -> Iterator[list[tuple[bool, str]]]:
    """Yield texts, empty ones left out and long ones cut before a space; with each whether it begins one."""
    batch: list[tuple[bool, str]] = []
    size = 0
    for text in texts:
        if not text.strip():
            continue
        for number, piece in enumerate(_pieces(text)):
            batch.append((number == 0, piece))
            size += len(piece)
            if size >= _AT_ONCE:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> Iterator[str]:
    """Yield a text, where it is long in pieces that begin with a space."""
    if len(text) <= _AT_ONCE:
        yield text
        return
    start = 0
    while start < len(text):
        stop = len(text) if len(text) - start <= _AT_ONCE else text.rfind(" ", start + 1, start + _AT_ONCE)
        stop = stop if stop > start else start + _AT_ONCE
        if text[start:stop].strip():
            yield text[start:stop]
        start = stop

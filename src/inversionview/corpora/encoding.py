"""From texts to a corpus: tokenized some at a time, each once, straight to Arrow; what is held in memory hardly grows."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from inversionview.core.errors import InputError
from inversionview.core.integrity import seal_folder
from inversionview.corpora.kept import mapped, numbers
from inversionview.model.tokens import Vocabulary
from inversionview.records.texts import Text, left_out

_TEXTS, _CHARACTERS = 1024, 1 << 20
"""So many texts, or characters, are tokenized at once."""
_LONG = 1000
"""Characters of a token, at most, where a long text is cut before it is tokenized."""


class _Seen:
    """Which rows have come already, by 64 bits of each: sorted arrays, merged as they grow, 8 bytes a row."""

    def __init__(self) -> None:
        self._sorted: list[npt.NDArray[np.uint64]] = []

    def new(self, marks: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the places of those that have not come before, in order, and remember them."""
        unique, first = np.unique(marks, return_index=True)
        fresh = np.ones(len(unique), dtype=np.bool_)
        for known in self._sorted:
            fresh &= known[np.searchsorted(known, unique).clip(max=len(known) - 1)] != unique
        if fresh.any():
            self._sorted.append(unique[fresh])
        while len(self._sorted) > 1 and len(self._sorted[-2]) <= 2 * len(self._sorted[-1]):
            self._sorted[-2:] = [np.sort(np.concatenate(self._sorted[-2:]))]
        return np.sort(first[fresh])


def encoded(texts: Iterable[str], vocabulary: Vocabulary, max_length: int, leave_out: bool) -> Iterator[list[list[int]]]:
    """Yield rows of ids, some at once, each row once; see ``TextInputs.tokenize``."""
    seen = _Seen()
    count = failed = 0
    example: InputError | None = None
    for batch in _batches(texts, max_length):
        rows = []
        for text, ids in zip(batch, vocabulary.encode_many(batch, max_length), strict=True):
            if not isinstance(ids, InputError):
                rows.append(ids)
                continue
            failed += 1
            example = example or placed_error(text, ids)
            if not leave_out:
                raise example
        marks = [xxhash.xxh3_64_intdigest(np.array(row, dtype=np.int32).tobytes()) for row in rows]
        new = seen.new(np.array(marks, dtype=np.uint64))
        count += len(new)
        if len(new):
            yield [rows[place] for place in new]
    if not count:
        raise example or InputError("There is no text in the corpus: every line is empty.")
    if example is not None:
        many = "1 text is" if failed == 1 else f"{failed:,} texts are"
        left_out(f"{many} left out, which the tokenizer cannot encode; the first is {example}")


def placed_error(text: str, error: InputError) -> InputError:
    """Return the error with where the text stands, if that is known."""
    return InputError(f"{text.place}: {error}") if isinstance(text, Text) else error


def _batches(texts: Iterable[str], max_length: int) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if not text.strip():
            continue
        batch.append(_cut(text, _LONG * max_length))
        size += len(batch[-1])
        if len(batch) == _TEXTS or size > _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _cut(text: str, most: int) -> str:
    """Return a text that is far too long up to a space: a book on one line need not be tokenized whole for its beginning."""
    if len(text) <= most:
        return text
    end = text.rfind(" ", 0, most)
    cut = text[: end if end > 0 else most]
    return Text.at(cut, text.place) if isinstance(text, Text) else cut


def in_memory(rows: Iterable[list[list[int]]]) -> Any:
    """Return rows as an Arrow table in memory."""
    import pyarrow as pa

    return pa.Table.from_batches(_arrow(rows))


def on_disk(rows: Iterable[list[list[int]]], folder: Path) -> Any:
    """Write rows as a dataset to a folder and return its table, memory-mapped."""
    import datasets
    import pyarrow as pa

    batches = _arrow(rows)
    first, written = next(batches), folder / "rows" / "rows.arrow"  # a dataset may not be saved where its own file is
    written.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(written), "wb") as file, pa.ipc.new_stream(file, first.schema) as stream:
        for batch in chain([first], batches):
            stream.write(batch)
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    datasets.Dataset.from_file(str(written)).save_to_disk(str(folder))
    if not quiet:
        datasets.enable_progress_bars()
    shutil.rmtree(written.parent)
    seal_folder(folder, (".arrow", ".json"))
    return mapped(folder)


def _arrow(rows: Iterable[list[list[int]]]) -> Iterator[Any]:
    import pyarrow as pa

    for some in rows:
        yield pa.record_batch([pa.array(some, pa.list_(pa.int32()))], ["tokens"])


def longest(table: Any) -> int:
    """Return the length of the longest row of an Arrow table."""
    chunks = table.column("tokens").chunks
    return max((int(numbers(chunk.value_lengths()).max(initial=0)) for chunk in chunks), default=0)

"""Inputs that were tokenized once into an Arrow file, which is memory-mapped, not loaded, and checked as it is opened."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError
from inversionview.core.integrity import check_folder, reason
from inversionview.corpora.inputs import Inputs
from inversionview.model.tokens import Vocabulary


class KeptInputs(Inputs):
    """Rows of an Arrow table's column ``tokens``, each in its frame: BOS, where texts are run with one, to EOS."""

    def __init__(self, table: Any, vocabulary: Vocabulary, max_length: int) -> None:
        self.table = table
        self.pad, self.bos, self.eos = vocabulary.pad, vocabulary.bos, vocabulary.eos
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def fingerprint(self) -> str:
        """What tells this corpus from another: SHA-256 over all its tokens, 16 hexadecimal digits."""
        mark = hashlib.sha256()
        for chunk in self.table.column("tokens").chunks:
            mark.update(numbers(chunk.value_lengths()).tobytes())
        for chunk in self.table.column("tokens").chunks:
            mark.update(numbers(chunk.flatten()).astype(np.int64).tobytes())
        return mark.hexdigest()[:16]

    def tokens(self, rows: npt.NDArray[np.int64], salt: int = 0) -> Ids:
        """Return the token ids of ``rows``; a text has no free part, so ``salt`` changes nothing."""
        out = np.full((len(rows), self.max_length), self.pad, dtype=np.int64)
        if len(rows):
            import pyarrow as pa

            index = pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows.astype(np.int64))])
            taken = self.table.column("tokens").take(index).combine_chunks()
            out[np.arange(self.max_length) < numbers(taken.value_lengths())[:, None]] = numbers(taken.flatten())
        return out


def open_kept(folder: Path, vocabulary: Vocabulary, way_out: str) -> tuple[Any, int]:
    """Open a corpus folder, memory-mapped; return its table, and how long the longest row is.

    Raises:
        InputError: there is none, or it is damaged; ``way_out`` ends the sentence.
    """
    if not folder.is_dir():
        raise InputError(f"There is no corpus in {folder}: {way_out}.")
    try:
        check_folder(folder)
        table = mapped(folder)
        return table, _check_tokens(table, vocabulary)
    except Exception as error:  # those of Arrow and of the system share no base
        raise InputError(f"The corpus in {folder} is damaged ({reason(error)}): delete it and {way_out}.") from error


def mapped(folder: Path) -> Any:
    """Return the Arrow table of a dataset that ``datasets`` saved in a folder, memory-mapped: importing that takes a second."""
    import pyarrow as pa

    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    files = [folder / each["filename"] for each in state["_data_files"]]
    return pa.concat_tables([pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files])


def numbers(array: Any) -> npt.NDArray[Any]:
    """Return an Arrow array of numbers as numpy's, not copied; Arrow's own ``to_numpy`` imports pandas."""
    return np.from_dlpack(array)


def _check_tokens(table: Any, vocabulary: Vocabulary) -> int:
    """Return how long the longest input of an Arrow table is.

    Raises:
        ValueError: they are no inputs in this vocabulary.
    """
    table.validate(full=True)
    longest = 0
    for chunk in table.column("tokens").chunks:  # a large corpus is not copied whole
        lengths, ids = numbers(chunk.value_lengths()), numbers(chunk.flatten())
        if not len(lengths):
            continue
        if int(lengths.min()) < 1 or len(ids) != int(lengths.sum()):
            raise ValueError("an input is empty")
        most = int(ids.max())
        if int(ids.min()) < 0 or (most != vocabulary.eos and vocabulary.tokenizer.id_to_token(min(most, 2**31)) is None):
            raise ValueError("it holds tokens that the vocabulary does not")
        longest = max(longest, int(lengths.max()))
    if not longest:
        raise ValueError("there is no input")
    return longest

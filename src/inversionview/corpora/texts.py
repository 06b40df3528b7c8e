"""Texts of the user's own as inputs: tokenized once into an Arrow file, which is memory-mapped and checked as it is opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError
from inversionview.core.integrity import check_folder, reason
from inversionview.corpora.encoding import encoded, in_memory, longest, on_disk
from inversionview.corpora.inputs import Inputs
from inversionview.model.tokens import Vocabulary


class TextInputs(Inputs):
    """Texts of the user's own, tokenized once into an Arrow file that is memory-mapped, not loaded."""

    def __init__(self, dataset: Any, vocabulary: Vocabulary, max_length: int, test_share: float = 0.05) -> None:
        self.dataset = dataset
        self.pad, self.bos, self.eos = vocabulary.pad, vocabulary.bos, vocabulary.eos
        self.max_length = max_length
        self.test_share = test_share
        if len(self.split("test")) == 0 or len(self.split("train")) == 0:
            raise InputError(f"{len(dataset)} texts are too few to train and to test on: give at least 40.")

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def fingerprint(self) -> str:
        """What tells this corpus from another: SHA-256 over all its tokens, 16 hexadecimal digits."""
        mark = hashlib.sha256()
        for chunk in self.dataset.data.column("tokens").chunks:
            mark.update(chunk.value_lengths().to_numpy().tobytes())
        for chunk in self.dataset.data.column("tokens").chunks:
            mark.update(chunk.flatten().to_numpy().astype(np.int64).tobytes())
        return mark.hexdigest()[:16]

    def tokens(self, rows: npt.NDArray[np.int64], salt: int = 0) -> Ids:
        """Return the token ids of ``rows``; a text has no free part, so ``salt`` changes nothing."""
        out = np.full((len(rows), self.max_length), self.pad, dtype=np.int64)
        if len(rows):
            taken = self.dataset.data.column("tokens").take(rows).combine_chunks()
            out[np.arange(self.max_length) < taken.value_lengths().to_numpy()[:, None]] = taken.flatten().to_numpy()
        return out

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> TextInputs:
        """Open the corpus that a run keeps, memory-mapped.

        Raises:
            InputError: there is none, or it is damaged.
        """
        from datasets import Dataset

        if not folder.is_dir():
            raise InputError(f"There is no corpus in {folder}: train the run again.")
        try:
            check_folder(folder)
            dataset = Dataset.load_from_disk(str(folder))
            length = _check_tokens(dataset.data, vocabulary)
        except Exception as error:  # those of datasets and of Arrow share no base
            raise InputError(
                f"The corpus in {folder} is damaged ({reason(error)}): delete it and train the run again."
            ) from error
        return cls(dataset, vocabulary, length)

    @classmethod
    def tokenize(
        cls,
        texts: Iterable[str],
        tokenizer: Any,
        max_length: int = 64,
        folder: str | Path | None = None,
        *,
        leave_out: bool = False,
    ) -> TextInputs:
        """Tokenize ``texts`` (BOS and EOS added, cut at ``max_length`` tokens) and keep them as an Arrow dataset.

        Args:
            texts: each once, however often they come; they are not held in memory.
            tokenizer: a ``Vocabulary`` or a fast Hugging Face tokenizer.
            max_length: in tokens, BOS and EOS included.
            folder: the dataset is written there and memory-mapped; without, it stays in memory.
            leave_out: texts that cannot be encoded are left out, unless none can.

        Warns:
            LeftOut: texts are left out; how many, and where the first stands.

        Raises:
            InputError: a text cannot be encoded; none is left after empty ones are dropped; or they are too few to train and
                to test on.
        """
        vocabulary = tokenizer if isinstance(tokenizer, Vocabulary) else Vocabulary.from_transformers(tokenizer)
        rows = encoded(texts, vocabulary, max_length, leave_out)
        dataset = in_memory(rows) if folder is None else on_disk(rows, Path(folder))
        return cls(dataset, vocabulary, longest(dataset))


def _check_tokens(table: Any, vocabulary: Vocabulary) -> int:
    """Return how long the longest input of an Arrow table is.

    Raises:
        ValueError: they are no inputs in this vocabulary.
    """
    table.validate(full=True)
    longest = 0
    for chunk in table.column("tokens").chunks:  # a large corpus is not copied whole
        lengths, ids = chunk.value_lengths().to_numpy(), chunk.flatten().to_numpy()
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


def begun_before(run: Path, vocabulary: Vocabulary) -> bool:
    """Return whether a run is of a version that put a BOS before texts of which the tokenizer has none, so that it stays."""
    if vocabulary.front or vocabulary.former is None:
        return False
    try:
        if (run / "corpus").is_dir():
            from datasets import Dataset

            rows = Dataset.load_from_disk(str(run / "corpus"))[:8]["tokens"]
            return all(row[0] == vocabulary.former for row in rows)
        return "unread" not in json.loads((run / "decoder" / "config.json").read_text(encoding="utf-8"))
    except Exception:  # what is damaged is told where it is read
        return False

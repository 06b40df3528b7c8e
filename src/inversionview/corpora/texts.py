"""Texts of the user's own as inputs, each whole or its beginning: what a run is trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from inversionview.core.errors import InputError
from inversionview.corpora.encoding import encoded, in_memory, longest, on_disk
from inversionview.corpora.kept import KeptInputs, open_kept
from inversionview.model.tokens import Vocabulary


class TextInputs(KeptInputs):
    """Texts of the user's own, each an input, tokenized once into an Arrow file that is memory-mapped, not loaded."""

    def __init__(self, table: Any, vocabulary: Vocabulary, max_length: int, test_share: float = 0.05) -> None:
        super().__init__(table, vocabulary, max_length)
        self.test_share = test_share
        if len(self.split("test")) == 0 or len(self.split("train")) == 0:
            raise InputError(f"{len(table)} texts are too few to train and to test on: give at least 40.")

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> TextInputs:
        """Open the corpus that a run keeps, memory-mapped.

        Raises:
            InputError: there is none, or it is damaged.
        """
        table, length = open_kept(folder, vocabulary, "train the run again")
        return cls(table, vocabulary, length)

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
        table = in_memory(rows) if folder is None else on_disk(rows, Path(folder))
        return cls(table, vocabulary, longest(table))


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

"""Text to token ids and back, with BOS and EOS always present and a padding id that no real token shares.

Works on the Rust ``tokenizers`` object directly, so that reading a shipped study need not import transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from inversionview.errors import InputError, WeightsError


class Vocabulary:
    """A tokenizer with its special tokens resolved.

    Where a model has no BOS its EOS takes that part; where it has no padding token of its own (or pads with EOS, or with the
    token for unknown words), ``pad`` is one past the model's vocabulary, an id that only masks ever see.
    """

    def __init__(
        self, tokenizer: Tokenizer, bos: str | None, eos: str | None, pad: str | None, unknown: str | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        ends = [token for token in (bos, eos) if token is not None]
        if not ends:
            raise WeightsError("The tokenizer names neither a BOS nor an EOS token: set bos_token in its configuration.")
        self.bos: int = self._id(ends[0])
        self.eos: int = self._id(ends[-1])
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        shared = (bos, eos, unknown, getattr(tokenizer.model, "unk_token", None))
        self.pad: int = self.size if pad is None or pad in shared else self._id(pad)
        self.embedded: int | None = None
        """So many ids a model embeds, which may be fewer; ``None``: no model has said."""

    def _id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise WeightsError(f"The tokenizer's special token {token!r} is not in its vocabulary.")
        return int(number)

    @cached_property
    def tokens(self) -> list[str]:
        """The text of every token, ``[size]``, as the tokenizer prints it."""
        return [self._text(number) for number in range(self.size)]

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids that are no text: BOS, EOS, padding and the tokenizer's other special tokens."""
        added = self.tokenizer.get_added_tokens_decoder().items()
        return frozenset({self.bos, self.eos, self.pad, *(number for number, token in added if token.special)})

    def _text(self, number: int) -> str:
        text = self.tokenizer.decode([number], skip_special_tokens=False)
        return text if text and "�" not in text else (self.tokenizer.id_to_token(number) or "")

    def encode(self, text: str, truncate: int | None = None) -> list[int]:
        """Return the ids of ``text`` between BOS and EOS; a BOS or EOS that the text itself carries is not doubled.

        Args:
            text: what to encode.
            truncate: at most this many tokens, BOS and EOS counted; ``None`` for all.

        Raises:
            InputError: the text is empty, or holds a character that the vocabulary lacks.
        """
        if not text.strip():
            raise InputError("The text is empty: give the input whose activation you want to read.")
        try:
            ids = list(self.tokenizer.encode(text, add_special_tokens=False).ids)
        except Exception as error:  # tokenizers raises bare Exception where there is no token for the unknown
            if half := next((c for c in text if "\ud800" <= c <= "\udfff"), None):
                raise InputError(
                    f"The text {_short(text)} holds {half!r}, half of a character: write it whole or leave it out."
                ) from error
            lacking = next((c for c in text if not self._knows(c)), text)
            raise InputError(f"The tokenizer cannot encode {lacking!r} in {_short(text)}: its vocabulary lacks it.") from error
        return self._framed(text, ids, truncate)

    def encode_many(self, texts: Sequence[str], truncate: int | None = None) -> list[list[int] | InputError]:
        """Return what ``encode`` gives of each text, or the error that it raises; of many texts in parallel."""
        try:
            found = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        except Exception:  # of one of them, but it is not said of which
            return [_or_error(self.encode, text, truncate) for text in texts]
        return [_or_error(self._framed, text, ids, truncate) for text, ids in zip(texts, found, strict=True)]

    def _framed(self, text: str, ids: list[int], truncate: int | None) -> list[int]:
        """Return the ids of a text between BOS and EOS."""
        if truncate is not None and truncate < 3:
            raise InputError(f"A text must be allowed at least 3 tokens with BOS and EOS, but is cut at {truncate}.")
        if self.pad in ids:
            raise InputError(f"The text {_short(text)} holds the padding token: leave it out.")
        body = ids[int(ids[:1] == [self.bos]) :]
        body = body[: len(body) - int(body[-1:] == [self.eos])]
        if not body:
            raise InputError(f"The text {_short(text)} holds no token but BOS and EOS: give an input to read.")
        if truncate is not None:
            body = body[: truncate - 2]
        ids = [self.bos, *body, self.eos]
        if self.embedded is not None and max(ids) >= self.embedded:
            beyond = max(ids)
            raise InputError(
                f"The tokenizer's token {self.tokenizer.id_to_token(beyond)!r} has the id {beyond}, but the model embeds "
                f"{self.embedded} tokens: leave it out of {_short(text)}, or give the model its own tokenizer."
            )
        return ids

    def _knows(self, character: str) -> bool:
        try:
            self.tokenizer.encode(character, add_special_tokens=False)
        except Exception:
            return False
        return True

    def single(self, text: str) -> int | None:
        """Return the token that a text is, ``None`` where it is none, several, or one that stands for no text."""
        try:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception:  # tokenizers raises bare Exception where there is no token for the unknown
            return None
        return ids[0] if len(ids) == 1 and ids[0] not in self.special else None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids`` without special tokens."""
        special = {self.bos, self.eos, self.pad}
        text: str = self.tokenizer.decode([i for i in ids if i not in special], skip_special_tokens=False)
        return text

    def strings(self, ids: Sequence[int]) -> list[str]:
        """Return each id's own text, special tokens as the tokenizer prints them."""
        return [self._text(i) for i in ids]

    @classmethod
    def from_folder(cls, folder: Path) -> Vocabulary:
        """Read ``tokenizer.json`` and ``tokenizer_config.json`` of a Hugging Face directory.

        Raises:
            WeightsError: the files are missing or not a tokenizer.
        """
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            if not isinstance(config, dict):
                raise ValueError("tokenizer_config.json is not an object")
        except Exception as error:  # tokenizers raises bare Exception
            raise WeightsError(f"{folder} holds no readable tokenizer ({error}).") from error

        def name(key: str) -> str | None:
            value: Any = config.get(key)
            return value.get("content") if isinstance(value, dict) else value

        return cls(tokenizer, name("bos_token"), name("eos_token"), name("pad_token"), name("unk_token"))

    @classmethod
    def from_transformers(cls, tokenizer: Any) -> Vocabulary:
        """Wrap a fast Hugging Face tokenizer.

        Raises:
            WeightsError: the tokenizer is not a fast one.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise WeightsError(f"{type(tokenizer).__name__} is not a fast tokenizer: a tokenizer.json is needed.")
        copy = Tokenizer.from_str(backend.to_str())
        return cls(copy, tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)


def _short(text: str) -> str:
    return repr(text) if len(text) <= 100 else f"{text[:100]!r}…"


def _or_error(encode: Callable[..., list[int]], *given: Any) -> list[int] | InputError:
    try:
        return encode(*given)
    except InputError as error:
        return error


def character_tokenizer(tokens: Sequence[str]) -> Any:
    """Return a ``PreTrainedTokenizerFast`` with one token per character, in this order; B is BOS, E is EOS, P is padding.

    Its ids are the places in ``tokens``, so that checkpoints trained on that vocabulary load.
    """
    from transformers import PreTrainedTokenizerFast

    bos, eos, pad = "B", "E", "P"
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, tokens.index(bos)), (eos, tokens.index(eos))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad)

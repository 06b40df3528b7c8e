"""Text to token ids and back, framed as the model's own tokenizer frames it, with a padding id that no real token shares.

Works on the Rust ``tokenizers`` object directly, so that reading a shipped study need not import transformers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from inversionview.core.errors import InputError, WeightsError
from inversionview.model.chat_template import ChatTemplate
from inversionview.model.framing import bos_stated, frame_of, plain_tokenizer, unprefixed
from inversionview.model.pieces import Pieces, own_decoder

_EMPTY = "The text is empty: give the input whose activation you want to read."

_CONTROL = re.compile(r"<\|[^|]*\|>|<[A-Za-z]+(_[A-Za-z0-9]+)+>|<unused\d+>|\[[A-Z_]{3,}\]")
"""What tokens are called that steer a model: ``<|im_start|>``, ``<start_of_turn>``, ``<unused7>``, ``[MASK]``."""


class Vocabulary:
    """A tokenizer with its special tokens resolved, and what a text is run with.

    **Before the text** stands what the tokenizer itself puts there (the post-processor of Llama's adds ``<s>``). Where it puts
    no special token anywhere but names a BOS, that BOS, as TransformerLens has it (GPT-2's ``<|endoftext|>``); unless its
    ``tokenizer_config.json`` says ``"add_bos_token": false`` and BOS is not EOS too, the token that stood between documents in
    training. Where it names none (Qwen's), nothing: ``bos`` is ``None``, and the text's first token is the first of all.

    **After the text** stands EOS, which marks its end for decoders and is never read. Where the tokenizer names none, BOS, its
    padding or another special token takes that part; where it has none of these, ``eos`` is an id that the model never sees.

    Where it has no padding token of its own (or pads with EOS, or with the token for unknown words), ``pad`` is one past the
    vocabulary, an id that only masks ever see.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        bos: str | None,
        eos: str | None,
        pad: str | None,
        unknown: str | None = None,
        *,
        adds_bos: bool | None = None,
    ) -> None:
        """Resolve the special tokens of ``tokenizer``; ``adds_bos``: what its configuration says of BOS, if anything."""
        self.tokenizer = tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        if getattr(tokenizer.model, "dropout", None) is not None:  # merges left out by chance, for training
            tokenizer.model.dropout = None
        if tokenizer.decoder is None and (own := own_decoder(tokenizer)) is not None:
            self.tokenizer.decoder = own
        self.pieces = Pieces(tokenizer)
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        before, after = frame_of(tokenizer)
        if not before and not after and bos is not None and (adds_bos is not False or bos == eos):
            before = (self._id(bos),)
        self.named_bos = bos is not None
        self.front: tuple[int, ...] = before
        """What stands before a text: BOS, or nothing; of few tokenizers more."""
        named = [self._id(token) for token in (eos, bos) if token is not None] + [*after[:1], *before[:1]]
        self.former: int | None = None if not (bos or eos) else self._id(bos or eos or "")
        """What earlier versions put before every text, whatever the tokenizer does."""
        unknowns = {unknown, getattr(tokenizer.model, "unk_token", None)}
        self.eos: int = named[0] if named else self._end(pad, unknowns)
        own_pad = None if pad is None or pad in unknowns else self._id(pad)
        beyond = max(self.size, self.eos + 1)
        self.pad: int = beyond if own_pad is None or own_pad in {self.eos, *named} else own_pad
        self.chat: ChatTemplate | None = None
        """What makes a text of messages; ``None``: its tokenizer has no template."""
        self.embedded: int | None = None
        """So many ids a model embeds, which may be fewer; ``None``: no model has said."""

    @property
    def bos(self) -> int | None:
        """The first token of every input; ``None`` where inputs begin with their text."""
        return self.front[0] if self.front else None

    def begin(self, number: int) -> None:
        """Put a token before every text, as a run of an earlier version did; its inputs have it."""
        self.front = (number,)

    @property
    def ended(self) -> bool:
        """Whether EOS is a token of the tokenizer; else it is an id that the model never sees."""
        return self.eos < self.size

    def _id(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise WeightsError(f"The tokenizer's special token {token!r} is not in its vocabulary.")
        return int(number)

    def _end(self, pad: str | None, unknowns: set[Any]) -> int:
        """Return what marks the end of a text where neither BOS nor EOS is named: special, but not for unknown words."""
        if pad is not None and pad not in unknowns:
            return self._id(pad)
        added = sorted(self.tokenizer.get_added_tokens_decoder().items())
        return next((i for i, token in added if token.special and token.content not in unknowns), self.size)

    @property
    def tokens(self) -> list[str]:
        """The label of every token, ``[size]``; see ``strings``."""
        return self.pieces.labels

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids that are no text: what frames it, padding and the tokenizer's other special tokens."""
        added = self.tokenizer.get_added_tokens_decoder().items()
        return frozenset({*self.front, self.eos, self.pad, *(number for number, token in added if token.special)})

    def encode(self, text: str, truncate: int | None = None) -> list[int]:
        """Return the ids of ``text`` in its frame, ``[*front, …, eos]``; what of that the text itself carries is not doubled.

        Args:
            text: what to encode.
            truncate: at most this many tokens, the frame counted; ``None`` for all.

        Raises:
            InputError: the text is empty, or holds a character that the vocabulary lacks.
        """
        try:
            ids = list(self.tokenizer.encode(text, add_special_tokens=False).ids)
        except Exception as error:  # tokenizers raises bare Exception where there is no token for the unknown
            raise _explained(self.tokenizer, text) from error
        return self._framed(text, ids, truncate)

    def encode_many(self, texts: Sequence[str], truncate: int | None = None) -> list[list[int] | InputError]:
        """Return what ``encode`` gives of each text, or the error that it raises; of many texts in parallel."""
        try:
            found = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        except Exception:  # of one of them, but it is not said of which
            return [_or_error(self.encode, text, truncate) for text in texts]
        return [_or_error(self._framed, text, ids, truncate) for text, ids in zip(texts, found, strict=True)]

    def _framed(self, text: str, ids: list[int], truncate: int | None) -> list[int]:
        """Return the ids of a text in its frame."""
        if not text.strip():
            raise InputError(_EMPTY)
        frame = len(self.front) + 1
        if truncate is not None and truncate <= frame:
            raise InputError(
                f"A text must be allowed at least {frame + 1} tokens, {frame} of them its frame, but is cut at {truncate}."
            )
        if self.pad in ids:
            raise InputError(f"The text {_short(text)} holds the padding token: leave it out.")
        body = self._bare(ids)
        if not body:
            raise InputError(f"The text {_short(text)} holds no token but BOS and EOS: give an input to read.")
        if truncate is not None:
            body = body[: truncate - frame]
        ids = [*self.front, *body]
        self._check_embedded(text, [*ids, self.eos] if self.ended else ids)
        return [*ids, self.eos]

    def _check_embedded(self, text: str, ids: Sequence[int]) -> None:
        if self.embedded is not None and max(ids, default=0) >= self.embedded:
            beyond = max(ids)
            raise InputError(
                f"The tokenizer's token {self.tokenizer.id_to_token(beyond)!r} has the id {beyond}, but the model embeds "
                f"{self.embedded} tokens: leave it out of {_short(text)}, or give the model its own tokenizer."
            )

    def _bare(self, ids: Sequence[int]) -> list[int]:
        """Return ids without the frame, where they have it."""
        begun = len(self.front) if tuple(ids[: len(self.front)]) == self.front else 0
        body = list(ids[begun:])
        return body[: len(body) - int(body[-1:] == [self.eos])]

    def continued(self, text: str) -> list[int]:
        """Return the ids of a text that goes on after another: spaces count, and none is put before it.

        Raises:
            InputError: it holds a character that the vocabulary lacks, or a token that the model does.
        """
        try:
            ids = list(self._unprefixed.encode(text, add_special_tokens=False).ids)
        except Exception as error:  # tokenizers raises bare Exception where there is no token for the unknown
            raise _explained(self.tokenizer, text) from error
        self._check_embedded(text, ids)
        return ids

    @cached_property
    def _unprefixed(self) -> Tokenizer:
        return unprefixed(self.tokenizer)

    def single(self, text: str) -> int | None:
        """Return the token that a text is as it goes on after another, so that ``" Mary"`` is told from ``"Mary"``.

        ``None`` where it is none, several, or one that stands for no text.
        """
        try:
            ids = self.continued(text)
        except InputError:
            return None
        return ids[0] if len(ids) == 1 and ids[0] not in self.special else None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids`` without its frame and padding, decoded as a whole: split characters are joined."""
        body = [i for i in self._bare([i for i in ids if i != self.pad]) if i < self.size]
        text: str = self.pieces.text(body) if self.pieces.bytewise else self.tokenizer.decode(body, skip_special_tokens=False)
        return text

    def strings(self, ids: Sequence[int]) -> list[str]:
        """Return each id's label: its text with its spaces, printable, another for every token; see ``Pieces.labels``."""
        return [self._label(i) for i in ids]

    def _label(self, number: int) -> str:
        if number < self.size:
            return self.pieces.labels[number]
        return "⟨EOS⟩" if number == self.eos else f"⟨#{number}⟩"

    def called(self, number: int) -> frozenset[str]:
        """Return what a token may be called: its label or its text, with the spaces around it or without."""
        content = self.pieces.content(number)
        text = content if isinstance(content, str) else content.decode("utf-8", "ignore")
        whole = isinstance(content, str) or text.encode() == content
        names = {self._label(number), *([text] if whole else [])}
        return frozenset(names | {name.strip() for name in names})

    @property
    def run_as(self) -> str | None:
        """Return the sentence that says so where texts are run without a BOS; ``None`` where they have one."""
        if self.front:
            return None
        why = "says that it adds none" if self.named_bos else "names none"
        return f"Texts are run without a BOS: the model's tokenizer {why}."

    @classmethod
    def from_folder(cls, folder: Path, trust_remote_code: bool = False) -> Vocabulary:
        """Read the tokenizer of a Hugging Face directory, as ``AutoTokenizer`` reads it.

        Args:
            folder: where its files lie.
            trust_remote_code: run Python code that comes with them.

        Raises:
            WeightsError: the files are missing or not a tokenizer.
        """
        plain = plain_tokenizer(folder)
        if plain is None:
            from inversionview.model.loading import load_tokenizer

            return cls.from_transformers(load_tokenizer(str(folder), trust_remote_code=trust_remote_code))
        tokenizer, named = plain
        made = cls(tokenizer, *(named.get(f"{each}_token") for each in ("bos", "eos", "pad", "unk")))
        made.chat = ChatTemplate.in_folder(folder, named)
        return made

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
        copy.encode_special_tokens = backend.encode_special_tokens  # of what is not written down
        names = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
        made = cls(copy, *names, adds_bos=bos_stated(tokenizer))
        made.chat = ChatTemplate.of(tokenizer)
        return made


def fingerprint(vocabulary: Vocabulary) -> str:
    """Return what tells a vocabulary, and how it frames texts, from another: 16 hexadecimal digits."""
    told = f"{vocabulary.tokenizer.to_str()} {vocabulary.front} {vocabulary.eos} {vocabulary.pad}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _explained(tokenizer: Tokenizer, text: str) -> InputError:
    """Return the error that says why a text cannot be encoded."""
    if not text.strip():
        return InputError(_EMPTY)
    if half := next((c for c in text if "\ud800" <= c <= "\udfff"), None):
        return InputError(f"The text {_short(text)} holds {half!r}, half of a character: write it whole or leave it out.")
    lacking = next((c for c in text if not _knows(tokenizer, c)), text)
    return InputError(f"The tokenizer cannot encode {lacking!r} in {_short(text)}: its vocabulary lacks it.")


def _knows(tokenizer: Tokenizer, character: str) -> bool:
    try:
        tokenizer.encode(character, add_special_tokens=False)
    except Exception:
        return False
    return True


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


def control(vocabulary: Vocabulary) -> frozenset[int]:
    """Return the ids that nobody writes: special tokens, and those called like some, such as ``<start_of_image>``.

    GGUF files may state these as plain text. Tags as ``<h2>``, and runs of spaces or lines, are text.
    """
    added = vocabulary.tokenizer.get_added_tokens_decoder().items()
    return vocabulary.special | {number for number, token in added if _CONTROL.fullmatch(token.content)}

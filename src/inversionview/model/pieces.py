"""What a single token stands for: text, or bytes that are only part of a character; and the label that it is shown by.

A tokenizer writes its tokens in an alphabet of its own: ``Ġsat`` and ``▁sat`` are " sat", ``çĮ«`` are the bytes of 猫, and
``<0xE7>`` is one byte. Its decoder says how these are read, and is followed here for one token at a time, spaces kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer, decoders

Component = dict[str, Any]
"""A part of a tokenizer as its JSON describes it."""
_SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
_TAKEN = frozenset("⟨�" + "".join(_SIGNS.values()))
"""Characters that mean something else in labels, so they are shown by their bytes."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """Return which byte each of the 256 characters of byte-level tokenizers stands for (Radford et al. 2019).

    Bytes that are visible in Latin-1 stand for themselves; the others, in ascending order, are the characters from 256 on.
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(256)) - set(seen))
    return {chr(b): b for b in seen} | {chr(256 + i): b for i, b in enumerate(hidden)}


@lru_cache(maxsize=1)
def _to_latin() -> dict[int, str]:
    """Return for ``str.translate`` the Latin-1 character of each byte; what stands for none becomes no Latin-1 at all."""
    known = byte_alphabet()
    return dict.fromkeys(range(256), "\uffff") | {ord(c): chr(b) for c, b in known.items()}


def described(part: Any) -> Component | None:
    """Return a component of a tokenizer, such as its decoder, as JSON; ``None`` where it has none."""
    return None if part is None else json.loads(part.__getstate__())


def parts_of(component: Component | None) -> list[Component]:
    """Return the single steps of a component, in order; sequences are laid open."""
    if component is None:
        return []
    inner = next(
        (component[name] for name in ("decoders", "pretokenizers", "normalizers", "processors") if name in component), None
    )
    return [component] if inner is None else [step for each in inner for step in parts_of(each)]


_PARTING = {"Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit"}
"""Pre-tokenizers after which no token holds a space."""


def own_decoder(tokenizer: Tokenizer) -> Any:
    """Return a tokenizer's decoder or, where it has none, the one that undoes how it writes spaces and bytes.

    ``None`` where tokens are words that are joined by spaces.
    """
    if tokenizer.decoder is not None:
        return tokenizer.decoder
    before = parts_of(described(tokenizer.pre_tokenizer))
    for step in before:
        if step["type"] == "ByteLevel":
            return decoders.ByteLevel()
        if step["type"] == "Metaspace":
            return decoders.Metaspace(step["replacement"], step.get("prepend_scheme", "always"))
    steps = parts_of(described(tokenizer.normalizer))
    if any(step["type"] == "Replace" and step["content"] == "▁" for step in steps):
        first = [decoders.Strip(" ", 1, 0)] if any(step["type"] == "Prepend" for step in steps) else []
        return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *first])
    parted = any(step["type"] in _PARTING or step.get("behavior") == "Removed" for step in before)
    return None if parted else decoders.Fuse()


def label(content: str | bytes) -> str:
    """Return text or bytes in printable characters, others for any other content of its kind.

    Line break, tab and carriage return are ⏎, ⇥ and ␍; bytes that are no whole character, and characters that cannot be seen,
    are ⟨e7 8c⟩; so are those that mean something here, ⟨ itself among them.
    """
    text = content if isinstance(content, str) else content.decode("utf-8", "surrogateescape")
    if text.isprintable() and _TAKEN.isdisjoint(text):
        return text
    out = []
    for kind, some in groupby(text, key=lambda c: 1 if c in _SIGNS else 2 if c.isprintable() and c not in _TAKEN else 3):
        run = "".join(some)
        out.append(in_hex(run.encode("utf-8", "surrogateescape")) if kind == 3 else "".join(_SIGNS.get(c, c) for c in run))
    return "".join(out)


def in_hex(content: bytes) -> str:
    """Return bytes as labels show them: ⟨e7 8c⟩."""
    return f"⟨{content.hex(' ')}⟩"


class Pieces:
    """What every token of a tokenizer stands for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._steps = parts_of(described(tokenizer.decoder)) or [{"type": "Words"}]
        added = tokenizer.get_added_tokens_decoder().items()
        self._added = {number: token.content for number, token in added}
        self._special = {number for number, token in added if token.special}
        self.bytewise = [step["type"] for step in self._steps] == ["ByteLevel"]
        """Every token is bytes, and a text is theirs joined."""
        self._falls_back = any(step["type"] == "ByteFallback" for step in self._steps)

    def content(self, number: int) -> str | bytes:
        """Return what a token adds to a text, spaces kept: text, or bytes where it may be part of a character."""
        content: str | bytes = self._added.get(number) or self.tokenizer.id_to_token(number) or ""
        for step in self._steps:
            if isinstance(content, str):
                content = _undone(content, step, number in self._added, number in self._special)
        return content

    def text(self, numbers: Iterable[int]) -> str:
        """Return the text that tokens of a byte-level tokenizer are together."""
        contents = (self.content(number) for number in numbers)
        return b"".join(c if isinstance(c, bytes) else c.encode() for c in contents).decode("utf-8", "replace")

    @cached_property
    def labels(self) -> list[str]:
        """A printable label of each token, no two alike, ``[size]``.

        ``label`` gives different contents different labels. Single bytes of SentencePiece's are in ⟨⟩ (but for line breaks and
        the like), so that ⟨41⟩ is told from A; where two tokens have the same content still, the later carries its id, as in
        ``the⟨#41⟩``.
        """
        out, taken = [], set()
        for number in range(self.tokenizer.get_vocab_size(with_added_tokens=True)):
            content = self.content(number)
            bare = self._falls_back and isinstance(content, bytes) and not self._is_sign(content)
            one = in_hex(content) if bare and isinstance(content, bytes) else label(content)
            if one in taken or (not one and self.tokenizer.id_to_token(number) is None):
                one = f"{one}⟨#{number}⟩"
            taken.add(one)
            out.append(one)
        return out

    def _is_sign(self, byte: bytes) -> bool:
        """Return whether a byte is a line break or the like, which no token has as its text."""
        return chr(byte[0]) in _SIGNS and self.tokenizer.token_to_id(chr(byte[0])) is None


def _undone(text: str, step: Component, added: bool, special: bool) -> str | bytes:
    """Return what one step of a decoder makes of one token, in the middle of others."""
    kind = step["type"]
    if kind == "ByteLevel" and not added:
        try:
            return text.translate(_to_latin()).encode("latin-1")
        except UnicodeEncodeError:  # not in that alphabet
            return text.encode()
    if kind == "ByteFallback" and (byte := _BYTE.fullmatch(text)):
        return bytes.fromhex(byte[1])
    if kind == "Metaspace":
        return text.replace(step["replacement"], " ")
    if kind == "BPEDecoder" and step["suffix"] and text.endswith(step["suffix"]):
        return text[: -len(step["suffix"])] + " "
    if kind == "Words" and not special:
        return f" {text}"
    if kind == "WordPiece" and not special:
        return text.removeprefix(step["prefix"]) if text.startswith(step["prefix"]) else f" {text}"
    if kind == "Replace" and "String" in step["pattern"]:
        return text.replace(step["pattern"]["String"], step["content"])
    return text

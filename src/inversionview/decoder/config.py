"""What fixes a decoder, ``DecoderConfig``: its sizes, its tokens, the model and the sites that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from inversionview.core.errors import SettingError

Tuning = Literal["frozen", "lora", "full"]
_RANGES = {
    "d_model": (1, 2**17), "vocabulary": (1, 2**22), "max_length": (2, 2**17), "layers": (1, 2**10), "heads": (1, 2**12),
    "width": (1, 2**16), "pathway": (1, 2**16), "rank": (1, 2**17), "cells": (1, 2**12), "blocks": (0, 2**10),
    "hidden": (1, 2**20), "occurrences": (0, 2**17), "lora": (1, 2**16), "prefix": (0, 2**17),
}  # fmt: skip
"""Sizes from which to which a decoder is thinkable; whether memory holds one of them is another question."""


@dataclass(frozen=True)
class DecoderConfig:
    """Everything that fixes a decoder's shape and meaning; written to ``config.json``.

    Raises:
        SettingError: a size is out of range, or they do not go together.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    sites: tuple[str, ...]
    """Short names of the sites it decodes; one decoder serves all of them."""
    d_model: int
    """Numbers of z: the probed model's width, or as many as the longest vector of its sites has."""
    vocabulary: int
    """Token ids run below this (the probed model's, and one more where padding has no id of its own)."""
    max_length: int
    """Longest sequence in tokens, BOS and EOS included."""
    bos: int
    """What its sequences begin with."""
    eos: int
    pad: int
    fingerprint: str = ""
    """Of the probed model's weights: a decoder belongs to one model."""
    model: str = ""
    """Where the probed model came from, for messages."""
    layers: int = 3
    heads: int = 4
    width: int = 96
    pathway: int = 128
    """Width of the residual MLP blocks that z runs through."""
    rank: int = 64
    """Principal directions of a site within which z is whitened."""
    cells: int = 16
    """Clusters of a site's activations, each with a whitening and an entrance of its own."""
    blocks: int = 3
    hidden: int = 512
    """Inner width of these blocks."""
    occurrences: int = 10
    """Tokens carry how often they have occurred so far, up to this number; 0 switches it off."""
    tokens: tuple[int, ...] = ()
    """The ids that it writes, ascending, BOS and EOS among them: those of its corpus, where the vocabulary is large. Inside,
    a token is its place here. Empty: the whole vocabulary."""

    shares: tuple[float, ...] = ()
    """For each of ``tokens`` the share of the corpus' inputs that hold it."""
    positions: tuple[str, ...] = ()
    """The named positions it was trained at; empty: all that ``Inputs.trained_positions`` allows."""
    base: str = ""
    """Of a pretrained decoder: path or hub name of its causal LM; then ``layers``, ``heads`` and ``width`` say nothing."""
    tuning: Tuning = "frozen"
    """What of that LM is trained: nothing, adapters of low rank, or all of it."""
    lora: int = 16
    """Rank of these adapters (Hu et al. 2021)."""
    unread: bool = False
    """The probed model's inputs have no BOS: that of the decoder's sequences is its own, and no input has it."""
    prefix: int = 0
    """It writes what precedes: texts of at most so many of the model's tokens, front counted, that end where the activation is
    read; 0: whole inputs."""
    backwards: bool = False
    """It writes a text's last token first."""
    respelled: bool = False
    """What is none of ``tokens`` it spells by the pieces that it was merged from; see ``spelling``."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """Configuration of an LM that was fully trained, whose weights are the decoder's own."""

    def __post_init__(self) -> None:
        for name in ("sites", "tokens", "shares", "positions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise SettingError(f"A decoder's {name} must be from {least} to {most:,}, but is {getattr(self, name)}.")
        if not self.sites or len(set(self.sites)) < len(self.sites):
            raise SettingError("A decoder needs sites, each of them once.")
        for name, most in (("bos", self.vocabulary - 1), ("eos", self.vocabulary - 1), ("pad", self.vocabulary)):
            if not 0 <= getattr(self, name) <= most:
                raise SettingError(f"A decoder's {name} must be a token from 0 to {most}, but is {getattr(self, name)}.")
        if self.width % self.heads:
            raise SettingError(f"A width of {self.width} does not divide into {self.heads} heads: choose a multiple.")
        if self.shares and len(self.shares) != len(self.tokens):
            raise SettingError("A decoder's shares must be one for each of its tokens.")
        if not all(0 <= share <= 1 for share in self.shares):
            raise SettingError("A decoder's shares must be from 0 to 1.")
        if self.tokens and not self._tokens_in_order():
            raise SettingError("A decoder's tokens must be ids of the vocabulary in ascending order, BOS and EOS among them.")

    def _tokens_in_order(self) -> bool:
        ascending = all(a < b for a, b in pairwise(self.tokens)) and self.tokens[0] >= 0
        return ascending and self.tokens[-1] < self.vocabulary and {self.bos, self.eos} <= set(self.tokens)

    @property
    def input_length(self) -> int:
        """Longest input in tokens, as the probed model reads it."""
        return self.max_length - int(self.unread)

    @property
    def size(self) -> int:
        """How many tokens it writes."""
        return len(self.tokens) or self.vocabulary

    def place(self, token: int) -> int | None:
        """Return the decoder's own id of a token, ``None`` where it has none."""
        if not self.tokens:
            return token if token < self.vocabulary else None
        return self.tokens.index(token) if token in self.tokens else None

    @property
    def banned(self) -> list[int]:
        """Own ids that are never drawn after the first place: BOS and padding, unless they are EOS."""
        own = [self.place(token) for token in sorted({self.bos, self.pad} - {self.eos})]
        return [token for token in own if token is not None]

"""How a decoder writes the probed model's tokens where not as they are: rare ones in pieces, texts backwards.

A byte-level BPE has merged every token from two others, down to single bytes. A token that a decoder's vocabulary lacks is
spelt by what it was merged from, as far down as needed, so that some thousand pieces spell any text. What is drawn may be
spelt in pieces that the tokenizer would have merged: its text is tokenized again, as the model would be given it, before it
is measured. Pieces that are no text together, as half a character, stay as they were drawn.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError
from inversionview.corpora.inputs import Inputs
from inversionview.decoder.config import DecoderConfig
from inversionview.model.pieces import byte_alphabet
from inversionview.model.tokens import Vocabulary

PIECES = 8192
"""The most frequent tokens of a corpus, which a decoder writes as they are."""
_AT_ONCE = 2**14
Merges = Mapping[int, tuple[int, int]]
"""For each token the two that it is merged from."""


class Spelling:
    """See the module's text.

    Args:
        config: the decoder's.
        vocabulary: the probed model's.
    """

    def __init__(self, config: DecoderConfig, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.config, self.given = vocabulary, config, len(vocabulary.front)
        self._parts = _spelt_parts(config, merges_of(vocabulary)) if config.respelled else None

    def spelt(self, tokens: Ids) -> Ids:
        """Return inputs, ``[row, pos]``, as the decoder writes them, ``[row, input_length]``: cut where they are longer."""
        return self._written(tokens)[0]

    def written(self, tokens: Int[Tensor, "row pos"]) -> tuple[Int[Tensor, "row piece"], Int[Tensor, "row piece"]]:
        """Return the same of tensors, and for each piece which token it is of; at padding 0."""
        pieces, owner = self._written(tokens.cpu().numpy())
        return torch.from_numpy(pieces).to(tokens.device), torch.from_numpy(owner).to(tokens.device)

    def read(self, pieces: Int[Tensor, "row piece"]) -> Int[Tensor, "row piece"]:
        """Return what was written as the model reads it, padded on the right."""
        rows, length = pieces.cpu().numpy(), self._lengths(pieces.cpu().numpy())
        if self.config.backwards:
            rows = np.take_along_axis(rows, self._order(rows, length), axis=1)
        if self._parts is not None:
            rows = np.stack([self._merged(row, int(size)) for row, size in zip(rows, length, strict=True)])
        return torch.from_numpy(rows).to(pieces.device)

    def _written(self, tokens: Ids) -> tuple[Ids, Ids]:
        length = self._lengths(tokens)
        order = (
            self._order(tokens, length) if self.config.backwards else np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        )
        tokens = np.take_along_axis(tokens, order, axis=1)
        real = np.arange(tokens.shape[1]) < length[:, None]
        row, owner, ids = np.nonzero(real)[0], order[real], tokens[real]
        if self._parts is not None:
            parts, starts = self._parts
            first, count = starts[ids], np.diff(starts)[ids]
            which = np.repeat(np.arange(len(ids)), count)
            nth = np.arange(len(which)) - np.repeat(count.cumsum() - count, count)
            if self.config.backwards:
                nth = count[which] - 1 - nth
            row, owner, ids = row[which], owner[which], parts[first[which] + nth]
        width = self.config.input_length
        place = np.arange(len(ids)) - np.searchsorted(row, np.arange(len(tokens)))[row]
        kept = place < width
        out, owners = np.full((len(tokens), width), self.config.pad), np.zeros((len(tokens), width), dtype=np.int64)
        out[row[kept], place[kept]], owners[row[kept], place[kept]] = ids[kept], owner[kept]
        return out, owners

    def _lengths(self, tokens: Ids) -> Ids:
        found: Ids = (tokens != self.config.pad).sum(1)
        return found

    def _order(self, tokens: Ids, length: Ids) -> Ids:
        """Return which token stands where when texts are turned round; front, EOS and padding stay."""
        at = np.arange(tokens.shape[1])[None]
        ended = np.take_along_axis(tokens, length[:, None].clip(min=1) - 1, axis=1) == self.config.eos
        stop = np.where(ended, length[:, None] - 1, length[:, None])
        return np.where((at >= self.given) & (at < stop), stop - 1 - (at - self.given), at)

    def _merged(self, row: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
        """Return a row of pieces as the tokenizer writes its text."""
        ended = int(length > self.given and row[length - 1] == self.config.eos)
        body = row[self.given : length - ended].tolist()
        contents = (self.vocabulary.pieces.content(piece) for piece in body)
        try:
            text = b"".join(c if isinstance(c, bytes) else c.encode() for c in contents).decode()
            ids = self.vocabulary.continued(text)
        except (UnicodeDecodeError, InputError):
            return row
        out = np.full_like(row, self.config.pad)
        whole = [*row[: self.given].tolist(), *ids, *row[length - ended : length].tolist()]
        if len(whole) > len(row) or not ids or not self.vocabulary.special.isdisjoint(ids):
            return row
        out[: len(whole)] = whole
        return out


def _spelt_parts(config: DecoderConfig, merges: Merges) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the pieces of all tokens one after the other, and where those of each begin, ``[vocabulary + 2]``."""
    known = set(config.tokens)
    parts = [spelt_by(merges, known, token) for token in range(config.vocabulary + 1)]
    starts = np.cumsum([0, *map(len, parts)])
    return np.concatenate([np.array(part) for part in parts]), starts


def spelt_by(merges: Merges, known: Collection[int], token: int) -> list[int]:
    """Return the pieces of a token: itself where it is ``known``, or was not merged."""
    if token in known or token not in merges:
        return [token]
    first, second = merges[token]
    return spelt_by(merges, known, first) + spelt_by(merges, known, second)


def merges_of(vocabulary: Vocabulary) -> Merges:
    """Return the two tokens that each is merged from; none where the tokenizer is no byte-level BPE."""
    model = json.loads(vocabulary.tokenizer.to_str())["model"]
    if not vocabulary.pieces.bytewise or model.get("type") != "BPE":
        return {}
    number, found = model["vocab"], dict[int, tuple[int, int]]()
    for merge in model["merges"]:
        first, second = merge.split(" ") if isinstance(merge, str) else merge
        found.setdefault(number[first + second], (number[first], number[second]))
    return found


def pieces_of(inputs: Inputs, vocabulary: Vocabulary) -> tuple[int, ...]:
    """Return a vocabulary that spells all of a corpus: its ``PIECES`` most frequent tokens, bytes, and what no merge makes.

    Returns:
        ids, ascending, front and EOS among them; nothing where tokens cannot be spelt in pieces, or are no more than that.
    """
    merges, counts = merges_of(vocabulary), _counts(inputs)
    occurring = np.flatnonzero(counts)
    if not merges or len(occurring) <= PIECES:
        return ()
    frequent = occurring[np.argsort(-counts[occurring], kind="stable")[:PIECES]]
    single = (vocabulary.tokenizer.token_to_id(character) for character in byte_alphabet())
    unmerged = [token for token in occurring.tolist() if token not in merges]
    known = {
        *frequent.tolist(),
        *(token for token in single if token is not None),
        *unmerged,
        *vocabulary.front,
        vocabulary.eos,
    }
    return tuple(sorted(known - ({vocabulary.pad} - {vocabulary.eos, *vocabulary.front})))


def _counts(inputs: Inputs) -> npt.NDArray[np.int64]:
    counts = np.zeros(0, dtype=np.int64)
    for start in range(0, len(inputs), _AT_ONCE):
        found = np.bincount(inputs.corpus(np.arange(start, min(start + _AT_ONCE, len(inputs)))).ravel())
        counts = np.pad(counts, (0, max(0, len(found) - len(counts))))
        counts[: len(found)] += found
    if inputs.pad < len(counts):
        counts[inputs.pad] = 0
    return counts


def longest_spelt(inputs: Inputs, vocabulary: Vocabulary, tokens: Sequence[int], most: int) -> int:
    """Return how many pieces 999 of 1,000 texts of at most ``most`` tokens have at most, front and EOS counted."""
    merges, known = merges_of(vocabulary), set(tokens)
    rows = inputs.corpus(np.arange(min(len(inputs), _AT_ONCE)))[:, : most + 1]
    ids, which = np.unique(rows, return_inverse=True)
    size = np.array([0 if token == inputs.pad else len(spelt_by(merges, known, token)) for token in ids.tolist()])
    return int(np.quantile(size[which].reshape(rows.shape).sum(1), 0.999)) + 1

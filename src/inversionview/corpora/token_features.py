"""Features that an occurrence has in any language: its token, those before it, how far back the same one stands, and the like.

Each is a pure function of windows of tokens, for all of their tokens at once. ``FEATURES`` lists them: another one is an entry
there. A feature's values are small whole numbers, ``codes``, and each code has a label, which is what people see.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Int

from inversionview.core.arrays import Ids
from inversionview.model.tokens import Vocabulary

Grid = Int[np.ndarray, "row pos"]
Marked = Bool[np.ndarray, "row pos"]
NONE = -1
"""The code of a token that is not there: before the first, behind the last, or never seen before."""
_NOTHING = "(none)"
POSITIONS = (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 257, 513, 1025)
"""Where classes of positions begin: two for each doubling."""
DISTANCES = (1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 513, 1025)
"""Where classes of distances begin: one for each doubling."""
_MARKS = ("none", *'.,;:?!"“”()[]-–—…')
_ENDS = ".!?…。！？"
_AROUND = re.compile(r"[\s\"”’'\)\]}»“‘(\[{«]*\Z")
"""What may stand between two sentences, at the end of a text."""


class Windows:
    """Windows as features look at them.

    Attributes:
        tokens: ``[row, pos]``, framed and padded on the right.
        vocabulary: of the tokens.
    """

    def __init__(self, tokens: Ids, vocabulary: Vocabulary) -> None:
        self.tokens, self.vocabulary = tokens, vocabulary

    @cached_property
    def inside(self) -> Marked:
        """Which tokens are text: not what stands before it, nor EOS, nor padding."""
        mask: Marked = (self.tokens != self.vocabulary.pad) & (self.tokens != self.vocabulary.eos)
        mask[:, : len(self.vocabulary.front)] = False
        return mask

    @cached_property
    def _unique(self) -> tuple[list[str], Grid]:
        """The text of each different token, and which of them each is; what is no text has none."""
        some, which = np.unique(np.where(self.inside, self.tokens, self.vocabulary.pad), return_inverse=True)
        texts = ["" if i == self.vocabulary.pad else text_of(self.vocabulary, i) for i in some.tolist()]
        return texts, which.reshape(self.tokens.shape)

    def told(self, tell: Callable[[str], int]) -> Grid:
        """Return what a function says of the text of each token."""
        texts, which = self._unique
        found: Grid = np.array([tell(text) for text in texts])[which]
        return found

    def shifted(self, by: int, by_default: int = NONE) -> Grid:
        """Return the token so many places before each; behind it where ``by`` is negative."""
        known = np.where(self.inside, self.tokens, by_default)
        out = np.full_like(known, by_default)
        if by > 0:
            out[:, by:] = known[:, :-by]
        else:
            out[:, :by] = known[:, -by:]
        return out

    @cached_property
    def last_same(self) -> Grid:
        """Where the same token last stood before each; −1 where it did not."""
        order = np.argsort(self.tokens, axis=1, kind="stable")
        ordered = np.take_along_axis(self.tokens, order, axis=1)
        before = np.where(ordered[:, 1:] == ordered[:, :-1], order[:, :-1], NONE)
        out = np.full_like(self.tokens, NONE)
        np.put_along_axis(out, order[:, 1:], before, axis=1)
        found: Grid = np.where(self.inside & (out >= len(self.vocabulary.front)), out, NONE)
        return found


def text_of(vocabulary: Vocabulary, number: int) -> str:
    """Return what a token adds to a text; bytes that are no whole character are �."""
    content = vocabulary.pieces.content(number) if number < vocabulary.size else ""
    return content if isinstance(content, str) else content.decode("utf-8", "replace")


# -- tokens ------------------------------------------------------------------------------------------------------------


def _after_same(w: Windows) -> Grid:
    """The token that followed the last occurrence of the same one."""
    found: Grid = np.where(w.last_same >= 0, np.take_along_axis(w.tokens, w.last_same.clip(min=0) + 1, axis=1), NONE)
    return found


# -- places ------------------------------------------------------------------------------------------------------------


def _position(w: Windows) -> Grid:
    """Which class of positions each lies in."""
    at = np.arange(w.tokens.shape[1]) - len(w.vocabulary.front) + 1
    return np.broadcast_to(np.searchsorted(POSITIONS, at, side="right") - 1, w.tokens.shape)


def _distance(w: Windows) -> Grid:
    """Which class of distances the last occurrence of the same token lies in; −1 without one."""
    far = np.arange(w.tokens.shape[1]) - w.last_same
    found: Grid = np.where(w.last_same >= 0, np.searchsorted(DISTANCES, far, side="right") - 1, NONE)
    return found


def _classes(starts: Sequence[int]) -> tuple[str, ...]:
    """Return labels of the classes that begin at ``starts``."""
    ends = [later - 1 for later in starts[1:]]
    return (*(f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=False)), f"{starts[-1]} or more")


# -- what the text says ------------------------------------------------------------------------------------------------


def _latest(marked: Marked) -> Grid:
    """Return where the last marked token at or before each stands; −1 where there is none."""
    found: Grid = np.maximum.accumulate(np.where(marked, np.arange(marked.shape[1]), NONE), axis=1)
    return found


def _before(values: npt.NDArray[np.int64], first: int) -> Grid:
    """Return what stands one place before, ``first`` at the beginning."""
    return np.concatenate([np.full_like(values[:, :1], first), values[:, :-1]], axis=1)


def _quoted(w: Windows) -> Grid:
    """Whether a quotation mark opened before the token and did not close."""
    straight = _before(np.cumsum(w.told(lambda text: text.count('"')), axis=1), 0) % 2
    curly = w.told(_last_curly)
    last = _before(_latest(curly > 0), NONE)
    opened = (last >= 0) & (np.take_along_axis(curly, last.clip(min=0), axis=1) == 1)
    return ((straight == 1) | opened).astype(np.int64)


def _last_curly(text: str) -> int:
    """Return 1 where the last curly quotation mark opens, 2 where it closes, 0 without one."""
    found = max(text.rfind("“"), text.rfind("”"))
    return 0 if found < 0 else 1 if text[found] == "“" else 2


def _number(w: Windows) -> Grid:
    """Whether the token holds a digit."""
    return w.told(lambda text: int(any(c.isdigit() for c in text)))


def _sentence_start(w: Windows) -> Grid:
    """Whether the token begins a sentence: the first of its window, or behind . ! ? … and a space, or a line break.

    Quotation marks and brackets may stand between; a token without letters and digits begins none.
    """
    starts, ends = w.told(lambda text: int(any(c.isalnum() for c in text))), w.told(lambda text: int(_ends(text)))
    other = w.told(lambda text: int(not _ends(text) and bool(text[: _tail(text)])))
    spaces = w.told(lambda text: int(any(c.isspace() for c in text[_tail(text) :])))
    leads, so_far = w.told(lambda text: int(text[:1].isspace())), np.cumsum(spaces, axis=1)
    last_other, last_end = (_before(_latest((kind == 1) & w.inside), NONE) for kind in (other, ends))
    up_to = np.take_along_axis(so_far - spaces, last_end.clip(min=0), axis=1)
    spaced = _before(so_far, 0) - up_to + leads > 0
    first = (last_other == NONE) & (last_end == NONE)
    return ((starts == 1) & w.inside & (first | ((last_end > last_other) & spaced))).astype(np.int64)


def _tail(text: str) -> int:
    """Return where the spaces, quotation marks and brackets begin with which a text ends."""
    found = _AROUND.search(text)
    assert found is not None
    return found.start()


def _ends(text: str) -> bool:
    """Return whether a sentence ends with a token: in . ! ? …, or a line break; what may stand between two is left out."""
    tail = _tail(text)
    return any(c in "\n\r" for c in text[tail:]) or text[:tail][-1:] in (*_ENDS,)


def _name(w: Windows) -> Grid:
    """Whether the token lies in a word with a capital first letter that does not begin a sentence; "I" is none."""
    begins = w.told(_begins_word).astype(bool)
    ended = _before(w.told(lambda text: int(text[-1:].isalnum())), 0) == 0
    word = _latest((begins | ended | ~_before(w.inside, 0).astype(bool)) & w.inside)
    capital = w.told(_capital).astype(bool) & ~_sentence_start(w).astype(bool)
    lettered = w.told(lambda text: int(text.strip()[:1].isalpha())).astype(bool)
    found = (word >= 0) & np.take_along_axis(capital, word.clip(min=0), axis=1) & lettered & w.inside
    return found.astype(np.int64)


def _begins_word(text: str) -> bool:
    return not text[:1].isalnum()


def _capital(text: str) -> bool:
    bare = text.strip()
    return bare != "I" and unicodedata.category(bare[:1] or " ") in ("Lu", "Lt")


def _punctuation(w: Windows) -> Grid:
    """Which punctuation mark is the last at or before the token; 0 without one."""
    found = w.told(_last_mark)
    last = _latest(found > 0)
    out: Grid = np.where(last >= 0, np.take_along_axis(found, last.clip(min=0), axis=1), 0)
    return out


def _last_mark(text: str) -> int:
    return next((_MARKS.index(c) for c in reversed(text) if c in _MARKS), 0)


# -- the registry ------------------------------------------------------------------------------------------------------

YES = ("no", "yes")
"""Labels of what is so or not."""


@dataclass(frozen=True)
class TokenFeature:
    """A feature of every occurrence."""

    name: str
    meaning: str
    """What it is called in a sentence."""
    codes: Callable[[Windows], Grid]
    """Its value at every token of windows; what it says of BOS, EOS and padding means nothing."""
    classes: Sequence[str] | None = None
    """Labels of the codes from 0; without these a code is a token's id."""
    version: str = ""
    """Of a user's own, what tells it from another of its name."""

    @property
    def stamp(self) -> list[str]:
        """What a count over its values depends on."""
        return [self.name, self.version]

    def label(self, code: int, vocabulary: Vocabulary) -> str:
        """Return what people see of a value."""
        if code == NONE:
            return _NOTHING
        return vocabulary.strings([code])[0] if self.classes is None else self.classes[code]


FEATURES = (
    TokenFeature("token", "the token", lambda w: w.tokens),
    TokenFeature("token before", "the token before", lambda w: w.shifted(1)),
    TokenFeature("token two before", "the token two places before", lambda w: w.shifted(2)),
    TokenFeature("position", "the position in the window", _position, _classes(POSITIONS)),
    TokenFeature("distance to same", "how many tokens ago the same token stood last", _distance, _classes(DISTANCES)),
    TokenFeature("token after same", "the token that followed the last occurrence of the same token", _after_same),
    TokenFeature("quoted", "whether it stands in a quotation", _quoted, YES),
    TokenFeature("number", "whether it is a number", _number, YES),
    TokenFeature("name", "whether it lies in a capitalized word that begins no sentence", _name, YES),
    TokenFeature("sentence start", "whether it begins a sentence", _sentence_start, YES),
    TokenFeature("last punctuation", "the last punctuation mark up to it", _punctuation, _MARKS),
    TokenFeature("next token", "the token that follows", lambda w: w.shifted(-1)),
)
"""What is told of every occurrence, in this order."""


def label_all(feature: TokenFeature, codes: npt.NDArray[np.int64], vocabulary: Vocabulary) -> npt.NDArray[np.str_]:
    """Return the labels of many codes."""
    some, which = np.unique(codes, return_inverse=True)
    return np.array([feature.label(code, vocabulary) for code in some.tolist()], dtype=str)[which]

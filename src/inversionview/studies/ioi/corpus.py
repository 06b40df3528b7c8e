"""Indirect object identification: "Then, Mary and John went to the store. John gave a ring to" → " Mary".

Huang et al. 2024, section 3.2; templates of Wang et al. 2022 (arXiv 2211.00593), appendix E, those that name a place and an
object. IO is the name that is given to, S the one that gives and occurs twice. An input is a prompt without its answer, in the
tokens of whatever language model is probed; row ``r`` of 250,000 is drawn by hashing its number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError
from inversionview.core.mixing import mix
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.moves import Move, Proposal, symmetric
from inversionview.model.tokens import Vocabulary

TEMPLATES = (
    "Then, [A] and [B] went to the [PLACE]. [S] gave a [OBJECT] to",
    "Then, [A] and [B] had a lot of fun at the [PLACE]. [S] gave a [OBJECT] to",
    "Then, [A] and [B] were working at the [PLACE]. [S] decided to give a [OBJECT] to",
    "Then, [A] and [B] were thinking about going to the [PLACE]. [S] wanted to give a [OBJECT] to",
    "After [A] and [B] went to the [PLACE], [S] gave a [OBJECT] to",
    "When [A] and [B] went to the [PLACE], [S] gave a [OBJECT] to",
    "When [A] and [B] got a [OBJECT] at the [PLACE], [S] decided to give it to",
    "While [A] and [B] were working at the [PLACE], [S] gave a [OBJECT] to",
    "While [A] and [B] were commuting to the [PLACE], [S] gave a [OBJECT] to",
    "After the lunch, [A] and [B] went to the [PLACE]. [S] gave a [OBJECT] to",
    "Afterwards, [A] and [B] went to the [PLACE]. [S] gave a [OBJECT] to",
    "The [PLACE] [A] and [B] went to had a [OBJECT]. [S] gave it to",
    "Friends [A] and [B] found a [OBJECT] at the [PLACE]. [S] gave it to",
)
"""[A] and [B] are IO and S in one of both orders."""
NAMES = (
    "Michael Christopher Jessica Matthew Ashley Jennifer Joshua Amanda Daniel David James Robert John Joseph Andrew Ryan "
    "Jason Justin Sarah William Jonathan Stephanie Brian Nicole Nicholas Anthony Heather Eric Elizabeth Adam Kevin Steven "
    "Thomas Timothy Rachel Laura Lauren Richard Amy Crystal Michelle Jeremy Benjamin Mark Emily Aaron Charles Rebecca "
    "Jacob Stephen Patrick Sean Jamie Kelly Samantha Nathan Sara Paul Angela Tyler Scott Katherine Andrea Mary Lisa "
    "Kenneth Jose Alexander Jesse Katie Shannon Christine Allison Samuel Peter Anna Alice Bob Henry Jack George Emma Luke "
    "Simon Tom Jane Kate Alex Ben Max Leo Lucy Grace Maria Martin Victoria Charlotte Oliver Edward Frank Arthur Roger "
    "Philip Julia Diana Susan"
)
PLACES = "house store garden restaurant school hospital office station library museum park market church beach zoo"
OBJECTS = "ring kiss bone basketball computer necklace drink snack book key ball flower letter gift hat"
LEAST = 10
"""Fewer names, places or objects of one token each make no study."""
NONE = "–"
"""Value of a feature that an input lacks."""
FIELDS = ("template", "order", "IO", "S", "place", "object")
"""What a prompt is written from."""
_ORDERS = ("ABBA", "BABA")
_SLOTS = ("[IO]", "[S]", "[PLACE]", "[OBJECT]")


class IOIInputs(Inputs):
    """250,000 prompts, each with a template, the order of the names, IO, S, a place and an object.

    Args:
        vocabulary: of the probed model.
        names: by default those of ``NAMES`` that are one token; names of the user's own must all be.

    Raises:
        InputError: a name is not one token, or too few words are.
    """

    answers = ("IO",)
    changes = FIELDS
    default_positions = ("S1+1", "S2", "END")

    def __init__(self, vocabulary: Vocabulary, names: Sequence[str] = ()) -> None:
        self.pad, self.bos, self.eos = vocabulary.pad, vocabulary.bos, vocabulary.eos
        self.tokenizer = vocabulary
        self.names, self._name_ids = _single(vocabulary, "names", names or NAMES.split(), strict=bool(names))
        self.places_named, self._place_ids = _single(vocabulary, "places", PLACES.split())
        self.objects, self._object_ids = _single(vocabulary, "objects", OBJECTS.split())
        self._patterns, self._slots = self._written_patterns()
        self.max_length = self._patterns.shape[1]
        count = len(self.names)
        self._sizes = np.array([len(TEMPLATES), 2, count, count - 1, len(self.places_named), len(self.objects)])

    def __len__(self) -> int:
        return 250_000

    # -- between fields and tokens ------------------------------------------------------------------------------------

    def _written_patterns(self) -> tuple[Ids, Ids]:
        """Return each template in both orders as ids, ``[template × order, pos]``, and which slot each position is, from 1."""
        words = (self._name_ids[0], self._name_ids[1], self._place_ids[0], self._object_ids[0])
        said = dict(zip(_SLOTS, (self.names[0], self.names[1], self.places_named[0], self.objects[0]), strict=True))
        rows, slots = [], []
        for template in TEMPLATES:
            for first, second in (("[IO]", "[S]"), ("[S]", "[IO]")):
                text = template.replace("[A]", first).replace("[B]", second)
                ids = self.tokenizer.encode(re.sub(r"\[\w+\]", lambda found: said[found.group()], text))
                wanted = [_SLOTS.index(slot) for slot in re.findall(r"\[\w+\]", text)]
                at = [i for i, token in enumerate(ids) if token in words]
                if [words.index(ids[i]) for i in at] != wanted:
                    raise InputError(f"The tokenizer does not keep the words of {text!r} apart: choose another model.")
                rows.append(ids)
                slots.append(dict(zip(at, (w + 1 for w in wanted), strict=True)))
        width = max(map(len, rows))
        patterns = np.full((len(rows), width), self.pad, dtype=np.int64)
        numbers = np.zeros_like(patterns)
        for i, (ids, where) in enumerate(zip(rows, slots, strict=True)):
            patterns[i, : len(ids)] = ids
            numbers[i, list(where)] = list(where.values())
        return patterns, numbers

    def written(self, fields: Ids) -> Ids:
        """Write prompts from their fields (template, order, IO, S, place, object), ``[rows, 6] → [rows, pos]``."""
        kind = 2 * fields[:, 0] + fields[:, 1]
        out, slots = self._patterns[kind], self._slots[kind]
        ids = (self._name_ids[fields[:, 2]], self._name_ids[fields[:, 3]], self._place_ids[fields[:, 4]],
               self._object_ids[fields[:, 5]])  # fmt: skip
        for slot, values in enumerate(ids, start=1):
            out = np.where(slots == slot, values[:, None], out)
        return out

    def fields(self, tokens: Ids) -> Ids:
        """Return what ``written`` would write each row from, ``[rows, 6]``; −1 where a row is no prompt of the study."""
        width = self._patterns.shape[1]
        out = np.full((len(tokens), 6), -1, dtype=np.int64)
        padded = np.full((len(tokens), width), self.pad, dtype=np.int64)
        padded[:, : tokens.shape[1]] = tokens[:, :width]
        short = (tokens[:, width:] == self.pad).all(1)
        words = (self._name_ids, self._name_ids, self._place_ids, self._object_ids)
        for kind, (pattern, slots) in enumerate(zip(self._patterns, self._slots, strict=True)):
            rows = np.flatnonzero(short & ((padded == pattern) | (slots > 0)).all(1))
            if not len(rows):
                continue
            found = np.stack([_number(words[slot - 1], padded[rows, (slots == slot).argmax()]) for slot in range(1, 5)], axis=1)
            own = np.column_stack([np.full(len(rows), kind // 2), np.full(len(rows), kind % 2), found])
            good = (found >= 0).all(1) & (own[:, 2] != own[:, 3])
            rows, own = rows[good], own[good]
            same = (self.written(own) == padded[rows]).all(1)  # a word that stands twice is the same in both places
            out[rows[same]] = own[same]
        return out

    def tokens(self, rows: npt.NDArray[np.int64], salt: int = 0) -> Ids:
        """Return the tokens of ``rows``; a prompt has no free part, so ``salt`` changes nothing."""
        drawn = mix((rows[:, None] * 8 + np.arange(6)).astype(np.uint64), salt=11)
        return self.written(self._apart((drawn % self._sizes.astype(np.uint64)).astype(np.int64)))

    @staticmethod
    def _apart(fields: Ids) -> Ids:
        """Number S, drawn from all names but one, so that it is not IO."""
        fields[:, 3] += fields[:, 3] >= fields[:, 2]
        return fields

    # -- positions and features ---------------------------------------------------------------------------------------

    def _named(self, tokens: Ids) -> tuple[Ids, Ids, Ids, Ids]:
        """Return where IO, S1, S2 and the end are, −1 where a row has not two names and one of them again."""
        end = self.lengths(tokens) - 1 - (tokens == self.eos).any(1)
        names = np.isin(tokens, self._name_ids)
        each, width = np.arange(len(tokens)), tokens.shape[1]
        s2 = width - 1 - names[:, ::-1].argmax(1)
        subject = tokens[each, s2][:, None]
        before = names & (np.arange(width) < s2[:, None])
        own, others = before & (tokens == subject), before & (tokens != subject)
        there = own.any(1) & others.any(1)
        s1 = width - 1 - own[:, ::-1].argmax(1)
        return *(np.where(there, at, -1) for at in (others.argmax(1), s1, s2)), end

    def why_not(self, ids: Sequence[int]) -> str | None:
        """Return why a text is no prompt of the study, as a clause."""
        tokens = np.array([list(ids)])
        if self.fields(tokens)[0, 0] >= 0:
            return None
        if self._named(tokens)[0][0] < 0:
            return f"it does not name two of its {len(self.names)} names and one of them again"
        return f"it follows none of its {len(TEMPLATES)} templates with its places and objects"

    def named_positions(self, tokens: Ids) -> dict[str, Ids]:
        """Name IO, S1, the token after it, S2 and END, the last token, which predicts the answer.

        S2 is the last name, S1 where it stood before, IO the first other name; so prompts of other templates are named too.
        """
        io, s1, s2, end = self._named(tokens)
        return {"IO": io, "S1": s1, "S1+1": np.where(s1 >= 0, s1 + 1, -1), "S2": s2, "END": end}

    def features(self, tokens: Ids) -> dict[str, npt.NDArray[Any]]:
        """Return IO and S, their order, the template, place and object, S1's index and how far S2 stands behind it.

        ABBA: IO is named before S; BABA: S before IO (Wang et al. 2022). Indices count BOS as 0; −1 where a row lacks it.
        """
        io, s1, s2, _ = self._named(tokens)
        each, there = np.arange(len(tokens)), io >= 0
        template = self.fields(tokens)[:, 0]
        return {
            "IO": self._word(self.names, self._name_ids, np.where(there, tokens[each, io], -1)),
            "S": self._word(self.names, self._name_ids, np.where(there, tokens[each, s2], -1)),
            "order": np.where(there, np.where(io < s1, *_ORDERS), NONE),
            "template": template,
            "place": self._word(self.places_named, self._place_ids, _first(tokens, self._place_ids)),
            "object": self._word(self.objects, self._object_ids, _first(tokens, self._object_ids)),
            "S1_position": s1,
            "relative_position": np.where(there, s2 - s1, -1),
        }

    @staticmethod
    def _word(words: Sequence[str], ids: Ids, found: Ids) -> npt.NDArray[Any]:
        return np.array([*words, NONE])[_number(ids, found)]

    # -- contrasts and the walk ---------------------------------------------------------------------------------------

    def read_at(self, tokens: Ids, target: str) -> Ids:
        """Return the index of END, which predicts IO; −1 where a row has no IO."""
        io, _, _, end = self._named(tokens)
        return np.where(io >= 0, end, -1)

    def answer_of(self, tokens: Ids, target: str) -> Ids:
        """Return the name IO."""
        return np.take_along_axis(tokens, self._named(tokens)[0][:, None], axis=1)[:, 0]

    def forms(self, answer: int) -> tuple[int, ...]:
        """Return a name with and, where that is one token, without a space before it."""
        bare = self.tokenizer.single(self.names[int(np.flatnonzero(self._name_ids == answer)[0])])
        return (answer,) if bare is None else tuple(sorted({answer, bare}))

    def changes_of(self, feature: str) -> tuple[str, ...]:
        """Return what alters a feature."""
        if feature in self.changes:
            return (feature,)
        return {"S1_position": ("order", "template"), "relative_position": ("order", "template")}.get(feature, self.changes)

    def contrast(self, tokens: Ids, changes: Sequence[str], rng: np.random.Generator) -> Proposal:
        """Redraw fields uniformly; changing both IO and S exchanges them half of the time, as patching the circuit needs."""
        fields = self.fields(tokens)
        possible = fields[:, 0] >= 0
        new = fields.clip(min=0)
        for name in changes:
            new = self._redraw(FIELDS.index(name), new, rng)
        if {"IO", "S"} <= set(changes):
            swap = rng.random(len(new)) < 0.5
            new[swap, 2], new[swap, 3] = fields[swap, 3], fields[swap, 2]
        possible &= new[:, 2] != new[:, 3]
        return symmetric(self.written(np.where(possible[:, None], new, 0)), possible)

    def log_prior(self, tokens: Ids) -> npt.NDArray[np.float64]:
        """Return log p(x): 0 for a prompt of the study, all being equally likely, and −∞ for anything else."""
        return np.where(self.fields(tokens)[:, 0] >= 0, 0.0, -np.inf)

    @cached_property
    def log_total(self) -> float:
        """All prompts are equally likely: any template, order, two names, place and object."""
        return float(np.log(self._sizes).sum())

    def fresh(self, count: int, rng: np.random.Generator) -> Ids:
        """Draw prompts, all equally likely."""
        return self.written(self._apart(rng.integers(self._sizes, size=(count, 6))))

    @property
    def moves(self) -> tuple[Move, ...]:
        """One field redrawn, the names exchanged, all drawn anew."""
        changes: dict[str, _Change] = {name: partial(self._redraw, i) for i, name in enumerate(FIELDS)}
        changes |= {"exchange": _exchange, "all": self._anew}
        return tuple(Move(name, partial(self._move, change)) for name, change in changes.items())

    def _move(self, change: _Change, tokens: Ids, rng: np.random.Generator) -> Proposal:
        new = change(self.fields(tokens), rng)
        possible = new[:, 2] != new[:, 3]
        return symmetric(self.written(np.where(possible[:, None], new, 0)), possible)

    def _redraw(self, column: int, fields: Ids, rng: np.random.Generator) -> Ids:
        size = len(self.names) if column in (2, 3) else int(self._sizes[column])
        fields[:, column] = rng.integers(size, size=len(fields))
        return fields

    def _anew(self, fields: Ids, rng: np.random.Generator) -> Ids:
        return self._apart(rng.integers(self._sizes, size=fields.shape))


_Change = Callable[[Ids, np.random.Generator], Ids]


def _exchange(fields: Ids, rng: np.random.Generator) -> Ids:
    return fields[:, [0, 1, 3, 2, 4, 5]]


def _single(vocabulary: Vocabulary, what: str, words: Sequence[str], strict: bool = False) -> tuple[list[str], Ids]:
    """Return those words that are one token with a space before them, and their ids.

    Raises:
        InputError: too few are; or, if ``strict``, one is not.
    """
    found = {word: vocabulary.single(f" {word}") for word in dict.fromkeys(word.strip() for word in words) if word}
    lacking = [word for word, number in found.items() if number is None]
    if strict and lacking:
        raise InputError(
            f"{len(lacking)} of the {what} are not one token with a space before them, {', '.join(lacking[:5])} among them: "
            "leave these out."
        )
    kept = {word: number for word, number in found.items() if number is not None}
    if len(kept) < LEAST:
        raise InputError(
            f"Only {len(kept)} of {len(found)} {what} are one token of the model's tokenizer, at least {LEAST} are needed: "
            + ("give more." if strict else "choose another model, or give names of your own.")
        )
    return list(kept), np.array(list(kept.values()), dtype=np.int64)


def _number(ids: Ids, tokens: Ids) -> Ids:
    """Return which of ``ids`` each token is, −1 for none."""
    order = np.argsort(ids)
    place = np.searchsorted(ids[order], tokens).clip(max=len(ids) - 1)
    return np.where(ids[order][place] == tokens, order[place], -1)


def _first(tokens: Ids, ids: Ids) -> Ids:
    """Return the first token of each row that is one of ``ids``, −1 where none is."""
    there = np.isin(tokens, ids)
    return np.where(there.any(1), np.take_along_axis(tokens, there.argmax(1)[:, None], axis=1)[:, 0], -1)

"""Factual recall: "The capital of France is" → " Paris", for whatever language model is probed.

Huang et al. 2024, section 3.4. An input is a prompt without its object: BOS, the prompt as the tokenizer writes it, EOS.
Two positions count: SUBJ, the last token of the subject, where what is known of it is gathered, and END, where it is retrieved.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.moves import Move, Proposal, symmetric
from inversionview.model.tokens import Vocabulary
from inversionview.studies.facts.statements import NONE, SLOT, FactStatement, read_statements

LEAST = 40
"""Fewer statements make no study."""
FIELDS = ("subject", "relation", "template")


class _Row(NamedTuple):
    """A statement in tokens."""

    ids: tuple[int, ...]
    subject_at: int
    """Index of the subject's last token, BOS being 0."""
    answer: int
    """First token of the object; −1 where there is none."""


class _Found(NamedTuple):
    """What inputs are, −1 where they are none of it; ``[row]`` each."""

    row: Ids
    """Of the corpus."""
    subject: Ids
    template: Ids
    at: Ids
    """Index of the subject's last token."""


class _Wording:
    """Reads inputs that are no rows of the corpus by their words: those of a template, and the first known subject."""

    def __init__(self, vocabulary: Vocabulary, templates: Sequence[str], subjects: Sequence[str]) -> None:
        self.vocabulary, self.templates, self.subjects = vocabulary, templates, subjects

    @lru_cache(maxsize=2**16)  # noqa: B019  it lives as long as its study
    def read(self, ids: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the numbers of subject and template and where the subject ends, of an input without BOS; −1 for none of it."""
        text = self.vocabulary.decode(ids)
        subject, template, span = -1, -1, None
        for number, (before, after) in self._frames:
            if text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after):
                template, span = number, (len(before), len(text) - len(after))
                break
        hit = self._names.search(text, *(span or ()))
        if hit is not None:
            subject = self._subject_numbers[hit.group()]
            end = hit.end()
        elif span is not None:
            end = span[1]
        else:
            return -1, template, -1
        at = next(k for k in range(1, len(ids) + 1) if k == len(ids) or len(self.vocabulary.decode(ids[:k])) >= end)
        return subject, template, at

    @cached_property
    def _frames(self) -> list[tuple[int, tuple[str, str]]]:
        """Each template's number, and what stands before and after the subject; those that say most come first."""
        parts = [template.rstrip().partition(SLOT) for template in self.templates]
        return sorted(enumerate((a, b) for a, _, b in parts), key=lambda part: -len("".join(part[1])))

    @cached_property
    def _subject_numbers(self) -> dict[str, int]:
        return {subject.strip(): number for number, subject in enumerate(self.subjects)}

    @cached_property
    def _names(self) -> re.Pattern[str]:
        """Finds a known subject as whole words; of two that begin together the longer one."""
        names = sorted(self._subject_numbers, key=len, reverse=True)
        return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, names)) + r")(?!\w)")


class FactsInputs(Inputs):
    """Statements in the tokens of a model, as many as there are.

    Args:
        vocabulary: of the probed model.
        facts: a file or folder of the user's; see ``read_statements``.

    Attributes:
        known: which rows the model completes rightly, ``[row]``, once that was measured: then a feature, too; see
            ``recall.known_facts``.

    Raises:
        InputError: the file is not of a known form, or too few statements can be written in the model's tokens.
    """

    answers = ("object",)
    changes = FIELDS
    default_changes = ("subject",)
    default_positions = ("SUBJ", "END")
    known: npt.NDArray[np.bool_] | None = None

    def __init__(self, vocabulary: Vocabulary, facts: str | Path | None = None) -> None:
        self.pad, self.bos, self.eos = vocabulary.pad, vocabulary.bos, vocabulary.eos
        self.tokenizer = vocabulary
        statements, rows = self._rows(read_statements(facts))
        self.max_length = max(len(row.ids) for row in rows)
        self._tokens = np.full((len(rows), self.max_length), self.pad, dtype=np.int64)
        for i, row in enumerate(rows):
            self._tokens[i, : len(row.ids)] = row.ids
        self._at = np.array([row.subject_at for row in rows])
        self._answer = np.array([row.answer for row in rows])
        self._number = {row.ids[:-1]: i for i, row in enumerate(rows)}
        self.subjects, self._subject = _numbered([s.subject for s in statements])
        self.templates, self._template = _numbered([s.template for s in statements])
        self._wording = _Wording(vocabulary, self.templates, self.subjects)
        self.relations, self._relation = _numbered([s.relation for s in statements])
        self._objects = np.array([s.object or NONE for s in statements] + [NONE])
        self._asked = np.full(len(self.templates) + 1, -1)
        self._asked[self._template] = self._relation
        self.attributes = self._attributes(statements)

    def _rows(self, statements: Sequence[FactStatement]) -> tuple[list[FactStatement], list[_Row]]:
        """Return the statements that the tokenizer can write, each once, and their tokens."""
        found: dict[tuple[int, ...], tuple[FactStatement, _Row]] = {}
        for statement in statements:
            row = self._row(statement)
            if row is not None:
                found.setdefault(row.ids, (statement, row))
        answers = {row.answer for _, row in found.values()} - {-1}
        if len(found) < LEAST or len(answers) < 2:
            raise InputError(
                f"Of {len(statements):,} statements {len(found):,} can be written in the model's tokens, their objects with "
                f"{len(answers)} first tokens; at least {LEAST} and 2 are needed: give more facts, or another model."
            )
        kept = list(found.values())
        return [statement for statement, _ in kept], [row for _, row in kept]

    def _row(self, statement: FactStatement) -> _Row | None:
        """Return a statement in tokens; ``None`` where it cannot be written, or its object merges with the prompt's end."""
        encode = partial(self.tokenizer.tokenizer.encode, add_special_tokens=False)
        try:
            prompt = encode(statement.text)
            whole = encode(f"{statement.text} {statement.object}").ids if statement.object else []
        except Exception:  # tokenizers raises bare Exception where there is no token for the unknown
            return None
        ids, length = prompt.ids, len(prompt.ids)
        within = [i for i, (start, stop) in enumerate(prompt.offsets) if start < statement.end and stop > start]
        grown = bool(whole) and (whole[:length] != ids or len(whole) == length)
        if not within or grown or {self.pad, self.bos, self.eos} & set(ids):
            return None
        front = self.tokenizer.front
        return _Row((*front, *ids, self.tokenizer.eos), within[-1] + len(front), whole[length] if whole else -1)

    def _attributes(self, statements: Sequence[FactStatement]) -> dict[str, npt.NDArray[Any]]:
        """Return what is known of each subject, ``[subject + 1]`` with NONE last: what the file says and relations ask."""
        names = [name for s in statements for name in (*s.attributes, *([s.relation] if s.object else []))]
        found = {name: np.full(len(self.subjects) + 1, NONE, dtype=object) for name in dict.fromkeys(names)}
        for s, number in zip(statements, self._subject.tolist(), strict=True):
            for name, value in (*s.attributes.items(), *([(s.relation, s.object)] if s.object else [])):
                if found[name][number] == NONE:
                    found[name][number] = value
        return {name: values.astype(str) for name, values in found.items()}

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def facts(self) -> int:
        """How many rows ask for something."""
        return int((self._answer >= 0).sum())

    @cached_property
    def fingerprint(self) -> str:
        """What tells this corpus from another: SHA-256 over all tokens and answers, 16 hexadecimal digits."""
        return hashlib.sha256(self._tokens.tobytes() + self._answer.tobytes()).hexdigest()[:16]

    def tokens(self, rows: npt.NDArray[np.int64], salt: int = 0) -> Ids:
        """Return the tokens of ``rows``; a statement has no free part, so ``salt`` changes nothing."""
        return self._tokens[rows]

    def why_not(self, ids: Sequence[int]) -> str | None:
        """Return why a text is no statement of the corpus, as a clause."""
        known = self.rows_of(np.array([list(ids)]))[0] >= 0
        return None if known else f"it is none of its {len(self):,} statements"

    # -- finding statements in tokens ---------------------------------------------------------------------------------

    def rows_of(self, tokens: Ids) -> Ids:
        """Return which row of the corpus each input is, ``[rows]``; −1 for none."""
        rows = zip(tokens.tolist(), self._ends(tokens), strict=True)
        return np.array([self._number.get(tuple(row[: end + 1]), -1) for row, end in rows], dtype=np.int64)

    def _ends(self, tokens: Ids) -> Ids:
        """Return the index of each row's last token but EOS."""
        last = self.lengths(tokens) - 1
        ended = (tokens == self.eos) & (np.arange(tokens.shape[1]) > 0)
        return np.where(ended.any(1), ended.argmax(1) - 1, last)

    def _find(self, tokens: Ids) -> _Found:
        row = self.rows_of(tokens)
        found = _Found(row, *(np.where(row >= 0, column[row], -1) for column in (self._subject, self._template, self._at)))
        ends = self._ends(tokens)
        for i in np.flatnonzero(row < 0):
            begun = len(self.tokenizer.front)
            ids = tuple(tokens[i, begun : ends[i] + 1].tolist())
            found.subject[i], found.template[i], found.at[i] = self._wording.read(ids)
        return found

    # -- positions and features ---------------------------------------------------------------------------------------

    def named_positions(self, tokens: Ids) -> dict[str, Ids]:
        """Name SUBJ, the last token of the subject, and END, the last of the prompt, which predicts the object."""
        return {"SUBJ": self._find(tokens).at, "END": self._ends(tokens)}

    def features(self, tokens: Ids) -> dict[str, npt.NDArray[Any]]:
        """Return subject, relation, template (its number), object, and all that holds of the subject whatever is asked.

        An input that is no statement of the corpus has the template whose words it has, and the first known subject in it.
        """
        found = self._find(tokens)
        relation = np.where(found.row >= 0, self._relation[found.row], self._asked[found.template])
        asked = np.array([*self.relations, NONE])[relation]
        return {
            "subject": np.array([*self.subjects, NONE])[found.subject],
            "relation": asked,
            "template": found.template,
            "object": np.where(found.row >= 0, self._objects[found.row], self._looked_up(asked, found.subject)),
            **{name: values[found.subject] for name, values in self.attributes.items()},
            **self._measured(found.row),
        }

    def _looked_up(self, relations: npt.NDArray[Any], subjects: Ids) -> npt.NDArray[Any]:
        """Return what is known to hold of subjects in relations."""
        nothing = np.array([NONE])
        pairs = zip(relations.tolist(), subjects.tolist(), strict=True)
        return np.array(
            [self.attributes.get(name, nothing)[number if name in self.attributes else 0] for name, number in pairs]
        )

    def _measured(self, rows: Ids) -> dict[str, npt.NDArray[Any]]:
        if self.known is None:
            return {}
        said = np.where(self._answer < 0, NONE, np.where(self.known, "yes", "no"))
        return {"known": np.append(said, NONE)[np.where(rows >= 0, rows, -1)]}

    # -- answers, contrasts and the walk ------------------------------------------------------------------------------

    def read_at(self, tokens: Ids, target: str) -> Ids:
        """Return the index of END, which predicts the object; −1 where nothing is asked for, or the statement is unknown."""
        row = self.rows_of(tokens)
        return np.where((row >= 0) & (self._answer[row] >= 0), self._ends(tokens), -1)

    def answer_of(self, tokens: Ids, target: str) -> Ids:
        """Return the first token of the object; −1 where there is none."""
        row = self.rows_of(tokens)
        return np.where(row >= 0, self._answer[row], -1)

    def forms(self, answer: int) -> tuple[int, ...]:
        """Return a token with and, where that is one, without the space before it."""
        (text,) = self.tokenizer.strings([answer])
        bare = self.tokenizer.single(text.strip()) if text.strip() else None
        return (answer,) if bare is None else tuple(sorted({answer, bare}))

    def changes_of(self, feature: str) -> tuple[str, ...]:
        """Return what alters a feature."""
        own = {"relation": ("relation",), "template": ("template",), "object": ("subject", "relation")}
        return own.get(feature, ("subject",))

    def contrast(self, tokens: Ids, changes: Sequence[str], rng: np.random.Generator) -> Proposal:
        """Draw a statement that asks for something and is the same in all but ``changes``, by default the subject.

        Another relation has templates of its own, so changing it changes the template too.
        """
        return self._other(frozenset(changes), True, tokens, rng)

    def _other(self, changes: frozenset[str], asking: bool, tokens: Ids, rng: np.random.Generator) -> Proposal:
        row = self.rows_of(tokens)
        group, order, starts, counts = self._groups(changes, asking)
        own = np.where(row >= 0, group[row], -1)
        drawn = starts[own] + rng.integers(np.maximum(counts[own], 1))
        new = self._tokens[order[drawn.clip(max=len(order) - 1)]]
        return symmetric(new, own >= 0)  # uniform over a group that both belong to

    @lru_cache(maxsize=16)  # noqa: B019
    def _groups(self, changes: frozenset[str], asking: bool) -> tuple[Ids, Ids, Ids, Ids]:
        """Return the group of each row, −1 for none, the rows in the order of their groups, where each begins and its size."""
        kept = [name for name in FIELDS if name not in changes and not (name == "template" and "relation" in changes)]
        columns = {"subject": self._subject, "relation": self._relation, "template": self._template}
        rows = np.flatnonzero(self._answer >= 0) if asking else np.arange(len(self))
        keys = np.stack([np.zeros(len(rows), dtype=np.int64), *(columns[name][rows] for name in kept)], axis=1)
        _, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        group = np.full(len(self), -1)
        group[rows] = inverse
        return group, rows[np.argsort(inverse, kind="stable")], np.cumsum(counts) - counts, counts

    def log_prior(self, tokens: Ids) -> npt.NDArray[np.float64]:
        """Return log p(x): 0 for a statement of the corpus, all being equally likely, and −∞ for anything else."""
        return np.where(self.rows_of(tokens) >= 0, 0.0, -np.inf)

    @cached_property
    def log_total(self) -> float:
        """All statements are equally likely."""
        return math.log(len(self))

    def fresh(self, count: int, rng: np.random.Generator) -> Ids:
        """Draw statements, all equally likely."""
        return self._tokens[rng.integers(len(self), size=count)]

    @property
    def moves(self) -> tuple[Move, ...]:
        """Another subject, relation or template in place of the statement's, or another statement."""
        kinds = {name: frozenset({name}) for name in FIELDS} | {"all": frozenset(FIELDS)}
        return tuple(Move(name, partial(self._other, changes, False)) for name, changes in kinds.items())


def _numbered(values: Sequence[str]) -> tuple[list[str], Ids]:
    """Return the distinct values and which of them each one is."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return list(numbers), np.array([numbers[value] for value in values])

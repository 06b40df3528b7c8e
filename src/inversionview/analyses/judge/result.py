"""What became of statements: a verdict on each, what it rests on, and how those did that it is held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from inversionview.analyses.judge.claims import Claim
from inversionview.analyses.judge.rulings import Measured, Ruling, plain
from inversionview.core.information import Mean
from inversionview.core.results import Result

CONTROLS = {
    "site": "another site's statement",
    "random": "a random input's statement",
    "input": "being like the input itself",
    "nearest": "being like the nearest input of the corpus",
    "unconditional": "what is true of every input",
    "features": "our own feature statement",
}
"""What a statement is held against, in words."""


@dataclass(frozen=True)
class Rival:
    """How a control did on the inputs of a statement."""

    statement: str
    """In words."""
    told: Measured
    gain: Mean
    """By how much the statement's balanced accuracy is above it, input by input, with a 95 % interval."""

    def to_json(self) -> dict[str, Any]:
        """Return all as plain JSON values; ``gain`` with its ends."""
        told = {
            name: value
            for name, value in self.told.to_json().items()
            if name not in ("inside", "outside", "exactness", "intervals")
        }
        return {"statement": self.statement, **told, "gain": [self.gain.value, self.gain.low, self.gain.high]}


@dataclass(frozen=True)
class Exhibit:
    """An input on which a verdict rests, run through the model again."""

    text: str
    """With the position where D is reached between ⟦ and ⟧."""
    distance: float
    inside: bool
    holds: bool
    """Whether the judge found the statement true of it."""


@dataclass(frozen=True)
class Judgement:
    """One statement about one activation."""

    claim: Claim
    verdict: Ruling | None
    """``None``: withheld, or not told; ``why`` says for what reason."""
    why: str
    bits: float
    """What the activation tells, I_ε(q) in the corpus."""
    told: Measured | None = None
    """``None`` where it could not be tested."""
    line: Measured | None = None
    """On inputs right beside ε, where those outside begin at ε itself; offline alone."""
    controls: Mapping[str, Rival | None] = field(default_factory=dict)
    """By their names in ``CONTROLS``; ``None`` where one cannot be had."""
    exhibits: tuple[Exhibit, ...] = ()
    """Some inputs on both sides, those first that contradict the statement."""
    walked: int = 0
    """Inputs inside that a walk found."""

    @property
    def about(self) -> bool | None:
        """Whether it is *about the activation*: it beats being like the input; ``None`` where that was not tested."""
        rival = self.controls.get("input")
        return None if rival is None else rival.gain.low > 0

    def to_json(self) -> dict[str, Any]:
        """Return all as plain JSON values; numbers are null where the statement could not be tested."""
        told = self.told
        nothing = {
            **dict.fromkeys(("balanced_accuracy", "auroc", "precision", "coverage", "exactness")),
            "inside": 0,
            "outside": 0,
        }
        return {
            "id": self.claim.id,
            "verdict": self.verdict,
            **(nothing if told is None else told.to_json()),
            "controls": {name: None if each is None else each.to_json() for name, each in self.controls.items()},
            "about": self.about,
            "why": self.why,
            "bits": self.bits,
            "at_epsilon": None if self.line is None else plain(self.line.balanced_accuracy),
            "walked": self.walked,
            **{name: getattr(self.claim, name) for name in ("by", "statement", "text", "at", "site", "vector")},
            "exhibits": [asdict(each) for each in self.exhibits],
        }

    def record(self) -> dict[str, Any]:
        """Return one flat row."""
        names = ("id", "by", "text", "at", "site", "statement")
        flat = {name: None if (value := getattr(self.claim, name)) is None else str(value) for name in names}
        told = None if self.told is None else self.told.to_json()
        numbers = {
            name: None if told is None else told[name]
            for name in ("balanced_accuracy", "auroc", "precision", "coverage", "exactness", "inside", "outside")
        }
        rivals = {
            f"control_{name}": None if (each := self.controls.get(name)) is None else each.told.balanced_accuracy.value
            for name in CONTROLS
        }
        return {**flat, "verdict": self.verdict, **numbers, "about": self.about, "bits": self.bits, **rivals, "why": self.why}


@dataclass(frozen=True, repr=False)
class Judgements(Result):
    """Statements with their verdicts."""

    formats: ClassVar[tuple[str, ...]] = (".html", ".md", ".json", ".csv", ".parquet")

    study: str
    judge: str
    """``features``, or the language model's name."""
    inputs: int
    """Of the bank."""
    gap: float
    seed: int
    items: tuple[Judgement, ...]
    note: str | None = None
    """What is wrong with the judge."""

    def __iter__(self) -> Iterator[Judgement]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Judgement:
        return self.items[number]

    def to_json(self) -> dict[str, Any]:
        """Return all as plain JSON values."""
        head = {name: value for name, value in vars(self).items() if name != "items"}
        return {**head, "statements": [each.to_json() for each in self]}

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each statement, for a data frame."""
        return [each.record() for each in self]

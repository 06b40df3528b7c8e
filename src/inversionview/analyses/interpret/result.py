"""What is said of sites × positions: a statement for each query and a summary, with scores and what they are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from inversionview.analyses.interpret.scoring import Score, Verdict
from inversionview.core.information import Mean
from inversionview.core.results import Result
from inversionview.core.scope import Distance


@dataclass(frozen=True)
class Example:
    """An input inside ε, run through the model again."""

    text: str
    """With the position where D is reached between ⟦ and ⟧."""
    distance: float


@dataclass(frozen=True)
class QueryReading:
    """One query."""

    query: str
    """With the position that was read between ⟦ and ⟧."""
    bits: float
    """I_ε(q)."""
    statement: str | None
    """``None`` where there is none; ``problem`` says why."""
    varies: str | None
    """What a language model says is free to vary."""
    clauses: tuple[dict[str, Any], ...]
    """The feature statement, clause by clause."""
    told: Verdict | None
    """How the statement did on unseen inputs, where it was tested."""
    problem: str | None
    samples: tuple[Example, ...]


@dataclass(frozen=True)
class Interpretation:
    """One site at one position."""

    site: str
    position: str
    statement: str
    """Over all queries."""
    source: str
    """``features``, or the language model's name."""
    bits: Mean
    """The mean of I_ε(q) over the queries."""
    information: float | None
    """Bits that the feature statements tell of unseen inputs, mean over the queries that are scored; ``None`` without any. An
    estimate: what it estimates is at most ``scored_bits``, but other inputs make it."""
    scored_bits: float | None
    """Mean of I_ε(q) over these."""
    share: float | None
    """``information`` / ``scored_bits``; ``None`` where these are below 0.05 bits."""
    score: Score | None
    """``None``: in no query were there inputs enough on both sides."""
    line: Score | None
    """Of the feature statements, on the inputs next to ε on both sides."""
    other: Score | None
    """How the statement of another site did on the same inputs."""
    features: Score | None
    """With a language model: how the feature statements did on the same inputs."""
    proven: bool | None
    """It beats what it is compared with; ``None`` where it could not be scored."""
    queries: tuple[QueryReading, ...]
    note: str | None = None
    """What went wrong with the summary, or why there is no score."""
    least: float | None = None
    """Where queries have one other input inside ε or none, the mean with these as the least they can mean; else ``None``."""

    @property
    def samples(self) -> tuple[Example, ...]:
        """Three samples of the first query that has any."""
        return next((reading.samples for reading in self.queries if reading.samples), ())

    @property
    def query(self) -> QueryReading | None:
        """The query that these belong to."""
        return next((reading for reading in self.queries if reading.samples), None)

    def to_json(self) -> dict[str, Any]:
        """Return all as plain JSON values; ``balanced_accuracy`` and ``auroc`` are those of ``score``, null without one."""
        score = self.score
        return {
            "site": self.site,
            "position": self.position,
            "statement": self.statement,
            "balanced_accuracy": None if score is None else score.balanced_accuracy.value,
            "auroc": None if score is None else score.auroc.value,
            "proven": self.proven,
            **{name: value for name, value in asdict(self).items() if name not in ("site", "position", "statement", "proven")},
        }

    def record(self) -> dict[str, Any]:
        """Return one flat row."""
        flat: dict[str, Any] = {"site": self.site, "position": self.position, "bits": self.bits.value}
        for name in ("information", "scored_bits", "share"):
            flat[name] = getattr(self, name)
        for name, score in (("", self.score), ("line_", self.line), ("other_", self.other)):
            for measure in ("balanced_accuracy", "auroc"):
                told: Mean | None = None if score is None else getattr(score, measure)
                flat[name + measure] = None if told is None else told.value
        return {**flat, "proven": self.proven, "statement": self.statement}


@dataclass(frozen=True)
class Costs:
    """What a language model was asked."""

    model: str
    requests: int
    cached: int
    failed: int
    prompt_tokens: int
    answer_tokens: int
    cost: float | None


@dataclass(frozen=True, repr=False)
class Interpretations(Result):
    """Sites × positions of a study."""

    formats: ClassVar[tuple[str, ...]] = (".html", ".md", ".json", ".csv", ".parquet")

    study: str
    inputs: int
    """Of the bank."""
    epsilon: float
    distance: Distance
    fixed: bool
    gap: float
    seed: int
    asked: int
    """Queries at each site and position."""
    cells: tuple[Interpretation, ...]
    costs: Costs | None = None

    def __iter__(self) -> Iterator[Interpretation]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, number: int) -> Interpretation:
        return self.cells[number]

    def to_json(self) -> dict[str, Any]:
        """Return all as plain JSON values."""
        head = {name: value for name, value in vars(self).items() if name not in ("cells", "costs")}
        costs = {} if self.costs is None else {"costs": asdict(self.costs)}
        return {**head, **costs, "interpretations": [cell.to_json() for cell in self.cells]}

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each site × position, for a data frame."""
        return [cell.record() for cell in self.cells]

    def reached(self, share: float = 0.8, accuracy: float = 0.95, score: Literal["score", "line"] = "score") -> tuple[int, int]:
        """Return how many cells reach a balanced accuracy, and of how many whose statements tell so much of the bits."""
        asked = [getattr(cell, score) for cell in self.cells if cell.share is not None and cell.share >= share]
        told = [each for each in asked if each is not None]
        return sum(each.balanced_accuracy.value >= accuracy for each in told), len(told)

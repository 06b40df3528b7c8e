"""What comes of a recovery: the texts whose states are those at hand, or how near the nearest comes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from inversionview.core.results import Result


@dataclass(frozen=True)
class RecoveredToken:
    """A token of a recovered text."""

    token: str
    """Its label."""
    id: int
    rank: int
    """In the order in which tokens were tried at its position, from 0."""
    tried: int
    """So many tokens were run at its position."""
    distance: float
    """D of its state from the one at hand."""
    seconds: float
    runner_up: float | None
    """D of the nearest other token that was run."""


@dataclass(frozen=True)
class RecoveredText:
    """A text whose states are those at hand."""

    text: str
    ids: tuple[int, ...]
    """What it is run with before it (BOS) included, where its states are."""
    tokens: tuple[RecoveredToken, ...]
    """Without that."""
    largest: float
    """D where it is largest, of one run of the whole text."""


@dataclass(frozen=True)
class Nearest:
    """Where no token fits."""

    position: int
    """Row of the states."""
    token: str
    """The nearest that was run."""
    distance: float
    tried: int
    every: bool
    """Whether all tokens were run there."""


@dataclass(frozen=True, repr=False)
class Recovery(Result):
    """What was found for the states of one site at consecutive positions."""

    site: str
    rows: int
    """Of the states."""
    padding: int
    """Rows before and behind the text that are of none."""
    precision: str
    """Of the states: ``fp32``, ``fp16`` or ``bf16``, by what their numbers are."""
    threshold: float
    """Largest D of a token that is taken."""
    vocabulary: int
    """Tokens that there are."""
    texts: tuple[RecoveredText, ...]
    """All that fit, the nearest first; none where there is none."""
    more: bool
    """More than these fit at some position, of which the nearest were followed."""
    prefix: str
    """What was recovered up to where nothing fits; empty where ``texts`` are not."""
    nearest: Nearest | None
    """Where nothing fits."""
    seconds: float
    exact: bool | None = None
    """Whether the one text that fits is the one that the states were taken from; ``None``: not known what that is."""
    learning: float = 0.0
    """Seconds that went into the order of tokens, once for a model and site."""

    @property
    def text(self) -> str | None:
        """The text; the nearest where several fit, ``None`` where none does."""
        return self.texts[0].text if self.texts else None

    @property
    def tokens(self) -> tuple[RecoveredToken, ...]:
        """Of that text."""
        return self.texts[0].tokens if self.texts else ()

    @property
    def remaining(self) -> list[dict[str, Any]]:
        """Positions at which the texts that fit differ, and by which tokens."""
        found = []
        for place in range(max((len(text.tokens) for text in self.texts), default=0)):
            here = {t.tokens[place].id: t.tokens[place].token for t in self.texts if place < len(t.tokens)}
            if len(here) > 1:
                found.append({"position": place, "tokens": list(here.values())})
        return found

    @property
    def note(self) -> str:
        """A sentence: what was found."""
        if self.nearest is not None:
            return self._none()
        off = f"run again it gives the states within D = {max(t.largest for t in self.texts):.1e}"
        if len(self.texts) == 1 and not self.more:
            return f"One text was found; {off} (threshold {self.threshold:.1e} for {self.precision})."
        many = f"More than {len(self.texts)}" if self.more else str(len(self.texts))
        return f"{many} texts fit the states in {self.precision} (D ≤ {self.threshold:.1e}): these cannot tell them apart."

    def _none(self) -> str:
        near = self.nearest
        assert near is not None
        tried = f"all {near.tried:,} tokens" if near.every else f"{near.tried:,} tokens that were tried"
        where = f"at row {near.position} the nearest of {tried} is {near.token} at D = {near.distance:.2g}"
        limit = f"(threshold {self.threshold:.1e} for {self.precision})"
        if near.position == self.padding:
            return (
                f"No text gives these states: {where} {limit}, so they are of another model or site, of no text, or the rows "
                "before them are missing."
            )
        return f"No text gives these states: the first {near.position} rows fit, but {where} {limit}."

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        seconds = [t.seconds for t in self.tokens]
        return {
            "site": self.site, "text": self.text, **({} if self.exact is None else {"exact": self.exact}),
            "seconds_per_token": sum(seconds) / len(seconds) if seconds else None,
            "tokens": [asdict(token) for token in self.tokens],
            "texts": [{"text": t.text, "ids": list(t.ids), "largest": t.largest} for t in self.texts], "more": self.more,
            "remaining": self.remaining, "prefix": self.prefix,
            "nearest": None if self.nearest is None else asdict(self.nearest), "threshold": self.threshold,
            "precision": self.precision, "rows": self.rows, "padding": self.padding, "vocabulary": self.vocabulary,
            "seconds": self.seconds, "learning": self.learning, "note": self.note,
        }  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each token, for a data frame."""
        return [asdict(token) for token in self.tokens]


@dataclass(frozen=True)
class GuessedToken:
    """A token of the text that comes nearest to a vector."""

    token: str
    """Its label."""
    id: int
    agreed: bool
    """All texts that are about as near have it at its place, counted from the end; all may be wrong."""


@dataclass(frozen=True)
class GuessedText:
    """A text whose last state is near a vector."""

    text: str
    ids: tuple[int, ...]
    """Without what is run before it (BOS)."""
    distance: float
    came: str
    """From what: ``corpus``, ``decoder``, or the proposal that made it."""


@dataclass(frozen=True, repr=False)
class VectorRecovery(Result):
    """The texts that come nearest to one vector, of all that were run."""

    site: str
    texts: tuple[GuessedText, ...]
    """The nearest first."""
    tokens: tuple[GuessedToken, ...]
    """Of the nearest."""
    corpus: float
    """D of the nearest text that the search began with."""
    run: int
    """So many texts were run."""
    seconds: float

    @property
    def epsilon(self) -> float:
        """The smallest ε that so many texts were found in: D of the farthest."""
        return self.texts[-1].distance

    @property
    def note(self) -> str:
        """A sentence: how near the texts come, and in what they agree."""
        same = sum(token.agreed for token in self.tokens)
        return (
            f"Of {self.run:,} texts that were run the nearest is at D = {self.texts[0].distance:.3g} (of the corpus: "
            f"{self.corpus:.3g}), {len(self.texts)} lie within {self.epsilon:.3g}, and all of these have {same} of its "
            f"{len(self.tokens)} tokens. That is how near it comes, not what was written: others may be nearer."
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "site": self.site, "text": self.texts[0].text, "distance": self.texts[0].distance, "epsilon": self.epsilon,
            "corpus": self.corpus, "tokens": [asdict(each) for each in self.tokens],
            "texts": [asdict(each) for each in self.texts], "run": self.run, "seconds": self.seconds, "note": self.note,
        }  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each text, for a data frame."""
        return [{"text": each.text, "distance": each.distance, "came": each.came} for each in self.texts]

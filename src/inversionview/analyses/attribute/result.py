"""What attribution found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from inversionview.core.information import clopper_pearson
from inversionview.core.results import Result, Results

# -- one input ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenLogit:
    """A token and what is added to its logit."""

    token: str
    id: int
    logit: float


@dataclass(frozen=True, repr=False)
class Attribution(Result):
    """The tokens that a component promotes and suppresses most at one position of one input."""

    model: str
    tokens: tuple[str, ...]
    """BOS and EOS included."""
    position: int
    site: str
    """Or the difference of two."""
    folded: bool
    """Whether the last norm is folded in."""
    promoted: tuple[TokenLogit, ...]
    """Largest contribution first."""
    suppressed: tuple[TokenLogit, ...]
    """Smallest first."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each token, for a data frame."""
        plain = {"site": self.site, "position": self.position, "folded": self.folded}
        return [
            {**plain, "direction": direction, "rank": rank, **asdict(found)}
            for direction in ("promoted", "suppressed")
            for rank, found in enumerate(getattr(self, direction), 1)
        ]


class Attributions(Results[Attribution]):
    """One for each component, all at the same position of one input."""


# -- many inputs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """A share of inputs with its 95 % interval (Clopper and Pearson)."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, trials: int) -> Rate:
        """Return the share that ``hits`` of ``trials`` are."""
        return cls(hits / trials, *clopper_pearson(hits, trials))


@dataclass(frozen=True)
class Rates:
    """How often the expected word is among the k most promoted (suppressed) tokens by one component (Table 4)."""

    site: str
    """Or the difference of two."""
    promoted: Rate
    promoted_first: Rate
    """And is promoted more than every rival."""
    suppressed: Rate
    suppressed_first: Rate
    """And is suppressed more than every rival."""


@dataclass(frozen=True, repr=False)
class RateTable(Result):
    """Rates of several components over the same inputs."""

    model: str
    inputs: int
    candidates: int
    """How many words are rivals."""
    k: int
    tokens: int
    """Size of the vocabulary: by chance the expected word, where it is one token, is among the k with k / tokens."""
    folded: bool
    rows: tuple[Rates, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each component, for a data frame."""
        plain = {"inputs": self.inputs, "k": self.k, "folded": self.folded}
        ends = {"value": "", "low": "_low", "high": "_high"}
        names = ("promoted", "promoted_first", "suppressed", "suppressed_first")
        return [
            {"site": row.site} | {n + end: getattr(getattr(row, n), part) for n in names for part, end in ends.items()} | plain
            for row in self.rows
        ]

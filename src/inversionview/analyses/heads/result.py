"""Heads that matter for a task: what is kept of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from inversionview.analyses.heads.head_measures import POSITIONS
from inversionview.core.information import Mean
from inversionview.core.results import Result
from inversionview.core.scope import Distance

GROUPS = {
    "name mover": "END", "negative name mover": "END", "copy suppression": "END", "S-inhibition": "END", "induction": "S2",
    "duplicate token": "S2", "previous token": "S1+1",
}  # fmt: skip
"""The groups, and where a head of each is read. Backup name movers are name movers whose direct effect is small."""
NONE = "none"
"""A head that matters but meets the criteria of no group."""
ATTENDS = 0.2
"""A head attends to a token if it gives it this much on average: of some 20 tokens, each would by chance get 0.05."""
REPEATS = 0.1
"""The same on random repeated sequences, where nothing but repetition can draw it: by chance it is 0.03."""
COPIES = 0.5
"""A head copies if it promotes more names than not: Wang et al. report above 0.95 for name movers, below 0.2 on average."""
SMALL = 0.5
"""An S-inhibition head acts through others: less than this share of its effect is direct."""
MATTERS = 0.05
"""A head of no group is found if patching it does this share of what patching everything does (LD_orig − LD_contrast)."""
FOUND = 26
"""So many are found at most: as many heads as the published circuit of GPT-2 small has."""


POSITIONAL = ("order", "S1_position", "relative_position")
"""Features that say where S1 stands; order is its place relative to IO."""
FEATURES = ("IO", "S", *POSITIONAL, "template", "place", "object")
"""Features of prompts that heads may tell of."""


@dataclass(frozen=True)
class NamedHead:
    """A head that matters, its group, and the position where it is read."""

    site: str
    group: str
    position: str
    effect: Mean | None = None
    """What patching it there does to LD; ``None`` where it comes from a publication."""


@dataclass(frozen=True)
class HeadMeasures:
    """All that was measured of one head."""

    site: str
    group: str
    """One of ``GROUPS``, or ``NONE``."""
    position: str
    """The group's; of no group, where patching has the largest effect."""
    direct: Mean
    """What it adds to LD by itself, at END."""
    estimate: dict[str, float]
    """First-order estimate of the effect of patching it, by position."""
    effect: dict[str, Mean]
    """LD_orig − LD_patched, by position; only where it was patched, being among those of the largest estimates."""
    attention: dict[str, float]
    """Mean attention, ``"END→IO"``."""
    copy: float | None
    """Share of names it promotes among the first five; ``None`` where it was not patched at END, nor in what follows."""
    negative_copy: float | None
    previous: float
    """Previous-token score on random sequences."""
    duplicate: float
    induction: float

    @property
    def matter(self) -> Mean | None:
        """The effect of patching it at its position."""
        return self.effect.get(self.position)


@dataclass(frozen=True, repr=False)
class HeadTable(Result):
    """Every head of a model, measured on the prompts of a study."""

    formats: ClassVar[tuple[str, ...]] = (".json", ".csv", ".parquet", ".png", ".svg")

    study: str
    model: str
    fingerprint: str
    """Of the model's weights."""
    inputs: str
    """Fingerprint of the study's inputs."""
    prompts: int
    pairs: int
    seed: int
    accuracy: float
    """Share of prompts with logit(IO) > logit(S)."""
    first: float
    """Share of prompts where IO is the first of all names."""
    ld: Mean
    """logit(IO) − logit(S) of the prompts, in nats."""
    ld_pairs: float
    """LD_orig, the mean over the pairs."""
    ld_contrast: float
    """The same logits of their contrasts: LD_orig − LD_contrast is the effect of patching everything."""
    heads: tuple[HeadMeasures, ...]

    @property
    def total(self) -> float:
        """The effect of patching everything."""
        return self.ld_pairs - self.ld_contrast

    @property
    def found(self) -> list[NamedHead]:
        """The heads that matter, largest effect first.

        Those of a group whose patching effect is told from nothing, and those of none with a large one.
        """
        some = [
            (head, effect)
            for head in self.heads
            if (effect := head.matter) is not None
            and (effect.low > 0 or effect.high < 0)
            and (head.group != NONE or abs(effect.value) >= MATTERS * abs(self.total))
        ]
        some.sort(key=lambda each: -abs(each[1].value))
        return [NamedHead(head.site, head.group, head.position, effect) for head, effect in some[:FOUND]]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        found = [{key: value for key, value in asdict(head).items() if key != "effect"} for head in self.found]
        return _rounded({**asdict(self), "found": found})

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> HeadTable:
        """Read what ``to_json`` gives.

        Raises:
            KeyError, TypeError: it is something else.
        """
        heads = tuple(
            HeadMeasures(**{
                **head, "direct": Mean(**head["direct"]), "effect": {at: Mean(**mean) for at, mean in head["effect"].items()}
            })
            for head in value["heads"]
        )  # fmt: skip
        plain = {key: each for key, each in value.items() if key != "found"}
        return cls(**{**plain, "ld": Mean(**value["ld"]), "heads": heads})

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each head, for a data frame."""
        rank = {head.site: number for number, head in enumerate(self.found, 1)}
        rows = []
        for head in self.heads:
            row: dict[str, Any] = {
                "site": head.site,
                "rank": rank.get(head.site),
                "group": head.group,
                "position": head.position,
            }
            row |= _flat("direct", head.direct)
            for at in POSITIONS:
                row[f"estimate {at}"] = head.estimate[at]
                row |= _flat(f"effect {at}", head.effect.get(at))
            scores = ("copy", "negative_copy", "previous", "duplicate", "induction")
            rows.append({**row, **head.attention, **{name: getattr(head, name) for name in scores}})
        return rows


@dataclass(frozen=True)
class Moved:
    """What preimages say of IO where a head moves it: IO is the name that the head promotes (or suppresses) most by itself."""

    queries: int
    """So many of ``of`` queries; on the others the head moves another name."""
    of: int
    share: float
    """Of H(IO), over the queries with another input inside ε."""
    most: float
    """What that would be if all inputs inside ε had the query's IO: few of them can only show so much."""
    same: float
    """Share of the inputs inside ε with the query's IO, the mean over queries."""
    either: float
    """Share of them in which the query's IO is IO or S."""
    among: float
    """As ``share``, but told among the inputs in which the head moves IO, as if there were no others.

    This selects by what the head writes: it says that preimages and direct logit attribution agree on which name is moved.
    """
    among_most: float
    """As ``most``, likewise."""


@dataclass(frozen=True)
class CircuitRow:
    """A head and what its exact preimages at its own position tell."""

    head: NamedHead
    bits: Mean
    found: float
    """Share of queries with another input inside ε."""
    least: float
    """The mean of the bits where queries with one other input inside ε or none count as the least that this can mean."""
    shares: dict[str, float]
    """Of each feature's entropy."""
    moved: Moved | None
    """Of name movers and negative ones."""
    agrees: bool | None
    """It is as ``EXPECTED``; ``None`` for a head of no group, or where nothing can be said."""


@dataclass(frozen=True, repr=False)
class CircuitTable(Result):
    """The heads of a circuit, and what their exact preimages tell."""

    model: str
    inputs: int
    epsilon: float
    distance: Distance
    queries: int
    seed: int
    rows: tuple[CircuitRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each head, for a data frame."""
        names = ("found", "least", "agrees")
        return [
            {"site": row.head.site, "group": row.head.group, "position": row.head.position, **_flat("bits", row.bits),
             **{name: getattr(row, name) for name in names}, **{f"share {name}": share for name, share in row.shares.items()}}
            for row in self.rows
        ]  # fmt: skip


def _flat(name: str, mean: Mean | None) -> dict[str, float | None]:
    return {f"{name}{end}": None if mean is None else getattr(mean, part)
            for part, end in {"value": "", "low": " low", "high": " high"}.items()}  # fmt: skip


def _rounded(value: Any) -> Any:
    """Return JSON values with five significant digits, more than intervals warrant."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value

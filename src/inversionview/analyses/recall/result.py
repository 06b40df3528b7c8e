"""What retrieval heads carry."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from inversionview.analyses.recall.retrieval import RetrievalHead
from inversionview.core.information import Mean
from inversionview.core.results import Result
from inversionview.core.scope import Distance

CARRIES = 0.1
"""A head that tells a smaller share of attributes carries none."""


@dataclass(frozen=True)
class Carried:
    """What a head tells about a feature, over the inputs on which it works and whose subject has it."""

    feature: str
    bits: Mean
    """The mean over queries of log₂ P(φ = φ(x_q) ∣ preimage) / P(φ = φ(x_q))."""
    share: float
    """Of its entropy H(φ)."""
    entropy: float
    queries: int
    asked: float | None
    """The share among queries whose relation asks for it; ``None`` where these are too few."""
    unasked: float | None
    """And among those whose relation does not."""


@dataclass(frozen=True)
class HeadContent:
    """What one head carries."""

    head: RetrievalHead
    works: float
    """Share of the prompts on which it attends less than 0.6 to BOS."""
    works_asking_nothing: float
    """And of the sentences that ask for nothing."""
    attributes: tuple[Carried, ...]
    """What holds of subjects, what it tells most about first, by share."""
    relation: Carried | None
    subject: Carried | None

    @property
    def asked(self) -> float | None:
        """Share that it tells of an attribute that is asked for, the mean over attributes with enough queries of both kinds."""
        return self._over_both("asked")

    @property
    def unasked(self) -> float | None:
        """And of one that is not, over the same attributes."""
        return self._over_both("unasked")

    def _over_both(self, name: str) -> float | None:
        both = [told for told in self.attributes if told.asked is not None and told.unasked is not None]
        return float(np.mean([getattr(told, name) for told in both])) if both else None

    @property
    def agnostic(self) -> bool | None:
        """Whether it retrieves attributes whatever the relation is; ``None`` where too few queries say.

        It tells at least ``CARRIES`` of what is not asked for, at least half of what it tells where it is, and more than of the
        relation.
        """
        if self.asked is None or self.unasked is None or self.relation is None:
            return None
        return self.unasked >= max(CARRIES, 0.5 * self.asked) and self.relation.share < self.unasked


@dataclass(frozen=True, repr=False)
class ContentTable(Result):
    """Heads, those with the largest share of the stream first."""

    formats: ClassVar[tuple[str, ...]] = (".md", ".csv", ".parquet")

    model: str
    prompts: int
    known: float
    """Share of the facts that the model completes rightly."""
    epsilon: float
    distance: Distance
    queries: int
    seed: int
    heads: tuple[HeadContent, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the table as plain JSON values."""
        derived = ("asked", "unasked", "agnostic")
        heads = [{**asdict(head), **{name: getattr(head, name) for name in derived}} for head in self.heads]
        return {**asdict(self), "heads": heads}

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each head and what it carries, for a data frame."""
        rows = []
        for head in self.heads:
            where = {"site": head.head.site, "position": head.head.position, "head_share": head.head.share, "works": head.works}
            for told in filter(None, (*head.attributes, head.relation, head.subject)):
                bits = {"bits": told.bits.value, "bits_low": told.bits.low, "bits_high": told.bits.high}
                rows.append({**where, **{name: value for name, value in vars(told).items() if name != "bits"}, **bits})
        return rows

"""What a walk did, and whether it can be trusted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from inversionview.markov.diagnostics import Mixing

Prior = Literal["study", "model", "uniform"]
"""The inputs' own distribution, the model's, or the same for every token sequence."""
PRIORS: tuple[Prior, ...] = get_args(Prior)


@dataclass(frozen=True)
class WalkReport:
    """What a walk did, and whether it can be trusted."""

    members: int
    """Distinct inputs inside ε other than the query, each run through the model."""
    taken: int
    """Of these, the distinct ones at which a chain has stood: likely under the prior too, not only inside ε."""
    measured: int
    """Inputs that were drawn or proposed and measured, repeats counted."""
    seconds: float
    members_per_second: float
    steps: int
    chains: int
    """At the wanted ε."""
    prior: str
    """``study``, ``model`` or ``uniform``."""
    acceptance: dict[str, float | None]
    """For each move the share of its proposals at the wanted ε that were taken."""
    mix: dict[str, float]
    """How often each move is made there, as learnt."""
    ladder: tuple[float | None, ...]
    """The thresholds of the replicas, innermost first; ``None`` is ∞."""
    exchanged: tuple[float | None, ...]
    """Share of the exchanges between neighbours that took place."""
    draws: int
    """Draws at the wanted ε that count, after the warm-up."""
    mixed: bool
    """Every feature has R̂ below 1.05 and an effective sample size of 400 or more."""
    r_hat: float | None
    """The worst of all features."""
    ess: float
    """The least."""
    forgotten: int | None
    """Steps until the query was forgotten, the most of all features; ``None``: it was not."""
    features: tuple[Mixing, ...]
    notes: tuple[str, ...]
    """What a reader must know, in sentences."""
    interrupted: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

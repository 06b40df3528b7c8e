"""What ablation found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from inversionview.core.information import Mean
from inversionview.core.results import Result

By = Literal["mean", "zero", "resample"]
WAYS: tuple[By, ...] = get_args(By)


@dataclass(frozen=True)
class Loss:
    """What a set of activations is worth to the prediction of one target, over the inputs, with 95 % bootstrap intervals."""

    target: str
    kl: Mean
    """KL(original ‖ patched) of the next token, in nats."""
    top_logit: Mean
    """The original run's highest logit."""
    decrement: Mean
    """How far the logit of that token falls."""
    relative: Mean
    """The mean decrement as a share of the mean highest logit."""
    accuracy: float
    """Share of inputs whose next token is the model's first."""
    accuracy_patched: float
    """The same with the activations replaced."""


@dataclass(frozen=True)
class Ablated:
    """A set of activations that were replaced together."""

    activations: tuple[str, ...]
    losses: tuple[Loss, ...]
    """One for each target."""


@dataclass(frozen=True, repr=False)
class Ablation(Result):
    """Activations ablated, each alone and, where there are several, all at once."""

    study: str
    model: str
    by: By
    where: tuple[str, ...]
    """Filters that all inputs satisfy."""
    inputs: int
    seed: int
    sets: tuple[Ablated, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each set and target, for a data frame."""
        return [
            {"activations": " ".join(each.activations), **_flat(asdict(loss))} for each in self.sets for loss in each.losses
        ]


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Spread means over three columns each."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
        else:
            flat[name] = value
    return flat

"""What patching found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from inversionview.core.files import TABLE_FORMATS
from inversionview.core.information import Mean
from inversionview.core.results import Result

Direction = Literal["forward", "backward", "single"]


@dataclass(frozen=True)
class Effects:
    """What patching did, step by step; a step adds one activation to those before, or (``single``) replaces it alone."""

    activations: tuple[str, ...]
    """In the order of the steps."""
    effect: tuple[Mean, ...]
    """LD_orig − LD_patched after each step."""
    increment: tuple[Mean, ...]
    """What each step added to it."""

    def to_json(self, ld_orig: float) -> dict[str, Any]:
        """Return plain lists, one number for each step."""
        return {"activations": list(self.activations), **_lists("effect", self.effect, ""),
                "ld_patched": [ld_orig - m.value for m in self.effect],
                **_lists("increment", self.increment, "increment_")}  # fmt: skip


def _lists(name: str, means: Sequence[Mean], prefix: str) -> dict[str, list[float]]:
    parts = {name: "value", f"{prefix}low": "low", f"{prefix}high": "high"}
    return {key: [getattr(m, part) for m in means] for key, part in parts.items()}


@dataclass(frozen=True, repr=False)
class Patching(Result):
    """Activation patching over a contrast set; all logit differences are in nats, with 95 % bootstrap intervals over pairs."""

    formats: ClassVar[tuple[str, ...]] = TABLE_FORMATS

    study: str
    model: str
    settings: dict[str, Any]
    """How the pairs were made: target, changes, filters, seed."""
    activations: tuple[str, ...]
    pairs: int
    left_out: int
    """Inputs without a contrast."""
    accuracy: float
    """Share of the originals whose answer is the model's own."""
    ld_orig: Mean
    ld_contrast: Mean
    """Of the contrast run: LD_orig − LD_contrast is the effect of patching everything."""
    together: Mean
    """The effect of all activations at once."""
    effects: dict[Direction, Effects]

    @property
    def total(self) -> float:
        """The effect of patching everything, LD_orig − LD_contrast."""
        return self.ld_orig.value - self.ld_contrast.value

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``effect`` is cumulative, in the order of the direction's own ``activations``."""
        return {
            "study": self.study, "model": self.model, **self.settings, "activations": list(self.activations),
            "pairs": self.pairs, "left_out": self.left_out, "accuracy": self.accuracy,
            "ld_orig": self.ld_orig.value, "ld_orig_low": self.ld_orig.low, "ld_orig_high": self.ld_orig.high,
            "ld_contrast": self.ld_contrast.value, "together": asdict(self.together),
            **{direction: effects.to_json(self.ld_orig.value) for direction, effects in self.effects.items()},
        }  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each direction and step, for a data frame."""
        flat = []
        for direction, effects in self.effects.items():
            columns = effects.to_json(self.ld_orig.value)
            names = columns.pop("activations")
            flat += [
                {
                    "direction": direction,
                    "step": i + 1,
                    "activation": name,
                    **{key: column[i] for key, column in columns.items()},
                }
                for i, name in enumerate(names)
            ]
        return flat

"""How a decoder is trained: the settings of a run, of which a pool of pairs and the length of training are functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from inversionview.core.errors import SettingError
from inversionview.core.ranges import YEAR, check_seed, finite, positive, whole
from inversionview.core.scope import Distance, check_distance, check_epsilon

Target = Literal["ball", "own"]


def check_target(name: str) -> Target:
    """Return ``name`` if it is what a decoder can learn.

    Raises:
        SettingError: it is not.
    """
    for known in get_args(Target):
        if name == known:
            return cast(Target, known)
    raise SettingError(f"There is no target {name!r}: a decoder learns a ball or the input of its own, so give ball or own.")


@dataclass(frozen=True)
class TrainConfig:
    """How a decoder is trained; defaults are what did best on the two shipped studies."""

    minutes: float | None = 30.0
    """Length of the run in minutes of training; the learning rate falls to zero at its end."""
    steps: int | None = None
    """Length of the run in batches, in place of minutes: then the same seed gives the same decoder."""
    batch: int = 256
    """Pairs in a batch, over all processes."""
    groups: int = 4
    """Parts of a batch, each of about one length: little padding, yet every batch mixes lengths (without which training
    stalls: the gradient of one length is a poor guide to all)."""
    pairs_per_input: int = 4
    """Pairs of each input: they share its forward pass."""
    target: Target = "ball"
    """What is learned of an activation z_q: ``"ball"``, every input with D(z_q, x) ≤ ε, as likely as in the preimage;
    ``"own"``, the input that has just this activation (Huang et al. 2024, section 2.3)."""
    members: int | None = None
    """Inputs of each ball that are trained on; by default 8, where members are found by walking 32."""
    pool: int = 64
    """Batches in a pool."""
    muon_lr: float = 0.006
    adam_lr: float = 2e-3
    lm_lr: float = 3e-4
    """Of what is trained of a pretrained decoder's LM, by AdamW."""
    weight_decay: float = 0.0
    decay: float = 0.7
    """Share of the run over which the learning rate falls linearly to zero."""
    bos_share: float = 0.01
    """Share of pairs at BOS, from which the unconditional decoder is learned (Huang et al. 2024, appendix)."""
    rebalance: float = 2.0
    """Sites and, in each, named positions are weighted by softmax(rebalance · (mean − ratio)); 0 weights all alike."""
    evaluations: int = 10
    """How often in a run the good ratio is measured and the pairs are re-weighted."""
    queries: int = 200
    """Held-out queries per site for that, one sample each."""
    epsilon: float = 0.1
    """Threshold of balls, and of the good ratio that is measured for that; the study's."""
    epsilons: Mapping[str, float] = field(default_factory=dict)
    """Thresholds of balls by the short names of sites, where these are others."""
    distance: Distance = "euclidean"
    """Its distance, the study's."""
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise SettingError("Give the length of the training either in minutes or in steps.")
        if self.minutes is not None:
            positive(self.minutes, "The length of the training in minutes", YEAR / 60)
        if self.steps is not None:
            whole(self.steps, "The length of the training in steps")
        for name in ("batch", "groups", "pairs_per_input", "pool", "queries"):
            whole(getattr(self, name), f"In a training {name}")
        if self.members is not None:
            whole(self.members, "In a training members", most=32)
        for name in ("muon_lr", "adam_lr", "lm_lr", "weight_decay", "rebalance"):
            finite(getattr(self, name), f"In a training {name}")
        for name in ("decay", "bos_share"):
            finite(getattr(self, name), f"In a training {name}", most=1)
        whole(self.evaluations, "In a training evaluations", 0)
        for epsilon in (self.epsilon, *self.epsilons.values()):
            check_epsilon(epsilon)
        check_distance(self.distance)
        check_seed(self.seed)
        check_target(self.target)
        if self.batch % self.groups or self.batch * self.pool % self.pairs_per_input:
            raise SettingError(f"A batch of {self.batch} pairs does not divide into {self.groups} groups: choose a multiple.")

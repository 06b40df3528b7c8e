"""Statistics of a corpus' activations, by which some distances map vectors: at each site mean, spread and covariance.

They are of one model and one corpus, which they name, and are kept with a bank and a run in ``statistics.safetensors``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from inversionview.core.errors import BankError, SettingError
from inversionview.core.integrity import digest
from inversionview.core.storage import replacing

FILE = "statistics.safetensors"
Moment = Literal["mean", "covariance", "gradients", "spread"]
MOMENTS: tuple[Moment, ...] = ("mean", "covariance", "gradients", "spread")
_SHRUNK = 0.1
"""Share of the identity, scaled to the mean variance, that a covariance is mixed with (Ledoit and Wolf 2004)."""
_OTHERS = 0.3
"""Share of another map that gradients are mixed with; see ``sensitivity``."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of activations at some sites, in the coordinates in which banks keep them."""

    model: str
    """Fingerprint of the model."""
    corpus: str
    """What the corpus is called."""
    fingerprint: str
    """Of the corpus."""
    tokens: int
    """How many tokens were looked at."""
    moments: Mapping[str, Mapping[Moment, Tensor]]
    """By site: ``mean`` [width], ``covariance`` [width, width], ``gradients`` [width, width], their mean outer product, and
    ``spread`` [1] of a single number."""

    def to_json(self) -> dict[str, Any]:
        """Return what they are of."""
        return {"corpus": self.corpus, "fingerprint": self.fingerprint, "tokens": self.tokens}

    @cached_property
    def digest(self) -> str:
        """A checksum of all numbers."""
        told = [self.model, self.corpus, self.fingerprint, self.tokens]
        return digest(json.dumps([told, {site: self.mark(site) for site in sorted(self.moments)}]).encode())[:16]

    def mark(self, site: str) -> str:
        """Return what tells the statistics of a site apart."""
        own = self.moments.get(site, {})
        parts = [self.fingerprint, str(self.tokens), *(digest(own[m].contiguous().numpy().tobytes()) for m in sorted(own))]
        return digest(" ".join(parts).encode())[:16]

    def mean(self, site: str) -> Float[Tensor, " width"]:
        """Return the mean of the activations at a site.

        Raises:
            SettingError: that site was not measured, as of the other methods.
        """
        return self._moment(site, "mean")

    def deviation(self, site: str) -> Float[Tensor, " width"]:
        """Return the standard deviation of each number; a number that never changes has the least of the others.

        Raises:
            SettingError: nothing changes at that site, as of ``whitening``.
        """
        variance = self._moment(site, "covariance").diagonal().clamp(min=0)
        if not bool((variance > 0).any()):
            raise SettingError(_constant(site))
        return variance.clamp(min=float(variance[variance > 0].min())).sqrt()

    def spread(self, site: str) -> Float[Tensor, " 1"]:
        """Return the interquartile range of a single number; where that is 0, as of a latent that seldom fires, of those that
        are not the commonest value.

        Raises:
            SettingError: it never changes.
        """
        return self._moment(site, "spread")

    def whitening(self, site: str) -> Float[Tensor, "width width"]:
        """Return (0.9 Σ + 0.1 σ² I)^(−½), σ² being the mean of Σ's diagonal: Σ itself has directions of next to no variance."""
        covariance = self._moment(site, "covariance").double()
        variance = covariance.diagonal().mean()
        if not float(variance) > 0:
            raise SettingError(_constant(site))
        values, vectors = torch.linalg.eigh(covariance)
        shrunk = (1 - _SHRUNK) * values.clamp(min=0) + _SHRUNK * variance
        return ((vectors * shrunk.rsqrt()) @ vectors.T).float()

    def sensitivity(self, site: str, others: Float[Tensor, "width width"] | None) -> Float[Tensor, "width width"]:
        """Return A with A Aᵀ = 0.7 G/⟨G⟩ + 0.3 N/⟨N⟩: what the model is sensitive to at a site, as it seems from a sample.

        G is the mean outer product of the gradients, N = B Bᵀ of another map B (the identity where there is none), and ⟨M⟩
        the mean of zᵀMz over the corpus. Without N, directions that no gradient of the sample has would count for nothing.

        Raises:
            SettingError: nothing that is at that site changes what the model says.
        """
        mean, gradients = self.mean(site).double(), self._moment(site, "gradients").double()
        second = self._moment(site, "covariance").double() + mean[:, None] * mean
        base = torch.eye(len(mean), dtype=torch.float64) if others is None else others.double() @ others.double().mT
        weights = (gradients * second).sum(), (base * second).sum()
        if not float(min(weights)) > 0:
            raise SettingError(f"Nothing at {site} changes what the model says: choose another distance there.")
        values, vectors = torch.linalg.eigh((1 - _OTHERS) * gradients / weights[0] + _OTHERS * base / weights[1])
        return (vectors * values.clamp(min=0).sqrt()).float()

    def _moment(self, site: str, moment: Moment) -> Tensor:
        found = self.moments.get(site, {}).get(moment)
        if found is None:
            raise SettingError(f"The statistics of {self.corpus} hold no {moment} at {site}: measure them there, too.")
        return found

    def part(self, sites: Sequence[str]) -> Statistics:
        """Return those of some sites."""
        moments = {site: self.moments[site] for site in sites if site in self.moments}
        return Statistics(self.model, self.corpus, self.fingerprint, self.tokens, moments)

    def joined(self, other: Statistics) -> Statistics:
        """Return these and others of the same corpus; where both have a moment, the others'."""
        sites = {
            site: {**self.moments.get(site, {}), **other.moments.get(site, {})} for site in {*self.moments, *other.moments}
        }
        return Statistics(other.model, other.corpus, other.fingerprint, other.tokens, sites)

    def save(self, path: Path) -> None:
        """Write them, atomically.

        Raises:
            StorageError: the file cannot be written.
        """
        told = {"model": self.model, "corpus": self.corpus, "fingerprint": self.fingerprint, "tokens": str(self.tokens)}
        tensors = {f"{site}|{moment}": value for site, own in self.moments.items() for moment, value in own.items()}
        with replacing(path) as temporary:
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, {**told, "digest": self.digest})

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what ``save`` wrote.

        Raises:
            BankError: there is none, or it is damaged.
        """
        moments: dict[str, dict[Moment, Tensor]] = {}
        try:
            with safe_open(path, "pt") as file:
                told = file.metadata() or {}
                for key in file.keys():  # noqa: SIM118
                    site, _, name = key.rpartition("|")
                    moments.setdefault(site, {})[next(m for m in MOMENTS if m == name)] = file.get_tensor(key)
            found = cls(told["model"], told["corpus"], told["fingerprint"], int(told["tokens"]), moments)
            if found.digest != told["digest"]:
                raise ValueError("its checksum is another")
        except (OSError, SafetensorError, KeyError, ValueError, StopIteration) as error:
            raise BankError(f"{path} cannot be read ({error}): delete it, and measure the statistics again.") from error
        return found


def _constant(site: str) -> str:
    return f"All activations of the corpus are the same at {site}: nothing can be told apart there, read another site."


def spread_of(numbers: Float[Tensor, " token"], site: str, rectified: bool = False) -> Float[Tensor, " 1"]:
    """Return the interquartile range of numbers, see ``Statistics.spread``; of ``rectified`` ones, of those that are not 0.

    Raises:
        SettingError: all are the same.
    """
    fired = numbers[numbers != 0]
    if rectified and not len(fired):
        raise SettingError(f"{site} never fires in {len(numbers):,} tokens of the corpus: nothing can be told of it.")
    if rectified and fired.max() == fired.min():
        return fired[:1].abs().float()
    for some in (fired,) if rectified else (numbers, numbers[numbers != numbers.mode().values]):
        if len(some):
            low, high = torch.quantile(some.double(), torch.tensor([0.25, 0.75], dtype=torch.float64))
            if high > low:
                return (high - low).float()[None]
    if numbers.max() > numbers.min():
        return (numbers.max() - numbers.min()).float()[None]
    raise SettingError(_constant(site))


class Moments:
    """Sums of a site's activations, batch by batch, in fp64 from a first estimate of the mean on."""

    def __init__(self, wanted: Sequence[Moment]) -> None:
        self._covariance = "covariance" in wanted
        self.count = 0
        self._origin: Tensor | None = None
        self._sum = torch.empty(0)
        self._square = torch.empty(0)

    def add(self, z: Float[Tensor, "row width"]) -> None:
        """Add a batch."""
        if self._origin is None:
            self._origin = z.double().mean(0)
            self._sum = torch.zeros_like(self._origin)
            self._square = self._origin.new_zeros(len(self._origin), len(self._origin)) if self._covariance else self._sum
        gap = z.double() - self._origin
        self.count += len(z)
        self._sum = self._sum + gap.sum(0)
        if self._covariance:
            self._square += gap.T @ gap

    def told(self) -> dict[Moment, Tensor]:
        """Return mean and covariance of all that was added."""
        assert self._origin is not None
        gap = self._sum / self.count
        found: dict[Moment, Tensor] = {"mean": (self._origin + gap).float()}
        if self._covariance:
            found["covariance"] = (self._square / self.count - gap[:, None] * gap).float()
        return found


def moments_of(batches: Iterable[Sequence[Float[Tensor, "row width"]]], wanted: Sequence[Moment]) -> list[dict[Moment, Tensor]]:
    """Return the moments of each site from batches of activations, a tensor for each site.

    Raises:
        SettingError: there is no activation.
    """
    sums: list[Moments] = []
    for batch in batches:
        sums = sums or [Moments(wanted) for _ in batch]
        for each, z in zip(sums, batch, strict=True):
            each.add(z)
    if not sums or not sums[0].count:
        raise SettingError("The corpus holds no token to take statistics from: give more text.")
    return [each.told() for each in sums]

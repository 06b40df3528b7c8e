"""The first source of preimages: sample the decoder, then measure every sample in the probed model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview import distances
from inversionview.decoder.model import Decoder
from inversionview.decoder.sampling import sample, token_log_probs
from inversionview.errors import SettingError, UnknownSiteError, did_you_mean
from inversionview.inputs import Ids
from inversionview.measure import distance_to
from inversionview.preimage.core import Preimage, Query, Sample
from inversionview.preimage.samples import choose, samples_of
from inversionview.probed import ProbedModel
from inversionview.sites import Site

Report = Callable[[float, str], None]
"""Called with the share of the work that is done, and a note."""
Found = Callable[[tuple[Sample, ...]], None]
"""Called with samples as they are measured."""
_FIRST_LOOK = 36
"""Candidates drawn and measured ahead of all others, where somebody waits: three of each setting of ``"auto"``."""


@dataclass(frozen=True)
class Setting:
    """One way to draw candidates: a temperature, and noise η on the activation in units of std(z)."""

    temperature: float = 1.0
    noise: float = 0.0


AUTO = tuple(Setting(t, n) for t, n in product((0.5, 1.0, 2.0, 4.0), (0.0, 0.05, 0.1)))
"""Pooled by ``"auto"`` (Huang et al. 2024, appendix on sampling): 64 candidates of each of 12 settings."""


def draw(
    decoder: Decoder,
    z: Float[Tensor, " d_model"],
    site: int,
    settings: Sequence[Setting],
    each: int,
    generator: torch.Generator,
    report: Callable[[float], None] | None = None,
) -> Int[Tensor, "candidate max_length"]:
    """Draw ``each`` candidates under every setting."""
    device = decoder.device
    heat = torch.tensor([s.temperature for s in settings]).repeat_interleave(each)
    eta = torch.tensor([s.noise for s in settings]).repeat_interleave(each)
    noise = torch.randn(len(eta), len(z), generator=generator)
    noisy = z.float().cpu() + eta[:, None] * z.float().std().cpu() * noise
    where = torch.full((len(eta),), site, device=device)
    own = torch.Generator(device).manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
    return sample(decoder, noisy.to(device), where, temperature=heat.to(device), generator=own, report=report).cpu()


def sampled_preimage(
    decoder: Decoder,
    model: ProbedModel,
    query: Query,
    *,
    epsilon: float,
    distance: distances.Distance,
    count: int = 100,
    settings: Sequence[Setting] | Literal["auto"] = "auto",
    each: int = 64,
    fixed: Callable[[Ids], Ids] | None = None,
    seed: int = 0,
    report: Report | None = None,
    found: Found | None = None,
) -> Preimage:
    """Sample a query's preimage with the decoder and verify every sample in the probed model.

    Args:
        decoder: trained on the query's site.
        model: the probed model.
        query: what to read.
        epsilon: threshold of the preimage.
        distance: which distance.
        count: how many distinct samples to show at most, about 70 % of them inside ε where so many were found.
        settings: ways to draw candidates, or ``"auto"``.
        each: candidates of each setting.
        fixed: for the fixed-position variant, the position to compare in each row of tokens, −1 where there is none (such
            candidates are dropped); ``None`` takes the minimum over positions.
        seed: the same seed gives the same samples.
        report: called with the share of the work that is done, and a note.
        found: called with a first look, some 36 candidates drawn and measured ahead of all others. These are samples as true as
            the rest, but draws of their own: the result is what it is without, so they may not be among it.

    Raises:
        SettingError: ε, the count or a setting is out of range.
        UnknownSiteError: the decoder was not trained on the site.
    """
    distances.check_epsilon(epsilon)
    chosen = AUTO if settings == "auto" else tuple(settings)
    if count < 1 or each < 1 or not chosen or any(s.temperature <= 0 or s.noise < 0 for s in chosen):
        raise SettingError("Counts and temperatures must be positive, and noise at least 0.")
    read = _Reading(decoder, model, query, epsilon, distance, fixed)
    if found is not None:
        few = -(-_FIRST_LOOK // len(chosen))
        first = read.measured(chosen, few, torch.Generator().manual_seed(seed), None)
        found(first.samples(torch.argsort(first.nearest, stable=True)[:count]))
    generator = torch.Generator().manual_seed(seed)
    measured = read.measured(chosen, each, generator, report and partial(_drawing, report))
    samples = measured.samples(choose(measured.nearest, epsilon, count, generator))
    inside = torch.repeat_interleave(measured.tokens, measured.times * (measured.nearest <= epsilon), dim=0).numpy()
    return Preimage(query, distance, epsilon, seed, samples, candidates=each * len(chosen), draws=inside)


def _drawing(report: Report, share: float) -> None:
    report(0.8 * share, "drawing")


@dataclass(frozen=True)
class _Reading:
    """What stays the same while one query is read."""

    decoder: Decoder
    model: ProbedModel
    query: Query
    epsilon: float
    distance: distances.Distance
    fixed: Callable[[Ids], Ids] | None

    @cached_property
    def number(self) -> int:
        return trained_site(self.decoder, self.query.site)

    def measured(
        self, settings: Sequence[Setting], each: int, generator: torch.Generator, report: Callable[[float], None] | None
    ) -> _Measured:
        """Draw candidates and run each distinct one through the probed model; those without the fixed position are dropped."""
        drawn = draw(self.decoder, self.query.z, self.number, settings, each, generator, report)
        tokens, times = torch.unique(drawn, dim=0, return_counts=True)
        z = self.query.z.expand(len(tokens), -1)
        per_token, nearest, position = distance_to(self.model, tokens, z, self.query.site, self.distance, self.fixed)
        return _Measured(self, *(t[position >= 0] for t in (tokens, times, per_token, nearest, position)))


@dataclass(frozen=True)
class _Measured:
    """Distinct candidates with how often each was drawn, and their distances."""

    read: _Reading
    tokens: Int[Tensor, "candidate pos"]
    times: Int[Tensor, " candidate"]
    per_token: Float[Tensor, "candidate pos"]
    nearest: Float[Tensor, " candidate"]
    position: Int[Tensor, " candidate"]

    def samples(self, shown: Int[Tensor, " shown"]) -> tuple[Sample, ...]:
        """Return some of the candidates as samples, with what the activation caused in them."""
        read, tokens = self.read, self.tokens[shown]
        return samples_of(
            read.model, tokens, self.nearest[shown], self.position[shown], self.per_token[shown],
            epsilon=read.epsilon, source="decoder", times=self.times[shown],
            effect=effects(read.decoder, read.model, tokens, read.query, read.number),
        )  # fmt: skip


def trained_site(decoder: Decoder, site: Site) -> int:
    """Return the number of a site in the decoder.

    Raises:
        UnknownSiteError: the decoder was not trained on it.
    """
    known = decoder.config.sites
    if site.short not in known:
        raise UnknownSiteError(
            f"The decoder was not trained on {site}, but on {', '.join(known)}." + did_you_mean(site.short, known)
        )
    return known.index(site.short)


def effects(
    decoder: Decoder, model: ProbedModel, tokens: Int[Tensor, "shown pos"], query: Query, site: int
) -> Float[Tensor, "shown pos"]:
    """Return p(token ∣ prefix, z_q) − p(token ∣ prefix, z_BOS), in [−1, 1] (Huang et al. 2024, section 2.3); 0 at BOS."""
    bos = torch.tensor([[decoder.config.bos]])
    z_bos = model.activations(bos, [query.site], torch.zeros(1, 1, dtype=torch.long))[0, 0]
    device = decoder.device
    where = torch.full((len(tokens),), site, device=device)
    with_z, without = (
        token_log_probs(decoder, tokens.to(device), z.to(device, torch.float32).expand(len(tokens), -1), where).exp()
        for z in (query.z[None], z_bos)
    )
    return (with_z - without).cpu()

"""The first source of preimages: sample the decoder, then measure every sample in the probed model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core.errors import SettingError, UnknownPositionError, UnknownSiteError, did_you_mean
from inversionview.core.memory import check_memory
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.core.scope import Scope, check_epsilon
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.sampling import sample, token_log_probs
from inversionview.model.measure import Finder, distance_to
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site
from inversionview.preimage.preimage import Preimage, Query, Sample
from inversionview.sources.samples import choose, samples_of
from inversionview.sources.settings import Pool, Setting, pool_named
from inversionview.sources.source import Watch

_FIRST_LOOK = 36
"""Candidates drawn and measured ahead of all others, where somebody waits: three of each setting of ``"auto"``."""
_RARE = 0.01


def draw(
    decoder: Decoder,
    z: Float[Tensor, " d_model"],
    site: int,
    settings: Sequence[Setting],
    each: int,
    generator: torch.Generator,
    report: Callable[[float], None] | None = None,
) -> Int[Tensor, "candidate input_length"]:
    """Draw ``each`` candidates under every setting, those with damping last."""
    plain, damped = [s for s in settings if not s.damping], [s for s in settings if s.damping]
    drawn, done = torch.empty(0, decoder.config.input_length, dtype=torch.long), 0
    for some in (plain, damped):
        if some:
            excess = _excess(decoder, drawn) if some is damped else None
            note = report and partial(_part, report, done / len(settings), len(some) / len(settings))
            drawn = torch.cat([drawn, _candidates(decoder, z, site, some, each, generator, excess, note)])
            done += len(some)
    return drawn


def _part(report: Callable[[float], None], start: float, length: float, share: float) -> None:
    report(start + length * share)


def _candidates(
    decoder: Decoder,
    z: Float[Tensor, " d_model"],
    site: int,
    settings: Sequence[Setting],
    each: int,
    generator: torch.Generator,
    excess: Float[Tensor, " vocabulary"] | None,
    report: Callable[[float], None] | None,
) -> Int[Tensor, "candidate input_length"]:
    device = decoder.device
    changed = perturbed(z.float().cpu(), settings, each, generator)
    heat = torch.tensor([s.temperature for s in settings]).repeat_interleave(each)
    damping = torch.tensor([s.damping for s in settings]).repeat_interleave(each)
    where = torch.full((len(heat),), site, device=device)
    own = torch.Generator(device).manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
    less = None if excess is None else (damping[:, None] * excess).to(device)
    return sample(
        decoder, changed.to(device), where, temperature=heat.to(device), less=less, generator=own, report=report
    ).cpu()


def perturbed(
    z: Float[Tensor, " d_model"], settings: Sequence[Setting], each: int, generator: torch.Generator
) -> Float[Tensor, "candidate d_model"]:
    """Return z as it is given to the decoder, ``each`` times under every setting: with noise, turned, rescaled."""
    noise, turn, scaled = (
        torch.tensor([float(getattr(s, name)) for s in settings]).repeat_interleave(each)[:, None]
        for name in ("noise", "rotation", "rescale")
    )
    random = torch.randn(len(noise), len(z), generator=generator)
    out = z + noise * z.std() * random
    if bool(turn.any()):
        norm = out.norm(dim=-1, keepdim=True)
        unit = out / norm.clamp(min=1e-30)
        aside = torch.randn(out.shape, generator=generator)
        aside = torch.nn.functional.normalize(aside - (aside * unit).sum(-1, keepdim=True) * unit, dim=-1)
        cosine = 1 - turn
        out = torch.where(turn > 0, norm * (cosine * unit + (1 - cosine.square()).clamp(min=0).sqrt() * aside), out)
    if bool(scaled.any()):
        out = out * (scaled * (2 * torch.rand(len(out), 1, generator=generator) - 1)).exp()
    return out


def _excess(decoder: Decoder, drawn: Int[Tensor, "candidate pos"]) -> Float[Tensor, " vocabulary"] | None:
    """Return log(r / q) of each of the decoder's tokens that is rare and was drawn too often, else 0; see ``Setting``."""
    if not decoder.config.shares or not len(drawn):
        return None
    own = decoder.own(drawn.to(decoder.device)).cpu()
    held = torch.zeros(len(own), decoder.config.size + 1)
    held.scatter_(1, own.masked_fill(own < 0, decoder.config.size), 1.0)
    r, q = held[:, :-1].mean(0), torch.tensor(decoder.config.shares)
    return torch.where((q < _RARE) & (r > q), (r / q).log(), 0.0)


def sampled_preimage(
    decoder: Decoder,
    model: ProbedModel,
    query: Query,
    scope: Scope[Finder],
    *,
    count: int = 100,
    settings: Sequence[Setting] | Pool = "auto",
    each: int = 64,
    seed: int = 0,
    report: Progress | None = None,
    found: Watch | None = None,
) -> Preimage:
    """Sample a query's preimage with the decoder and verify every sample in the probed model.

    Args:
        decoder: trained on the query's site.
        model: the probed model.
        query: what to read.
        scope: how candidates are compared: ``at`` finds the position in each row of tokens (those without one are dropped);
            ``None`` takes the minimum over positions.
        count: how many distinct samples to show at most, about 70 % of them inside ε where so many were found.
        settings: ways to draw candidates, or the name of a pool of them: ``"auto"``, or ``"facts"`` for the cosine distance.
        each: candidates of each setting.
        seed: the same seed gives the same samples.
        report: called with the share of the work that is done, and a note.
        found: called with a first look, some 36 candidates drawn and measured ahead of all others. These are samples as true as
            the rest, but draws of their own: the result is what it is without, so they may not be among it.

    Raises:
        SettingError: ε, the count or a setting is out of range.
        UnknownSiteError: the decoder was not trained on the site.
        UnknownPositionError: no candidate has the fixed position.
    """
    check_epsilon(scope.epsilon)
    chosen = _checked(settings)
    whole(count, "The count of samples")
    check_seed(seed)
    _check_room(decoder, query, chosen, each)
    read = _OneQuery(decoder, model, query, scope)
    if found is not None:
        found(read.first_look(chosen, count, seed))
    generator = torch.Generator().manual_seed(seed)
    measured = read.measured(chosen, each, generator, None if report is None else partial(_drawing, report))
    if not len(measured.tokens):
        raise UnknownPositionError(f"None of {each * len(chosen):,} candidates has the position to compare: choose another.")
    samples = measured.samples(choose(measured.nearest, scope.epsilon, count, generator))
    within = measured.nearest <= scope.epsilon
    inside = torch.repeat_interleave(measured.tokens, measured.times * within, dim=0).numpy()
    return Preimage(
        query,
        scope.distance,
        scope.epsilon,
        seed,
        samples,
        candidates=each * len(chosen),
        inside_count=len(inside),
        distinct=int(within.sum()),
        draws=inside,
    )


def _checked(settings: Sequence[Setting] | Pool) -> tuple[Setting, ...]:
    """Return the ways to draw candidates.

    Raises:
        SettingError: there is none, or one is out of range.
    """
    chosen = pool_named(settings) if isinstance(settings, str) else tuple(settings)
    if not chosen:
        raise SettingError("There must be a way to draw candidates: give a setting, or a pool of them.")
    for setting in chosen:
        setting.check()
    return chosen


def _check_room(decoder: Decoder, query: Query, settings: Sequence[Setting], each: int) -> None:
    """Raise ``SettingError`` unless ``each`` candidates of every setting are some, and fit into the memory."""
    count = whole(each, "The number of candidates of each setting") * len(settings)
    at_once = min(count, decoder.rows_at_once) * decoder.row_bytes
    check_memory(count, "candidates", _bytes_each(decoder, query, settings), at_once)


def _bytes_each(decoder: Decoder, query: Query, settings: Sequence[Setting]) -> int:
    """Return the memory of a candidate at the worst moment: its activations as they are changed, then its tokens, sorted."""
    damped = decoder.config.size if any(s.damping for s in settings) else 0
    return 4 * (8 * len(query.z) + 12 * decoder.config.max_length + 2 * damped) + 8 * 8 * decoder.config.max_length


def _drawing(report: Progress, share: float) -> None:
    report(0.8 * share, "drawing")


@dataclass(frozen=True)
class _OneQuery:
    """What stays the same while one query is read."""

    decoder: Decoder
    model: ProbedModel
    query: Query
    scope: Scope[Finder]

    @cached_property
    def number(self) -> int:
        return trained_site(self.decoder, self.query.site)

    def first_look(self, settings: Sequence[Setting], count: int, seed: int) -> tuple[Sample, ...]:
        """Return the nearest of a few candidates, drawn and measured ahead of all others."""
        few = -(-_FIRST_LOOK // len(settings))
        first = self.measured(settings, few, torch.Generator().manual_seed(seed), None)
        return first.samples(torch.argsort(first.nearest, stable=True)[:count])

    def measured(
        self, settings: Sequence[Setting], each: int, generator: torch.Generator, report: Callable[[float], None] | None
    ) -> _Measured:
        """Draw candidates and run each distinct one through the probed model; those without the fixed position are dropped."""
        drawn = draw(self.decoder, self.query.z, self.number, settings, each, generator, report)
        tokens, times = torch.unique(drawn, dim=0, return_counts=True)
        z = self.query.z.expand(len(tokens), -1)
        per_token, nearest, position = distance_to(self.model, tokens, z, self.query.site, self.scope.distance, self.scope.at)
        return _Measured(self, *(t[position >= 0] for t in (tokens, times, per_token, nearest, position)))


@dataclass(frozen=True)
class _Measured:
    """Distinct candidates with how often each was drawn, and their distances."""

    read: _OneQuery
    tokens: Int[Tensor, "candidate pos"]
    times: Int[Tensor, " candidate"]
    per_token: Float[Tensor, "candidate pos"]
    nearest: Float[Tensor, " candidate"]
    position: Int[Tensor, " candidate"]

    def samples(self, shown: Int[Tensor, " shown"]) -> tuple[Sample, ...]:
        """Return some of the candidates as samples, with what the activation caused in them, and how likely they are."""
        read, tokens = self.read, self.tokens[shown]
        effect, log_p = effects(read.decoder, read.model, tokens, read.query, read.number)
        return samples_of(
            read.model, tokens, self.nearest[shown], self.position[shown], self.per_token[shown],
            epsilon=read.scope.epsilon, source="decoder", times=self.times[shown], effect=effect, log_p=log_p,
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
) -> tuple[Float[Tensor, "shown pos"], Float[Tensor, " shown"]]:
    """Return p(token ∣ prefix, z_q) − p(token ∣ prefix, z_BOS), in [−1, 1] (Huang et al. 2024, section 2.3), 0 at BOS; and
    log p(x ∣ z_q) of each input.

    Where inputs have no BOS, 0 takes the part of z_BOS, as it did in training.
    """
    if decoder.config.unread:
        z_bos = torch.zeros(1, len(query.z))
    else:
        bos = torch.tensor([[decoder.config.bos]])
        z_bos = model.activations(bos, [query.site], torch.zeros(1, 1, dtype=torch.long))[0, 0]
    device = decoder.device
    where = torch.full((len(tokens),), site, device=device)
    with_z, without = (
        token_log_probs(decoder, tokens.to(device), z.to(device, torch.float32).expand(len(tokens), -1), where).cpu()
        for z in (query.z[None], z_bos)
    )
    return with_z.exp() - without.exp(), with_z.sum(1)

"""The third source of preimages: a Markov chain from the query, which needs neither decoder nor corpus.

It draws from π(x) ∝ p(x) · 1[D(z_q, x) ≤ ε], with p the inputs' own distribution or the language model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError, SettingError
from inversionview.core.memory import check_memory
from inversionview.core.progress import Progress
from inversionview.core.ranges import whole
from inversionview.core.scope import check_epsilon
from inversionview.markov.chains import KEPT_STEPS
from inversionview.markov.diagnostics import LEAST_ESS, MOST_R_HAT, Mixing
from inversionview.markov.ended import EndedKernel
from inversionview.markov.kernel import Kernel, States, Target, keys_of
from inversionview.markov.language import LanguageKernel
from inversionview.markov.pool import Pool
from inversionview.markov.report import Prior, WalkReport
from inversionview.markov.run import Features, Found, Walk, WalkSettings
from inversionview.model.measure import distance_to
from inversionview.model.probed import ProbedModel
from inversionview.preimage.preimage import INSIDE_SHARE, Preimage, Query, Sample
from inversionview.sources.samples import samples_of
from inversionview.sources.source import Watch

_ROUNDING = 1e-4
"""The query's own D may be so much above 0."""
_MOST_STARTS = 1000
_MUCH_LONGER = 6
"""Starts may be longer or shorter by so many tokens more than a text may grow or shrink."""
_GIVEN = "Texts are run without a BOS, so nothing predicts their first token: it stays that of the query."


@dataclass(frozen=True)
class Ground:
    """What a walk goes over: all inputs of a study, or all token sequences of a model."""

    kernel: Kernel
    query: tuple[int, ...]
    """The input at which a walk begins, token ids with EOS: the query's, or those up to the position that is compared."""
    features: Features
    """What must mix, and the query forget."""
    width: int
    """Tokens of the longest input, EOS included."""
    settings: Mapping[str, Any]
    """Of ``WalkSettings``, where others than its own suit better."""
    chain_bytes: int = 0
    """Memory that the model takes for each chain, beside its tokens."""
    notes: tuple[str, ...] = ()
    """What a reader must know of it."""
    starts: Sequence[Sequence[int]] = ()
    """Inputs inside ε from elsewhere, at which half of the chains begin."""

    def padded(self, rows: Sequence[Sequence[int]], pad: int) -> Ids:
        """Return rows of token ids, padded on the right; those that are too long are left out."""
        fitting = [ids for ids in rows if len(ids) <= self.width]
        out = np.full((len(fitting), self.width), pad, dtype=np.int64)
        for i, ids in enumerate(fitting):
            out[i, : len(ids)] = ids
        return out


def language_ground(
    model: ProbedModel,
    target: Target,
    ids: Sequence[int],
    longer: int,
    starts: Sequence[Sequence[int]] = (),
    **options: Any,
) -> Ground:
    """Return all token sequences of about a query's length, under the model's own distribution; options of its kernel.

    Features: the length, the last token, and for each token of the query whether it occurs.

    Args:
        model: the probed model.
        target: what is compared.
        ids: the input at which a walk begins, with EOS.
        longer: a text may grow or shrink by so many tokens.
        starts: inputs inside ε from elsewhere. Where these are somewhat longer or shorter, so may all texts be; of those that
            are much longer the last tokens are taken.
        options: ``beta``, ``keep``, ``guided`` and ``ahead`` of the kernel.
    """
    model.check_steady(len(ids))
    vocabulary, length = model.vocabulary, len(ids) - 1
    whole(longer, "How many tokens longer or shorter a text may become", 0)
    if lost := [i for i in options.get("keep", ()) if not 0 <= i < length]:
        raise SettingError(f"There is no token {lost[0]} that could be kept: the input has tokens 0 to {length - 1}.")
    given = vocabulary.front or tuple(ids[:1])
    most = min(length + longer + _MUCH_LONGER, (model.shape.steady or model.shape.max_length) - 1)
    starts = _shortened([s for s in starts if len(s) - 1 >= length - longer - _MUCH_LONGER], given, most, len(vocabulary.front))
    lengths = (length - longer, length + longer, *(len(start) - 1 for start in starts))
    bounds, ahead = (min(lengths), max(lengths)), options.pop("ahead", ())
    if target.ended and options.get("beta", 1.0) and not options.get("guided"):
        options["ahead"] = ahead
    kernel = (EndedKernel if "ahead" in options else LanguageKernel)(model, target, bounds, given=given, query=ids, **options)
    names = dict(zip(ids[1:-1], vocabulary.strings(ids[1:-1]), strict=True))

    def features(tokens: Ids) -> dict[str, npt.NDArray[Any]]:
        lengths = (tokens != vocabulary.pad).sum(1)
        last = tokens[np.arange(len(tokens)), lengths - 2]
        return {"length": lengths, "last token": last, **{repr(name): (tokens == i).any(1) for i, name in names.items()}}

    settings = {"chains": 16, "exchange": False, "population": 64, "warm": 10}
    keys_values = 2 * 4 * len(model.shape.heads) * model.shape.d_model * (kernel.longest + 1)
    chances = 4 * 4 * model.shape.vocabulary * (3 * kernel.longest if "ahead" in options else 1)
    notes = () if vocabulary.front else (_GIVEN,)
    width, memory = kernel.longest + 1, 2 * keys_values + chances
    return Ground(kernel, tuple(ids), features, width, settings, memory, notes, starts)


def _shortened(starts: Sequence[Sequence[int]], given: Sequence[int], most: int, front: int) -> list[list[int]]:
    """Return inputs that begin as all do, with the last of their tokens where they have more than ``most``, EOS not counted."""
    made = []
    for ids in starts:
        begun = front if front or list(ids[: len(given)]) != list(given) else len(given)
        made.append([*given, *ids[max(begun, len(ids) - 1 - most + len(given)) :]])
    return made


def walked_preimage(
    model: ProbedModel,
    query: Query,
    ground: Ground,
    target: Target,
    settings: WalkSettings,
    *,
    prior: Prior,
    count: int = 100,
    report: Progress | None = None,
    found: Found | None = None,
) -> Preimage:
    """Walk from a query through its ε-preimage.

    Args:
        model: the probed model.
        query: what to read.
        ground: what the walk goes over.
        target: what is compared, and how.
        settings: how long and how wide.
        prior: its name.
        count: how many distinct samples to show at most.
        report: called with the share of the walk that is done, and a note.
        found: called with new members.

    Raises:
        SettingError: ε or the count is out of range.
        InputError: the prior gives the query probability 0, or it lies outside ε.
    """
    epsilon = check_epsilon(target.scope.epsilon)
    whole(count, "The count of samples")
    check_memory(settings.chains, "chains", ground.chain_bytes + 8 * ground.width * (2 * KEPT_STEPS + 32))
    rng = np.random.default_rng((settings.seed, 11))
    tokens = ground.padded([ground.query], model.vocabulary.pad)
    begin = ground.kernel.begin(tokens)
    _check_begin(begin, query, epsilon, prior)
    beginnings = _beginnings(ground, model.vocabulary.pad, epsilon, rng) if len(ground.starts) else None
    run = Walk(ground.kernel, begin, settings, Pool(epsilon, tokens), ground.features, report, found, rng, starts=beginnings)
    run.go()
    draws, _, warm = run.draws()
    draws = draws[warm:].reshape(-1, tokens.shape[1])
    shown = _shown(run.pool, draws, tokens, count, rng)
    samples = measured(model, target, *shown)
    walk = _report(run, run.mixing(), len(draws), query, prior, samples, ground.notes)
    return Preimage(
        query,
        target.kind,
        epsilon,
        settings.seed,
        samples,
        run.pool.measured,
        source="walk",
        bits=run.bits(),
        inside_count=walk.members,
        distinct=walk.members,
        draws=draws,
        walk=walk,
    )


def _check_begin(begin: States, query: Query, epsilon: float, prior: Prior) -> None:
    """Raise ``InputError`` unless a walk can start at the query."""
    if not np.isfinite(begin.log_prior[0]):
        raise InputError(
            f"The query {query.text!r} has probability 0 under the prior ({prior}): mend it, or name another prior (study, "
            "model or uniform)."
        )
    if begin.distance[0] > max(epsilon, _ROUNDING):
        raise InputError(
            f"The query itself is at D = {begin.distance[0]:.3f} at the position compared, outside ε, and a walk starts "
            "at the query: compare the position that was read."
        )


def _beginnings(ground: Ground, pad: int, epsilon: float, rng: np.random.Generator) -> States | None:
    """Return those of the starts at which chains can begin; ``None`` where there are none."""
    some = [ground.starts[i] for i in rng.permutation(len(ground.starts))[:_MOST_STARTS]]
    found = ground.kernel.begin(ground.padded(some, pad))
    found = found.part((found.distance <= epsilon) & np.isfinite(found.log_prior))
    return found if len(found.distance) else None


def _shown(pool: Pool, draws: Ids, query: Ids, count: int, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Return inputs to show and how often each was drawn: inside by lot from the draws that count, outside the nearest."""
    keys = keys_of(draws)
    times = dict(zip(*(part.tolist() for part in np.unique(keys, return_counts=True)), strict=True))
    pooled = pool.inside
    pooled = pooled[rng.permutation(len(pooled))[: 2 * count]]
    lot = np.concatenate([draws[rng.permutation(len(draws))[: 20 * count]], pooled])
    lot = lot[~(lot == query).all(1)]
    _, first = np.unique(keys_of(lot), return_index=True)
    wanted = max(round(INSIDE_SHARE * count), count - len(pool.outside))
    inside = lot[np.sort(first)[:wanted]]
    shown = np.concatenate([inside, pool.outside[: count - len(inside)]])
    return shown, np.array([max(1, times.get(key, 1)) for key in keys_of(shown).tolist()])


def measured(model: ProbedModel, target: Target, tokens: Ids, times: Ids) -> tuple[Sample, ...]:
    """Run members through the model once more and return them as samples, nearest first, with how often each was drawn."""
    if not len(tokens):
        return ()
    ids = torch.from_numpy(tokens)
    z = target.z.expand(len(ids), -1)
    per_token, nearest, position = distance_to(model, ids, z, target.site, target.kind, target.fixed)
    order = torch.argsort(nearest, stable=True)
    return samples_of(
        model,
        ids[order],
        nearest[order],
        position[order],
        per_token[order],
        epsilon=target.scope.epsilon,
        source="walk",
        times=torch.from_numpy(times)[order],
    )


@dataclass
class Members:
    """Shows the first members that a walk finds, run through the model again for the distances of all their tokens."""

    model: ProbedModel
    target: Target
    left: int
    """How many are yet to be shown."""
    watch: Watch

    def take(self, tokens: Ids, distances: npt.NDArray[np.float64], positions: Ids) -> None:
        """Show some of the new members, while any are left to show."""
        some, self.left = tokens[: self.left], self.left - min(self.left, len(tokens))
        if len(some):
            self.watch(measured(self.model, self.target, some, np.ones(len(some), np.int64)))


def inputs_of(preimages: Sequence[Preimage], pad: int, ended: bool) -> list[list[int]]:
    """Return the distinct inputs inside ε of each preimage, as token ids without padding.

    Where inputs end at the position compared (``ended``), so do these: each sample up to where it reaches D. Of natural text
    the samples alone are taken.
    """
    whole_ones = [
        tuple(row[row != pad].tolist())
        for preimage in preimages
        if preimage.draws is not None and preimage.places is None
        for row in np.unique(preimage.draws, axis=0)
    ]
    inside = [sample for preimage in preimages if ended for sample in preimage.inside if sample.ids]
    up_to = [(*sample.ids[: sample.position + 1], sample.ids[-1]) for sample in inside]
    return [list(ids) for ids in dict.fromkeys([*up_to, *whole_ones])]


def _report(
    run: Walk,
    features: tuple[Mixing, ...],
    draws: int,
    query: Query,
    prior: str,
    samples: tuple[Sample, ...],
    notes: tuple[str, ...],
) -> WalkReport:
    chains, seconds = run.chains, run.seconds
    r_hats = [f.r_hat for f in features]
    known = [f.forgotten for f in features]
    mixed = run.mixed(features)
    moves = run.kernel.moves
    return WalkReport(
        members=run.pool.members,
        taken=run.pool.taken,
        measured=run.pool.measured,
        seconds=round(seconds, 3),
        members_per_second=round(run.pool.members / seconds, 1),
        steps=chains.steps if chains else 0,
        chains=chains.columns * chains.replicas if chains else 0,
        prior=prior,
        acceptance=dict(zip(moves, chains.moved.rates(), strict=True)) if chains else {},
        mix=dict(zip(moves, chains.mixes[0].weights.tolist(), strict=True)) if chains else {},
        ladder=tuple(None if np.isinf(e) else float(e) for e in chains.epsilons) if chains else (),
        exchanged=tuple(chains.exchanged.rates()) if chains else (),
        draws=draws,
        mixed=mixed,
        r_hat=None if not features or None in r_hats else max(r for r in r_hats if r is not None),
        ess=min((f.ess for f in features), default=0.0),
        forgotten=None if not known or None in known else max(k for k in known if k is not None),
        features=features,
        notes=(*notes, *_notes(run, features, draws, query, samples, bool(notes))),
        interrupted=run.interrupted,
    )


def _notes(
    run: Walk, features: tuple[Mixing, ...], draws: int, query: Query, samples: tuple[Sample, ...], bare: bool
) -> list[str]:
    """Return what a reader must know; ``bare``: the inputs begin with their text, not with BOS."""
    notes = []
    if run.interrupted:
        notes.append("Interrupted: what was found until then.")
    if query.position == 0:
        notes.append(
            "The position is the first token, which a walk keeps: all are inside, whatever it encodes."
            if bare
            else "The position is BOS, which every input has: all are inside, the activation tells nothing (0 bits)."
        )
    if not run.pool.members and run.pool.measured:
        refused = next((s for s in samples if not s.inside), None)
        nearest = "" if refused is None else f"; the nearest refused is at D = {refused.distance:.3f}"
        told = "the site identifies the input" if run.ladder is not None and draws else "few others do, if any"
        notes.append(f"Of {run.pool.measured:,} inputs measured only the query lies inside ε: {told}{nearest}.")
    elif not run.interrupted and (unsettled := _unsettled(run, features, draws)):
        notes.append(unsettled)
    if run.settings.exchange and run.ladder is None and not run.interrupted:
        notes.append(
            "There was no time to make a ladder of ε, from whose outer steps chains come down to pieces of the preimage far "
            f"from the query: such pieces may be missing, and the bits are not known. Give it {_longer(run, 4)}."
        )
    if run.chains is not None and run.alone and query.position:
        notes.append("All chains began at the query; a piece of the preimage that small steps do not reach would not be seen.")
    return notes


def _unsettled(run: Walk, features: tuple[Mixing, ...], draws: int) -> str | None:
    """Return what members are good for, what they do not tell yet, why, and what would help; ``None`` where all is settled."""
    if draws and run.pool.taken and run.mixed(features):
        return None
    members = run.pool.members
    true = f"These {members:,} inputs are true members" if members > 1 else "The one input found is a true member"
    unknown = f"{true}; how often each feature occurs among all members is not known yet"
    if not draws:
        steps = run.chains.steps if run.chains else 0
        return f"{unknown}: there was time for {steps} steps of the walk only. Give it {_longer(run, 6)}."
    if not run.pool.taken:
        return (
            f"{unknown}: they are so improbable under the prior that no chain has moved from the query. Give it "
            f"{_longer(run, 6)}, or weigh the model's prior less (--beta 0.5)."
        )
    bad = sorted((f for f in features if not f.mixed), key=lambda f: (f.r_hat is not None, -(f.r_hat or 0), f.ess))
    numbers = ", ".join(
        f"{f.feature}: R̂ {'–' if f.r_hat is None else f'{f.r_hat:.2f}'}, {f.ess:.0f} effective draws" for f in bad[:3]
    )
    apart = any(f.r_hat is None or f.r_hat >= MOST_R_HAT for f in bad)
    times = max(LEAST_ESS / max(min((f.ess for f in bad), default=0.0), 1.0), 6 if apart else 2)
    return (
        f"{unknown}: on {len(bad)} of {len(features)} features chains still disagree or have drawn too little ({numbers}; "
        f"wanted R̂ < {MOST_R_HAT}, {LEAST_ESS} draws). Give it {_longer(run, times)}."
    )


def _longer(run: Walk, times: float) -> str:
    """Return about so many times the length of a walk, at most twenty, as it is said and written."""
    times = min(times, 20.0)
    if run.settings.steps is not None and run.settings.seconds is None:
        steps = round(times * run.settings.steps, 1 - len(str(run.settings.steps)))
        return f"more steps (--steps {int(steps)})"
    wanted = times * run.seconds
    seconds = next((s for s in (10, 20, 30, 60, 120, 300, 600, 1200) if s >= wanted), 3600)
    return f"more time (--seconds {seconds})"

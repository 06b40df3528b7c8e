"""The third source of preimages: a Markov chain from the query, which needs neither decoder nor corpus.

It draws from π(x) ∝ p(x) · 1[D(z_q, x) ≤ ε], with p the inputs' own distribution or the language model's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from inversionview import distances
from inversionview.errors import InputError, SettingError
from inversionview.information import Bits
from inversionview.inputs import Ids
from inversionview.measure import distance_to
from inversionview.preimage.core import INSIDE_SHARE, Preimage, Query, Sample
from inversionview.preimage.samples import samples_of
from inversionview.probed import ProbedModel
from inversionview.walk.diagnostics import LEAST_ESS, MOST_R_HAT, Mixing
from inversionview.walk.kernel import Kernel, keys_of
from inversionview.walk.pool import Pool
from inversionview.walk.report import WalkReport
from inversionview.walk.run import Features, Found, Report, Walk, WalkSettings


def walked_preimage(
    model: ProbedModel,
    query: Query,
    kernel: Kernel,
    tokens: Ids,
    features: Features,
    settings: WalkSettings,
    *,
    epsilon: float,
    distance: distances.Distance,
    prior: str,
    fixed: Callable[[Ids], Ids] | None = None,
    starts: Ids | None = None,
    count: int = 100,
    report: Report | None = None,
    found: Found | None = None,
) -> Preimage:
    """Walk from a query through its ε-preimage.

    Args:
        model: the probed model.
        query: what to read.
        kernel: makes the steps, under the prior and with the moves of the inputs.
        tokens: the query as the kernel has its inputs, ``[1, pos]``.
        features: what must mix, and the query forget.
        settings: how long and how wide.
        epsilon: threshold.
        distance: which distance.
        prior: its name.
        fixed: for the fixed-position variant, the position to compare in each row.
        starts: inputs inside ε from elsewhere, at which half of the chains begin.
        count: how many distinct samples to show at most.
        report: called with the share of the walk that is done, and a note.
        found: called with new members.

    Raises:
        SettingError: ε or the count is out of range.
        InputError: the prior gives the query probability 0.
    """
    distances.check_epsilon(epsilon)
    if count < 1:
        raise SettingError(f"The count of samples must be at least 1, but is {count}.")
    rng = np.random.default_rng((settings.seed, 11))
    begin, beginnings = kernel.begin(tokens), None
    if not np.isfinite(begin.log_prior[0]):
        raise InputError(
            f"The query {query.text!r} has probability 0 under the prior ({prior}): mend it, or name another prior (study, model "
            "or uniform)."
        )
    if starts is not None and len(starts):
        found_inside = kernel.begin(starts)
        found_inside = found_inside.part((found_inside.distance <= epsilon) & np.isfinite(found_inside.log_prior))
        beginnings = found_inside if len(found_inside.distance) else None
    run = Walk(kernel, begin, settings, Pool(epsilon, tokens), features, report, found, rng, starts=beginnings)
    run.go()
    mixed, draws = run.mixing()
    shown = _shown(run.pool, draws, tokens, count, rng)
    samples = _measured(model, query, *shown, epsilon=epsilon, distance=distance, fixed=fixed)
    bits = run.bits(draws)
    walk = _report(run, mixed, len(draws), bits, query, prior, samples)
    return Preimage(
        query, distance, epsilon, settings.seed, samples, run.pool.measured, source="walk", bits=bits, walk=walk
    )  # fmt: skip


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


def _measured(
    model: ProbedModel,
    query: Query,
    tokens: Ids,
    times: Ids,
    *,
    epsilon: float,
    distance: distances.Distance,
    fixed: Callable[[Ids], Ids] | None,
) -> tuple[Sample, ...]:
    """Run what is shown through the model once more and return it, nearest first."""
    if not len(tokens):
        return ()
    ids = torch.from_numpy(tokens)
    z = query.z.expand(len(ids), -1)
    per_token, nearest, position = distance_to(model, ids, z, query.site, distance, fixed)
    order = torch.argsort(nearest, stable=True)
    return samples_of(
        model, ids[order], nearest[order], position[order], per_token[order],
        epsilon=epsilon, source="walk", times=torch.from_numpy(times)[order],
    )  # fmt: skip


def _report(
    run: Walk,
    features: tuple[Mixing, ...],
    draws: int,
    bits: Bits | None,
    query: Query,
    prior: str,
    samples: tuple[Sample, ...],
) -> WalkReport:
    chains, seconds = run.chains, run.seconds
    r_hats = [f.r_hat for f in features]
    known = [f.forgotten for f in features]
    mixed = bool(features) and all(f.mixed for f in features)
    moves = run.kernel.moves
    return WalkReport(
        members=run.pool.members,
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
        notes=tuple(_notes(run, features, mixed, bits, query, samples)),
        interrupted=run.interrupted,
    )


def _notes(
    run: Walk, features: tuple[Mixing, ...], mixed: bool, bits: Bits | None, query: Query, samples: tuple[Sample, ...]
) -> list[str]:
    """Return what a reader must know."""
    notes = []
    if run.interrupted:
        notes.append("Interrupted: what was found until then.")
    if query.position == 0:
        notes.append("The position is BOS, which every input has: all are inside, the activation tells nothing (0 bits).")
    if not run.pool.members and run.pool.measured:
        refused = next((s for s in samples if not s.inside), None)
        nearest = "" if refused is None else f"; the nearest refused is at D = {refused.distance:.3f}"
        notes.append(
            f"Of {run.pool.measured:,} inputs measured only the query lies inside ε: the site identifies the input{nearest}."
        )
    elif not mixed and not run.interrupted:
        bad = sorted((f for f in features if not f.mixed), key=lambda f: (f.r_hat is not None, -(f.r_hat or 0), f.ess))
        worst = ", ".join(f"{f.feature} (R̂ {'–' if f.r_hat is None else f'{f.r_hat:.2f}'}, ESS {f.ess:.0f})" for f in bad[:3])
        notes.append(
            f"Not mixed: {len(bad)} of {len(features)} features have R̂ ≥ {MOST_R_HAT} or fewer than {LEAST_ESS} effective draws"
            f"{', ' + worst if worst else ''}. The members are true, their shares are not yet; walk longer."
        )
    if run.settings.exchange and run.ladder is None and not run.interrupted:
        notes.append("There was no time to make a ladder of ε, so other pieces of the preimage may be missing: walk longer.")
    if run.ladder is None and run.starts is None and query.position:
        notes.append("All chains began at the query; a piece of the preimage that small steps do not reach would not be seen.")
    return notes

"""Does the decoder know the whole preimage? log p_θ(x ∣ z_q) against D(z_q, x) for every input of a study.

Huang et al. 2024, figure 11: no input inside ε may be improbable, else sampling would miss it. Needs inputs that can be listed:
all additions, all counting strings, the texts of a run. ``threshold.py`` asks the same distances how a reading depends on ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.decoder.model import Decoder
from inversionview.decoder.scoring import PrefixTree, log_probs
from inversionview.errors import SettingError
from inversionview.inputs import Ids, Inputs
from inversionview.measure import nearest
from inversionview.memory import check_memory
from inversionview.preimage.core import Query
from inversionview.preimage.sampled import Setting, trained_site
from inversionview.probed import ProbedModel
from inversionview.ranges import check_seed, whole
from inversionview.scope import Distance, check_epsilon

Report = Callable[[float, str], None]
"""Called with the share of the work that is done, and a note."""
Values = npt.NDArray[np.float32]

VARIANTS = (Setting(1.0), Setting(2.0), Setting(1.0, noise=0.1))
"""The three of figure 11: temperature 1, temperature 2, and noise on the activation."""
_PILOT = 3000
"""Inputs that are scored to find out how far down the others must be."""


@dataclass(frozen=True, eq=False)
class Scores:
    """log p of every input under one variant, and what it says about the inputs inside ε."""

    setting: Setting
    draws: int
    """Draws of the noise that the probability is a mean over; 1 without noise."""
    log_p: Values = field(repr=False)
    """Of every input; below ``floor`` an upper bound, itself below it."""
    floor: float | None
    """``None``: all of ``log_p`` is exact."""
    recall: float | None
    """Over inputs inside ε except the query: the share with log p above ``percentile``; ``None`` where either side is empty."""
    percentile: float | None
    """The 95th percentile of log p of the inputs outside ε."""
    lowest: float | None
    """log p of the least probable input inside ε."""
    lowest_rank: int | None
    """Its rank: 1 is the most probable input of all. A lower bound if ``lowest`` is below the floor."""

    @property
    def rank_is_exact(self) -> bool:
        """Whether ``lowest_rank`` is the rank, not a lower bound of it."""
        return self.lowest is None or self.floor is None or self.lowest >= self.floor

    @property
    def name(self) -> str:
        """How a figure calls the variant."""
        return f"noise η = {self.setting.noise:g}" if self.setting.noise else f"τ = {self.setting.temperature:g}"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without the values of single inputs."""
        return {
            "temperature": self.setting.temperature,
            "noise": self.setting.noise,
            "draws": self.draws,
            "recall": self.recall,
            "outside_95th_percentile": self.percentile,
            "lowest_log_p_inside": self.lowest,
            "lowest_rank_inside": self.lowest_rank,
            "lowest_rank_is_exact": self.rank_is_exact,
            "exact_above": self.floor,
        }


@dataclass(frozen=True, eq=False)
class Completeness:
    """The completeness check of one query."""

    query: Query
    kind: Distance
    epsilon: float
    seed: int
    rows: npt.NDArray[np.int64] = field(repr=False)
    """Which rows of the study's inputs were scored."""
    distance: Values = field(repr=False)
    """D(z_q, x) of each."""
    variants: tuple[Scores, ...]

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Which inputs lie inside ε."""
        return self.distance <= self.epsilon

    def log_p(self, variant: int = 0) -> Values:
        """Return log p of every input under one of the variants."""
        return self.variants[variant].log_p

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values."""
        return {
            "query": self.query.to_json(),
            "distance": self.kind,
            "epsilon": self.epsilon,
            "seed": self.seed,
            "inputs": len(self.rows),
            "inside": int(self.inside.sum()),
            "variants": [scores.to_json() for scores in self.variants],
        }


@torch.no_grad()
def completeness(
    decoder: Decoder,
    model: ProbedModel,
    inputs: Inputs,
    queries: Sequence[Query],
    *,
    epsilon: float,
    distance: Distance,
    variants: Sequence[Setting] = VARIANTS,
    draws: int = 8,
    quick: bool = False,
    limit: int | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> list[Completeness]:
    """Measure and score every input for every query, under the variants.

    Args:
        decoder: trained on the queries' sites.
        model: the probed model.
        inputs: what to score: all of a generated study, or the texts of a run.
        queries: what is read.
        epsilon: threshold of the preimage.
        distance: which distance.
        variants: temperatures, those without noise first, by default the three of figure 11.
        draws: of the noise; the probability is the mean over them (the paper draws 500).
        quick: do not tell apart the least probable inputs: recall stays exact, see ``pilot_floors``. With noise, which costs
            as much as ``draws`` passes, it is always done.
        limit: take a random choice of so many inputs.
        seed: of the noise and of that choice.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: a setting is out of range.
        UnknownSiteError: the decoder was not trained on a query's site.
    """
    check_epsilon(epsilon)
    if not queries or not variants:
        raise SettingError("There must be a query and a variant to score it under.")
    for setting in variants:
        setting.check()
    check_seed(seed)
    check_memory(whole(draws, "The number of draws of the noise"), "draws", 4 * 8 * (len(queries[0].z) + decoder.config.size))
    quiet, noisy = [s for s in variants if not s.noise], [s for s in variants if s.noise]
    groups = [(quiet, 1)] * bool(quiet) + [([s], draws) for s in noisy]
    numbers = [trained_site(decoder, query.site) for query in queries]
    rows = chosen_rows(inputs, limit, seed)
    tokens = inputs.tokens(rows)
    step = _steps(report, len(rows), 1 + len(groups) * len(queries))
    measured = nearest(model, tokens, [(q.z, q.site) for q in queries], distance, next(step)("distances")).numpy()
    tree = PrefixTree.of(decoder.begun(torch.from_numpy(tokens)).numpy(), inputs.pad)
    results = []
    for i, (query, number) in enumerate(zip(queries, numbers, strict=True)):
        noise = torch.randn(draws, len(query.z), generator=torch.Generator().manual_seed((1000 * seed + i) % 2**63))
        inside, own = measured[i] <= epsilon, is_query(tokens, query, inputs.pad)
        scores: list[Scores] = []
        for settings, some in groups:
            z = query.z + settings[0].noise * query.z.std() * noise[:some]
            note = next(step)(f"query {i + 1} of {len(queries)}")
            heat = [s.temperature for s in settings]
            floors: list[float] | None = None
            if quick or settings[0].noise:
                outside = tokens if inside.all() else tokens[~inside]
                floors = pilot_floors(decoder, outside, inputs.pad, z, number, heat, np.random.default_rng((seed, i)))
            log_p = log_probs(decoder, tree, z, number, temperatures=heat, floors=floors, report=note).numpy()
            scores += [
                summary(setting, some, values, floor, inside, own)
                for setting, values, floor in zip(settings, log_p, floors or repeat(None), strict=False)
            ]
        results.append(Completeness(query, distance, epsilon, seed, rows, measured[i], tuple(scores)))
    return results


def pilot_floors(
    decoder: Decoder,
    tokens: Ids,
    pad: int,
    z: Float[Tensor, "draw d_model"],
    site: int,
    temperatures: Sequence[float],
    generator: np.random.Generator,
) -> list[float]:
    """Return at each temperature the 90th percentile of log p over a random choice of the inputs outside ε.

    Scored down to there only, recall stays exact: the 95th percentile of all inputs outside lies above, ten standard errors
    of the choice away, so it is exact, and an input inside that is above it is above the floor. The rank of the least probable
    input inside stays exact if that is above the floor; else it is a lower bound.
    """
    some = tokens[generator.permutation(len(tokens))[:_PILOT]]
    tree = PrefixTree.of(decoder.begun(torch.from_numpy(some)).numpy(), pad)
    log_p = log_probs(decoder, tree, z, site, temperatures=temperatures)
    return [float(floor) for floor in log_p.quantile(0.9, dim=1)]


def summary(
    setting: Setting,
    draws: int,
    log_p: Values,
    floor: float | None,
    inside: npt.NDArray[np.bool_],
    query: npt.NDArray[np.bool_],
) -> Scores:
    """Return a variant's numbers; ``query`` marks the query itself among the inputs."""
    outside, others = log_p[~inside], log_p[inside & ~query]
    # a value that occurs, not one between two, so that it is exact wherever its neighbours are
    percentile = float(np.quantile(outside, 0.95, method="inverted_cdf")) if len(outside) else None
    recall = float((others > percentile).mean()) if percentile is not None and len(others) else None
    lowest = float(log_p[inside].min()) if inside.any() else None
    rank = None if lowest is None else 1 + int((log_p > max(lowest, -math.inf if floor is None else floor)).sum())
    return Scores(setting, draws, log_p, floor, recall, percentile, lowest, rank)


def is_query(tokens: Ids, query: Query, pad: int) -> npt.NDArray[np.bool_]:
    """Return which of the inputs is the query's own."""
    width = tokens.shape[1]
    ids = np.array([*query.ids, *[pad] * (width - len(query.ids))])
    same: npt.NDArray[np.bool_] = (tokens == ids[:width]).all(1) & (len(query.ids) <= width)
    return same


def chosen_rows(inputs: Inputs, limit: int | None, seed: int) -> npt.NDArray[np.int64]:
    """Return all rows of the inputs, or a random ``limit`` of them, in order.

    Raises:
        SettingError: the limit is below 1.
    """
    check_seed(seed)
    if limit is None or whole(limit, "The number of inputs") >= len(inputs):
        return np.arange(len(inputs))
    return np.sort(np.random.default_rng((seed, 6)).choice(len(inputs), limit, replace=False))


def _steps(report: Report | None, size: int, steps: int) -> Iterator[Callable[[str], Callable[[int], None]]]:
    """Yield for each step of the work a function from a note to what reports how many inputs the step has done."""
    for step in range(steps):
        yield partial(_step, report, size, step, steps)


def _step(report: Report | None, size: int, step: int, steps: int, note: str) -> Callable[[int], None]:
    return lambda done: report((step + done / size) / steps, note) if report else None

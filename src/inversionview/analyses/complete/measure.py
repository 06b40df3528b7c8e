"""Does the decoder know the whole preimage? log p_θ(x ∣ z_q) against D(z_q, x) for every input of a study.

Huang et al. 2024, figure 11: no input inside ε may be improbable, else sampling would miss it. Needs inputs that can be listed:
all additions, all counting strings, the texts of a run. ``threshold.py`` asks the same distances how a reading depends on ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.analyses.all_inputs import Values, chosen_rows, is_query
from inversionview.analyses.complete.result import Completeness, Scores
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.memory import check_memory
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.core.scope import Scope, check_epsilon
from inversionview.corpora.inputs import Inputs
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.scoring import PrefixTree, log_probs
from inversionview.model.measure import nearest
from inversionview.model.probed import ProbedModel
from inversionview.preimage.preimage import Query
from inversionview.sources.sampled import trained_site
from inversionview.sources.settings import Setting

Tick = Callable[[int], None]
"""Called with how many inputs a step has done."""
VARIANTS = (Setting(1.0), Setting(2.0), Setting(1.0, noise=0.1))
"""The three of figure 11: temperature 1, temperature 2, and noise on the activation."""
_PILOT = 3000
"""Inputs that are scored to find out how far down the others must be."""


@torch.no_grad()
def completeness(
    decoder: Decoder,
    model: ProbedModel,
    inputs: Inputs,
    queries: Sequence[Query],
    scope: Scope[Any],
    *,
    variants: Sequence[Setting] = VARIANTS,
    draws: int = 8,
    quick: bool = False,
    limit: int | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> list[Completeness]:
    """Measure and score every input for every query, under the variants.

    Args:
        decoder: trained on the queries' sites.
        model: the probed model.
        inputs: what to score: all of a generated study, or the texts of a run.
        queries: what is read.
        scope: within which ε, by which distance.
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
    check_epsilon(scope.epsilon)
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
    measured = nearest(model, tokens, [(q.z, q.site) for q in queries], scope.distance, next(step)("distances")).numpy()
    tree = PrefixTree.of(decoder.begun(torch.from_numpy(tokens)).numpy(), inputs.pad)
    listing = _Listing(decoder, tokens, inputs.pad, tree, groups, quick)
    results = []
    for i, (query, number) in enumerate(zip(queries, numbers, strict=True)):
        noise = torch.randn(draws, len(query.z), generator=torch.Generator().manual_seed((1000 * seed + i) % 2**63))
        ticks = (next(step)(f"query {i + 1} of {len(queries)}") for _ in groups)
        scores = listing.scores(query, number, measured[i] <= scope.epsilon, noise, (seed, i), ticks)
        results.append(Completeness(query, scope.distance, scope.epsilon, seed, rows, measured[i], tuple(scores)))
    return results


@dataclass(frozen=True, eq=False)
class _Listing:
    """The inputs that are scored for every query, and how."""

    decoder: Decoder
    tokens: Ids
    pad: int
    tree: PrefixTree
    """Of the same."""
    groups: Sequence[tuple[Sequence[Setting], int]]
    """Variants that are scored together, and how many draws of the noise each has."""
    quick: bool

    def scores(
        self,
        query: Query,
        site: int,
        inside: npt.NDArray[np.bool_],
        noise: Float[Tensor, "draw d_model"],
        seed: tuple[int, int],
        ticks: Iterator[Tick],
    ) -> Iterator[Scores]:
        """Yield what every variant says of one query.

        Args:
            query: from which they are scored.
            site: its number in the decoder.
            inside: which inputs lie inside ε.
            noise: as many draws as any group has.
            seed: of the random choice that finds the floors.
            ticks: for each group what is called with how many inputs are done.
        """
        own = is_query(self.tokens, query, self.pad)
        for (settings, draws), tick in zip(self.groups, ticks, strict=True):
            z = query.z + settings[0].noise * query.z.std() * noise[:draws]
            heat = [s.temperature for s in settings]
            floors: list[float] | None = None
            if self.quick or settings[0].noise:
                outside = self.tokens if inside.all() else self.tokens[~inside]
                floors = pilot_floors(self.decoder, outside, self.pad, z, site, heat, np.random.default_rng(seed))
            log_p = log_probs(self.decoder, self.tree, z, site, temperatures=heat, floors=floors, report=tick).numpy()
            for setting, values, floor in zip(settings, log_p, floors or repeat(None), strict=False):
                yield summary(setting, draws, values, floor, inside, own)


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


def _steps(report: Progress | None, size: int, steps: int) -> Iterator[Callable[[str], Tick]]:
    """Yield for each step of the work a function from a note to what reports how many inputs the step has done."""
    for step in range(steps):
        yield partial(_step, report, size, step, steps)


def _step(report: Progress | None, size: int, step: int, steps: int, note: str) -> Tick:
    return lambda done: report((step + done / size) / steps, note) if report else None

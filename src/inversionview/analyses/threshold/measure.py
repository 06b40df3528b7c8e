"""How does a reading depend on ε? Every input's distance to one query: how many lie inside each ε, and what they share.

Huang et al. 2024, figure 10 and appendix on the threshold: ε is right where few inputs are, between those that share what the
activation encodes and the rest. No decoder is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.analyses.all_inputs import Values, chosen_rows, is_query
from inversionview.analyses.threshold.result import Gap, Rung, Threshold
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core.progress import Progress
from inversionview.core.ranges import whole
from inversionview.core.scope import MOST_EPSILON, Scope, check_epsilon
from inversionview.corpora.inputs import Inputs
from inversionview.model.measure import nearest
from inversionview.model.probed import ProbedModel
from inversionview.preimage.preimage import Query

LADDER = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
"""The thresholds that are always looked at."""
_GROWTH = 1.1
"""Across a gap the number of inputs inside grows by no more than this factor."""
_WIDTH = 1.25
"""And ε by no less than this one."""
_FEWEST = 10
"""So many inputs must lie inside: between fewer, wide spaces come by chance."""
_SAME = 0.01
"""Activations closer than this are the same."""


def find_gaps(distance: Values, most: int = 3) -> tuple[Gap, ...]:
    """Return the widest gaps in sorted distances that do not overlap, widest first; none, if there is none.

    A gap is a range [a, b] of ε, as wide as can be in b/a, across which the number of inputs inside grows by at most 10 %: a
    valley of the histogram of log D, in which strays are allowed. At least 10 inputs and at most half of all must lie inside at
    a, and b/a must be 1.25 or more. Without structure, with about εᵈ inputs inside ε, D grows from the k-th input to the next
    by a factor of about exp(1/(k·d)), so that a gap seldom comes by chance. Distances below 0.01 count as 0.01: closer
    activations are the same.
    """
    n = len(distance)
    k = np.arange(_FEWEST, n // 2 + 1)
    last = np.floor(_GROWTH * k).astype(np.int64)
    k, last = k[last < n], last[last < n]
    start, stop = (np.maximum(distance[i], _SAME) for i in (k - 1, last))
    gaps: list[Gap] = []
    while len(k) and len(gaps) < most:
        widest = int(np.argmax(stop / start))
        a, b = float(start[widest]), float(stop[widest])
        if b / a < _WIDTH:
            break
        gaps.append(Gap(a, b, int(k[widest]), math.sqrt(a * b)))
        apart = (stop <= a) | (start >= b)
        k, start, stop = k[apart], start[apart], stop[apart]
    return tuple(gaps)


def threshold_study(
    model: ProbedModel,
    inputs: Inputs,
    query: Query,
    scope: Scope[Any],
    *,
    epsilons: Sequence[float] = (),
    limit: int | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> Threshold:
    """Measure every input against a query and read it at a ladder of thresholds.

    Args:
        model: the probed model.
        inputs: what to measure: all of a generated study, or the texts of a run.
        query: what is read.
        scope: the study's ε, and the distance.
        epsilons: the ladder; by default ``LADDER``. The study's and the suggested ε are added.
        limit: take a random choice of so many inputs.
        seed: of that choice.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: a setting is out of range.
    """
    ladder = _ladder(epsilons, scope)
    tokens = inputs.tokens(chosen_rows(inputs, limit, seed))
    tokens = tokens[~is_query(tokens, query, inputs.pad)]
    told = lambda done: report(done / len(tokens), "") if report else None  # noqa: E731
    measured = nearest(model, tokens, [(query.z, query.site)], scope.distance, told)[0].numpy()
    return _told(query, scope, ladder, measured, inputs.features(np.array([query.ids])), inputs.features(tokens))


def text_threshold(
    bank: ActivationBank,
    query: Query,
    scope: Scope[Any],
    *,
    epsilons: Sequence[float] = (),
    limit: int | None = None,
    seed: int = 0,
) -> Threshold:
    """Do the same with every occurrence of natural text in a bank that holds the query's site.

    Args:
        bank: of windows.
        query: what is read.
        scope: the study's ε, and the distance.
        epsilons: the ladder; by default ``LADDER``. The study's and the suggested ε are added.
        limit: take a random choice of so many occurrences.
        seed: of that choice.

    Raises:
        SettingError: a setting is out of range.
        UnknownSiteError: the bank does not hold the site.
    """
    ladder, z = _ladder(epsilons, scope), query.z[None]
    found = next(search(bank, query.site, z, epsilon=MOST_EPSILON, distance=scope.distance, verify=False))
    found = found.part(~np.isin(found.rows, bank.rows_of(query.ids, query.position)))
    if limit is not None and whole(limit, "The limit") < len(found):
        found = found.part(np.sort(np.random.default_rng((seed, 19)).permutation(len(found))[:limit]))
    tokens, at = bank.located(found.rows, bank.manifest.positions)
    own = bank.inputs.features_at(np.array([query.ids]), np.array([query.position]))
    return _told(query, scope, ladder, found.distances, own, bank.inputs.features_at(tokens, at[:, 0]))


def _ladder(epsilons: Sequence[float], scope: Scope[Any]) -> list[float]:
    return [check_epsilon(e) for e in (*(epsilons or LADDER), scope.epsilon)]


def _told(
    query: Query,
    scope: Scope[Any],
    ladder: list[float],
    measured: npt.NDArray[np.float32],
    own: Mapping[str, npt.NDArray[Any]],
    theirs: Mapping[str, npt.NDArray[Any]],
) -> Threshold:
    """Return what distances and features say at every ε."""
    order = np.argsort(measured, kind="stable")
    measured = measured[order]
    gaps = find_gaps(measured)
    same = {name: (values == own[name][0])[order] for name, values in theirs.items()}
    marks = {gap.epsilon: ("gap" if i else "suggested",) for i, gap in enumerate(gaps)} | {scope.epsilon: ("study",)}
    return Threshold(
        query, scope.distance, scope.epsilon, measured, gaps,
        tuple(_rung(e, measured, same, marks.get(e, ())) for e in sorted({*ladder, *marks})),
        {name: float(values.mean()) for name, values in same.items()},
        {name: values[0].item() for name, values in own.items()},
        same,
    )  # fmt: skip


def _rung(epsilon: float, distance: Values, same: dict[str, npt.NDArray[np.bool_]], marks: tuple[str, ...]) -> Rung:
    inside = int(np.searchsorted(distance, np.float32(epsilon), side="right"))
    if not inside:
        return Rung(epsilon, 0, None, None, marks)
    bits = abs(math.log2(inside / len(distance)))
    return Rung(epsilon, inside, bits, {name: float(values[:inside].mean()) for name, values in same.items()}, marks)

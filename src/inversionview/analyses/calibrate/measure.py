"""How well distances foretell, at one site, that an activation can stand in for another: on distances and nats alone.

For a query z_q and partners z_x near and far, nats say what comes of putting z_x in place of z_q (``intervene/stand_in``), and
the rank correlation of D with them within the query how well D foretells it (Spearman 1904).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.scope import Distance
from inversionview.model.distances.metric import Metric
from inversionview.model.distances.registry import REGISTRY, DistanceKind
from inversionview.studies.calibrated import UNITS

_BLOCK = 8192
"""Occurrences that are mapped at once."""
INSIDE = 0.1
"""The paper's ε, for which the share of random occurrences inside is told."""
Values = Float[np.ndarray, " query"]


def distances_to(
    metrics: Mapping[Distance, Metric], queries: Float[Tensor, "query width"], z: Float[Tensor, "occurrence width"]
) -> dict[Distance, Float[np.ndarray, "query occurrence"]]:
    """Return D from every query to every occurrence, by one product of matrices for each map.

    As 1 − cos and from the expanded square, which is off by some 1e-7 and 3e-4: enough for ranks and shares.
    """
    alike: dict[DistanceKind, list[Distance]] = {}
    for distance in metrics:
        alike.setdefault(replace(REGISTRY[distance], says=""), []).append(distance)
    found = {distance: np.empty((len(queries), len(z)), dtype=np.float32) for distance in metrics}
    for some in alike.values():
        q = metrics[some[0]].mapped(queries)
        for start in range(0, len(z), _BLOCK):
            x = metrics[some[0]].mapped(z[start : start + _BLOCK])
            for distance in some:
                own = _cosine(q, x) if metrics[distance].cosine else _euclidean(q, x)
                found[distance][:, start : start + _BLOCK] = own.numpy()
    return found


def _cosine(q: Float[Tensor, "query out"], x: Float[Tensor, "occurrence out"]) -> Float[Tensor, "query occurrence"]:
    a, b = (torch.nn.functional.normalize(v, dim=-1, eps=1e-30) for v in (q, x))
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)
    return (lengths / 2 - a @ b.T).clamp(min=0)


def _euclidean(q: Float[Tensor, "query out"], x: Float[Tensor, "occurrence out"]) -> Float[Tensor, "query occurrence"]:
    squares = q.square().sum(1)[:, None]
    gap = (squares + x.square().sum(1) - 2 * q @ x.T).clamp(min=0).sqrt()
    return torch.where(gap == 0, gap, gap / squares.sqrt())


def partners(orders: Sequence[Int[np.ndarray, " other"]], count: int, first: int) -> Int[np.ndarray, " partner"]:
    """Return occurrences to put in place of a query, at geometric ranks from the nearest to the farthest.

    The ranks are those by each distance in turn, so that none is favoured; most of them are small.

    Args:
        orders: for each distance the occurrences that count, the nearest first.
        count: how many.
        first: with which distance to begin.
    """
    n, chosen = len(orders[0]), dict[int, None]()
    for j, rank in enumerate(np.geomspace(1, n, count).round().astype(int) - 1):
        order = orders[(first + j) % len(orders)]
        free = next((int(x) for x in order[rank:] if int(x) not in chosen), None)
        chosen[free if free is not None else next(int(x) for x in order[:rank][::-1] if int(x) not in chosen)] = None
    return np.array(list(chosen))


def correlation(distance: npt.NDArray[np.floating], nats: npt.NDArray[np.floating]) -> float:
    """Return Spearman's rank correlation, ties having their mean rank: NaN where nats are all the same, 0 where only D is."""
    from scipy.stats import rankdata

    d, n = (rankdata(each) - (len(each) + 1) / 2 for each in (distance, nats))
    if not n.any():
        return float("nan")
    return float(d @ n / np.sqrt((d @ d) * (n @ n))) if d.any() else 0.0


def quantile(distances: npt.NDArray[np.floating], share: float) -> float:
    """Return the least ε within which such a share of random occurrences lies; NaN where less than one does.

    Args:
        distances: of those that count, ``[occurrence]``, in any order.
        share: of them.
    """
    if share * len(distances) < 1:
        return float("nan")
    k = int(np.ceil(share * len(distances) - 1e-9)) - 1
    return float(np.partition(distances, k)[k])


def reach(
    distance: npt.NDArray[np.floating], ranks: npt.NDArray[np.integer], nats: npt.NDArray[np.floating], most: float
) -> float:
    """Return the largest ε whose members change the next token by at most so many nats in the median; 0: there is none.

    Args:
        distance: D of the partners, ``[partner]``.
        ranks: how many occurrences are as near as each, or nearer.
        nats: what comes of each in place of the query.
        most: the bound.

    A partner stands for the ranks about its own, half way to those of the next nearer and the next farther one.
    """
    order = np.argsort(distance, kind="stable")
    d, rank, cost = distance[order], ranks[order].astype(np.float64), nats[order]
    middles = np.concatenate([[0.0], (rank[1:] + rank[:-1]) / 2])
    for k in range(len(d), 0, -1):
        weights = np.diff(np.concatenate([middles[:k], [max(rank[k - 1], middles[k - 1] + 0.5)]]))
        by_cost = np.argsort(cost[:k], kind="stable")
        sums = weights[by_cost].cumsum()
        if cost[:k][by_cost][int(np.searchsorted(sums, sums[-1] / 2))] <= most:
            return float(d[k - 1])
    return 0.0


@dataclass(frozen=True, eq=False)
class Chosen:
    """The partners of all queries at a site, and what distances alone tell."""

    partners: Int[np.ndarray, "query partner"]
    exact: dict[Distance, Float[np.ndarray, "query partner"]]
    """Their D."""
    ranks: dict[Distance, Int[np.ndarray, "query partner"]]
    """How many occurrences are as near or nearer."""
    inside: dict[Distance, Values]
    """Share of random occurrences at D ≤ ``INSIDE``."""
    quantiles: dict[Distance, dict[str, Values]]
    """For the units of ε that are shares."""


def choose(
    metrics: Mapping[Distance, Metric],
    queries: Float[Tensor, "query width"],
    z: Float[Tensor, "occurrence width"],
    others: Bool[np.ndarray, "query occurrence"],
    count: int,
) -> Chosen:
    """Choose the partners of every query at a site.

    Args:
        metrics: the distances there.
        queries: their activations.
        z: those of all occurrences.
        others: which of these count for each query.
        count: partners of a query.
    """
    known = distances_to(metrics, queries, z)
    found = Chosen(np.empty((len(queries), count), dtype=np.int64), {}, {}, {}, {})
    mapped = {name: (metric.mapped(queries), metric) for name, metric in metrics.items()}
    for name in metrics:
        found.exact[name], found.inside[name] = np.empty((len(queries), count)), np.empty(len(queries))
        found.ranks[name] = np.empty((len(queries), count), dtype=np.int64)
        found.quantiles[name] = {unit: np.empty(len(queries)) for unit in UNITS if "nat" not in unit}
    for i in range(len(queries)):
        counts = np.flatnonzero(others[i])
        own = {name: d[i, counts] for name, d in known.items()}
        orders = {name: np.argsort(d) for name, d in own.items()}
        chosen = partners(list(orders.values()), count, i)
        found.partners[i] = counts[chosen]
        for name, d in own.items():
            ordered = d[orders[name]]
            found.ranks[name][i] = np.searchsorted(ordered, d[chosen], side="right")
            found.inside[name][i] = np.searchsorted(ordered, INSIDE, side="right") / len(ordered)
            for unit, values in found.quantiles[name].items():
                values[i] = quantile(ordered, share_of(unit))
            q, metric = mapped[name]
            found.exact[name][i] = metric.of_mapped(q[i], metric.mapped(z[torch.from_numpy(found.partners[i])])).numpy()
    return found


def share_of(unit: str) -> float:
    """Return the share of random occurrences that a unit of ``UNITS`` means."""
    return 2.0 ** -int(unit.removesuffix("bits")) if unit.endswith("bits") else 1 / int(unit.removeprefix("1/"))


def table(chosen: Chosen, nats: Float[np.ndarray, "query partner"]) -> dict[Distance, dict[str, list[float | None]]]:
    """Return for each distance, query by query, ``correlation``, ``inside`` and ε for each of ``UNITS``; unknown: ``None``."""
    found: dict[Distance, dict[str, list[float | None]]] = {}
    for name, exact in chosen.exact.items():
        values: dict[str, npt.NDArray[np.floating] | list[float]] = {
            "correlation": [correlation(d, cost) for d, cost in zip(exact, nats, strict=True)],
            "inside": chosen.inside[name],
        }
        for unit in UNITS:
            bound = float(unit.removesuffix("nat")) if "nat" in unit else None
            values[unit] = (
                chosen.quantiles[name][unit]
                if bound is None
                else [reach(d, r, c, bound) for d, r, c in zip(exact, chosen.ranks[name], nats, strict=True)]
            )
        found[name] = {key: [round(float(v), 7) if np.isfinite(v) else None for v in some] for key, some in values.items()}
    return found

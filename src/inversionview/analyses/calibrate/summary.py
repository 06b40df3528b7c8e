"""From what was found query by query to intervals, groups of sites, and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from inversionview.analyses.calibrate.result import DEPTHS, Foretold, Quartiles, SiteGroup
from inversionview.core.information import Mean, means
from inversionview.core.scope import DISTANCES, Distance
from inversionview.model.sites.site import Site
from inversionview.studies.calibrated import UNITS

Table = Mapping[str, Mapping[str, Sequence[float | None]]]
"""Of a site: by distance what ``measure.table`` gives."""
Columns = dict[Distance, Float[np.ndarray, " query"]]


def _columns(found: Table, key: str) -> Columns:
    return {d: np.array(found[d][key], dtype=np.float64) for d in DISTANCES if d in found}


def _compared(columns: Columns, seed: int) -> tuple[dict[Distance, Mean], Distance, dict[Distance, Mean]]:
    """Return the mean of each distance, the best, and by how much that is ahead, over the queries that all have."""
    names = list(columns)
    values = np.stack([columns[name] for name in names], axis=1)
    values = values[np.isfinite(values).all(1)]
    best = int(values.mean(0).argmax())
    ahead = means(values[:, [best]] - values, seed=seed)
    return dict(zip(names, means(values, seed=seed), strict=True)), names[best], dict(zip(names, ahead, strict=True))


def rows_of(site: str, found: Table, seed: int) -> list[Foretold]:
    """Return the rows of a site."""
    correlations, _, ahead = _compared(_columns(found, "correlation"), seed)
    inside = _columns(found, "inside")
    return [
        Foretold(
            site, d, correlations[d], ahead[d], float(inside[d].mean()), {unit: _quartiles(found[d][unit]) for unit in UNITS}
        )
        for d in correlations
    ]


def _quartiles(values: Sequence[float | None]) -> Quartiles | None:
    """Return median and quartiles; ``None`` where half of the queries have none, or 0, which is no ε."""
    known = np.array([np.nan if v is None else v for v in values])
    if np.isnan(known).mean() > 0.5:
        return None
    low, middle, high = np.nanquantile(known, [0.25, 0.5, 0.75])
    return Quartiles(float(middle), float(low), float(high)) if middle > 0 else None


def groups_of(found: Mapping[str, Table], layers: int, seed: int) -> list[SiteGroup]:
    """Return the sites by kind and depth, the kinds in the order in which they come; then all.

    Args:
        found: by site.
        layers: of the model.
        seed: of the intervals.
    """
    kinds: dict[tuple[str, str], list[str]] = {}
    for name in found:
        site = Site.parse(name)
        kinds.setdefault((site.family, DEPTHS[(6 * site.layer + 3) // (2 * layers)]), []).append(name)
    groups: list[SiteGroup] = []
    for kind in ("residual", "mlp", "head"):
        thirds = [(depth, kinds[kind, depth]) for depth in DEPTHS if (kind, depth) in kinds]
        groups += [_group(kind, depth, sites, found, seed) for depth, sites in thirds]
        groups += [_group(kind, "all", [site for _, sites in thirds for site in sites], found, seed)] if thirds else []
    return [*groups, _group("all", "all", list(found), found, seed)]


def _group(kind: str, depth: str, sites: list[str], found: Mapping[str, Table], seed: int) -> SiteGroup:
    each = [_columns(found[site], "correlation") for site in sites]
    shared = [d for d in DISTANCES if all(d in columns for columns in each)]
    stacked = {d: np.stack([columns[d] for columns in each]) for d in shared}  # [site, query]
    known = {d: np.isfinite(x) for d, x in stacked.items()}
    counts = {d: np.where(known[d].any(0), known[d].sum(0), np.nan) for d in shared}
    pooled = {d: np.where(known[d], x, 0).sum(0) / counts[d] for d, x in stacked.items()}
    correlations, best, ahead = _compared(pooled, seed)
    as_good = tuple(d for d in correlations if d != best and ahead[d].low <= 0)
    return SiteGroup(kind, depth, tuple(sites), correlations, best, as_good)


def advice(rows: Sequence[Foretold], advised: Mapping[str, Distance]) -> dict[str, Any]:
    """Return what is kept for later readings: at each site a distance and its ε; see ``studies.calibrated``."""
    return {
        row.site: {
            "distance": row.distance,
            "epsilons": {u: None if e is None else e.value for u, e in row.epsilons.items()},
            "foretells": [row.correlation.value, row.correlation.low, row.correlation.high],
        }
        for row in rows
        if row.distance == advised[row.site]
    }

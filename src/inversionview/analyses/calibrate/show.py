"""A calibration as tables by kind of site, with a sentence that says what to use; figure and page are in ``figures``."""

from __future__ import annotations

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from inversionview.analyses.calibrate.figures import figure, page
from inversionview.analyses.calibrate.result import Calibration, Foretold, SiteGroup, differs
from inversionview.core.information import Mean
from inversionview.core.scope import DISTANCES, Distance

__all__ = ["figure", "page", "sentence", "table"]
_KINDS = {"residual": "the residual stream", "mlp": "MLPs", "head": "heads"}
_EPSILONS = ("1/1000", "0.1nat")
_BRIEF: dict[Distance, str] = {
    "euclidean": "euc",
    "cosine": "cos",
    "cosine-normed": "norm",
    "cosine-fisher": "fish",
    "cosine-centred": "cent",
    "cosine-normed-centred": "n-c",
    "cosine-scored": "z",
    "cosine-whitened": "whit",
    "euclidean-whitened": "e-wh",
    "euclidean-fisher": "e-fi",
}
"""What columns are called; the note tells which distances these are."""


def table(result: Calibration) -> Lines:
    """Return a table of correlations for each kind of site, one of ε, and what to use."""
    parts: list[Text | Table] = []
    for group in result.kinds:
        said = f"Spearman's ρ of D with nats: {_KINDS[group.kind]}"
        parts += [Text(said, style="bold"), _correlations(result, group), Text()]
    parts += [Text("ε of the distance that is advised", style="bold"), _epsilons(result), Text()]
    parts += [Text(f"{site}: {why}") for site, why in result.left_out.items()]
    return Lines(*parts, Text(sentence(result)), Text(), Text(_note(result), style="dim"))


def _correlations(result: Calibration, whole: SiteGroup) -> Table:
    """Return sites × distances: the best of each row marked, with its interval."""
    there = {row.distance for row in result.rows}
    names = [d for d in DISTANCES if d in there]
    grid = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    grid.add_column("site", no_wrap=True)
    for name in names:
        grid.add_column(_BRIEF[name], justify="right", no_wrap=True)
    grid.add_column("95 % of *", no_wrap=True)
    for group in (*result.thirds(whole.kind), whole):
        for site in group.sites if group != whole else ():
            rows = {row.distance: row for row in result.at(site)}
            best = max(rows.values(), key=lambda row: row.correlation.value)
            good = {row.distance for row in rows.values() if row.behind.low <= 0}
            cells = [_cell(rows[d].correlation.value if d in rows else None, d == best.distance, d in good) for d in names]
            grid.add_row(site, *cells, _interval(best.correlation))
        known, called = group.correlations, group.depth if group != whole else f"all {len(whole.sites)}"
        cells = [_cell(known[d].value if d in known else None, d == group.best, d in group.as_good) for d in names]
        grid.add_row(Text(called, style="italic"), *cells, _interval(known[group.best]), end_section=True)
    return grid


def _cell(value: float | None, best: bool, good: bool) -> Text:
    if value is None:
        return Text("–")
    said = f"{value:.2f}".replace("0.", ".", 1)
    return Text(f"{said}{'*' if best else '≈' if good else ' '}", style="bold" if best else "" if good else "dim")


def _interval(mean: Mean) -> str:
    return f"[{mean.low:.2f}, {mean.high:.2f}]".replace("0.", ".")


def _epsilons(result: Calibration) -> Table:
    """Return at each site what ε the advised distance has, and how many random occurrences lie inside 0.1."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("site", no_wrap=True)
    grid.add_column("by", no_wrap=True)
    for unit in _EPSILONS:
        grid.add_column(f"ε of {unit}", justify="right", no_wrap=True)
    grid.add_column("inside 0.1", justify="right", no_wrap=True)
    grid.add_column("by cos", justify="right", no_wrap=True)
    for site in result.sites:
        rows = {row.distance: row for row in result.at(site)}
        row, cosine = rows[result.advised(site)], rows.get("cosine")
        cells = [_epsilon(row, unit) for unit in _EPSILONS]
        grid.add_row(site, _BRIEF[row.distance], *cells, _share(row.inside), _share(cosine.inside) if cosine else "–")
    return grid


def _epsilon(row: Foretold, unit: str) -> str:
    found = row.epsilons.get(unit)
    return "–" if found is None else f"{found.value:.2g} ({found.low:.2g}–{found.high:.2g})"


def _share(share: float) -> str:
    return f"{share:.2%}" if share >= 0.0001 or share == 0 else "<0.01%"


def sentence(result: Calibration) -> str:
    """Return which distance to use at each kind of sites, what may be as good, and at which depth another one is better."""
    said = []
    for group in result.kinds:
        best = group.correlations[group.best]
        told = f"{group.best} at {_KINDS[group.kind]} (ρ = {best.value:.2f} {_interval(best)}"
        told += f"; {_listed(group.as_good)} may be as good)" if group.as_good else ")"
        other: dict[str, list[str]] = {}
        for third in result.thirds(group.kind):
            if differs(third, group.best):
                other.setdefault(third.best, []).append(third.depth)
        told += "".join(f", but {name} in the {_listed(depths)}" for name, depths in other.items())
        said.append(told)
    return f"Use {'; '.join(said)}."


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _note(result: Calibration) -> str:
    there = {row.distance for row in result.rows}
    return (
        f"{result.queries} queries × {result.partners} partners among {result.occurrences:,} occurrences in {result.texts}. "
        "ρ: rank correlation, within a query, of D with the nats by which what the model says next changes when a partner's "
        "activation stands in; mean over queries, 95 % bootstrap interval over queries. * best; ≈ may be as good, by the "
        "paired difference. ε: median over queries (quartiles); – too few occurrences, or nothing is so near. "
        + ", ".join(f"{brief} {name}" for name, brief in _BRIEF.items() if name in there)
        + "."
    )

"""The census of a study on natural text; ``inform`` is its door."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from inversionview.analyses.census.kept import Kept
from inversionview.analyses.census.measure import Counted, Pass, count
from inversionview.analyses.census.predictions import OWN
from inversionview.analyses.census.result import Census
from inversionview.analyses.inform.result import Cell, Total
from inversionview.core.errors import SettingError, did_you_mean
from inversionview.core.information import entropy, least, mean, means, shares, value
from inversionview.core.progress import Progress
from inversionview.core.ranges import whole
from inversionview.core.scope import Scope
from inversionview.corpora.token_features import FEATURES, TokenFeature
from inversionview.corpora.windows import WindowInputs
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.patterns import expand
from inversionview.model.sites.site import Site

OCCURRENCES = 200_000
"""Of the corpus' first windows, where no number is given."""
EVERY = "every token"
"""What the place of a query is called."""


def census(
    model: ProbedModel,
    inputs: WindowInputs,
    *,
    study: str,
    scope: Scope,
    queries: int = 200,
    tokens: int = OCCURRENCES,
    sites: str | Sequence[str | Site] | None = None,
    features: Sequence[str] | None = None,
    extra: Sequence[TokenFeature] = (),
    seed: int = 0,
    report: Progress | None = None,
) -> Census:
    """Return how many bits every site tells about each feature of an occurrence in natural text.

    Args:
        model: the probed model.
        inputs: windows of text.
        study: its name, for the table.
        scope: ε and the distance.
        queries: random occurrences, each of another window; the same at all sites.
        tokens: occurrences that are searched: those of the corpus' first windows.
        sites: patterns; by default all, but of streams that are one, as ``x1.pre`` and ``x0.post``, the first.
        features: names of some; by default all.
        extra: the user's own.
        seed: of the choice of queries.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: a number is out of range, there is no such feature, or one is the same everywhere.
        UnknownSiteError: there is no such site.
    """
    asked, chosen = asked_features(features, extra), _different(model.sites) if sites is None else expand(sites, model.sites)
    stated = {
        "model": model.fingerprint, "corpus": inputs.fingerprint, "tokens": whole(tokens, "--tokens"), "queries": queries,
        "seed": seed, "epsilon": scope.epsilon, "distance": scope.distance, "sites": [site.short for site in chosen],
        "features": [each.stamp for each in asked],
    }  # fmt: skip
    run = Pass(model, inputs, chosen, asked, tokens)
    known = all(each.version for each in extra)
    counted = count(run, queries, scope, seed, Kept(stated if known else None), report)
    return told(run, counted, scope, study, seed)


def _different(sites: Sequence[Site]) -> list[Site]:
    """Return sites without those that hold what the layer before gives."""
    return [site for site in sites if site.kind != "pre" or Site(site.layer - 1, "post") not in sites]


def asked_features(names: Sequence[str] | None, extra: Sequence[TokenFeature]) -> list[TokenFeature]:
    """Return the features of these names and the user's own; without names all.

    Raises:
        SettingError: there is none of a name, or two of one.
    """
    known = {each.name: each for each in (*FEATURES, *OWN)}
    for each in extra:
        if each.name in known:
            raise SettingError(f"There is a feature {each.name!r} already: call yours something else.")
        known[each.name] = each
    for name in names or ():
        if name not in known:
            raise SettingError(f"There is no feature {name!r}; there are {', '.join(known)}.{did_you_mean(name, known)}")
    return (
        list(known.values()) if names is None else [known[name] for name in dict.fromkeys([*names, *(e.name for e in extra)])]
    )


def told(run: Pass, counted: Counted, scope: Scope, study: str, seed: int) -> Census:
    """Return what counts mean."""
    found = _Priors(counted)
    for each, bits in zip(run.features, found.entropy, strict=True):
        if not bits and each not in (*FEATURES, *OWN):
            raise SettingError(f"The feature {each.name!r} is the same at every occurrence: there is nothing to tell.")
    names = [each.name for each in run.features]
    totals, cells = [], []
    for i, name in enumerate([*(site.short for site in run.sites), *names]):
        total, some = _site(name, i, counted, found, names, seed)
        if i < len(run.sites):
            totals.append(total)
        cells.append(some)
    about = run.inputs.about
    return Census(
        study, about.source, len(run.all), counted.windows, about.context, scope.epsilon, scope.distance, seed, tuple(totals),
        tuple(cell for some in cells[: len(run.sites)] for cell in some),
        tuple(cell for some in cells[len(run.sites) :] for cell in some),
    )  # fmt: skip


class _Priors:
    """How common the queries' values are: over all occurrences, ``own`` is ``[query, feature]``."""

    def __init__(self, counted: Counted) -> None:
        pairs = [np.unique(codes, return_inverse=True) for codes in counted.codes]
        priors = [shares(which, len(some)) for some, which in pairs]
        columns = [p[which[counted.queries]] for p, (_, which) in zip(priors, pairs, strict=True)]
        self.own: Float[np.ndarray, "query feature"] = np.stack(columns, axis=1)
        self.entropy = [entropy(prior) for prior in priors]


def _site(name: str, i: int, counted: Counted, priors: _Priors, names: Sequence[str], seed: int) -> tuple[Total, list[Cell]]:
    """Return what one site tells, in all and about each feature: as ``inform`` does, the prior counts as one more inside."""
    inside, some = counted.inside[i], counted.inside[i] > 0
    pairs = list(zip(inside.tolist(), counted.allowed.tolist(), strict=True))
    all_bits = mean([value(*pair) for pair in pairs], seed=seed)
    low = float(np.mean([least(*pair) for pair in pairs]))
    total = Total(name, EVERY, all_bits, float(some.mean()), len(inside), low)
    if not some.any():
        return total, []
    own = priors.own[some]
    known = (counted.agreeing[i][some] + own) / (inside[some, None] + 1)
    columns = zip(names, priors.entropy, means(np.log2(known / own), seed=seed), means(known, seed=seed), strict=True)
    return total, [
        Cell(name, EVERY, feature, bits, bits.value / h if h else 0.0, h, same, int(some.sum()))
        for feature, h, bits, same in columns
    ]

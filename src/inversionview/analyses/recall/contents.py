"""Which attribute of a subject each retrieval head carries at the end of a prompt, and whether it was asked for.

Huang et al. 2024, section 3.4 and Figures 41 to 43: heads extract different attributes of one subject, and some do so whatever
the relation in the prompt is. Here this is measured by feature information in exact preimages over a bank of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.analyses.recall.result import Carried, ContentTable, HeadContent
from inversionview.analyses.recall.retrieval import RetrievalHead
from inversionview.analyses.site_positions import Allowed, enumerated, places
from inversionview.bank.hits import Hits
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError
from inversionview.core.information import entropy, mean
from inversionview.core.progress import Progress
from inversionview.core.scope import OWN, Own, Scope
from inversionview.model.attention import MOST_BOS, attends_elsewhere
from inversionview.model.sites.site import Site

LEAST_INPUTS = 40
"""Of fewer inputs on which a head works, or with an attribute, nothing is said."""
_LEAST_QUERIES = 10
_SCOPE = Scope(0.25, "cosine", OWN)


def head_contents(
    bank: ActivationBank,
    heads: Sequence[RetrievalHead],
    attributes: Sequence[str],
    *,
    known: float,
    queries: int = 400,
    scope: Scope[Own] = _SCOPE,
    nothing: str = "–",
    most: float = MOST_BOS,
    seed: int = 0,
    report: Progress | None = None,
) -> ContentTable:
    """Return what heads carry, each over the inputs on which it does not rest on BOS: its queries, preimages and entropies.

    Args:
        bank: of prompts, with these heads at their positions.
        heads: which.
        attributes: features that hold of subjects; each counts among the inputs whose subject has it.
        known: share of the facts that the model knows, for the table.
        queries: for each head.
        scope: how preimages are compared.
        nothing: the value of a feature that an input lacks; a relation so called asks for nothing.
        most: attention to BOS from which a head rests.
        seed: of the choice of queries.
        report: called with the share of the heads that is done, and a note.

    Raises:
        SettingError: ``queries`` is below 1, or there is no head.
        UnknownSiteError, UnknownPositionError: the bank does not hold a head or its position.
    """
    if not heads:
        raise SettingError("There is no head to tell of: lower the least share.")
    tokens, sites = bank.tokens(np.arange(len(bank))), [Site.parse(head.site) for head in heads]
    features, named = bank.inputs.features(tokens), bank.inputs.named_positions(tokens)
    columns = {name: features[name] for name in ("subject", "relation", *attributes)}
    at = {name: named[name] for name in dict.fromkeys(head.position for head in heads)}
    works = {
        p: dict(zip(sites, attends_elsewhere(bank.model, tokens, where, sites, most), strict=True)) for p, where in at.items()
    }
    found = []
    for number, (head, site) in enumerate(zip(heads, sites, strict=True)):
        found.append(_content(bank, head, site, works[head.position][site], columns, nothing, queries, scope, seed))
        if report is not None:
            report((number + 1) / len(heads), f"{number + 1} of {len(heads)} heads")
    return ContentTable(bank.model.name, len(bank), known, scope.epsilon, scope.distance, queries, seed, tuple(found))


def _content(
    bank: ActivationBank,
    head: RetrievalHead,
    site: Site,
    works: Allowed,
    columns: dict[str, npt.NDArray[Any]],
    nothing: str,
    queries: int,
    scope: Scope[Own],
    seed: int,
) -> HeadContent:
    told: dict[str, Carried | None] = dict.fromkeys(columns)
    silent = columns["relation"] == nothing
    if works.sum() >= LEAST_INPUTS:
        (place,) = places(bank, [site], [head.position], queries, seed, None, works)
        hits = list(place.preimages(scope))
        for name, column in columns.items():
            there = works if name in ("subject", "relation") else works & (column != nothing)
            asked = columns["relation"] == name
            told[name] = _told(name, column, there, asked, place.rows, hits, enumerated(bank), seed)
    own = sorted((t for name, t in told.items() if t and name not in ("subject", "relation")), key=lambda t: -t.share)
    resting = float(works[silent].mean()) if silent.any() else float("nan")
    return HeadContent(head, float(works.mean()), resting, tuple(own), told["relation"], told["subject"])


def _told(
    name: str,
    column: npt.NDArray[Any],
    there: Allowed,
    asked: Allowed,
    rows: npt.NDArray[np.int64],
    hits: Sequence[Hits],
    whole: bool,
    seed: int,
) -> Carried | None:
    """Return what preimages tell about a feature among the inputs ``there``; ``None`` where it is constant or these are few.

    P(φ ∣ preimage) is as in ``Codes.known``: the query is left out, and the prior counts as one more input.
    """
    if there.sum() < LEAST_INPUTS:
        return None
    values, codes = np.unique(column, return_inverse=True)
    prior = np.bincount(codes[there], minlength=len(values)) / there.sum()
    least = entropy(prior)
    gained, which = [], []
    for row, found in zip(rows.tolist(), hits, strict=True):
        others = found.rows[(found.rows != row) & there[found.rows]]
        if not there[row] or not (len(others) or whole):
            continue
        agree = int((codes[others] == codes[row]).sum()) + (1.0 if whole else prior[codes[row]])
        gained.append(np.log2(agree / (len(others) + 1) / prior[codes[row]]))
        which.append(asked[row])
    if len(gained) < _LEAST_QUERIES or least == 0:
        return None
    bits, mask = np.array(gained), np.array(which)

    def part(chosen: npt.NDArray[np.bool_]) -> float | None:
        return float(bits[chosen].mean() / least) if chosen.sum() >= _LEAST_QUERIES else None

    average = mean(bits, seed=seed)
    return Carried(name, average, average.value / least, least, len(bits), part(mask), part(~mask))

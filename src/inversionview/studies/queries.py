"""Queries of a study: an input run through the model and read, or random ones."""

from __future__ import annotations

import numpy as np

from inversionview.core.errors import UnknownPositionError
from inversionview.core.memory import check_memory
from inversionview.core.ranges import check_seed, whole
from inversionview.model.chat_template import Messages
from inversionview.model.sites.patterns import find_site
from inversionview.model.sites.site import Site
from inversionview.preimage.preimage import Query
from inversionview.preimage.query import Vector, queried
from inversionview.studies.accepting import accepting
from inversionview.studies.study import Study

_QUERY_BYTES = 4096
"""Of a query's tokens and strings."""


@accepting
def query(
    study: Study,
    text: str | Messages | None = None,
    at: str | int | None = None,
    site: str | Site | None = None,
    *,
    vector: Vector | None = None,
) -> Query:
    """Return the query of a text at a position and a site, or of a vector from outside, of a study or of a model in memory.

    See ``Study.query``, which it is for a study; with a model come ``tokenizer`` and ``texts``, as ``load`` takes them.
    """
    return study.query(text, at, site, vector=vector)


@accepting
def random_queries(
    study: Study, count: int, *, at: str | int | None = None, site: str | Site | None = None, seed: int = 0
) -> list[Query]:
    """Draw queries from the test split, each at a random site and position that a decoder is trained on.

    Args:
        study: from ``load``.
        count: how many.
        at: the position, as in ``Study.query``; inputs without it are passed over.
        site: the site.
        seed: the same seed draws the same queries.

    Raises:
        SettingError: ``count`` is below 1.
        UnknownSiteError, UnknownPositionError: there is no such place.
    """
    check_seed(seed)
    each = 4 * 8 * 6 * study.inputs.max_length + 4 * study.model.shape.d_model + _QUERY_BYTES
    check_memory(whole(count, "The number of queries"), "queries", each)
    sites = study.sites if site is None else [find_site(site, study.model.sites)]
    rng, found = np.random.default_rng((seed, 7)), []
    tokens = study.inputs.draw(max(100, 4 * count), split="test", seed=(seed, 8))
    for row, allowed in zip(tokens, study.inputs.trained_positions(tokens), strict=True):
        ids = row[row != study.inputs.pad].tolist()
        try:
            position = int(rng.choice(np.flatnonzero(allowed))) if at is None else study.locate(ids, at)
        except UnknownPositionError as error:
            missing = error
            continue
        found.append(queried(study.model, ids, position, sites[rng.integers(len(sites))]))
        if len(found) == count:
            return found
    raise missing

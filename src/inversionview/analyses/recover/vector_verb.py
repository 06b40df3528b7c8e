"""``recover_vector``: the texts whose last token's state at a site comes nearest to one vector."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from inversionview.analyses.recover.learning import TOKENS, windows_of
from inversionview.analyses.recover.one import Near, Text, VectorSearch, agreed, sampled_states
from inversionview.analyses.recover.result import GuessedText, GuessedToken, VectorRecovery
from inversionview.analyses.recover.states import check_recoverable
from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.preimage.query import Vector
from inversionview.sources.registry import named
from inversionview.sources.verb import read
from inversionview.studies.accepting import accepting
from inversionview.studies.study import Study

if TYPE_CHECKING:
    from inversionview.model.sites.site import Site
    from inversionview.preimage.preimage import Query

_LEARNING = 0.3
"""Share of the progress that the corpus takes."""
_ELSEWHERE = 32
"""Texts that a bank and a decoder are asked for."""


@accepting
def recover_vector(
    study: Study,
    vector: Vector,
    *,
    site: str | Site | None = None,
    longest: int = 24,
    count: int = 8,
    seconds: float = 60.0,
    rounds: int = 1000,
    seed: int = 0,
    report: Progress | None = None,
) -> VectorRecovery:
    """Return the texts that come nearest to a vector: corpus neighbours and the decoder's, changed token by token.

    One vector does not determine its text: what is returned is how near texts come, each run in the model, and of which
    tokens all that are about as near agree.

    Args:
        study: from ``load``, or a model; neighbours are those of its corpus, or of the packaged text.
        vector: ``[numbers]``, or what names one in a file, ``PATH[:key][[row]]``.
        site: whose; by default where its file says, or the study's.
        longest: tokens of a text at most, without BOS.
        count: how many texts stay from round to round, and are returned.
        seconds: after so many the search ends.
        rounds: or after so many rounds; the seed fixes what is found where these end it.
        seed: of all draws.
        report: called with the share that is done, and a note.

    Raises:
        InputError, SettingError, UnknownSiteError: see ``Study.query``; or a setting is out of range.
    """
    check_seed(seed)
    if not 0 < seconds < math.inf:
        raise SettingError(f"A search takes a positive number of seconds, not {seconds}.")
    for name, number in (("tokens", longest), ("texts", count), ("rounds", rounds)):
        whole(number, f"The number of {name}")
    model, query = study.model, study.query(vector=vector, site=site)
    check_recoverable(query.site)
    longest = min(longest, model.shape.max_length - len(model.vocabulary.front))
    windows = windows_of(study, longest + len(model.vocabulary.front), min(TOKENS, 32 * model.shape.vocabulary), seed)
    sample = sampled_states(model, windows, query.site, _part(report, 0.0, _LEARNING))
    began = time.perf_counter()
    search = VectorSearch(model, query.site, query.z, sample, longest, seed)
    starts = [*search.neighbours(count), *_from_elsewhere(study, query, search, seed)]
    nearest = min(each.distance for each in starts)
    left = _part(report, _LEARNING, 1.0)
    pool = search.walk(starts, count, rounds, seconds, left)
    v = model.vocabulary
    labels = v.strings(pool[0].ids)
    tokens = tuple(GuessedToken(*each) for each in zip(labels, pool[0].ids, agreed(pool), strict=True))
    texts = tuple(GuessedText(v.decode([*v.front, *near.ids]), near.ids, near.distance, near.came) for near in pool)
    return VectorRecovery(query.site.short, texts, tokens, nearest, len(search.run), time.perf_counter() - began)


def _from_elsewhere(study: Study, query: Query, search: VectorSearch, seed: int) -> list[Near]:
    """Return what a bank that is there already, and a decoder, find near the query."""
    if study.bare:
        return []
    found = list[Near]()
    for name in ("corpus", "decoder"):
        source = named(name)
        there = name == "decoder" or study.known_bank(query.site) is not None
        if not there or not source.available(study) or not source.reads(study, query):
            continue
        made = read(study, query, source=name, count=_ELSEWHERE, seed=seed)
        front = len(study.model.vocabulary.front)
        texts: list[Text] = [each.ids[front : each.position + 1][-search.longest :] for each in made.samples]
        found += search.measured([text for text in texts if text], name)
    return found


def _part(report: Progress | None, first: float, last: float) -> Progress | None:
    return None if report is None else lambda share, note: report(first + (last - first) * share, note)

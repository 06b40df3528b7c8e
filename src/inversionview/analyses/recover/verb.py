"""``recover``: the text whose states are given, exactly; or the texts that come nearest to one vector."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

from inversionview.analyses.recover.engine import Engine, Matching, Prefix
from inversionview.analyses.recover.learning import maps_of
from inversionview.analyses.recover.order import Ordering, check_ordering
from inversionview.analyses.recover.result import Nearest, RecoveredText, RecoveredToken, Recovery
from inversionview.analyses.recover.rounding import TYPES, precision_of, threshold
from inversionview.analyses.recover.states import Given, GivenStates, check_recoverable, from_outside, of_text
from inversionview.analyses.recover.whole import Outcome, Told, Unfinished, largest, recovered
from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.model.sites.patterns import find_site
from inversionview.model.sites.site import Site
from inversionview.studies.accepting import accepting
from inversionview.studies.study import Study


@accepting
def recover(
    study: Study,
    states: Given | None = None,
    *,
    text: str | None = None,
    site: str | Site | None = None,
    positions: Sequence[int] | None = None,
    rounded: str | None = None,
    noise: float = 0.0,
    order: Ordering = "mixed",
    tries: int | None = None,
    exhaustive: bool = False,
    seed: int = 0,
    report: Progress | None = None,
) -> Recovery:
    """Return the text whose states at one site and all positions are given, token by token, each run in the model.

    All texts whose states are the given ones within rounding are returned; where none is, how near the nearest comes.

    Args:
        study: from ``load``, or a model; the order of tokens is learned from its corpus, or from the packaged text.
        states: ``[pos, numbers]``, or a file with them, ``PATH[:key]``. Whether BOS is among them, whether padding stands
            before the text, and to which type they were rounded, is found out.
        text: in their place: a text whose states are taken, as a test.
        site: whose states; by default the study's.
        positions: of the states, where they are not from 0 on.
        rounded: with ``text``: the type to which its states are rounded, ``fp16`` or ``bf16``.
        noise: relative size of noise that the states have beside rounding; with ``text`` it is put on.
        order: in which tokens are tried; see ``order.Ordering``.
        tries: tokens that are tried at a position at most, by default all.
        exhaustive: try all tokens at every position, so that it is certain that no other fits.
        seed: of noise and of random texts.
        report: called with the share that is done, and a note.

    Raises:
        SettingError: there are both states and a text, or neither; a setting is out of range; the site cannot tell tokens.
        InputError: the states are of another width, not finite, or not of consecutive positions; see ``states.from_outside``.
        UnknownSiteError: the model has no such site.
    """
    _check(states, text, rounded, noise, tries, seed)
    ordering, model = check_ordering(order), study.model
    model.check_unchanged()
    where = find_site(site or study.spec.site, model.sites)
    check_recoverable(where)
    ids = None if text is None else model.encode(text)
    if ids is not None:
        made = of_text(model, ids, where, rounded or "fp32", noise, seed)
        given = GivenStates(made, precision_of(made))
    else:
        given = from_outside(cast(Given, states), where, model, positions)
    mapped, learning = None, 0.0
    if ordering not in ("next", "id"):
        (mapped,), learning = maps_of(study, [where], len(given.values), report, seed)
    limit = threshold(given.precision, model.embeddings().dtype, noise, given.values.size(1))
    engine = Engine(model, where, given.values, mapped, Matching(limit, noise > 0, ordering, tries, exhaustive))
    began, kept = time.perf_counter(), None if model.in_memory else Unfinished(engine, model.fingerprint)
    outcome = recovered(engine, kept, _told(report, len(given.values)))
    return _result(engine, given, outcome, time.perf_counter() - began, learning, ids)


def _check(states: Given | None, text: str | None, rounded: str | None, noise: float, tries: int | None, seed: int) -> None:
    check_seed(seed)
    if (states is None) == (text is None):
        raise SettingError("Give either states or a text whose states are taken.")
    if rounded is not None and rounded not in TYPES:
        raise SettingError(f"States cannot be rounded to {rounded!r}: choose {', '.join(TYPES)}.")
    if rounded is not None and text is None:
        raise SettingError("How given states are rounded is told by their numbers: leave rounded out, or give a text.")
    if not 0 <= noise < 1:
        raise SettingError(f"The relative size of noise must be at least 0 and below 1, but is {noise}.")
    if tries is not None:
        whole(tries, "The number of tries")


def _told(report: Progress | None, rows: int) -> Told | None:
    return None if report is None else lambda row: report(row / rows, f"{row} of {rows} positions")


def _result(
    engine: Engine, given: GivenStates, outcome: Outcome, seconds: float, learning: float, ids: list[int] | None
) -> Recovery:
    model, miss = engine.model, outcome.miss
    allowed = len(engine.allowed)
    texts = () if miss is not None else tuple(_text(engine, prefix) for prefix in outcome.fits)
    nearest = None
    if miss is not None:
        label = model.vocabulary.strings([miss.token])[0]
        at = miss.position + given.before
        nearest = Nearest(at, label, miss.distance, miss.tried, miss.tried >= allowed)
    exact = None
    if ids is not None:
        v = model.vocabulary
        exact = bool(texts) and texts[0].ids == tuple(ids[:-1] if ids[-1] == v.eos else ids) and len(texts) == 1
    return Recovery(
        engine.site.short, len(given.values), given.before + outcome.start + given.behind, given.precision,
        engine.settings.threshold, allowed, texts, outcome.more, model.vocabulary.decode(outcome.fits[0].ids) if miss else "",
        nearest, seconds, exact, learning,
    )  # fmt: skip


def _text(engine: Engine, prefix: Prefix) -> RecoveredText:
    """Return a text that fits, run again as a whole."""
    v, found = engine.model.vocabulary, prefix.found
    labels = v.strings([each.token for each in found])
    tokens = tuple(
        RecoveredToken(label, each.token, each.rank, each.tried, each.distance, each.seconds, each.runner_up)
        for label, each in zip(labels, found, strict=True)
    )
    rows = engine.states[len(engine.states) - len(found) :]
    return RecoveredText(v.decode(prefix.ids), prefix.ids, tokens, largest(engine, prefix.ids, rows) if len(rows) else 0.0)

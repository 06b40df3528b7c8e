"""Commands that make a file to send: export."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inversionview.core.errors import SettingError, UnknownPositionError
from inversionview.core.interruption import INTERRUPTED
from inversionview.corpora.naming import SPEECHES
from inversionview.corpora.positions import span
from inversionview.page.bundle import MOST, to_html
from inversionview.sources.arguments import SourceOpt, check_source, made, not_of_source
from inversionview.sources.registry import first_source, named, one_after_another
from inversionview.studies.arguments import source_named, study_and_text, study_of_vector
from inversionview.studies.scope import check_within
from inversionview.terminal.app import app, err, given, out
from inversionview.terminal.naming_sites import NAMES_SITES
from inversionview.terminal.options import (
    FixedAtOpt,
    InputOptions,
    MeantScopeOptions,
    ModelOptions,
    SeedOpt,
    TextsOptions,
    VectorOpt,
    WalkedSecondsOpt,
)

if TYPE_CHECKING:
    from inversionview.corpora.natural import TextSource
    from inversionview.model.chat_template import Messages
    from inversionview.preimage.preimage import Preimage, Query
    from inversionview.sources.source import Source
    from inversionview.studies.study import Study


@dataclass(frozen=True)
class ReadingsOptions:
    """Positions and sites of several readings: the first of both, the second of both …; one goes with every other."""

    at: Annotated[
        list[str] | None,
        typer.Option(
            help="A token, a named position, an index as '#8', or a span of indices as 5:9: a reading of each of its tokens. "
            "Repeatable, as --site. With --chat also user:0/TOKEN, assistant:START, user:-1/END."
        ),
    ] = None
    site: Annotated[
        list[str] | None,
        typer.Option(help="x0.post, a0.3, m1, …; repeat it for several readings side by side."),
        NAMES_SITES,
    ] = None

    vector: VectorOpt = None

    def pairs(self) -> list[tuple[str | None, str | None]]:
        """Return each reading's position and site.

        Raises:
            SettingError: they do not go together, or are too many.
        """
        at, site = self.at or [], self.site or []
        size = max(len(at), len(site), 1)
        if not {len(at), len(site)} <= {0, 1, size}:
            raise SettingError(f"{len(at)} positions do not go with {len(site)} sites: give one of either, or as many of both.")
        if size > MOST:
            raise SettingError(f"{size} readings are too many for one page: give at most {MOST}.")
        every = [names if len(names) == size else size * [names[0] if names else None] for names in (at, site)]
        return list(zip(*every, strict=True))


@app.command(
    epilog='Examples: `inversionview export addition "615+861=1476" --at "=" --site a0.0 --site a0.1 --out reading.html`; '
    '`inversionview export counting "vvzccvczvvvzvcvc|v:8" --at query --at ":" --site x0.post --site a1.0`'
)
def export(
    context: typer.Context,
    *,
    what: InputOptions,
    readings: ReadingsOptions,
    source: SourceOpt = None,
    scope: MeantScopeOptions,
    count: Annotated[int, typer.Option(min=1, max=2000, help="Rows of each reading.")] = 500,
    fixed: FixedAtOpt = None,
    seconds: WalkedSecondsOpt = None,
    seed: SeedOpt = 0,
    destination: Annotated[Path, typer.Option("--out", help="The file.")] = Path("reading.html"),
    on: ModelOptions,
    texts: TextsOptions,
) -> None:
    """Write readings as one HTML file to look at and to send: works from disk, without a network."""
    from inversionview.core.files import check_formats
    from inversionview.preimage.reading import reading

    distance = scope.check()
    check_formats([destination], (".html",))
    check_source(source)
    readings.pairs()
    if source is not None:
        not_of_source(context, named(source))
    speeches = SPEECHES if readings.vector is not None and what.study is None else None
    loaded, queries = _asked(what, on, readings, source_named(texts, speeches))
    if len(queries) > MOST:
        raise SettingError(f"{len(queries)} readings are too many for one page: give at most {MOST}.")
    for query in queries:
        check_within(scope.within, scope.epsilon, query.site)
    own = given(seconds=seconds)
    sources = [_sources(loaded, query, fixed, source) for query in queries]
    if not any(name in each.options for some in sources for each in some for name in own):
        not_of_source(context, sources[0][0])
    scoped: dict[str, Any] = {"epsilon": scope.epsilon, "within": scope.within, "distance": distance, "fixed": fixed}
    shown: list[Preimage] = []
    for query, chosen in zip(queries, sources, strict=True):
        shown.append(made(loaded, query, chosen, count=count, seed=seed, **scoped, **own))
        if _interrupted(shown[-1]):
            break
    to_html([reading(loaded, preimage).to_json() for preimage in shown], destination)
    places = ", ".join(map(_place, (preimage.query for preimage in shown)))
    out.print(f"{destination} shows {places}.", soft_wrap=True)
    if _interrupted(shown[-1]):
        err.print("Interrupted: the page shows what was found until then.")
        sys.exit(INTERRUPTED)


def _asked(
    what: InputOptions, on: ModelOptions, readings: ReadingsOptions, texts: TextSource | None
) -> tuple[Study, list[Query]]:
    """Return the study and the queries that are named: of a text, or of a vector at each of the sites."""
    pairs = readings.pairs()
    if readings.vector is None:
        study, text = study_and_text(what, on, readings.site or (), texts)
        return study, [query for at, site in pairs for query in spanned(study, text, at, site)]
    study = study_of_vector(what, on, readings.site or (), texts, readings.at is not None)
    return study, [study.query(vector=readings.vector, site=site) for _, site in pairs]


def _place(query: Query) -> str:
    return f"{query.vector} at {query.site}" if query.textless else f"{query.site} at {query.position}"


def spanned(study: Study, text: str | Messages, at: str | None, site: str | None) -> list[Query]:
    """Return the query of a text at a position, or those at each token of a span of indices.

    Raises:
        UnknownPositionError: there is no such position, or no token in the span.
    """
    indices = span(at)
    try:
        return [study.query(text, at=at, site=site)]
    except UnknownPositionError:
        if indices is None:
            raise
    whole = study.query(text, at=-1, site=site)
    places = range(whole.position + 1)[indices]
    if not places:
        raise UnknownPositionError(f"There is no token in the span {at}: the input has tokens #0 to #{whole.position}.")
    return [study.query(text, at=place, site=site) for place in places[: MOST + 1]]


def _sources(study: Study, query: Query, fixed: str | None, source: str | None) -> list[Source]:
    """Return what reads a query: what is named, else what ``read`` takes."""
    if source is not None:
        return [named(source)]
    return one_after_another(study, query, fixed) or [first_source(study, query, fixed)]


def _interrupted(preimage: Preimage) -> bool:
    return preimage.walk is not None and preimage.walk.interrupted

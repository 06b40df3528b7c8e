"""Commands that make a file to send: export."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.core.interruption import INTERRUPTED
from inversionview.page.bundle import MOST, to_html
from inversionview.sources.given import check_source, first_source, not_of_source
from inversionview.studies.given import bank_to_search, study_and_text
from inversionview.terminal.app import app, bar, err, given, out
from inversionview.terminal.options import (
    FixedAtOpt,
    InputOptions,
    ModelOptions,
    ScopeOptions,
    SeedOpt,
    SourceOpt,
    WalkedSecondsOpt,
)

if TYPE_CHECKING:
    from inversionview.preimage.preimage import Preimage, Query
    from inversionview.studies.study import Study


@dataclass(frozen=True)
class ReadingsOptions:
    """Positions and sites of several readings: the first of both, the second of both …; one goes with every other."""

    at: Annotated[
        list[str] | None, typer.Option(help="A token, a named position or an index as '#8'; repeatable, as --site.")
    ] = None
    site: Annotated[
        list[str] | None, typer.Option(help="x0.post, a0.3, m1, …; repeat it for several readings side by side.")
    ] = None

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
    scope: ScopeOptions,
    count: Annotated[int, typer.Option(min=1, max=2000, help="Rows of each reading.")] = 500,
    fixed: FixedAtOpt = None,
    seconds: WalkedSecondsOpt = None,
    seed: SeedOpt = 0,
    destination: Annotated[Path, typer.Option("--out", help="The file.")] = Path("reading.html"),
    on: ModelOptions,
) -> None:
    """Write readings as one HTML file to look at and to send: works from disk, without a network."""
    from inversionview.core.files import check_formats
    from inversionview.preimage.reading import reading

    distance = scope.check()
    check_formats([destination], (".html",))
    check_source(source)
    pairs = readings.pairs()
    if source is not None:
        not_of_source(context, source)
    loaded, text = study_and_text(what, on, readings.site or ())
    queries = [loaded.query(text, at=at, site=site) for at, site in pairs]
    options: dict[str, Any] = {"epsilon": scope.epsilon, "distance": distance, "fixed": fixed, "seed": seed, "count": count}
    sources = [source or first_source(loaded, query, fixed) for query in queries]
    if "walk" not in sources:
        not_of_source(context, sources[0])
    made = []
    for query, chosen in zip(queries, sources, strict=True):
        made.append(_read(loaded, query, chosen, seconds, options))
        if _interrupted(made):
            break
    to_html([reading(loaded, preimage).to_json() for preimage in made], destination)
    shown = [preimage.query for preimage in made]
    out.print(f"{destination} shows {', '.join(f'{q.site} at {q.position}' for q in shown)}.", soft_wrap=True)
    if _interrupted(made):
        err.print("Interrupted: the page shows what was found until then.")
        sys.exit(INTERRUPTED)


def _interrupted(made: list[Preimage]) -> bool:
    walk = made[-1].walk
    return walk is not None and walk.interrupted


def _read(study: Study, query: Query, source: str, seconds: float | None, options: dict[str, Any]) -> Preimage:
    if source == "corpus":
        fixed = None if options["fixed"] is None else [options["fixed"]]
        return iv.search(study, query, bank=bank_to_search(study, None), **{**options, "fixed": fixed})
    if source == "walk":
        with bar("walking", 1000) as advance:
            told = {"report": lambda share, note: advance(int(1000 * share), note), **given(seconds=seconds)}
            return iv.walk(study, query, **told, **options)
    return iv.read(study, query, **options, source="decoder")

"""Command inform: bits about each feature, of a study's inputs or of natural text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import inversionview as iv
from inversionview.core.interruption import resumable
from inversionview.corpora.naming import SPEECHES
from inversionview.studies.arguments import bank_to_search, loaded_study, source_named
from inversionview.terminal.app import app, bar, given, out, print_json
from inversionview.terminal.checked import unused
from inversionview.terminal.options import (
    BankOpt,
    BareStudyArg,
    FixedOpt,
    JsonOpt,
    ModelOptions,
    PlacesOptions,
    ScopeOptions,
    SeedOpt,
    TextsOptions,
)

if TYPE_CHECKING:
    from inversionview.studies.study import Study


@dataclass(frozen=True)
class FeatureOptions:
    """Which features are told, and of which inputs."""

    features: Annotated[
        list[str] | None,
        typer.Option(
            help="Features by commas; by default all. Of --texts also features of your own (repeatable): `name=/regex/`, "
            "`file.py:function`, which is run and called with a window's tokens and an index, or a file of labels."
        ),
    ] = None
    feature: Annotated[
        list[str] | None, typer.Option(help="Of a study's inputs: a regular expression, each named group a feature.")
    ] = None
    where: Annotated[
        list[str] | None, typer.Option(help="Only inputs that satisfy it, as if there were no others: 'A1=1' (repeatable).")
    ] = None


@dataclass(frozen=True)
class SearchedOptions:
    """Which bank of a study is searched, and where."""

    fixed: FixedOpt = False
    bank: BankOpt = None


@app.command(
    epilog="Examples: `inversionview inform addition --positions '=,A1,A2,A3' --out table.html --out table.csv`; a feature of "
    "your own: `inversionview inform counting --feature '^(?P<first>.)'`; among some inputs: `inversionview inform addition "
    "--where A1=1`; all heads and streams of a model on natural text: `inversionview inform --model gpt2 --texts corpus.txt "
    "--out census.html`"
)
@resumable(False)
def inform(
    context: typer.Context,
    *,
    study: BareStudyArg = None,
    queries: Annotated[int, typer.Option(min=1, help="Queries at each site and position; of texts at each site.")] = 200,
    places: PlacesOptions,
    told: FeatureOptions,
    scope: ScopeOptions,
    searched: SearchedOptions,
    to: Annotated[
        list[Path] | None, typer.Option("--out", help="Write .csv, .parquet, .html, .png or .svg (repeatable).")
    ] = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    texts: TextsOptions,
    as_json: JsonOpt = False,
) -> None:
    """Tell which features every site holds at every position, in bits and as a share of each feature's entropy.

    With --model and no study, at every token of natural text: a census of the model's heads and streams.
    """
    from inversionview.analyses.feature_codes import pattern
    from inversionview.analyses.inform.result import FeatureTable
    from inversionview.corpora.filters import by_commas, feature_names, parse_filters

    FeatureTable.check_files(to or [])
    asked = given(epsilon=scope.epsilon, distance=scope.check(), queries=queries, seed=seed)
    source = source_named(texts, SPEECHES if study is None else None)
    with resumable(source is not None):
        loaded = loaded_study(study, on, [places.sites], source)
        if loaded.inputs.every_token:
            unused(context, "natural text is read", "positions", "feature", "where", "fixed", "bank")
            more = given(sites=places.sites, tokens=texts.tokens)
            result = _census(loaded, told.features or [], as_json, **asked, **more)
    if not loaded.inputs.every_token:
        extra = {name: function for expression in told.feature or [] for name, function in pattern(expression).items()}
        loaded = loaded_study(study, on, [places.sites])
        if told.where:
            parse_filters(told.where, [*feature_names(loaded.inputs), *extra])
        bank = bank_to_search(loaded, searched.bank, places.sites)
        names = [name for text in told.features or [] for name in by_commas(text)]
        with bar("informing", 1000, quiet=as_json) as advance:
            result = iv.inform(
                loaded,
                bank=bank,
                fixed=searched.fixed,
                extra=extra,
                where=told.where or (),
                report=lambda share, note: advance(int(1000 * share), note),
                **asked,
                **places.named(),
                **given(features=names if told.features else None),
            )
    for path in to or []:
        result.save(path)
    print_json(result.to_json()) if as_json else out.print(result)


def _census(loaded: Study, features: list[str], quiet: bool, **options: Any) -> Any:
    """Return the census of a model, with a bar unless ``quiet``."""
    from inversionview.corpora.own_features import asked

    names, own = asked(features, loaded.inputs)
    with bar("counting", 1000, quiet=quiet, logged=True) as advance:
        report = lambda share, note: advance(int(1000 * share), note)  # noqa: E731
        return iv.inform(loaded, features=names, extra=own, report=report, **options)

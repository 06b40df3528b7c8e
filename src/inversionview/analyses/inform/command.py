"""Commands that sum up many readings: inform, truth, bits, complete, threshold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import inversionview as iv
from inversionview.studies.arguments import bank_to_search, loaded_study
from inversionview.terminal.app import app, bar, given, out, print_json
from inversionview.terminal.options import (
    BankOpt,
    FixedOpt,
    JsonOpt,
    ModelOpt,
    ModelOptions,
    PlacesOptions,
    ScopeOptions,
    SeedOpt,
    StudyArg,
)


@dataclass(frozen=True)
class FeatureOptions:
    """Which features are told, and of which inputs."""

    features: Annotated[str | None, typer.Option(help="Features of the study, by commas; by default all.")] = None
    feature: Annotated[list[str] | None, typer.Option(help="A regular expression: each named group is a feature.")] = None
    where: Annotated[
        list[str] | None, typer.Option(help="Only inputs that satisfy it, as if there were no others: 'A1=1' (repeatable).")
    ] = None


@app.command(
    epilog="Examples: `inversionview inform addition --positions '=,A1,A2,A3' --out table.html --out table.csv`; a feature of "
    "your own: `inversionview inform counting --feature '^(?P<first>.)'`; among some inputs: `inversionview inform addition "
    "--where A1=1`"
)
def inform(
    *,
    study: StudyArg,
    queries: Annotated[int, typer.Option(min=1, help="Queries at each site and position.")] = 200,
    places: PlacesOptions,
    told: FeatureOptions,
    scope: ScopeOptions,
    fixed: FixedOpt = False,
    bank: BankOpt = None,
    to: Annotated[
        list[Path] | None, typer.Option("--out", help="Write .csv, .parquet, .html, .png or .svg (repeatable).")
    ] = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Tell which features every site holds at every position, in bits and as a share of each feature's entropy."""
    from inversionview.analyses.feature_codes import pattern
    from inversionview.analyses.inform.result import FeatureTable
    from inversionview.corpora.filters import by_commas, feature_names, parse_filters

    FeatureTable.check_files(to or [])
    distance = scope.check()
    extra = {name: function for expression in told.feature or [] for name, function in pattern(expression).items()}
    loaded = loaded_study(study, ModelOptions(model), [places.sites])
    if told.where:
        parse_filters(told.where, [*feature_names(loaded.inputs), *extra])
    searched = bank_to_search(loaded, bank)
    with bar("informing", 1000, quiet=as_json) as advance:
        table = iv.inform(
            loaded,
            bank=searched,
            queries=queries,
            epsilon=scope.epsilon,
            distance=distance,
            fixed=fixed,
            extra=extra,
            where=told.where or (),
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
            **places.named(),
            **given(features=None if told.features is None else by_commas(told.features)),
        )
    for path in to or []:
        table.save(path)
    if as_json:
        print_json(table.to_json())
    else:
        out.print(table)

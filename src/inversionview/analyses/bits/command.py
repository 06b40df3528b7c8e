"""Command bits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import inversionview as iv
from inversionview.studies.arguments import bank_to_search, loaded_study
from inversionview.terminal.app import app, bar, numbers, out, print_json
from inversionview.terminal.options import (
    BankOpt,
    DistanceOpt,
    FixedOpt,
    JsonOpt,
    ModelOpt,
    ModelOptions,
    PlacesOptions,
    SeedOpt,
    StudyArg,
    check,
)


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
    from inversionview.analyses.bits.result import Curves

    Curves.check_files(to or [])
    ladder = numbers(epsilons)
    kind = check(ladder, distance)
    loaded = loaded_study(study, ModelOptions(model), [places.sites])
    searched = bank_to_search(loaded, bank, places.sites)
    with bar("measuring", 1000, quiet=as_json) as advance:
        curves = iv.bits(
            loaded,
            ladder,
            bank=searched,
            queries=queries,
            distance=kind,
            fixed=fixed,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
            **places.named(),
        )
    for path in to or []:
        curves.save(path)
    if as_json:
        print_json({"study": loaded.name, "inputs": len(searched), "curves": curves.to_json()})
    else:
        out.print(curves)

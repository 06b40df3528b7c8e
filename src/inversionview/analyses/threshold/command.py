"""Command threshold."""

from __future__ import annotations

from typing import Annotated

import typer

import inversionview as iv
from inversionview.studies.arguments import loaded_study
from inversionview.terminal.app import app, bar, out, print_json
from inversionview.terminal.options import (
    ActivationOptions,
    DistanceOpt,
    FigureOpt,
    InputsOpt,
    JsonOpt,
    ModelOptions,
    SeedOpt,
    StudyArg,
    TextArg,
    check,
)


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
    from inversionview.core.files import figure_paths

    kind = check(epsilon or [], distance)
    figures = figure_paths(to, "threshold")
    loaded = loaded_study(study, on, [activation.site])
    query = loaded.query(text, at=activation.position, site=activation.site)
    with bar("measuring", 1000, quiet=as_json) as advance:
        result = iv.threshold(
            loaded,
            query,
            epsilons=epsilon or (),
            distance=kind,
            limit=inputs,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in figures:
        result.save(path)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(result)

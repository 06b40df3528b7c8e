"""Command threshold."""

from __future__ import annotations

from typing import Annotated

import typer

import inversionview as iv
from inversionview.corpora.naming import SPEECHES
from inversionview.studies.arguments import bank_to_search, source_named, study_and_text
from inversionview.terminal.app import app, bar, out, print_json
from inversionview.terminal.options import (
    ActivationOptions,
    DistanceOpt,
    FigureOpt,
    InputOptions,
    InputsOpt,
    JsonOpt,
    ModelOptions,
    SeedOpt,
    TextsOptions,
    check,
)


@app.command(epilog='Example: `inversionview threshold addition "615+861=1476" --at "=" --site a0.0 --out figure.png`')
def threshold(
    *,
    what: InputOptions,
    activation: ActivationOptions,
    epsilon: Annotated[list[float] | None, typer.Option(help="A threshold to look at (repeatable).")] = None,
    distance: DistanceOpt = None,
    inputs: InputsOpt = None,
    to: FigureOpt = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    texts: TextsOptions,
    as_json: JsonOpt = False,
) -> None:
    """Show how a reading depends on ε: inputs inside, bits and shared features, and an ε from the gap of the distances.

    With --model, of every occurrence of natural text in its bank.
    """
    from inversionview.core.files import figure_paths

    kind = check(epsilon or [], distance)
    figures = figure_paths(to, "threshold")
    source = source_named(texts, SPEECHES if what.text is None and on.model is not None else None)
    loaded, text = study_and_text(what, on, [activation.site], source)
    query = loaded.query(text, at=activation.position, site=activation.site)
    bank = bank_to_search(loaded, None, query.site) if loaded.inputs.every_token else None
    with bar("measuring", 1000, quiet=as_json) as advance:
        result = iv.threshold(
            loaded,
            query,
            epsilons=epsilon or (),
            distance=kind,
            limit=inputs,
            seed=seed,
            bank=bank,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in figures:
        result.save(path)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(result)

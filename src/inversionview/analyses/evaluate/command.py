"""Command evaluate."""

from __future__ import annotations

from typing import Annotated

import typer

import inversionview as iv
from inversionview.studies.arguments import loaded_study
from inversionview.terminal.app import app, bar, out, print_json
from inversionview.terminal.options import JsonOpt, ModelOptions, SeedOpt, StudyArg


@app.command(epilog="Example: `inversionview evaluate counting --queries 200 --json`")
def evaluate(
    *,
    study: StudyArg,
    queries: Annotated[int, typer.Option(min=1, help="Held-out queries for each site.")] = 200,
    samples: Annotated[int, typer.Option(min=1, help="Samples for each query, at temperature 1.")] = 8,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Measure the decoder's good ratio: the share of samples inside ε, per site, on held-out queries."""
    loaded = loaded_study(study, on)
    with bar("evaluating", 1000, quiet=as_json) as advance:
        result = iv.evaluate(
            loaded, queries=queries, samples=samples, seed=seed, report=lambda share, _: advance(int(1000 * share), "")
        )
    if as_json:
        print_json(result.to_json())
    else:
        out.print(result)

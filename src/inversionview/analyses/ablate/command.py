"""Command ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import inversionview as iv
from inversionview.analyses.patch.command import sites_in
from inversionview.studies.arguments import loaded_study
from inversionview.terminal.app import app, bar, out, print_json
from inversionview.terminal.options import ActivationsOpt, JsonOpt, LimitOpt, ModelOptions, SeedOpt, StudyArg, WhereOpt


@app.command(epilog="Example: `inversionview ablate addition --at '+:x0.post'`")
def ablate(
    *,
    study: StudyArg,
    at: ActivationsOpt = None,
    by: Annotated[str, typer.Option(help="mean (over the inputs), zero, or resample: another input's.")] = "mean",
    where: WhereOpt = None,
    limit: LimitOpt = None,
    to: Annotated[list[Path] | None, typer.Option("--out", help="Write .csv or .parquet (repeatable).")] = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Ablation: replace activations by what says nothing, and see what is lost of every answer token."""
    from inversionview.analyses.ablate.measure import check_way
    from inversionview.analyses.ablate.result import Ablation

    Ablation.check_files(to or [])
    loaded = loaded_study(study, on, sites_in(at))
    with bar("ablating", 1000, quiet=as_json) as advance:
        result = iv.ablate(
            loaded,
            at or [],
            by=check_way(by),
            where=where or (),
            limit=limit,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in to or []:
        result.save(path)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(result)

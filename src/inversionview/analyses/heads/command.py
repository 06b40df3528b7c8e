"""Commands about the heads of a circuit: heads finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.studies.arguments import loaded_study
from inversionview.terminal.app import app, bar, out, print_json
from inversionview.terminal.options import JsonOpt, ModelOptions, SeedOpt, StudyArg


@app.command(
    epilog="Examples: `inversionview heads ioi`; of another model: `inversionview heads ioi --model gpt2 --out heads.csv`; "
    "the figure: `inversionview heads ioi --out heads.png`"
)
def heads(
    *,
    study: StudyArg = "ioi",
    prompts: Annotated[int, typer.Option(min=1, help="So many prompts of the study's test split.")] = 300,
    anyway: Annotated[bool, typer.Option("--anyway", help="Go on with a model that does not do the task.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Compute it anew, even if a result is kept.")] = False,
    to: Annotated[
        list[Path] | None, typer.Option("--out", help="Write all heads: .json, .csv, .parquet, .png or .svg (repeatable).")
    ] = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Find the heads that matter for the task in this model, and what they do: name movers, S-inhibition heads, …

    The result is kept for other commands and the explorer; where one is kept, or shipped, it is shown at once.
    """
    from inversionview.analyses.heads.result import HeadTable

    HeadTable.check_files(to or [])
    loaded = loaded_study(study, on)
    if loaded.definition.retrieves:
        raise SettingError(f"The heads that retrieve facts are found by another command: inversionview recall {study}.")
    with bar("measuring heads", 1000, quiet=as_json) as advance:
        table = iv.heads(
            loaded,
            prompts=prompts,
            anyway=anyway,
            seed=seed,
            again=again,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in to or []:
        table.save(path)
    if as_json:
        print_json(table.to_json())
    else:
        out.print(table)

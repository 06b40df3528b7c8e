"""Command truth."""

from __future__ import annotations

from typing import Annotated

import typer

import inversionview as iv
from inversionview.studies.arguments import bank_to_search, loaded_study
from inversionview.terminal.app import app, bar, err, out, print_json
from inversionview.terminal.options import BankOpt, JsonOpt, ModelOpt, ModelOptions, SeedOpt, StudyArg


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
    loaded = loaded_study(study, ModelOptions(model))
    searched = bank_to_search(loaded, bank)
    with bar("comparing", 1000, quiet=as_json) as advance:
        rows = iv.truth(
            loaded,
            bank=searched,
            queries=queries,
            samples=samples,
            seed=seed,
            report=lambda share, _: advance(int(1000 * share), ""),
        )
    own = loaded.folder is not None and loaded.decoder_path.is_relative_to(loaded.folder)
    kept = iv.keep_truth(loaded, rows, searched, samples=samples, seed=seed) if own else None
    if kept is not None:
        err.print(f"Kept in {kept}: readings by this decoder tell it.", soft_wrap=True)
    if as_json:
        within = {"epsilon": rows.epsilon, "distance": rows.distance}
        print_json({"study": loaded.name, "inputs": len(searched), **within, "sites": rows.to_json()})
    else:
        out.print(rows)

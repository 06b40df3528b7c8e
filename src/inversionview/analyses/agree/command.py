"""Command agree."""

from __future__ import annotations

from typing import Annotated

import typer

import inversionview as iv
from inversionview.sources.registry import every
from inversionview.studies.arguments import bank_to_search, loaded_study
from inversionview.terminal.app import app, bar, listed, out, print_json
from inversionview.terminal.checked import unused
from inversionview.terminal.options import (
    ActivationOptions,
    BankOpt,
    EpsilonOpt,
    JsonOpt,
    ModelOptions,
    SeedOpt,
    StudyArg,
    TextArg,
    check,
)


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
    check([epsilon], None)
    asked = listed(sources) or []
    for source in reversed(every()):
        if source.name not in asked:
            unused(context, f"{source.name} is not among the sources", *source.options)
    loaded = loaded_study(study, on, [activation.site])
    query = loaded.query(text, at=activation.position, site=activation.site)
    banked = any(source.needs_bank for source in every() if source.name in asked)
    searched = bank_to_search(loaded, bank, query.site) if banked else None
    with bar("walking", 1000, quiet=as_json) as advance:
        result = iv.agree(
            loaded,
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
        out.print(result)

"""Command latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.corpora.naming import SPEECHES
from inversionview.studies.arguments import bank_to_search, encoded, source_named, study_and_query
from inversionview.terminal.app import app, bar, listed, out, print_json
from inversionview.terminal.options import BankOpt, InputOptions, JsonOpt, ModelOptions, TextsOptions, VectorOptions


@app.command(
    epilog="Examples: `inversionview latents addition \"615+861=1476\" --at '=' --site 'x0.post|sae:addition'`; of any model: "
    "`inversionview latents --model gpt2 --texts corpus.txt \"He sat by the bank\" --site 'x9.post|sae:FOLDER'`"
)
def latents(
    *,
    what: InputOptions,
    activation: VectorOptions,
    epsilon: Annotated[float | None, typer.Option(help="Within it, in units of a latent's spread, codes are alike.")] = None,
    fixed: Annotated[
        str | None, typer.Option(help="Compare at these named positions only (by commas), not at all of the bank's.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Latents to show; JSON and files hold all that fire.")] = 30,
    bank: BankOpt = None,
    to: Annotated[list[Path] | None, typer.Option("--out", help="Write .csv or .parquet (repeatable).")] = None,
    on: ModelOptions,
    texts: TextsOptions,
    as_json: JsonOpt = False,
) -> None:
    """Rank the latents of a sparse dictionary that fire at one activation by how many bits each tells; needs a bank."""
    from inversionview.analyses.latents.result import LatentRanking
    from inversionview.analyses.latents.verb import check_all
    from inversionview.core.scope import check_epsilon

    LatentRanking.check_files(to or [])
    if activation.site is None:
        raise SettingError("Name a dictionary: --site 'x5.post|sae:FOLDER'.")
    if epsilon is not None:
        check_epsilon(epsilon)
    source = source_named(texts, SPEECHES if what.text is None and on.model is not None else None)
    loaded, query = study_and_query(what, activation, on, source)
    site = check_all(query.site)
    searched = bank_to_search(loaded, bank, site.base)
    encoded(searched, site)
    with bar("ranking", 1000, quiet=as_json) as advance:
        result = iv.latents(
            loaded,
            query,
            epsilon=epsilon,
            fixed=listed(fixed),
            count=count,
            bank=searched,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in to or []:
        result.save(path)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(result)

"""Command flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.studies.arguments import bank_to_search, loaded_study
from inversionview.terminal.app import app, bar, out, print_json
from inversionview.terminal.options import BankOpt, EpsilonOpt, JsonOpt, ModelOptions, SeedOpt, StudyArg, WhereOpt, check


@dataclass(frozen=True)
class EdgeOptions:
    """Which edges are drawn, which are confirmed, and where a head reads: shares between 0 and 1."""

    threshold: Annotated[
        float, typer.Option(help="Show edges that carry at least this share of a feature's entropy; the page has a slider.")
    ] = 0.15
    effect: Annotated[
        float, typer.Option(help="Patching confirms an edge that does at least this share of what patching everything does.")
    ] = 0.05
    attention: Annotated[float, typer.Option(help="A head reads where its mean attention is at least this.")] = 0.1

    def check(self) -> None:
        """Raise ``SettingError`` unless all of them are such shares."""
        for name, share in vars(self).items():
            if not 0 < share < 1:
                raise SettingError(f"--{name} is a share, between 0 and 1, but is {share:g}.")


@app.command(epilog="Example: `inversionview flow addition --target A2 --where 'A1=1' --out flow.html --out flow.png`")
def flow(
    *,
    study: StudyArg,
    target: Annotated[str | None, typer.Option(help="The answer token: count; A1, A2, A3, A4; by default the first.")] = None,
    where: WhereOpt = None,
    edges: EdgeOptions,
    queries: Annotated[int, typer.Option(min=1, help="Queries at each site and position.")] = 100,
    limit: Annotated[int, typer.Option(min=1, help="Pairs for each kind of contrast.")] = 2000,
    epsilon: EpsilonOpt = None,
    bank: BankOpt = None,
    to: Annotated[
        list[Path] | None, typer.Option("--out", help="Write .png, .svg, .html, .csv or .parquet (repeatable).")
    ] = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Draw how information flows to an answer token: what each head carries, from where, and what patching confirms."""
    from inversionview.analyses.flow.result import Flow
    from inversionview.corpora.contrasts import check_target, held_out
    from inversionview.corpora.filters import feature_names, parse_filters

    Flow.check_files(to or [])
    check([epsilon], None)
    edges.check()
    loaded = loaded_study(study, on)
    check_target(loaded.inputs, target)  # mistakes are told before a bank is built, not after
    held_out(loaded.inputs, parse_filters(where or (), feature_names(loaded.inputs)), limit, seed)
    searched = bank_to_search(loaded, bank)
    with bar("following", 1000, quiet=as_json) as advance:
        result = iv.flow(
            loaded,
            target,
            bank=searched,
            where=where or (),
            epsilon=epsilon,
            queries=queries,
            limit=limit,
            least_attention=edges.attention,
            least_effect=edges.effect,
            threshold=edges.threshold,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in to or []:
        result.save(path)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(result)

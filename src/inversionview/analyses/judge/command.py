"""The command judge: which statements about activations are true."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import inversionview as iv
from inversionview.analyses.interpret.endpoint import EstimateOnly, confirming, tell_estimate
from inversionview.analyses.judge.options import ByOptions, HeldOptions
from inversionview.core.interruption import resumable
from inversionview.studies.arguments import bank_to_search, loaded_study, source_named
from inversionview.terminal.app import app, bar, err, out, print_json
from inversionview.terminal.options import BankOpt, JsonOpt, ModelOptions, ScopeOptions, SeedOpt, TextsOptions

if TYPE_CHECKING:
    from inversionview.analyses.interpret.client import Estimate
    from inversionview.analyses.judge.result import Judgements


@app.command(
    epilog="Examples: `inversionview judge statements.jsonl --study addition`, of lines such as "
    '`{"text": "615+861=1476", "at": "=", "site": "a0.0", "statement": "{F1,S1}=68"}`; of any model: '
    "`inversionview judge statements.jsonl --model gpt2 --texts corpus.txt --json`"
)
def judge(
    context: typer.Context,
    *,
    statements: Annotated[
        Path, typer.Argument(metavar="STATEMENTS", help="JSON Lines, CSV or Parquet: text, at, site (or vector), statement.")
    ],
    study: Annotated[str | None, typer.Option(help="A study or the folder of a run; or give --model and --texts.")] = None,
    by: ByOptions,
    scope: ScopeOptions,
    test: HeldOptions,
    bank: BankOpt = None,
    to: Annotated[
        list[Path] | None, typer.Option("--out", "--report", help="Write .html, .md, .json, .csv or .parquet (repeatable).")
    ] = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    texts: TextsOptions,
    as_json: JsonOpt = False,
) -> None:
    """Judge statements about activations: is what each says true inside ε, false outside, and more than the text tells?"""
    from inversionview.analyses.judge.result import Judgements
    from inversionview.analyses.judge.subjects import sites_of
    from inversionview.analyses.judge.verb import check_controls, claims_of

    Judgements.check_files(to or [])
    distance = scope.check()
    client = by.judge(context)
    wanted = check_controls(test.named)
    claims = claims_of(statements, test.lines)
    loaded = loaded_study(study, on, (), source_named(texts))
    loaded.definition.check_corpus(loaded.name)
    searched = bank_to_search(loaded, bank, sites_of(loaded, claims))
    seen: list[Estimate] = []
    try:
        answers = nullcontext() if client is None else resumable()  # which are kept as they come
        with answers, bar("judging", 1000, quiet=as_json) as advance:
            made = iv.judge(
                loaded,
                claims,
                client=client,
                bank=searched,
                controls=wanted,
                seconds=test.seconds,
                epsilon=scope.epsilon,
                distance=distance,
                fixed=test.fixed,
                gap=test.gap,
                seed=seed,
                confirm=confirming(seen, by.estimate),
                report=lambda share, note: advance(int(1000 * share), note),
            )
    except EstimateOnly:
        tell_estimate(seen[0], client, as_json)
        return
    _show(made, to or [], as_json)


def _show(made: Judgements, to: list[Path], as_json: bool) -> None:
    for path in to:
        made.save(path)
    if not as_json:
        out.print(made)
        return
    for each in made:
        print_json(each.to_json())
    if made.note:
        err.print(made.note, soft_wrap=True)

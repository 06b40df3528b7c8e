"""The command about factual recall: recall finds the heads that retrieve facts and tells what they carry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.studies.naming import check_model_name, check_study
from inversionview.terminal.app import app, bar, device_named, err, given, out, print_json
from inversionview.terminal.checked import unused
from inversionview.terminal.options import JsonOpt, ModelOptions, ScopeOptions, SeedOpt


@app.command(
    epilog="Examples: `inversionview recall`; facts of your own, of COUNTERFACT, or BEAR's folder, on another model: "
    "`inversionview recall --facts counterfact.json --model gpt2-xl --out table.md`; a run with these facts, for other "
    "commands: `inversionview recall --facts mine.jsonl --keep runs/mine`"
)
def recall(
    context: typer.Context,
    *,
    study: Annotated[str, typer.Argument(help="facts, or the folder of a run of it.")] = "facts",
    facts: Annotated[Path | None, typer.Option(help="A JSONL or JSON file of facts, or a folder of BEAR.")] = None,
    heads: Annotated[int, typer.Option(min=1, help="So many heads at most, those with the largest share first.")] = 10,
    least: Annotated[float, typer.Option(help="Share of the L1 proximity that a head must exceed.")] = 0.02,
    queries: Annotated[int, typer.Option(min=1, help="Queries for each head.")] = 400,
    scope: ScopeOptions,
    keep: Annotated[Path | None, typer.Option(help="Make this folder a run of the study, and do no more.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Write the table as Markdown: a .md file.")] = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Find the heads that retrieve facts, which attributes each carries, and whether it does so whatever is asked."""
    from inversionview.analyses.recall.verb import facts_of
    from inversionview.studies.load import load

    if keep is not None:
        names = ("heads", "least", "queries", "epsilon", "distance", "to", "seed", "as_json")
        unused(context, "a run is made with --keep and no more", *names)
    _check_markdown(to)
    distance = scope.check()
    check_study(study)
    if on.model is not None:
        check_model_name(on.model)
    loaded = load(study, model=on.model, device=device_named(on.device), **given(facts=facts))
    inputs = facts_of(loaded)
    if keep is not None:
        if (keep / "study.json").exists():
            raise SettingError(f"{keep} is a run already: choose another folder.")
        from inversionview.studies.load import keep as keep_study

        keep_study(loaded, keep)
        err.print(f"{keep} is a run of {len(inputs):,} statements.", soft_wrap=True)
        return
    with bar("recalling", 1000, quiet=as_json) as advance:

        def report(share: float, note: str) -> None:
            advance(int(1000 * share), note)

        best = iv.retrieval_heads(loaded, least=least, seed=seed, report=report)
        table = iv.recall(
            loaded,
            best,
            count=heads,
            queries=queries,
            epsilon=scope.epsilon,
            distance=distance,
            seed=seed,
            report=report,
        )
    if to is not None:
        table.save(to)
    if as_json:
        print_json(table.to_json())
    else:
        out.print(table)


def _check_markdown(path: Path | None) -> None:
    """Raise ``SettingError`` for a file that is no ``.md``, ``StorageError`` for one that cannot be written."""
    from inversionview.core.storage import check_writable

    if path is None:
        return
    if path.suffix != ".md":
        raise SettingError(f"{path} is no Markdown file: name it with .md, or ask for --json.")
    check_writable(path)

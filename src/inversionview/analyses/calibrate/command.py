"""Command calibrate: which distance to use at every site of a model, and what ε means there."""

from __future__ import annotations

from typing import Annotated

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.core.interruption import resumable
from inversionview.studies.arguments import loaded_study, source_named
from inversionview.terminal.app import app, bar, given, out, print_json
from inversionview.terminal.naming_sites import NAMES_SITES
from inversionview.terminal.options import BareStudyArg, JsonOpt, ModelOptions, SeedOpt, TableOpt, TextsOptions


@app.command(
    epilog="Examples: `inversionview calibrate --model gpt2 --texts corpus.txt`; a run on texts: `inversionview calibrate "
    "runs/mine`; streams, with a heat map: `inversionview calibrate --model gpt2 --texts corpus.txt --sites 'x*.post' --out "
    "calibration.html`; a study's own inputs: `inversionview calibrate addition --occurrences 10000`"
)
@resumable()
def calibrate(
    *,
    study: BareStudyArg = None,
    sites: Annotated[
        str | None,
        typer.Option(help="Patterns such as `a*.*,x*.post`; by default about twenty, of all kinds and depths."),
        NAMES_SITES,
    ] = None,
    queries: Annotated[int, typer.Option(min=2, help="Random occurrences, each of another text.")] = 40,
    partners: Annotated[
        int, typer.Option(min=3, help="Occurrences of other texts, near and far, that stand in for each query.")
    ] = 20,
    occurrences: Annotated[
        int | None, typer.Option(min=1, help="Of the corpus, among which partners are chosen; by default 50,000, or --tokens.")
    ] = None,
    seed: SeedOpt = 0,
    to: TableOpt = None,
    on: ModelOptions,
    texts: TextsOptions,
    as_json: JsonOpt = False,
) -> None:
    """Find which distance foretells that activations can stand in for one another, and the ε of so many bits or nats.

    At every site random occurrences are replaced by others, near and far: how well does D foretell by how many nats that
    changes what the model says next? What is found is kept, in the run's folder or the user's cache, for later readings.
    """
    from inversionview.analyses.calibrate.result import Calibration

    Calibration.check_files(to or [])
    source = source_named(texts)
    if occurrences is not None and texts.tokens is not None:
        raise SettingError("--occurrences and --tokens both say how many are looked at: give one of them.")
    if study is None and source is None:
        raise SettingError("Name a study or a run, or give --model and --texts: distances are compared on a corpus.")
    loaded = loaded_study(study, on, [sites], source)
    with bar("calibrating", 1000, quiet=as_json, logged=True) as advance:
        result = iv.calibrate(
            loaded,
            queries=queries,
            partners=partners,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
            **given(sites=sites, occurrences=occurrences if texts.tokens is None else texts.tokens),
        )
    for path in to or []:
        result.save(path)
    print_json(result.to_json()) if as_json else out.print(result)

"""Command recover: the text of given states, or the texts nearest to one vector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.core.interruption import resumable
from inversionview.studies.arguments import loaded_study, source_named
from inversionview.terminal.app import app, bar, out, print_json
from inversionview.terminal.options import BareStudyArg, JsonOpt, ModelOptions, SeedOpt, SiteOpt, TextsOptions


@app.command(
    epilog="Examples: `inversionview recover --model gpt2 --states states.safetensors --site x6.post`; a test of oneself: "
    '`inversionview recover --model gpt2 --text "The code is 4711" --site x6.post --rounded bf16`'
)
def recover(
    study: BareStudyArg = None,
    *,
    states: Annotated[
        str | None,
        typer.Option(help="States of one text at --site, [positions, numbers]: `PATH[:key]`; .safetensors, .npy or .npz."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="In place of --states: a text whose states are taken, as a test.")] = None,
    site: SiteOpt = None,
    rounded: Annotated[
        str | None, typer.Option(help="With --text: the type to which its states are rounded: fp16 or bf16.")
    ] = None,
    noise: Annotated[
        float, typer.Option(min=0.0, help="Relative size of noise that the states have; with --text it is put on them.")
    ] = 0.0,
    order: Annotated[str, typer.Option(help="In which order tokens are tried: mixed, map, next, gradient or id.")] = "mixed",
    tries: Annotated[int | None, typer.Option(min=1, help="Tokens tried at a position at most; by default all.")] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Try all tokens at every position, so that it is certain that no other fits.")
    ] = False,
    seed: SeedOpt = 0,
    to: Annotated[list[Path] | None, typer.Option("--out", help="Write .csv or .parquet (repeatable).")] = None,
    on: ModelOptions,
    texts: TextsOptions,
    as_json: JsonOpt = False,
) -> None:
    """Recover the text from the states of all its positions at one site, exactly: each token is run in the model.

    Which tokens are tried first is learned from --texts, or from the text that is at hand, once for a model and site. What is
    interrupted goes on where it stood.
    """
    from inversionview.analyses.recover.order import check_ordering
    from inversionview.analyses.recover.result import Recovery

    if (states is None) == (text is None):
        raise SettingError("Give either --states, a file, or --text, whose states are taken.")
    if rounded is not None and text is None:
        raise SettingError("--rounded goes with --text: how given states are rounded is told by their numbers.")
    Recovery.check_files(to or [])
    ordering = check_ordering(order)
    loaded = loaded_study(study, on, [site], source_named(texts))
    with resumable(), bar("recovering", 1000, quiet=as_json) as advance:
        found = iv.recover(
            loaded,
            states,
            text=text,
            site=site,
            rounded=rounded,
            noise=noise,
            order=ordering,
            tries=tries,
            exhaustive=exhaustive,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in to or []:
        found.save(path)
    print_json(found.to_json()) if as_json else out.print(found)

"""The command dla: direct logit attribution of one input's activations, or rates over a set of inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.studies.arguments import loaded_study
from inversionview.studies.naming import is_study
from inversionview.terminal.app import app, bar, out, print_json
from inversionview.terminal.checked import unused
from inversionview.terminal.naming_sites import NAMES_SITES
from inversionview.terminal.options import BareStudyArg, JsonOpt, ModelOptions, PositionOptions, SeedOpt

if TYPE_CHECKING:
    from inversionview.analyses.attribute.result import Attributions, RateTable
    from inversionview.studies.study import Study


WhatOpt = Annotated[
    str | None,
    typer.Option("--site", "--sites", help="By commas: a1.0, m1, patterns such as `a*.*`, differences: x1.post-x0.post."),
    NAMES_SITES,
]


@dataclass(frozen=True)
class RateOptions:
    """Over which inputs rates are taken."""

    target: Annotated[str | None, typer.Option(help="Rates: which answer (count; A1 to A4); by default the first.")] = None
    inputs: Annotated[int, typer.Option(min=1, help="Rates: so many inputs of the study's test split.")] = 1000
    prompts: Annotated[Path | None, typer.Option(help="Rates: records with text, expected and, if you like, at.")] = None
    among: Annotated[
        Path | None, typer.Option(help="With --prompts: candidates, one word a line; by default all expected words.")
    ] = None


@app.command(
    epilog='Examples: `inversionview dla counting "vvzccvczvvvzvcvc|v:8" --at ":" --site a1.0`; rates at every head: '
    "`inversionview dla addition --target A1 --sites 'a*.*'`; any model: `inversionview dla --model gpt2 "
    '"When Mary and John went to the store, John gave a drink to" --site a9.9`; rates over prompts of your own, lines of '
    '`{"text": "… John gave a drink to", "expected": " Mary"}`: '
    "`inversionview dla --model gpt2 --prompts ioi.jsonl --among names.txt --sites 'a9.*'`"
)
def dla(
    context: typer.Context,
    *,
    study: BareStudyArg = None,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="One input; without it, rates over a set.")] = None,
    what: WhatOpt = None,
    where: PositionOptions,
    k: Annotated[
        int | None,
        typer.Option("--k", "-k", help="So many most promoted tokens; by default 30, or a tenth of a smaller vocabulary."),
    ] = None,
    folded: Annotated[
        bool, typer.Option("--folded/--plain", help="Fold the last norm in, its scale frozen at the input, or not.")
    ] = True,
    over: RateOptions,
    to: Annotated[Path | None, typer.Option("--out", help="Write .csv or .parquet.")] = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Direct logit attribution: which tokens an activation itself promotes and suppresses."""
    from inversionview.analyses.attribute.result import RateTable

    RateTable.check_files([to] if to else [])
    loaded, text = _study_and_maybe_text(study, text, on, [_sites_in(what)])
    if text is not None:
        if over.prompts or over.target or over.among:
            raise SettingError("--target, --prompts and --among are for rates: leave them or TEXT out.")
        unused(context, "TEXT is the input", "inputs", "seed")
        made: Attributions | RateTable = iv.attribute(loaded, text, what, at=where.position, k=k, folded=folded)
        value = {"study": loaded.name, "folded": folded, "sites": made.to_json()}
    else:
        if over.prompts is not None:
            unused(context, "prompts are given, of which all are read", "inputs", "seed")
        made = _rates(loaded, over, as_json, what=what, at=where.position, k=k, folded=folded, seed=seed)
        told = {} if over.prompts else {"target": over.target or loaded.inputs.answers[0]}
        value = {"study": loaded.name, **told, **made.to_json()}
    if to is not None:
        made.save(to)
    if as_json:
        print_json(value)
    else:
        out.print(made)


def _sites_in(what: str | None) -> str | None:
    """Return the sites that are named, by commas; a difference names two."""
    return None if what is None else what.replace("-", ",")


def _rates(study: Study, over: RateOptions, quiet: bool, **options: Any) -> RateTable:
    with bar("attributing", 1000, quiet=quiet) as advance:
        return iv.rates(
            study,
            target=over.target,
            prompts=over.prompts,
            among=over.among,
            limit=over.inputs,
            report=lambda share, _: advance(int(1000 * share), ""),
            **options,
        )


def _study_and_maybe_text(
    study: str | None, text: str | None, on: ModelOptions, sites: list[str | None]
) -> tuple[Study, str | None]:
    """Return what to read from ``STUDY [TEXT]``, ``--model MODEL [TEXT]`` or ``STUDY --model MODEL [TEXT]``."""
    named = study is not None and (text is not None or on.model is None or _is_study(study))
    if named:
        return loaded_study(study or "", on, sites), text
    if on.model is None:
        raise SettingError("Give a study, the folder of a run, or --model.")
    return loaded_study(None, on, sites), study


def _is_study(name: str) -> bool:
    return is_study(name) or (Path(name) / "study.json").is_file()

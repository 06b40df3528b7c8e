"""Command recover: the text of given states, or the texts nearest to one vector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.core.interruption import resumable
from inversionview.studies.arguments import loaded_study, source_named
from inversionview.terminal.app import app, bar, out, print_json
from inversionview.terminal.checked import unused
from inversionview.terminal.options import BareStudyArg, JsonOpt, ModelOptions, SeedOpt, SiteOpt, TextsOptions

if TYPE_CHECKING:
    from inversionview.analyses.recover.result import Recovery, VectorRecovery
    from inversionview.core.progress import Progress
    from inversionview.studies.study import Study


@dataclass(frozen=True)
class WhatOptions:
    """What a text is recovered from: states of all positions, or one vector."""

    states: Annotated[
        str | None,
        typer.Option(help="States of one text at --site, [positions, numbers]: `PATH[:key]`; .safetensors, .npy or .npz."),
    ] = None
    text: Annotated[str | None, typer.Option(help="In place of --states: a text whose states are taken, as a test.")] = None
    vector: Annotated[
        str | None, typer.Option(help="In their place: one vector at --site, `PATH[:key][[row]]`: texts that come near it.")
    ] = None
    site: SiteOpt = None
    rounded: Annotated[
        str | None, typer.Option(help="With --text: the type to which its states are rounded: fp16 or bf16.")
    ] = None
    noise: Annotated[
        float, typer.Option(min=0.0, help="Relative size of noise that the states have; with --text it is put on them.")
    ] = 0.0


@dataclass(frozen=True)
class TriedOptions:
    """Which tokens are tried."""

    order: Annotated[str, typer.Option(help="In which order tokens are tried: mixed, map, next, gradient or id.")] = "mixed"
    tries: Annotated[int | None, typer.Option(min=1, help="Tokens that are tried at a position at most; by default all.")] = (
        None
    )
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Try all tokens at every position, so that it is certain that no other fits.")
    ] = False


@dataclass(frozen=True)
class NearestOptions:
    """How long texts are searched for one vector, and which."""

    seconds: Annotated[float, typer.Option(help="With --vector: how long it is searched.")] = 60.0
    count: Annotated[int, typer.Option(min=1, help="With --vector: how many texts are followed and shown.")] = 8
    longest: Annotated[int, typer.Option(min=1, help="With --vector: tokens of a text at most.")] = 24


@app.command(
    epilog="Examples: `inversionview recover --model gpt2 --states states.safetensors --site x6.post`; a test of oneself: "
    '`inversionview recover --model gpt2 --text "The code is 4711" --site x6.post --rounded bf16`; one vector: '
    "`inversionview recover --model gpt2 --vector v.npy --site x6.post`"
)
def recover(
    context: typer.Context,
    study: BareStudyArg = None,
    *,
    what: WhatOptions,
    tried: TriedOptions,
    searched: NearestOptions,
    seed: SeedOpt = 0,
    to: Annotated[list[Path] | None, typer.Option("--out", help="Write .csv or .parquet (repeatable).")] = None,
    on: ModelOptions,
    texts: TextsOptions,
    as_json: JsonOpt = False,
) -> None:
    """Recover the text from the states of all its positions at one site, exactly: each token is run in the model.

    Which tokens are tried first is learned from --texts, or from the text that is at hand, once for a model and site. What is
    interrupted goes on where it stood. From one vector (--vector) the texts that come nearest are searched.
    """
    from inversionview.analyses.recover.order import check_ordering
    from inversionview.analyses.recover.result import Recovery

    if (what.states is not None) + (what.text is not None) + (what.vector is not None) != 1:
        raise SettingError("Give one of --states, a file; --text, whose states are taken; and --vector.")
    if what.vector is None:
        unused(context, "no --vector is given", "seconds", "count", "longest")
    else:
        unused(context, "one vector is given", "rounded", "noise", "order", "tries", "exhaustive")
    if what.rounded is not None and what.text is None:
        raise SettingError("--rounded goes with --text: how given states are rounded is told by their numbers.")
    Recovery.check_files(to or [])
    check_ordering(tried.order)
    loaded = loaded_study(study, on, [what.site], source_named(texts))
    with resumable(what.vector is None), bar("recovering", 1000, quiet=as_json) as advance:
        report = lambda share, note: advance(int(1000 * share), note)  # noqa: E731
        found = _found(loaded, what, tried, searched, seed, report)
    for path in to or []:
        found.save(path)
    print_json(found.to_json()) if as_json else out.print(found)


def _found(
    study: Study, what: WhatOptions, tried: TriedOptions, searched: NearestOptions, seed: int, report: Progress
) -> Recovery | VectorRecovery:
    from inversionview.analyses.recover.order import check_ordering

    if what.vector is not None:
        return iv.recover_vector(study, what.vector, site=what.site, seed=seed, report=report, **vars(searched))
    return iv.recover(
        study,
        what.states,
        text=what.text,
        site=what.site,
        rounded=what.rounded,
        noise=what.noise,
        order=check_ordering(tried.order),
        tries=tried.tries,
        exhaustive=tried.exhaustive,
        seed=seed,
        report=report,
    )

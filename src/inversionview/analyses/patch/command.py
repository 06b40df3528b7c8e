"""Command patch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.model.sites.through import split
from inversionview.studies.arguments import loaded_study
from inversionview.terminal.app import app, bar, given, listed, out, print_json
from inversionview.terminal.options import (
    ActivationsOpt,
    BareStudyArg,
    JsonOpt,
    LimitOpt,
    ModelOptions,
    SeedOpt,
    TableOpt,
    WhereOpt,
)


@dataclass(frozen=True)
class PairOptions:
    """Which pairs of an input and its contrast are patched: some of the study's, or one's own."""

    target: Annotated[str | None, typer.Option(help="The answer token that changes: count; A1, A2, A3, A4.")] = None
    change: Annotated[str | None, typer.Option(help="What a contrast may change, by commas: F1,S1; by default all.")] = None
    where: WhereOpt = None
    pairs: Annotated[
        Path | None,
        typer.Option(
            help='Records of {"original", "contrast", "answer", "contrast_answer", "at"}, in place of the study\'s pairs.'
        ),
    ] = None
    limit: LimitOpt = None

    def settings(self) -> dict[str, Any]:
        """Return what ``patch`` is told of the study's pairs.

        Raises:
            SettingError: something is, although the pairs are one's own.
        """
        if self.pairs is None:
            return {"limit": self.limit, **given(target=self.target, changes=listed(self.change), where=self.where)}
        if given(target=self.target, change=self.change, where=self.where, limit=self.limit):
            raise SettingError(
                "--target, --change, --where and --limit belong to the study's own pairs: leave them out with --pairs."
            )
        return {}


@app.command(
    epilog="Examples: `inversionview patch counting --at query:a0.0 --at query:x0.pre --at ::a0.0 --at ::a1.0 --cumulative "
    "both`; all heads at a position: `inversionview patch addition --target A1 --change F1,S1 --position '=' --cumulative both "
    "--out fig.png`; your own pairs: `inversionview patch --model gpt2 --pairs pairs.jsonl --at 'END:a9.*'`"
)
def patch(
    *,
    study: BareStudyArg = None,
    at: ActivationsOpt = None,
    position: Annotated[
        str | None, typer.Option(help="All heads of all layers here; by default where the answer is told.")
    ] = None,
    cumulative: Annotated[
        str | None, typer.Option(help="forward, backward or both: one more at each step; by default each activation alone.")
    ] = None,
    which: PairOptions,
    to: TableOpt = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Activation patching: replace activations by those of an input of another answer, and see the logits follow."""
    from inversionview.analyses.patch.measure import check_cumulative
    from inversionview.analyses.patch.result import Patching

    Patching.check_files(to or [])
    if at and position:
        raise SettingError("--position means all heads there and --at names activations: give one of them.")
    loaded = loaded_study(study, on, sites_in(at))
    options = which.settings()
    with bar("patching", 1000, quiet=as_json) as advance:
        result = iv.patch(
            loaded,
            at or ([f"{position}:a*.*"] if position else None),
            which.pairs,
            cumulative=None if cumulative is None else check_cumulative(cumulative),
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
            **options,
        )
    for path in to or []:
        result.save(path)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(result)


def sites_in(activations: list[str] | None) -> list[str]:
    """Return the sites of activations that are named as ``POSITION:SITE``."""
    named = (split(name) for name in activations or ())
    return [name.rpartition(":")[2] + through for name, through in named]

"""Commands that intervene on activations, to confirm what was read: patch, ablate, flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from inversionview.commands.options import BankOpt, BareStudyArg, EpsilonOpt, JsonOpt, ModelOptions, SeedOpt, StudyArg, check
from inversionview.commands.shared import app, bank_to_search, bar, given, listed, loaded_study, out, print_json
from inversionview.errors import SettingError

ActivationsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--at", help="POSITION:SITE, in order (repeatable): `query:a0.0`, `=:a*.*`, `*:x0.pre` (all positions), `F1:embed`."
    ),
]
WhereOpt = Annotated[
    list[str] | None, typer.Option(help="Only inputs whose features satisfy this, such as 'A1=1' or 'F2+S2!=9' (repeatable).")
]
LimitOpt = Annotated[int | None, typer.Option(help="A random choice of so many inputs; by default the whole test set.")]
TableOpt = Annotated[list[Path] | None, typer.Option("--out", help="Write .csv, .parquet, .html, .png or .svg (repeatable).")]


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
        """Return what ``Study.patch`` is told of the study's pairs.

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
    from inversionview.analysis.patching import check_cumulative
    from inversionview.views.files import TABLE_FORMATS, check_formats
    from inversionview.views.interventions import save_patching

    check_formats(to or [], TABLE_FORMATS)
    if at and position:
        raise SettingError("--position means all heads there and --at names activations: give one of them.")
    loaded = loaded_study(study, on, _sites_in(at))
    options = which.settings()
    with bar("patching", 1000, quiet=as_json) as advance:
        result = loaded.patch(
            at or ([f"{position}:a*.*"] if position else None),
            which.pairs,
            cumulative=None if cumulative is None else check_cumulative(cumulative),
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
            **options,
        )
    for path in to or []:
        save_patching(result, path)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(result)


def _sites_in(activations: list[str] | None) -> list[str]:
    """Return the sites of activations that are named as ``POSITION:SITE``."""
    return [name.rpartition(":")[2] for name in activations or ()]


@app.command(epilog="Example: `inversionview ablate addition --at '+:x0.post'`")
def ablate(
    *,
    study: StudyArg,
    at: ActivationsOpt = None,
    by: Annotated[str, typer.Option(help="mean (over the inputs), zero, or resample: another input's.")] = "mean",
    where: WhereOpt = None,
    limit: LimitOpt = None,
    to: Annotated[list[Path] | None, typer.Option("--out", help="Write .csv or .parquet (repeatable).")] = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Ablation: replace activations by what says nothing, and see what is lost of every answer token."""
    from inversionview.analysis.ablation import check_way
    from inversionview.views.files import check_formats
    from inversionview.views.interventions import save_ablation

    check_formats(to or [], (".csv", ".parquet"))
    loaded = loaded_study(study, on, _sites_in(at))
    with bar("ablating", 1000, quiet=as_json) as advance:
        result = loaded.ablate(
            at or [],
            by=check_way(by),
            where=where or (),
            limit=limit,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in to or []:
        save_ablation(result, path)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(result)


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
    from inversionview.contrasts import check_target, held_out
    from inversionview.filters import feature_names, parse_filters
    from inversionview.views.files import check_formats
    from inversionview.views.flows import FORMATS, flow_table, save_flow

    check_formats(to or [], FORMATS)
    check([epsilon], None)
    edges.check()
    loaded = loaded_study(study, on)
    check_target(loaded.inputs, target)  # mistakes are told before a bank is built, not after
    held_out(loaded.inputs, parse_filters(where or (), feature_names(loaded.inputs)), limit, seed)
    searched = bank_to_search(loaded, bank)
    with bar("following", 1000, quiet=as_json) as advance:
        result = loaded.flow(
            target,
            bank=searched,
            where=where or (),
            epsilon=epsilon,
            queries=queries,
            limit=limit,
            least_attention=edges.attention,
            least_effect=edges.effect,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in to or []:
        save_flow(result, path, edges.threshold)
    if as_json:
        print_json({**result.to_json(), "threshold": edges.threshold})
    else:
        out.print(flow_table(result, edges.threshold))

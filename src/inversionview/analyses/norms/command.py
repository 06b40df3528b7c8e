"""Command sites: what can be read of a model, and what the norms of its residual stream are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.core.scope import epsilon_text
from inversionview.corpora.naming import SPEECHES
from inversionview.model.sites.site import KINDS, REGISTRY
from inversionview.studies.arguments import loaded_study, source_named
from inversionview.terminal.app import app, bar, given, out, print_json
from inversionview.terminal.options import BareStudyArg, JsonOpt, ModelOpt, ModelOptions, TextsOptions

if TYPE_CHECKING:
    from inversionview.analyses.norms.result import Norms
    from inversionview.studies.study import Study


@app.command(
    epilog="Examples: `inversionview sites addition`; `inversionview sites --model gpt2`; does a coordinate dominate? "
    "`inversionview sites --model gpt2 --norms --texts corpus.txt`"
)
def sites(
    study: BareStudyArg = None,
    model: ModelOpt = None,
    norms: Annotated[
        bool, typer.Option("--norms", help="Tell what dominates the norm of the residual stream, on a sample of the corpus.")
    ] = False,
    *,
    texts: TextsOptions,
    as_json: JsonOpt = False,
) -> None:
    """List the sites and named positions of a study, or the sites of a model alone.

    With --norms tell at each site of the residual stream the typical norm, the coordinates that hold most of it, and on which
    tokens some are massive: then raw distances are about these.
    """
    source = source_named(texts, SPEECHES if norms and study is None else None)
    if source is not None and not norms:
        raise SettingError("--texts are read for --norms alone here: give that too, or leave them out.")
    loaded = loaded_study(study, ModelOptions(model), (), source)
    told = _norms(loaded, texts.tokens, as_json) if norms else None
    if as_json:
        widths = loaded.model.shape.widths
        listing = [{"short": s.short, "hook": s.hook, "latex": s.latex, "numbers": s.numbers(widths)} for s in loaded.sites]
        within = {"distance": loaded.spec.distance, "epsilon": loaded.spec.epsilon, "epsilons": loaded.spec.epsilons}
        withheld = loaded.model.shape.withheld
        run_as = {} if (said := loaded.model.vocabulary.run_as) is None else {"note": said}
        print_json(
            {
                "sites": listing,
                "others": _others(loaded),
                "withheld": withheld,
                "positions": loaded.position_names,
                **within,
                **run_as,
            }
            | ({} if told is None else {"norms": told.to_json()})
        )
        return
    if told is not None:
        out.print(told)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("site", "TransformerLens", "LaTeX"):
        table.add_column(title, no_wrap=True)
    table.add_column("numbers", justify="right")
    for s in loaded.sites:
        table.add_row(s.short, s.hook, s.latex, str(s.numbers(loaded.model.shape.widths)))
    out.print(table)
    out.print()
    out.print(_others_table(loaded))
    out.print(
        "\nBehind any of these: @probe.safetensors:key[row] for coordinates along directions, |sae:FOLDER#latent for a latent "
        "of a sparse dictionary, |sae:FOLDER for all of them."
    )
    for kind, why in loaded.model.shape.withheld.items():
        out.print(f"\n{KINDS[kind]} is not offered: {why}.", soft_wrap=True)
    out.print(f"\npositions: {', '.join(loaded.position_names)}, any token that occurs once, or an index as '#8'")
    out.print(_thresholds(loaded))
    if (said := loaded.model.vocabulary.run_as) is not None:
        out.print(said)


def _others(study: Study) -> list[dict[str, Any]]:
    """Return each kind of sites that is not among those taken where none are named: pattern, an example, how many."""
    known, widths, found = study.model.sites, study.model.shape.widths, []
    for kind in (each for each in REGISTRY if each.pattern and not each.usual and each.name not in known.withheld):
        sites = known.of_kind(kind.name)
        example = sites[-1]
        found.append(
            {
                "pattern": kind.pattern,
                "what": kind.plural,
                "count": len(sites),
                "numbers": example.numbers(widths),
                "example": example.short,
                "hook": example.hook,
            }
        )
    return found


def _others_table(study: Study) -> Table:
    """Return the same as a table."""
    table = Table(box=None, pad_edge=False, header_style="dim", title="also", title_justify="left", title_style="dim")
    for title in ("sites", "the last of them", "TransformerLens"):
        table.add_column(title, no_wrap=True)
    table.add_column("numbers", justify="right")
    table.add_column("how many", justify="right")
    for each in _others(study):
        table.add_row(each["pattern"], each["example"], each["hook"], f"{each['numbers']:,}", f"{each['count']:,}")
    return table


def _thresholds(study: Study) -> str:
    """Return the ε of readings in a line."""
    spec = study.spec
    if not spec.epsilons:
        return f"{epsilon_text(spec.epsilon, spec.distance)} unless you give another"
    own = ", ".join(f"{family} {epsilon:g}" for family, epsilon in spec.epsilons.items())
    return (
        f"ε ({spec.distance}) unless you give another: {own}; within it lies about one of a hundred of the run's texts. Where "
        f"sites are compared: {spec.epsilon:g}"
    )


def _norms(study: Study, tokens: int | None, quiet: bool) -> Norms:
    """Return the norms of the residual stream, with a bar unless ``quiet``."""
    with bar("measuring", 1000, quiet=quiet) as advance:
        return iv.norms(study, report=lambda share, note: advance(int(1000 * share), note), **given(tokens=tokens))

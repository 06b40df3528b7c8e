"""The command interpret: what sites encode, in sentences with scores."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import inversionview as iv
from inversionview.analyses.interpret.endpoint import OF_AN_ENDPOINT, EndpointOptions, EstimateOnly, confirming, tell_estimate
from inversionview.core.errors import SettingError
from inversionview.core.interruption import resumable
from inversionview.studies.arguments import bank_to_search, loaded_study
from inversionview.terminal.app import app, bar, listed, out, print_json
from inversionview.terminal.checked import unused
from inversionview.terminal.naming_sites import NAMES_SITES
from inversionview.terminal.options import BankOpt, JsonOpt, ModelOptions, ScopeOptions, SeedOpt, StudyArg

if TYPE_CHECKING:
    from inversionview.analyses.interpret.client import Client, Estimate
    from inversionview.analyses.interpret.result import Interpretations


@dataclass(frozen=True)
class SubjectOptions:
    """What is interpreted: inputs, or random ones, at sites and positions."""

    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]…", help="Inputs to read; by default random ones.")] = None
    site: Annotated[
        str | None,
        typer.Option("--site", "--sites", help="Patterns, by commas; by default the study's site, with --out all."),
        NAMES_SITES,
    ] = None
    at: Annotated[
        str | None,
        typer.Option("--at", "--positions", help="Named, by commas; by default the study's position, with --out all."),
    ] = None
    queries: Annotated[int, typer.Option(min=1, help="Queries at each site and position.")] = 10

    def places(self, everywhere: bool) -> tuple[str | None, str | list[str] | None]:
        """Return sites and positions; ``everywhere``: all of them unless some are named."""
        if everywhere and self.site is None and self.at is None:
            return "*", "*"
        return self.site, "*" if self.at == "*" else listed(self.at)


@dataclass(frozen=True)
class WriterOptions(EndpointOptions):
    """Who writes the sentences: features, or a language model with an endpoint, a budget and a cache."""

    no_llm: Annotated[bool, typer.Option("--no-llm", help="Statements from the study's features, offline.")] = False
    llm: Annotated[str | None, typer.Option(help="Name of the language model; by default OPENAI_MODEL.")] = None

    def check(self, context: typer.Context) -> None:
        """Refuse what belongs to a language model where none is asked, and to a report where none is made.

        Raises:
            SettingError: some of it is given.
        """
        if self.no_llm and (self.llm or self.base_url or self.estimate):
            raise SettingError("--no-llm asks no language model: leave --llm, --base-url and --estimate out.")
        if self.no_llm:
            unused(context, "no language model is asked", *OF_AN_ENDPOINT)
        if self.estimate:
            unused(context, "nothing is asked, with --estimate", "to")

    def writer(self) -> Client | None:
        """Return the language model that is asked, if one is."""
        return None if self.no_llm else self.client(self.llm)


@app.command(
    epilog='Examples: `inversionview interpret addition --site a0.0 --at "=" --no-llm`; every site × position as a page: '
    "`inversionview interpret addition --no-llm --out report.html`; by a language model: `inversionview interpret "
    'addition --site a0.0 --at "=" --queries 10 --llm MODEL --budget 200000`; at an endpoint of your own: '
    "`OPENAI_BASE_URL=http://127.0.0.1:8000/v1 inversionview interpret counting --llm MODEL --estimate`"
)
def interpret(
    context: typer.Context,
    *,
    study: StudyArg,
    what: SubjectOptions,
    writer: WriterOptions,
    scope: ScopeOptions,
    fixed: Annotated[bool, typer.Option("--fixed", help="Compare at the query's own position only.")] = False,
    gap: Annotated[
        float, typer.Option(min=1, help="Inputs outside, on which a statement is tested, begin at so many times ε.")
    ] = 2.0,
    bank: BankOpt = None,
    to: Annotated[
        list[Path] | None, typer.Option("--out", "--report", help="Write .html, .md, .json, .csv or .parquet (repeatable).")
    ] = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Say in sentences what sites encode, by a language model or from features, and score whether it is true."""
    from inversionview.analyses.interpret.result import Interpretations

    Interpretations.check_files(to or [])
    distance = scope.check()
    writer.check(context)
    if what.texts:
        unused(context, "TEXT is what is read", "queries")
    loaded = loaded_study(study, on, [what.site])
    client = writer.writer()
    sites, positions = what.places(everywhere=bool(to))
    searched = bank_to_search(loaded, bank, None if sites == "*" else sites)
    seen: list[Estimate] = []
    try:
        answers = nullcontext() if client is None else resumable()  # which are kept as they come
        with answers, bar("interpreting", 1000, quiet=as_json) as advance:
            made = iv.interpret(
                loaded,
                what.texts or what.queries,
                sites,
                positions,
                client=client,
                bank=searched,
                epsilon=scope.epsilon,
                distance=distance,
                fixed=fixed,
                gap=gap,
                seed=seed,
                confirm=confirming(seen, writer.estimate),
                report=lambda share, note: advance(int(1000 * share), note),
            )
    except EstimateOnly:
        tell_estimate(seen[0], client, as_json)
        return
    for path in to or []:
        made.save(path)
    if as_json:
        print_json(_value(made))
    else:
        out.print(made)


def _value(made: Interpretations) -> dict[str, Any]:
    """Return what is printed as JSON: a single interpretation stands beside what is said of all."""
    every = made.to_json()
    if len(made) != 1:
        return every
    return {**{name: value for name, value in every.items() if name != "interpretations"}, **made[0].to_json()}

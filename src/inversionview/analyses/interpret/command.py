"""The command interpret: what sites encode, in sentences with scores."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.core.interruption import resumable
from inversionview.studies.arguments import bank_to_search, loaded_study
from inversionview.terminal.app import app, bar, err, listed, out, print_json
from inversionview.terminal.checked import unused
from inversionview.terminal.naming_sites import NAMES_SITES
from inversionview.terminal.options import BankOpt, JsonOpt, ModelOptions, ScopeOptions, SeedOpt, StudyArg

if TYPE_CHECKING:
    from inversionview.analyses.interpret.client import Client, Estimate
    from inversionview.analyses.interpret.result import Interpretations


class _EstimateOnly(Exception):  # noqa: N818
    """Ends a run before its first request."""


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
class WriterOptions:
    """Who writes the sentences: features, or a language model with an endpoint, a budget and a cache."""

    no_llm: Annotated[bool, typer.Option("--no-llm", help="Statements from the study's features, offline.")] = False
    llm: Annotated[str | None, typer.Option(help="Name of the language model; by default OPENAI_MODEL.")] = None
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint; by default OPENAI_BASE_URL. The key is OPENAI_API_KEY.")
    ] = None
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests in flight.")] = 8
    budget: Annotated[int | None, typer.Option(min=1, help="Tokens that the run may take at most.")] = None
    price_in: Annotated[float | None, typer.Option(min=0, help="Price of a million tokens of prompts.")] = None
    price_out: Annotated[float | None, typer.Option(min=0, help="Price of a million tokens of answers.")] = None
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 120
    cache: Annotated[Path | None, typer.Option(help="Folder of the answers; by default in the user's cache.")] = None
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what it would take, and send nothing.")] = False

    def check(self, context: typer.Context) -> None:
        """Refuse what belongs to a language model where none is asked, and to a report where none is made.

        Raises:
            SettingError: some of it is given.
        """
        if self.no_llm and (self.llm or self.base_url or self.estimate):
            raise SettingError("--no-llm asks no language model: leave --llm, --base-url and --estimate out.")
        if self.no_llm:
            names = ("concurrency", "budget", "price_in", "price_out", "timeout", "cache")
            unused(context, "no language model is asked", *names)
        if self.estimate:
            unused(context, "nothing is asked, with --estimate", "to")

    def client(self) -> Client | None:
        """Return the language model that is asked, if one is."""
        if self.no_llm:
            return None
        from inversionview.analyses.interpret.client import Client

        return Client(
            self.llm,
            base_url=self.base_url,
            concurrency=self.concurrency,
            budget=self.budget,
            price_in=self.price_in,
            price_out=self.price_out,
            timeout=self.timeout,
            cache=self.cache,
        )


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
    client = writer.client()
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
                confirm=_confirm(seen, writer.estimate),
                report=lambda share, note: advance(int(1000 * share), note),
            )
    except _EstimateOnly:
        _tell_estimate(seen[0], client, as_json)
        return
    for path in to or []:
        made.save(path)
    if as_json:
        print_json(_value(made))
    else:
        out.print(made)


def _confirm(seen: list[Estimate], only: bool) -> Callable[[Estimate], None]:
    def confirm(estimate: Estimate) -> None:
        seen.append(estimate)
        if only:
            raise _EstimateOnly
        cost = "" if estimate.cost is None else f", at most {estimate.cost:.4f}"
        err.print(f"At most {estimate.requests:,} requests and {estimate.tokens:,} tokens{cost}.", soft_wrap=True)

    return confirm


def _value(made: Interpretations) -> dict[str, Any]:
    """Return what is printed as JSON: a single interpretation stands beside what is said of all."""
    every = made.to_json()
    if len(made) != 1:
        return every
    return {**{name: value for name, value in every.items() if name != "interpretations"}, **made[0].to_json()}


def _tell_estimate(estimate: Estimate, client: Client | None, as_json: bool) -> None:
    value: dict[str, Any] = {"model": client.model if client else None, **vars(estimate)}
    if as_json:
        print_json(value)
        return
    cost = "" if estimate.cost is None else f" They cost at most {estimate.cost:.4f}."
    out.print(
        f"{value['model']}: at most {estimate.requests:,} requests and {estimate.tokens:,} tokens, of which "
        f"{estimate.answer_tokens:,} are answers.{cost}",
        soft_wrap=True,
    )

"""Options of commands that ask a language model: its endpoint, a budget and a cache; and what is said of what it will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inversionview.terminal.app import err, out, print_json

if TYPE_CHECKING:
    from inversionview.analyses.interpret.client import Client, Estimate

OF_AN_ENDPOINT = ("concurrency", "budget", "price_in", "price_out", "timeout", "cache")
"""What is told of an endpoint besides where it is."""


class EstimateOnly(Exception):  # noqa: N818
    """Ends a run before its first request."""


@dataclass(frozen=True)
class EndpointOptions:
    """An endpoint, and what may be asked of it."""

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

    def client(self, model: str | None) -> Client:
        """Return the language model of that name, by default of the environment's, behind this endpoint."""
        from inversionview.analyses.interpret.client import Client

        return Client(
            model,
            base_url=self.base_url,
            concurrency=self.concurrency,
            budget=self.budget,
            price_in=self.price_in,
            price_out=self.price_out,
            timeout=self.timeout,
            cache=self.cache,
        )


def confirming(seen: list[Estimate], only: bool) -> Callable[[Estimate], None]:
    """Return what is called with the estimate of a run before its first request: it says it or, with ``only``, ends the run."""

    def confirm(estimate: Estimate) -> None:
        seen.append(estimate)
        if only:
            raise EstimateOnly
        cost = "" if estimate.cost is None else f", at most {estimate.cost:.4f}"
        err.print(f"At most {estimate.requests:,} requests and {estimate.tokens:,} tokens{cost}.", soft_wrap=True)

    return confirm


def tell_estimate(estimate: Estimate, client: Client | None, as_json: bool) -> None:
    """Print what a run would take."""
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

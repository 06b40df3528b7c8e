"""Options of the command judge: who judges, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from inversionview.analyses.interpret.endpoint import OF_AN_ENDPOINT, EndpointOptions
from inversionview.core.errors import SettingError
from inversionview.terminal.app import listed
from inversionview.terminal.checked import unused

if TYPE_CHECKING:
    from inversionview.analyses.interpret.client import Client

EMBEDDINGS = (
    "No sentence embeddings are at hand to judge prose by: name a language model with --by, or write filters or re: and a "
    "regular expression."
)


@dataclass(frozen=True)
class HeldOptions:
    """What statements are tested on, and what they are held against."""

    controls: Annotated[
        str | None,
        typer.Option(help="site, random, input, nearest, unconditional, features, by commas, or none; by default all."),
    ] = None
    fixed: Annotated[bool, typer.Option("--fixed", help="Compare at the queries' own positions only.")] = False
    gap: Annotated[
        float, typer.Option(min=1, help="Inputs outside, on which a statement is tested, begin at so many times ε.")
    ] = 2.0
    seconds: Annotated[
        float | None,
        typer.Option(help="Walk for so long where the corpus has too few inputs inside; by default no walk is made."),
    ] = None
    lines: Annotated[bool, typer.Option("--lines", help="Each line of a statement is a claim of its own.")] = False

    @property
    def named(self) -> list[str] | None:
        """The controls that are asked for."""
        return listed(self.controls)


@dataclass(frozen=True)
class ByOptions(EndpointOptions):
    """Who judges: features and regular expressions, or a language model."""

    by: Annotated[
        str, typer.Option(help="features: filters such as A1=1, and re: with a regular expression; or a language model's name.")
    ] = "features"

    def judge(self, context: typer.Context) -> Client | None:
        """Return the language model that judges; ``None`` where none does.

        Raises:
            SettingError: something is given that belongs to a language model, and none is asked.
        """
        if self.by == "embeddings":
            raise SettingError(EMBEDDINGS)
        if self.by != "features":
            if self.estimate:
                unused(context, "nothing is asked, with --estimate", "to")
            return self.client(self.by)
        unused(context, "features judge", "base_url", "estimate", *OF_AN_ENDPOINT)
        return None

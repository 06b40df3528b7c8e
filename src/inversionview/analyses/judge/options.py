"""Options of the command judge: who judges, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from inversionview.terminal.app import listed


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

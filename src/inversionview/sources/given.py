"""The source that a command was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from inversionview.core.errors import SettingError
from inversionview.terminal.checked import unused

if TYPE_CHECKING:
    from inversionview.preimage.preimage import Query
    from inversionview.studies.study import Study


def check_source(source: str | None) -> None:
    """Raise ``SettingError`` unless it is a source, or none is named."""
    if source not in (None, "decoder", "corpus", "walk"):
        raise SettingError(f"There is no source {source!r}: choose decoder, corpus or walk.")


def not_of_source(context: typer.Context, source: str) -> None:
    """Refuse options that were given but belong to another source than this one."""
    said = {"decoder": "the decoder is sampled", "corpus": "the corpus is searched", "walk": "a walk is made"}
    of = {"decoder": ("temperature", "noise", "candidates"), "walk": ("seconds",)}
    unused(context, said[source], *(name for other, names in of.items() if other != source for name in names))


def first_source(study: Study, query: Query, fixed: str | None, drawn: bool = False) -> str:
    """Return what reads a query where no source is named, as in the explorer: the exact one where it takes seconds."""
    from inversionview.sources import registry

    return registry.first_source(study, query, fixed, drawn)

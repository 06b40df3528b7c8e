"""The source that a command was given, and how it reads for one: with a bar, and a bank where it needs one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

import inversionview as iv
from inversionview.sources.registry import every, exact_first, named, one_of
from inversionview.studies.arguments import bank_to_search
from inversionview.terminal.app import bar
from inversionview.terminal.checked import unused

if TYPE_CHECKING:
    from inversionview.preimage.preimage import Preimage, Query
    from inversionview.sources.source import Source
    from inversionview.studies.study import Study

SourceOpt = Annotated[
    str | None,
    typer.Option(
        help=f"{one_of([source.name for source in exact_first()])}; by default the corpus, which is exact, where its bank "
        "takes seconds."
    ),
]


def check_source(source: str | None) -> None:
    """Raise ``SettingError`` unless it is a source, or none is named."""
    if source is not None:
        named(source)


def not_of_source(context: typer.Context, source: Source) -> None:
    """Refuse options that were given but belong to another source than this one."""
    others = (name for other in every() for name in other.options if name not in source.options)
    unused(context, source.used, *others)


def made(study: Study, query: Query, sources: Sequence[Source], *, quiet: bool = False, **options: Any) -> Preimage:
    """Return what a source makes of a query, or several one after the other; of the options it takes what ``read`` takes, and
    their own.

    Where one needs a bank, and there is none, it is built in sight; while one reads, its bar is shown unless ``quiet``.
    """
    own = {name for source in sources for name in source.options}
    others = {name for other in every() for name in other.options} - own
    told = {name: value for name, value in options.items() if name not in others}
    name = sources[0].name if len(sources) == 1 else None
    if any(source.needs_bank for source in sources):
        told["bank"] = bank_to_search(study, None, query.site)
    if not (busy := next((source.bar for source in sources if source.bar), "")):
        return iv.read(study, query, source=name, **told)
    with bar(busy, 1000, quiet=quiet) as advance:
        report = lambda share, note: advance(int(1000 * share), note)  # noqa: E731
        return iv.read(study, query, source=name, report=report, **told)

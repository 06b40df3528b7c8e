"""Command complete."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.studies.arguments import loaded_study
from inversionview.terminal.app import app, bar, out, print_json
from inversionview.terminal.checked import unused
from inversionview.terminal.naming_sites import NAMES_SITES
from inversionview.terminal.options import (
    FigureOpt,
    IndexOpt,
    InputsOpt,
    JsonOpt,
    ModelOptions,
    ScopeOptions,
    SeedOpt,
    StudyArg,
    placed,
)

if TYPE_CHECKING:
    from inversionview.preimage.preimage import Query
    from inversionview.studies.study import Study


@dataclass(frozen=True)
class QueryOptions:
    """The query whose preimage is looked at, or random ones."""

    text: Annotated[str | None, typer.Argument(help="The query; by default random ones of the test split.")] = None
    queries: Annotated[int, typer.Option(help="Random queries, each at a random site and position.")] = 8
    at: Annotated[str | None, typer.Option(help="Position, as in `read`; without TEXT, of all queries.")] = None
    index: IndexOpt = None
    site: Annotated[str | None, typer.Option(help="Site, as in `read`; without TEXT, of all queries."), NAMES_SITES] = None

    def of(self, study: Study, seed: int) -> list[Query]:
        """Return the queries."""
        position = placed(self.at, self.index)
        if self.text is not None:
            return [study.query(self.text, at=position, site=self.site)]
        return iv.random_queries(study, self.queries, at=position, site=self.site, seed=seed)


@dataclass(frozen=True)
class ScoreOptions:
    """How thoroughly the decoder is asked for log p of the study's inputs."""

    draws: Annotated[int, typer.Option(help="Draws of the noise, whose mean probability is taken.")] = 8
    quick: Annotated[bool, typer.Option("--quick", help="Do not tell apart the least probable inputs; recall stays exact.")] = (
        False
    )
    inputs: InputsOpt = None


@app.command(
    epilog="Examples: `inversionview complete addition --queries 8 --out figure.png`; "
    '`inversionview complete addition "615+861=1476" --at "=" --site a0.0 --json`'
)
def complete(
    context: typer.Context,
    *,
    study: StudyArg,
    which: QueryOptions,
    scope: ScopeOptions,
    scores: ScoreOptions,
    to: FigureOpt = None,
    data: Annotated[Path | None, typer.Option(help="Write D and log p of every input: .npz or .parquet.")] = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Does the decoder know the whole preimage? log p(x ∣ z) against D for every input of the study, and recall."""
    from inversionview.core.files import figure_paths

    distance = scope.check()
    paths = [*figure_paths(to, "complete"), *_columns_path(data)]
    if which.text is not None:
        unused(context, "TEXT is the query", "queries")
    loaded = loaded_study(study, on, [which.site])
    asked = which.of(loaded, seed)
    with bar("scoring", 1000, quiet=as_json) as advance:
        results = iv.complete(
            loaded,
            asked,
            epsilon=scope.epsilon,
            distance=distance,
            draws=scores.draws,
            quick=scores.quick,
            limit=scores.inputs,
            seed=seed,
            report=lambda share, note: advance(int(1000 * share), note),
        )
    for path in paths:
        results.save(path)
    if as_json:
        print_json({"study": study, "queries": results.to_json()})
    else:
        out.print(results)


def _columns_path(path: Path | None) -> list[Path]:
    """Return the file of columns to write, if there is one.

    Raises:
        SettingError: its extension is none of npz, parquet.
        StorageError: nothing can be written there.
    """
    from inversionview.core.files import COLUMN_FORMATS
    from inversionview.core.storage import check_writable

    if path is None:
        return []
    if path.suffix.lower() not in COLUMN_FORMATS:
        raise SettingError(f"A table ends in {' or '.join(COLUMN_FORMATS)}, but {path.name!r} does not.")
    return [check_writable(path)]

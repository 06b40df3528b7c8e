"""Commands of a study itself: sites, path, bank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.core.interruption import resumable
from inversionview.core.scope import Distance, check_distance
from inversionview.corpora.naming import ALL
from inversionview.studies.arguments import loaded_study, source_named
from inversionview.terminal.app import app, bar, err, given, listed, out, print_line
from inversionview.terminal.naming_sites import NAMES_SITES
from inversionview.terminal.options import BareStudyArg, DeviceOpt, ModelOpt, ModelOptions, StudyArg, TextsOptions

if TYPE_CHECKING:
    from inversionview.bank.store import ActivationBank
    from inversionview.studies.study import Study


_TEXT_SITES = "x*.post"
"""Of natural text, where nobody says which: all would take four times as much."""


_SitesOpt = Annotated[str | None, typer.Option(help="Patterns such as `a*.*,x*.post`; by default the study's."), NAMES_SITES]


@dataclass(frozen=True)
class StoredOptions:
    """How activations are kept."""

    dtype: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16"
    index: Annotated[
        str | None,
        typer.Option(
            "--distance", help="Which distance the index serves, others are searched without it; by default the study's."
        ),
    ] = None

    def check(self) -> Distance | None:
        """Return the distance that is named; raise ``SettingError`` where there is none of that name."""
        return None if self.index is None else check_distance(self.index)


@app.command(
    epilog="Examples: `inversionview bank counting --inputs 1000000 --out runs/counting`; four processes share the work: "
    "`for i in 0 1 2 3; do inversionview bank counting --inputs 1000000 --out runs/counting --rank $i --world 4 & done; wait`; "
    "every token of a text, at many sites: `inversionview bank --model gpt2 --texts corpus.txt --sites 'x*.post,a9.*' --tokens "
    "100000 --out runs/corpus`; is it still as it was written? `inversionview bank counting --check`"
)
@resumable()
def bank(
    *,
    study: BareStudyArg = None,
    inputs: Annotated[
        int | None, typer.Option(min=1, help="Inputs of the corpus to harvest; by default 200,000, or all if they are fewer.")
    ] = None,
    texts: TextsOptions,
    to: Annotated[
        Path | None, typer.Option("--out", help="A run's folder (its bank/ is written); by default the user's cache.")
    ] = None,
    sites: _SitesOpt = None,
    positions: Annotated[
        str | None,
        typer.Option(
            help="Named positions, by commas; by default all but END. `all`: every token, so that D is the least of all."
        ),
    ] = None,
    stored: StoredOptions,
    check: Annotated[
        bool, typer.Option("--check", help="Build nothing: read the bank whole and say whether it is as it was written.")
    ] = False,
    rank: Annotated[int, typer.Option(min=0, envvar="RANK", help="Number of this process, where several share the work.")] = 0,
    world: Annotated[int, typer.Option(min=1, envvar="WORLD_SIZE", help="How many processes share the work.")] = 1,
    model: ModelOpt = None,
    device: DeviceOpt = "auto",
) -> None:
    """Harvest every site × named position of a corpus to disk, for exact search; goes on where it was interrupted."""
    from inversionview.studies.first_bank import bank_rows

    precision, served = _precision(stored.dtype), stored.check()
    source = source_named(texts)
    if source is not None and inputs is not None:
        raise SettingError("--inputs counts those of a study: of --texts, give --tokens.")
    with resumable(not check):
        loaded = loaded_study(study, ModelOptions(model, device), [sites], source)
    if check:
        _check(loaded, to)
        return
    options = given(sites=sites, positions=listed(positions))
    rows = bank_rows(loaded, inputs, options.get("positions"))
    if loaded.inputs.every_token:
        options = {"sites": _TEXT_SITES, **options}
        err.print(_cost(loaded, rows, options["sites"]), soft_wrap=True)
    with bar("harvesting", 1000) as advance:
        made = iv.build_bank(
            loaded,
            None if to is None else to / "bank",
            rows=rows,
            distance=served,
            precision=precision,
            rank=rank,
            world=world,
            report=lambda share, note: advance(int(1000 * share), note),
            **options,
        )
    if to is not None:
        from inversionview.studies.load import keep as keep_study

        keep_study(loaded, to)
    err.print(_extent(made))


def _precision(dtype: str) -> str:
    """Return what is called so."""
    known = {"fp16": "float16", "fp32": "float32"}
    if dtype not in known:
        raise SettingError(f"There is no precision {dtype!r}: choose fp16 or fp32.")
    return known[dtype]


def _check(study: Study, folder: Path | None) -> None:
    """Read a bank whole, and say that it is sound."""
    with resumable(False), bar("checking", 1000) as advance:
        sound = iv.check_bank(study, folder, report=lambda share, note: advance(int(1000 * share), note))
    out.print(f"All sound: {_extent(sound)}", soft_wrap=True)


def _extent(bank: ActivationBank) -> str:
    """Return how large a bank is, and where it lies."""
    if bank.places.names == (ALL,):
        return f"{len(bank):,} tokens × {len(bank.sites)} sites in {bank.folder}"
    return f"{len(bank):,} inputs × {len(bank.sites)} sites × {len(bank.manifest.positions)} positions in {bank.folder}"


def _cost(study: Study, tokens: int, sites: str) -> str:
    """Return what a bank of natural text takes, beforehand."""
    from inversionview.core.memory import said
    from inversionview.model.sites.patterns import expand

    chosen = expand(sites, study.model.sites)
    each = sum(map(study.model.width, chosen)) * 2
    every = study.inputs.placed([ALL]).size
    return (
        f"{tokens:,} of {every:,} tokens × {len(chosen)} sites: {said(each)} a token ({said(each / len(chosen))} a site), "
        f"{said(each * tokens)} in all."
    )


@app.command(epilog="Example: `inversionview path addition decoder`")
def path(study: StudyArg, part: Annotated[str, typer.Argument(help="model or decoder")]) -> None:
    """Print where a study's probed model lies, or the decoder that it is read with."""
    from inversionview.studies.decoders import trained_decoder
    from inversionview.studies.registry import defined, stated

    if part not in ("model", "decoder"):
        raise SettingError(f"There is no part {part!r}: ask for model or decoder.")
    spec, run = stated(study)
    if part == "decoder":
        print_line(trained_decoder(study, spec.inputs, run).resolve())
    else:
        print_line(spec.model or defined(spec.inputs).default_model())

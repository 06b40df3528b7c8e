"""The command line: each command is a few lines over the library. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from inversionview.errors import InversionViewError, SettingError, UnknownStudyError, did_you_mean

if TYPE_CHECKING:
    from inversionview.bank.store import ActivationBank
    from inversionview.preimage.core import Preimage, Query
    from inversionview.study import Study

app = typer.Typer(
    help="Read what a neural activation encodes: sample its ε-preimage, verify every sample in the model, show it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

BareStudyArg = Annotated[
    str | None, typer.Argument(metavar="[STUDY]", help="A study or the folder of a run; leave it out with --model alone.")
]
BareTextArg = Annotated[str | None, typer.Argument(metavar="TEXT", help="The input whose activation is read.")]
StudyArg = Annotated[str, typer.Argument(help="A shipped study (counting, addition) or the folder of a run.")]
ModelOpt = Annotated[
    str | None, typer.Option("--model", help="Another checkpoint of the same vocabulary, in place of the study's own.")
]
TextArg = Annotated[str, typer.Argument(help="The input whose activation is read.")]
AtOpt = Annotated[
    str | None, typer.Option(help="A token, a named position (A1, END, query) or an index; BOS is 0, −1 is the last token.")
]
SiteOpt = Annotated[str | None, typer.Option(help="x0.post, a0.3, m1, or the TransformerLens or LaTeX name.")]
EpsilonOpt = Annotated[float | None, typer.Option(help="Threshold of the preimage; by default the study's.")]
DistanceOpt = Annotated[str | None, typer.Option(help="euclidean or cosine; by default the study's.")]
FixedAtOpt = Annotated[str | None, typer.Option(help="Compare this position only, not the nearest of all positions.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]
SeedOpt = Annotated[int, typer.Option(help="The same seed gives the same result.")]
DeviceOpt = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, … or auto.")]


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(study: str, model: str | None, device: str = "cpu") -> Study:
    from inversionview.study import load

    return load(study, model=model, device=_device(device))


def _study_and_text(study: str | None, text: str | None, model: str | None, device: str) -> tuple[Study, str]:
    """Return what to read from ``STUDY TEXT``, or from ``--model MODEL TEXT``."""
    from inversionview.study import load

    if text is not None:
        return _load(study or "", model, device), text
    if study is None or model is None or study in ("counting", "addition"):
        raise SettingError('Give a study and a text, as in: addition "615+861=1476", or --model and a text.')
    return load(model=model, device=_device(device)), study


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


@app.command(
    epilog='Examples: `inversionview read addition "615+861=1476" --at "=" --site a0.0`; without a decoder, any model: '
    '`inversionview read --model gpt2 "When Mary and John went to the store, John gave a drink to" --site a9.9`'
)
def read(
    study: BareStudyArg = None,
    text: BareTextArg = None,
    at: AtOpt = None,
    site: SiteOpt = None,
    epsilon: EpsilonOpt = None,
    distance: DistanceOpt = None,
    count: Annotated[int | None, typer.Option(help="Samples to show: by default 30, with --json 100.")] = None,
    temperature: Annotated[
        list[float] | None, typer.Option(help="Draw at this temperature (repeatable); by default a pool of several.")
    ] = None,
    noise: Annotated[float, typer.Option(help="With --temperature: noise on the activation, in units of std(z).")] = 0.0,
    candidates: Annotated[int, typer.Option(help="Candidates of each setting.")] = 64,
    fixed: FixedAtOpt = None,
    source: Annotated[
        str | None, typer.Option(help="decoder, corpus or walk; by default the decoder, or the walk where there is none.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="With the walk: how long it goes.")] = 10,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    device: DeviceOpt = "cpu",
    as_json: JsonOpt = False,
) -> None:
    """Read one activation: verified samples of its ε-preimage, sorted by distance."""
    _check([epsilon], distance)
    if source not in (None, "decoder", "corpus", "walk"):
        raise SettingError(f"There is no source {source!r}: choose decoder, corpus or walk.")
    loaded, text = _study_and_text(study, text, model, device)
    query = loaded.query(text, at=at, site=site)
    shown = count if count is not None else (100 if as_json else 30)
    where: dict[str, Any] = {"epsilon": epsilon, "distance": distance, "fixed": fixed, "seed": seed}
    if source == "corpus":
        where["fixed"] = _listed(fixed)
        preimage = loaded.search(query, count=shown, bank=_bank(loaded, None), **where)
    elif source == "walk" or (source is None and not loaded.has_decoder):
        preimage = _walk(loaded, query, quiet=as_json, count=shown, seconds=seconds, **where)
    else:
        from inversionview.preimage.sampled import Setting

        settings: Any = [Setting(t, noise) for t in temperature] if temperature else "auto"
        preimage = loaded.preimage(query, count=shown, settings=settings, each=candidates, **where)
    _show(preimage, as_json)


def _walk(study: Study, query: Query, quiet: bool, **options: Any) -> Preimage:
    with _bar("walking", 1000, quiet=quiet) as advance:
        return study.walk(query, report=lambda share, note: advance(int(1000 * share), note), **options)


def _show(preimage: Preimage, as_json: bool) -> None:
    if as_json:
        _print_json(preimage.to_json())
    else:
        out.print(preimage)
    if preimage.walk is not None and preimage.walk.interrupted:
        err.print("Interrupted: what was found until then is shown.")
        raise typer.Exit(130)


@app.command(
    epilog='Examples: `inversionview walk counting "vvzccvczvvvzvcvc|v:8" --at ":" --site a1.0 --seconds 10`; until it can be '
    'trusted: `inversionview walk addition "403+288=691" --at A1 --site x0.post --until-mixed --seconds 120`; any model: '
    '`inversionview walk --model gpt2 "The capital of France is" --site a9.8 --fixed END --keep 4`'
)
def walk(
    study: BareStudyArg = None,
    text: BareTextArg = None,
    at: AtOpt = None,
    site: SiteOpt = None,
    epsilon: EpsilonOpt = None,
    distance: DistanceOpt = None,
    seconds: Annotated[float | None, typer.Option(help="End after so many seconds; 10 unless --steps is given.")] = None,
    steps: Annotated[int | None, typer.Option(help="End after so many steps: then the seed fixes what is found.")] = None,
    until_mixed: Annotated[bool, typer.Option("--until-mixed", help="End as soon as every feature is mixed.")] = False,
    chains: Annotated[
        int | None, typer.Option(help="Chains at the wanted ε: 256 for a study, 32 for a language model.")
    ] = None,
    exchange: Annotated[
        bool | None,
        typer.Option(
            "--exchange/--no-exchange", help="Replicas on a ladder of ε, for all pieces and bits; for studies the rule."
        ),
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="study, model (its own p(x)^β) or uniform; by default the study's, else the model's.")
    ] = None,
    beta: Annotated[float, typer.Option(help="With the model's prior: how much it weighs.")] = 1.0,
    keep: Annotated[str | None, typer.Option(help="Tokens of TEXT that stay, by their indices and commas; BOS is 0.")] = None,
    longer: Annotated[int, typer.Option(min=0, help="A text may grow or shrink by so many tokens.")] = 2,
    guided: Annotated[
        bool, typer.Option("--guided", help="Add a move that follows the gradient of D: for long texts, costs more a step.")
    ] = False,
    start: Annotated[
        str | None, typer.Option(help="Let half of the chains begin at what decoder or corpus finds (or both, by commas).")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Members to show: by default 30, with --json 100.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print each new member as a line of JSON as soon as it is found.")
    ] = False,
    fixed: FixedAtOpt = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    device: DeviceOpt = "cpu",
    as_json: JsonOpt = False,
) -> None:
    """Walk through the ε-preimage from the query: no decoder, no corpus; every member is run through the model."""
    _check([epsilon], distance)
    loaded, text = _study_and_text(study, text, model, device)
    query = loaded.query(text, at=at, site=site)
    length = _given(seconds=seconds, steps=steps) or ({} if until_mixed else {"seconds": 10.0})
    options: dict[str, Any] = {
        **_given(chains=chains, exchange=exchange, prior=prior), "seconds": None, **length, "until_mixed": until_mixed,
        "beta": beta, "keep": [_index(i) for i in _listed(keep) or ()], "longer": longer, "guided": guided, "fixed": fixed,
        "seed": seed, "epsilon": epsilon, "distance": distance,
        "count": count if count is not None else (100 if as_json else 30),
    }  # fmt: skip
    options["starts"] = [_start(loaded, query, name, epsilon, distance) for name in _listed(start) or ()]
    preimage = _walk(loaded, query, quiet=as_json or stream, found=_streamed(loaded) if stream else None, **options)
    if not stream:
        _show(preimage, as_json)
        return
    _print_json(preimage.to_json())


def _index(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise SettingError(f"{text!r} is no index of a token: give numbers, BOS being 0, as in --keep 2,5.") from error


def _start(study: Study, query: Query, name: str, epsilon: float | None, distance: str | None) -> Preimage:
    if name == "decoder":
        return study.preimage(query, epsilon=epsilon, distance=distance, count=1000)  # type: ignore[arg-type]
    if name == "corpus":
        bank = _bank(study, None)
        return study.search(query, epsilon=epsilon, distance=distance, count=1000, bank=bank)  # type: ignore[arg-type]
    raise SettingError(f"There is no start {name!r}: choose decoder or corpus.")


def _streamed(study: Study) -> Callable[[Any, Any, Any], None]:
    """Return what prints new members as lines of JSON."""
    vocabulary = study.model.vocabulary

    def show(tokens: Any, distances: Any, positions: Any) -> None:
        for ids, distance, position in zip(tokens.tolist(), distances.tolist(), positions.tolist(), strict=True):
            real = [i for i in ids if i != vocabulary.pad]
            row = {
                "text": vocabulary.decode(real),
                "tokens": vocabulary.strings(real),
                "distance": distance,
                "position": position,
            }
            _print_json(row)
        sys.stdout.flush()

    return show


@app.command(epilog="Example: `inversionview sites addition`")
def sites(study: StudyArg, model: ModelOpt = None, as_json: JsonOpt = False) -> None:
    """List the sites and named positions of a study."""
    loaded = _load(study, model)
    if as_json:
        listing = [{"short": s.short, "hook": s.hook, "latex": s.latex} for s in loaded.sites]
        _print_json({"sites": listing, "positions": loaded.position_names})
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("site", "TransformerLens", "LaTeX"):
        table.add_column(title, no_wrap=True)
    for s in loaded.sites:
        table.add_row(s.short, s.hook, s.latex)
    out.print(table)
    out.print(f"\npositions: {', '.join(loaded.position_names)}, any token that occurs once, or an index")


@app.command(epilog="Example: `inversionview path addition decoder`")
def path(study: StudyArg, part: Annotated[str, typer.Argument(help="model or decoder")]) -> None:
    """Print where a study's probed model or decoder lies."""
    from inversionview.studies import SHIPPED, shipped_path

    if part not in ("model", "decoder"):
        raise SettingError(f"There is no part {part!r}: ask for model or decoder.")
    if study in SHIPPED:
        print(shipped_path(study, part))  # type: ignore[arg-type]
        return
    from inversionview.study import read_spec

    folder = Path(study)
    if not (folder / "study.json").exists():
        raise UnknownStudyError(
            f"There is no study {study!r} and no run in that folder; there are {', '.join(SHIPPED)}."
            + did_you_mean(study, SHIPPED)
        )
    spec = read_spec(folder)
    print((folder / "decoder").resolve() if part == "decoder" else spec.model or shipped_path(spec.inputs, "model"))


@app.command(epilog="Example: `inversionview evaluate counting --queries 200 --json`")
def evaluate(
    study: StudyArg,
    queries: Annotated[int, typer.Option(min=1, help="Held-out queries for each site.")] = 200,
    samples: Annotated[int, typer.Option(min=1, help="Samples for each query, at temperature 1.")] = 8,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    device: DeviceOpt = "cpu",
    as_json: JsonOpt = False,
) -> None:
    """Measure the decoder's good ratio: the share of samples inside ε, per site, on held-out queries."""
    loaded = _load(study, model, device)
    with _bar("evaluating", len(loaded.sites), quiet=as_json) as advance:
        result = loaded.evaluate(queries=queries, samples=samples, seed=seed, report=lambda done: advance(done, ""))
    if as_json:
        _print_json(result)
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("site")
    table.add_column("good ratio", justify="right")
    for name, ratio in result["sites"].items():
        table.add_row(name, f"{ratio:.3f}")
    table.add_row("mean", f"{result['mean']:.3f}", style="bold")
    out.print(table)
    out.print(f"[dim]ε = {loaded.spec.epsilon:g}, temperature 1, {queries} queries a site, {samples} samples each[/dim]")


@app.command(
    epilog="Examples: `inversionview train counting --minutes 30 --out runs/counting`; "
    "`inversionview train --model gpt2 --texts sentences.txt --sites 'a*.*,x*.post' --out runs/mine`"
)
def train(
    study: Annotated[str | None, typer.Argument(help="A shipped study; leave it out with --texts.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Folder of the run; an interrupted run in it goes on.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Length of the training (30 if neither is given).")] = None,
    steps: Annotated[int | None, typer.Option(help="Length in batches: then the seed fixes the decoder.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Hugging Face directory, hub name or GGUF file; of a study: another checkpoint.")
    ] = None,
    texts: Annotated[str | None, typer.Option(help="Text file, JSON-lines file or hub dataset to train on.")] = None,
    sites: Annotated[str | None, typer.Option(help="Patterns such as `a*.*,x*.post`; by default all.")] = None,
    max_length: Annotated[int, typer.Option(min=4, help="Texts are cut after so many tokens.")] = 64,
    start: Annotated[str | None, typer.Option(help="Begin from this decoder's weights: same sites and sizes.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pairs in a batch.")] = None,
    width: Annotated[int | None, typer.Option(min=8, help="Width of the decoder.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers of the decoder.")] = None,
    seed: SeedOpt = 0,
    device: DeviceOpt = "auto",
) -> None:
    """Train a decoder: for a shipped study, or for your own model on your own texts."""
    if to is None:
        raise SettingError("Say where the run goes, for instance --out runs/mine.")
    if (study is None) == (texts is None) or (texts and not model):
        raise SettingError("Name a study, or give both --model and --texts.")
    from inversionview.decoder.training import TrainConfig, make_accelerator
    from inversionview.runs import train_study, train_texts

    length = {"minutes": minutes, "steps": steps} if steps or minutes else {"minutes": 30.0}
    config = TrainConfig(**{"minutes": None, **length}, seed=seed, **_given(batch=batch))  # type: ignore[arg-type]
    sizes = _given(width=width, layers=layers)
    where = _device(device)
    accelerator = make_accelerator(where)
    with _bar("training", 1000, quiet=not accelerator.is_main_process) as advance:

        def report(done: float, row: dict[str, Any]) -> None:
            ratio = f", good ratio {row['good_ratio']:.2f}" if "good_ratio" in row else ""
            advance(int(1000 * done), f"loss {row['loss']:.3f}, {row['pairs_per_second']:,.0f} pairs/s{ratio}")

        common: dict[str, Any] = {"device": where, "start": start, "report": report, "accelerator": accelerator, **sizes}
        if texts is not None and model is not None:
            made = train_texts(model, texts, to, config, sites=sites or "*", max_length=max_length, **common)
        else:
            made = train_study(study or "", to, config, model=model, sites=sites, **common)
    if accelerator.is_main_process:
        err.print(f'Decoder in {made.decoder_path}; read with: inversionview read {to} "…"', soft_wrap=True)


@app.command(name="train-probed", epilog="Example: `inversionview train-probed counting --out runs/counting-model`")
def train_probed_command(
    study: Annotated[str, typer.Argument(help="counting or addition")],
    to: Annotated[Path | None, typer.Option("--out", help="Folder for the model; by default runs/STUDY-model.")] = None,
    inputs: Annotated[int | None, typer.Option(min=1, help="Inputs seen in training; by default the recipe's.")] = None,
    seed: SeedOpt = 0,
    device: DeviceOpt = "auto",
    as_json: JsonOpt = False,
) -> None:
    """Train the probed model of a shipped study from scratch and report its test accuracy."""
    from inversionview.studies.training import train_shipped

    folder = to or Path("runs") / f"{study}-model"
    with _bar("training", 1000, quiet=as_json) as advance:
        result = train_shipped(
            study, folder, inputs=inputs, seed=seed, device=_device(device),
            report=lambda share, loss: advance(int(1000 * share), f"loss {loss:.4f}"),
        )  # fmt: skip
    if as_json:
        _print_json({**result, "path": str(folder)})
    else:
        out.print(f"test accuracy {result['accuracy']:.2%} after {result['minutes']:.1f} minutes; model in {folder}")


BankOpt = Annotated[
    Path | None, typer.Option("--bank", help="Folder of a bank or of a run with one; by default the run's, then the cache's.")
]


@app.command(
    epilog="Examples: `inversionview bank counting --inputs 1000000 --out runs/counting`; four processes share the work: "
    "`for i in 0 1 2 3; do inversionview bank counting --inputs 1000000 --out runs/counting --rank $i --world 4 & done; wait`"
)
def bank(
    study: StudyArg,
    inputs: Annotated[int, typer.Option(min=1, help="Inputs of the corpus to harvest.")] = 200_000,
    to: Annotated[
        Path | None, typer.Option("--out", help="A run's folder (its bank/ is written); by default the user's cache.")
    ] = None,
    sites: Annotated[str | None, typer.Option(help="Patterns such as `a*.*,x*.post`; by default the study's.")] = None,
    positions: Annotated[str | None, typer.Option(help="Named positions, by commas; by default all but END.")] = None,
    dtype: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16",
    rank: Annotated[int, typer.Option(min=0, envvar="RANK", help="Number of this process, where several share the work.")] = 0,
    world: Annotated[int, typer.Option(min=1, envvar="WORLD_SIZE", help="How many processes share the work.")] = 1,
    model: ModelOpt = None,
    device: DeviceOpt = "auto",
) -> None:
    """Harvest every site × named position of a corpus to disk, for exact search; goes on where it was interrupted."""
    precision = {"fp16": "float16", "fp32": "float32"}.get(dtype)
    if precision is None:
        raise SettingError(f"There is no precision {dtype!r}: choose fp16 or fp32.")
    loaded = _load(study, model, device)
    options = _given(sites=sites, positions=_listed(positions))
    with _bar("harvesting", 1000) as advance:
        made = loaded.build_bank(
            None if to is None else to / "bank", rows=inputs, precision=precision, rank=rank, world=world,
            report=lambda done, total: advance(1000 * done // total, f"{done:,} of {total:,} inputs"), **options,
        )  # fmt: skip
    if to is not None:
        loaded.keep(to)
    err.print(f"{len(made):,} inputs × {len(made.sites)} sites × {len(made.manifest.positions)} positions in {made.folder}")


@app.command(epilog='Example: `inversionview search counting "vvzccvczvvvzvcvc|v:8" --at ":" --site a1.0`')
def search(
    study: StudyArg,
    text: TextArg,
    at: AtOpt = None,
    site: SiteOpt = None,
    epsilon: EpsilonOpt = None,
    distance: DistanceOpt = None,
    k: Annotated[int, typer.Option("--k", "-k", min=0, help="Find at least so many nearest inputs, inside ε or not.")] = 10,
    fixed: Annotated[
        str | None, typer.Option(help="Compare at these named positions only (by commas), not at all of the bank's.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Inputs to show: by default 30, with --json all.")] = None,
    bank: BankOpt = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Let a faiss index propose what to measure (banks of tens of millions).")
    ] = False,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    device: DeviceOpt = "cpu",
    as_json: JsonOpt = False,
) -> None:
    """Search the corpus: every known input inside ε, exactly, and how many bits the activation tells."""
    _check([epsilon], distance)
    loaded = _load(study, model, device)
    query = loaded.query(text, at=at, site=site)
    preimage = loaded.search(
        query,
        epsilon=epsilon,
        distance=distance,  # type: ignore[arg-type]
        k=k,
        fixed=_listed(fixed),
        count=count if count is not None or as_json else 30,
        bank=_bank(loaded, bank),
        approximate=approximate,
        seed=seed,
    )
    if as_json:
        _print_json(preimage.to_json())
    else:
        out.print(preimage)


FixedOpt = Annotated[bool, typer.Option("--fixed", help="Compare at the query's own position only, not at all of the bank's.")]
SitesOpt = Annotated[str | None, typer.Option(help="Patterns such as `a*.*,x*.post`; by default all.")]
PositionsOpt = Annotated[str | None, typer.Option(help="Named positions, by commas; by default all of the bank's.")]


@app.command(
    epilog="Examples: `inversionview inform addition --positions '=,A1,A2,A3' --out table.html --out table.csv`; a feature of "
    "your own: `inversionview inform counting --feature '^(?P<first>.)'`"
)
def inform(
    study: StudyArg,
    queries: Annotated[int, typer.Option(min=1, help="Queries at each site and position.")] = 200,
    sites: SitesOpt = None,
    positions: PositionsOpt = None,
    features: Annotated[str | None, typer.Option(help="Features of the study, by commas; by default all.")] = None,
    feature: Annotated[list[str] | None, typer.Option(help="A regular expression: each named group is a feature.")] = None,
    epsilon: EpsilonOpt = None,
    distance: DistanceOpt = None,
    fixed: FixedOpt = False,
    bank: BankOpt = None,
    to: Annotated[
        list[Path] | None, typer.Option("--out", help="Write .csv, .parquet, .html, .png or .svg (repeatable).")
    ] = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Tell which features every site holds at every position, in bits and as a share of each feature's entropy."""
    from inversionview.analysis.features import pattern
    from inversionview.views.files import check_formats
    from inversionview.views.maps import TABLE_FORMATS, save_features

    check_formats(to or [], TABLE_FORMATS)
    _check([epsilon], distance)
    extra = {name: function for expression in feature or [] for name, function in pattern(expression).items()}
    loaded = _load(study, model)
    searched = _bank(loaded, bank)
    with _bar("informing", 1000, quiet=as_json) as advance:
        table = loaded.inform(
            bank=searched, queries=queries, epsilon=epsilon, fixed=fixed, extra=extra, seed=seed,
            distance=distance,  # type: ignore[arg-type]
            report=lambda done, total: advance(1000 * done // total, f"{done} of {total} cells"),
            **_given(sites=sites, positions=_listed(positions), features=_listed(features)),
        )  # fmt: skip
    for path in to or []:
        save_features(table, path)
    if as_json:
        _print_json(table.to_json())
    else:
        out.print(table)


@app.command(epilog="Example: `inversionview truth addition --queries 50`")
def truth(
    study: StudyArg,
    queries: Annotated[int, typer.Option(min=1, help="Held-out queries for each site.")] = 100,
    samples: Annotated[int, typer.Option(min=1, help="Samples for each query, at temperature 1.")] = 128,
    bank: BankOpt = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Hold the decoder against exact preimages: good ratio, recall, and how its samples' features differ (KL)."""
    from inversionview.views.tables import truth_table

    loaded = _load(study, model)
    searched = _bank(loaded, bank)
    with _bar("comparing", len(loaded.sites), quiet=as_json) as advance:
        rows = loaded.against_truth(
            bank=searched, queries=queries, samples=samples, seed=seed, report=lambda done, _: advance(done, "")
        )
    if as_json:
        _print_json({"study": loaded.name, "inputs": len(searched), "sites": [asdict(row) for row in rows]})
    else:
        out.print(truth_table(rows))


@app.command(epilog="Example: `inversionview bits counting --epsilons 0.02,0.05,0.1,0.2,0.5`")
def bits(
    study: StudyArg,
    epsilons: Annotated[str, typer.Option(help="Thresholds, by commas.")] = "0.02,0.05,0.1,0.2,0.5",
    queries: Annotated[int, typer.Option(min=1, help="Queries at each site and position.")] = 200,
    sites: SitesOpt = None,
    positions: PositionsOpt = None,
    distance: DistanceOpt = None,
    fixed: FixedOpt = False,
    bank: BankOpt = None,
    to: Annotated[list[Path] | None, typer.Option("--out", help="A .csv, .html, .png or .svg (repeatable).")] = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Tell how much information every site holds at every position, as ε grows."""
    from inversionview.analysis.places import bits_curve
    from inversionview.views.files import check_formats
    from inversionview.views.maps import TABLE_FORMATS, save_curves
    from inversionview.views.tables import curve_table

    check_formats(to or [], TABLE_FORMATS)
    ladder = _numbers(epsilons)
    _check(ladder, distance)
    loaded = _load(study, model)
    searched = _bank(loaded, bank)
    with _bar("measuring", 1000, quiet=as_json) as advance:
        curves = bits_curve(
            searched, ladder, queries=queries, fixed=fixed, seed=seed,
            distance=distance or loaded.spec.distance,  # type: ignore[arg-type]
            report=lambda done, total: advance(1000 * done // total, f"{done} of {total} cells"),
            **_given(sites=sites, positions=_listed(positions)),
        )  # fmt: skip
    for path in to or []:
        save_curves(curves, path)
    if as_json:
        _print_json({"study": loaded.name, "inputs": len(searched), "curves": [asdict(curve) for curve in curves]})
    else:
        out.print(curve_table(curves))


def _listed(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SettingError(f"{text!r} is not a list of numbers: write for instance 0.05,0.1,0.2.") from None


def _check(epsilons: Iterable[float | None], distance: str | None) -> None:
    """Find out what is wrong before a bank is built, not after."""
    from inversionview.distances import check_distance, check_epsilon

    for epsilon in epsilons:
        check_epsilon(1.0 if epsilon is None else epsilon)
    check_distance(distance or "euclidean")


def _bank(study: Study, folder: Path | None) -> ActivationBank:
    """Return the bank to search; where there is none yet, build one with a progress bar, and say so."""
    with _bar("harvesting", 1000) as advance:

        def begin(path: Path, rows: int) -> None:
            err.print(f"No bank yet: building one of {rows:,} inputs, once, in {path}", soft_wrap=True)

        return study.bank(folder, report=lambda done, total: advance(1000 * done // total, ""), begin=begin)


FigureOpt = Annotated[Path | None, typer.Option("--out", help="Figure: a .png, .svg or .html file; a folder gets all three.")]
InputsOpt = Annotated[int | None, typer.Option("--inputs", help="A random choice of so many inputs; by default all.")]


@app.command(
    epilog="Examples: `inversionview complete addition --queries 8 --out figure.png`; "
    '`inversionview complete addition "615+861=1476" --at "=" --site a0.0 --json`'
)
def complete(
    study: StudyArg,
    text: Annotated[str | None, typer.Argument(help="The query; by default random ones of the test split.")] = None,
    queries: Annotated[int, typer.Option(help="Random queries, each at a random site and position.")] = 8,
    at: Annotated[str | None, typer.Option(help="Position, as in `read`; without TEXT, of all queries.")] = None,
    site: Annotated[str | None, typer.Option(help="Site, as in `read`; without TEXT, of all queries.")] = None,
    epsilon: EpsilonOpt = None,
    distance: DistanceOpt = None,
    draws: Annotated[int, typer.Option(help="Draws of the noise, whose mean probability is taken.")] = 8,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not tell apart the least probable inputs; recall stays exact.")
    ] = False,
    inputs: InputsOpt = None,
    to: FigureOpt = None,
    data: Annotated[Path | None, typer.Option(help="Write D and log p of every input: .npz or .parquet.")] = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    device: DeviceOpt = "cpu",
    as_json: JsonOpt = False,
) -> None:
    """Does the decoder know the whole preimage? log p(x ∣ z) against D for every input of the study, and recall."""
    from inversionview.views.columns import check_table, save_table
    from inversionview.views.plots import save_completeness, targets
    from inversionview.views.tables import completeness_table

    figures, table = targets(to, "complete"), check_table(data)
    loaded = _load(study, model, device)
    if text is None:
        asked = loaded.random_queries(queries, at=at, site=site, seed=seed)
    else:
        asked = [loaded.query(text, at=at, site=site)]
    with _bar("scoring", 1000, quiet=as_json) as advance:
        results = loaded.complete(
            asked, epsilon=epsilon, distance=distance, draws=draws, quick=quick, limit=inputs, seed=seed,  # type: ignore[arg-type]
            report=lambda share, note: advance(int(1000 * share), note),
        )  # fmt: skip
    for path in figures:
        save_completeness(results, path, loaded.texts)
    if table is not None:
        save_table(results, table)
    if as_json:
        _print_json({"study": study, "queries": [result.to_json() for result in results]})
    else:
        out.print(completeness_table(results))


@app.command(epilog='Example: `inversionview threshold addition "615+861=1476" --at "=" --site a0.0 --out figure.png`')
def threshold(
    study: StudyArg,
    text: TextArg,
    at: AtOpt = None,
    site: SiteOpt = None,
    epsilon: Annotated[list[float] | None, typer.Option(help="A threshold to look at (repeatable).")] = None,
    distance: DistanceOpt = None,
    inputs: InputsOpt = None,
    to: FigureOpt = None,
    seed: SeedOpt = 0,
    model: ModelOpt = None,
    device: DeviceOpt = "cpu",
    as_json: JsonOpt = False,
) -> None:
    """Show how a reading depends on ε: inputs inside, bits and shared features, and an ε from the gap of the distances."""
    from inversionview.views.plots import save_threshold, targets
    from inversionview.views.tables import threshold_table

    figures = targets(to, "threshold")
    loaded = _load(study, model, device)
    query = loaded.query(text, at=at, site=site)
    with _bar("measuring", 1000, quiet=as_json) as advance:
        result = loaded.threshold(
            query, epsilons=epsilon or (), distance=distance, limit=inputs, seed=seed,  # type: ignore[arg-type]
            report=lambda share, note: advance(int(1000 * share), note),
        )  # fmt: skip
    for path in figures:
        save_threshold(result, path)
    if as_json:
        _print_json(result.to_json())
    else:
        out.print(threshold_table(result))


@app.command()
def demo() -> None:
    """Show three telling readings of each shipped study, with one line each on what to see."""
    from inversionview.demo import show_demo

    show_demo(out)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def _bar(what: str, total: int, quiet: bool = False) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on stderr with ETA; yields a function to set how far it is, and a note."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    progress = Progress(*columns, console=err, disable=quiet)
    task = progress.add_task(what, total=total, note="")

    def advance(done: int, note: str) -> None:
        progress.start()  # only now: a mistake found before must leave nothing but its sentence on stderr
        progress.update(task, completed=done, note=note)

    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's error is one sentence on stderr and exit code 2."""
    try:
        if app(args=arguments, standalone_mode=False) == 130:  # how typer reports Ctrl-C
            raise KeyboardInterrupt
    except InversionViewError as error:
        _fail(str(error))
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # help was already printed
            return
        said = getattr(error, "format_message", error.__str__)()
        _fail(f"{said.rstrip('.')}. See inversionview --help.")
    except (KeyboardInterrupt, typer.Abort):
        _fail("Interrupted: what was checkpointed stands, and the same command goes on from there.")
    except BrokenPipeError:
        sys.stderr.close()


def _fail(sentence: str) -> None:
    sys.stderr.write(" ".join(sentence.split()) + "\n")
    sys.exit(2)


if __name__ == "__main__":
    main()

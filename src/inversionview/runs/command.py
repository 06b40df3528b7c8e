"""Commands that make a run: train, train-probed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inversionview.core.errors import InputError, SettingError
from inversionview.core.interruption import resumable
from inversionview.studies.arguments import check_sites_of
from inversionview.studies.naming import check_model_name, check_study, is_run, is_study
from inversionview.studies.registry import defined
from inversionview.terminal.app import app, bar, device_named, err, given, out, precision_named, print_json
from inversionview.terminal.checked import unused
from inversionview.terminal.options import DeviceOpt, JsonOpt, SeedOpt, SitesOpt

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from inversionview.decoder.recipe import TrainConfig
    from inversionview.runs.train import Reading, Watch
    from inversionview.studies.study import Study


@dataclass(frozen=True)
class LengthOptions:
    """How long the training is."""

    minutes: Annotated[float | None, typer.Option(help="Length of the training (30 if neither is given).")] = None
    steps: Annotated[int | None, typer.Option(help="Length in batches: then the seed fixes the decoder.")] = None

    def settings(self) -> dict[str, Any]:
        """Return what ``TrainConfig`` is told of it."""
        return {"minutes": 30.0 if self.steps is None and self.minutes is None else self.minutes, "steps": self.steps}


@dataclass(frozen=True)
class CorpusOptions:
    """The user's own texts, facts or names."""

    texts: Annotated[
        str | None, typer.Option(help="Texts to train on: .txt (one a line), .jsonl, .json, .csv, .parquet … or a hub dataset.")
    ] = None
    field: Annotated[str | None, typer.Option(help="With --texts: the field that holds the text (text).")] = None
    facts: Annotated[Path | None, typer.Option(help="Of the study facts: a file of records, or a folder of BEAR.")] = None
    names: Annotated[Path | None, typer.Option(help="Of the study ioi: a file of names, one a line.")] = None

    def check(self, study: str | None, model: str | None) -> None:
        """Refuse what does not go together.

        Raises:
            SettingError: there are a study and texts, neither, or options that do not go with them.
        """
        if study is not None and is_run(study):
            if self.texts or self.facts or self.names or model:
                raise SettingError(
                    f"{study} is a run, which has its model and its texts: leave out --model, --texts, --facts and --names."
                )
            return
        if (study is None) == (self.texts is None) or (self.texts and not model):
            raise SettingError("Name a study, or give both --model and --texts.")
        if self.field is not None and self.texts is None:
            raise SettingError("--field names where records have their text: give --texts, too, or leave it out.")
        if self.texts and (self.facts or self.names):
            raise SettingError("--facts and --names are of the studies facts and ioi: leave them out with --texts.")


@dataclass(frozen=True)
class HarvestOptions:
    """What is read of the probed model, and of how many inputs."""

    sites: SitesOpt = None
    layers: Annotated[str | None, typer.Option(help="Only sites of these layers of the model, such as 12-20,25.")] = None
    heads: Annotated[str | None, typer.Option(help="Only these heads, such as 16.3,17.0; of ioi also: named.")] = None
    inputs: Annotated[int, typer.Option(min=1, help="Inputs whose activations are harvested, once, before training.")] = 20_000
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Run the model on fresh inputs all the time, not once; counting and addition do; of "
            "texts every position is read then, not only the last.",
            show_default=False,
        ),
    ] = None
    bank: Annotated[
        Path | None, typer.Option("--bank", help="Read this bank, or that of this run, in place of harvesting one.")
    ] = None
    max_length: Annotated[int, typer.Option(min=4, help="Texts are cut after so many tokens.")] = 64

    def check(self, context: typer.Context, study: str | None, texts: str | None) -> None:
        """Refuse options that would do nothing.

        Raises:
            SettingError: some are given.
        """
        if study is not None and is_run(study):
            reason = f"a decoder of {study} is trained from its bank, of the texts as they lie there"
            unused(context, reason, "inputs", "stream", "bank", "max_length")
            return
        if texts is None:
            unused(context, "there are no --texts", "max_length")
        if self.stream or (self.stream is None and is_study(study) and defined(study).streamed):
            unused(context, "the model is run on fresh inputs all the time", "inputs", "bank")
        if self.bank is not None:
            unused(context, "a bank is given", "inputs")

    def reading(self, device: str, dtype: torch.dtype) -> Reading:
        """Return what ``train_study`` and the others are told of it."""
        from inversionview.runs.train import Reading

        told = {name: value for name, value in vars(self).items() if name != "max_length"}
        return Reading(device=device, dtype=dtype, **told)


@dataclass(frozen=True)
class DecoderOptions:
    """The decoder: from scratch, from another's weights, or around a causal LM."""

    target: Annotated[
        str,
        typer.Option(
            help="What is learned of an activation: `ball`, all inputs within ε of it, each as often as in the preimage; "
            "`own`, the input that it is of, as the paper does."
        ),
    ] = "ball"
    start: Annotated[str | None, typer.Option(help="Begin from this decoder's weights: same sites and sizes.")] = None
    batch: Annotated[int | None, typer.Option(min=1, help="Pairs in a batch.")] = None
    width: Annotated[int | None, typer.Option("--width", "--decoder-width", min=8, help="Width of the decoder.")] = None
    decoder_layers: Annotated[int | None, typer.Option(min=1, help="Layers of the decoder.")] = None
    base: Annotated[
        str | None,
        typer.Option("--decoder-from", help="Build the decoder around this causal LM of the same tokenizer, as --model."),
    ] = None
    lora: Annotated[int | None, typer.Option(min=1, help="Train adapters of this rank in that LM (the default, 16).")] = None
    full: Annotated[bool, typer.Option("--full", help="Train that LM whole.")] = False
    frozen: Annotated[bool, typer.Option("--frozen", help="Leave that LM as it is.")] = False

    def check(self, context: typer.Context) -> None:
        """Refuse options that do not go together.

        Raises:
            SettingError: some are given.
        """
        if self.base is not None:
            unused(context, "the decoder is built around a language model", "width", "decoder_layers")
        if (self.lora is not None) + self.full + self.frozen > (self.base is not None):
            raise SettingError("Give one of --lora, --full and --frozen, and only with --decoder-from.")

    def settings(self, dtype: torch.dtype) -> dict[str, Any]:
        """Return what ``train_study`` and ``train_texts`` are told of it; a causal LM has weights of that type."""
        from inversionview.runs.train import resolved

        settings: dict[str, Any] = {"start": self.start, **given(width=self.width, layers=self.decoder_layers)}
        if self.base is not None:
            tuning = "full" if self.full else "frozen" if self.frozen else "lora"
            settings |= {"base": resolved(self.base), "tuning": tuning, "dtype": dtype, **given(lora=self.lora)}
        return settings


@app.command(
    epilog="Examples: `inversionview train counting --minutes 30 --out runs/counting`; "
    "`inversionview train --model gpt2 --texts sentences.txt --sites 'a*.*,x*.post' --out runs/mine`; heads "
    "that matter: `inversionview train ioi --heads named --out runs/ioi`; only some: "
    "`inversionview train --model gpt2 --texts sentences.txt --heads 9.9,10.0 --inputs 50000 --out runs/heads`; around an LM: "
    "`inversionview train --model gpt2-xl --texts facts.txt --decoder-from gpt2-medium --lora 16 --out runs/facts`; what "
    "precedes every token of a run of texts: `inversionview train runs/corpus --sites x9.post`"
)
@resumable()
def train(
    context: typer.Context,
    *,
    study: Annotated[
        str | None,
        typer.Argument(help="A shipped study, or a run of texts with a bank of every token; leave it out with --texts."),
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Folder of the run; an interrupted run in it goes on.")] = None,
    length: LengthOptions,
    model: Annotated[
        str | None, typer.Option(help="Hugging Face directory, hub name or GGUF file; of a study: another checkpoint.")
    ] = None,
    corpus: CorpusOptions,
    harvest: HarvestOptions,
    decoder: DecoderOptions,
    dtype: Annotated[str, typer.Option(help="Of the weights of the model and of that LM: fp32, bf16 or fp16.")] = "fp32",
    seed: SeedOpt = 0,
    device: DeviceOpt = "auto",
) -> None:
    """Train a decoder: for a shipped study, for your own model on your own texts, or of what precedes every token of a run."""
    out_of = _into(study, to)
    corpus.check(study, model)
    harvest.check(context, study, corpus.texts)
    decoder.check(context)
    if study is not None and not is_study(study):
        check_study(study)
    for name in (model, decoder.base):
        if name is not None:
            check_model_name(name)
    check_sites_of(study if is_study(study) else None, model, [harvest.sites])
    from inversionview.decoder.recipe import TrainConfig, check_target
    from inversionview.decoder.training import make_accelerator

    config = TrainConfig(**length.settings(), target=check_target(decoder.target), seed=seed, **given(batch=decoder.batch))
    where, precision = device_named(device), precision_named(dtype)
    options = {"reading": harvest.reading(where, precision), **decoder.settings(precision)}
    accelerator = make_accelerator(where)
    with _watch(accelerator) as watch:
        made = _trained(study, model, corpus, out_of, config, {**options, "watch": watch}, harvest.max_length)
    if accelerator.is_main_process:
        err.print(f'Decoder in {made.decoder_path}; read with: inversionview read {out_of} "…"', soft_wrap=True)


def _into(study: str | None, to: Path | None) -> Path:
    """Return the folder of the run that is made, or gone on with.

    Raises:
        SettingError: none is named, or a run of texts shall go into another.
    """
    if study is not None and is_run(study):
        from inversionview.runs.train_run import check_run

        check_run(Path(study).expanduser(), to)
        return Path(study)
    if to is None:
        raise SettingError("Say where the run goes, for instance --out runs/mine.")
    return to


def _trained(
    study: str | None,
    model: str | None,
    corpus: CorpusOptions,
    to: Path,
    config: TrainConfig,
    options: dict[str, Any],
    max_length: int,
) -> Study:
    """Train: of a run of texts what precedes, on texts of the user's own, or for a study."""
    from inversionview.runs.train import train_study, train_texts
    from inversionview.runs.train_run import train_run

    if study is not None and is_run(study):
        return train_run(to, config, **options)
    if corpus.texts is not None and model is not None:
        return train_texts(model, corpus.texts, to, config, field=corpus.field, max_length=max_length, **options)
    records = given(facts=corpus.facts, names=_names(corpus.names))
    return train_study(study or "", to, config, model=model, given=records, **options)


@contextmanager
def _watch(accelerator: Accelerator) -> Iterator[Watch]:
    """Yield what shows how a training gets on: one bar at a time, of texts, of the harvest, of the training itself."""
    from inversionview.runs.train import Watch

    quiet = not accelerator.is_main_process
    with ExitStack() as harvesting, ExitStack() as tokenizing, bar("training", 1000, quiet=quiet) as advance:
        harvested = harvesting.enter_context(bar("harvesting", 1000, quiet=quiet))
        tokenized = tokenizing.enter_context(bar("reading texts", 1000, quiet=quiet, logged=True))

        def report(done: float, row: dict[str, Any]) -> None:
            tokenizing.close()
            harvesting.close()
            ratio = f", good ratio {row['good_ratio']:.2f}" if "good_ratio" in row else ""
            advance(int(1000 * done), f"loss {row['loss']:.3f}, {row['pairs_per_second']:,.0f} pairs/s{ratio}")

        def harvest(share: float, note: str) -> None:
            tokenizing.close()
            harvested(int(1000 * share), note)

        def read(share: float, note: str) -> None:
            tokenized(int(1000 * share), note)

        yield Watch(report, harvest, read, accelerator)


def _names(path: Path | None) -> list[str] | None:
    """Return the names in a file: one a line, or the field ``name`` of its records."""
    if path is None:
        return None
    from inversionview.records.texts import read_words

    names = read_words(path, "name")
    if not names:
        raise InputError(f"{path} holds no names: write one a line.")
    return [str(name) for name in names]


@app.command(name="train-probed", epilog="Example: `inversionview train-probed counting --out runs/counting-model`")
def train_probed_command(
    *,
    study: Annotated[str, typer.Argument(help="counting or addition")],
    to: Annotated[Path | None, typer.Option("--out", help="Folder for the model; by default runs/STUDY-model.")] = None,
    inputs: Annotated[int | None, typer.Option(min=1, help="Inputs seen in training; by default the recipe's.")] = None,
    seed: SeedOpt = 0,
    device: DeviceOpt = "auto",
    as_json: JsonOpt = False,
) -> None:
    """Train the probed model of a shipped study from scratch and report its test accuracy."""
    from inversionview.runs.train_probed import train_shipped

    folder = to or Path("runs") / f"{study}-model"
    with bar("training", 1000, quiet=as_json) as advance:
        result = train_shipped(
            study,
            folder,
            inputs=inputs,
            seed=seed,
            device=device_named(device),
            report=lambda share, loss: advance(int(1000 * share), f"loss {loss:.4f}"),
        )
    if as_json:
        print_json({**result, "path": str(folder)})
    else:
        out.print(f"test accuracy {result['accuracy']:.2%} after {result['minutes']:.1f} minutes; model in {folder}")

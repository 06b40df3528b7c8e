"""Make a run: the folder that ``inversionview train`` writes and ``load`` reads.

``study.json``, ``corpus/`` (texts as Arrow), ``bank/`` (activations of a language model, harvested once), ``checkpoints/``,
``metrics.jsonl``, and at the end ``decoder/``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from inversionview.analyses.heads.verb import named_heads
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import MismatchError, SettingError
from inversionview.core.locks import locked
from inversionview.core.progress import Progress
from inversionview.core.storage import read_array, replacing, write_array
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.texts import TextInputs
from inversionview.decoder.training import AfterPool, TrainConfig, train
from inversionview.model.attention import attends_elsewhere
from inversionview.model.probed import PRECISIONS, Precision, ProbedModel
from inversionview.model.sites.patterns import expand, select
from inversionview.model.sites.site import Site
from inversionview.records.texts import read_texts
from inversionview.runs.epsilons import TEXTS, typical_epsilons
from inversionview.studies.banks import build_bank
from inversionview.studies.load import load
from inversionview.studies.naming import is_study
from inversionview.studies.spec import StudySpec, check_model, model_files, read_spec, write_spec
from inversionview.studies.statistics import learn
from inversionview.studies.study import Study

if TYPE_CHECKING:
    from accelerate import Accelerator


NAMED = "named"
"""In place of heads: those that the study knows to matter."""
LM_POOL = 16
"""Batches in a pool of a pretrained decoder, at most: on a CPU minutes pass between checkpoints, not most of an hour."""


@dataclass(frozen=True)
class Reading:
    """What a run reads of the probed model, and how."""

    sites: str | None = None
    """Patterns; by default the study's, or all."""
    layers: str | None = None
    """Only sites of these layers, such as ``12-20,25``."""
    heads: str | None = None
    """Only these heads, such as ``16.3,17.0``; ``"named"``: those that the study knows to matter, ``named_heads``."""
    inputs: int = 20_000
    """How many inputs of the corpus the bank holds."""
    stream: bool | None = None
    """Run the model on fresh inputs all the time, in place of a bank; by default so for counting and addition alone."""
    bank: Path | None = None
    """Read this bank, or that of this run, which holds the sites, in place of making one."""
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    """Of the probed model."""

    @property
    def precision(self) -> Precision:
        """The name of ``dtype``."""
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)

    def chosen(self, default: str | Sequence[str], model: ProbedModel) -> list[str]:
        """Return the sites to read, by their short names.

        Raises:
            UnknownSiteError: there is no such site or layer, or no site is left.
            SettingError: the layers or heads are not written as they should be.
        """
        return [s.short for s in select(expand(self.sites or default, model.sites), self.layers, self.heads)]


@dataclass(frozen=True)
class Watch:
    """Who is told how a run gets on."""

    report: AfterPool | None = None
    """Called after every pool."""
    harvest: Progress | None = None
    """Called while the bank is made, with the share of its inputs that is done and how many these are."""
    texts: Progress | None = None
    """Called while texts are read, with the share of them that is done and how many these are."""
    accelerator: Accelerator | None = None
    """Of Hugging Face Accelerate, for several processes."""

    @property
    def rank(self) -> tuple[int, int]:
        """This process' number, and how many there are."""
        return (0, 1) if self.accelerator is None else (self.accelerator.process_index, self.accelerator.num_processes)

    def alone(self, out: Path) -> AbstractContextManager[None]:
        """Keep other trainings out of a run's folder; of several processes of one training the first does."""
        return locked(out / ".lock", out) if self.rank[0] == 0 else nullcontext()

    def together(self) -> None:
        """Wait for all processes."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()


def train_study(
    study: str,
    out: Path,
    config: TrainConfig,
    *,
    model: str | None = None,
    given: Mapping[str, Any] | None = None,
    reading: Reading = Reading(),
    watch: Watch = Watch(),
    **options: Any,
) -> Study:
    """Train a decoder for a shipped study (or for another checkpoint of its vocabulary) into the run folder ``out``.

    Args:
        study: its name.
        out: the run's folder; an interrupted run in it goes on.
        config: length and recipe; ε and distance become the study's.
        model: another probed model.
        given: options of the inputs: ``names`` of ``ioi``, ``facts`` of ``facts``; see ``load``.
        reading: sites, and where activations come from.
        watch: who is told.
        options: ``start``, ``base`` and ``tuning`` of ``train``, and fields of ``DecoderConfig``.

    Raises:
        UnknownStudyError, UnknownSiteError, WeightsError: there is no such study, site or model.
        InputError, SettingError: the inputs cannot be made of what is given.
        MismatchError: ``out`` holds another run.
        LockedError: another process trains into it.
    """
    if not is_study(study):
        raise SettingError(f"{study} is no study: to go on with a run, give the command that began it.")
    with watch.alone(out):
        return _train_study(study, out, config, model, given or {}, reading, watch, options)


def _train_study(
    study: str,
    out: Path,
    config: TrainConfig,
    model: str | None,
    given: Mapping[str, Any],
    reading: Reading,
    watch: Watch,
    options: dict[str, Any],
) -> Study:
    base = load(study, model=model, device=reading.device, dtype=reading.dtype, **given)
    if reading.heads == NAMED:
        own = any(out.glob("heads-*.json"))  # found in this run, else wherever the study's are
        reading = replace(reading, heads=_named(Study(base.name, base.spec, base.model, out) if own else base))
    chosen = reading.chosen(base.spec.sites, base.model)
    site = base.spec.site if base.spec.site in chosen else chosen[0]
    changed: dict[str, Any] = {"model": resolved(model or ""), "dtype": reading.precision, "sites": chosen, "site": site}
    spec = base.spec.model_copy(update=changed)
    stream = base.definition.streamed if reading.stream is None else reading.stream
    if stream and base.definition.retrieves:
        raise SettingError("Decoders of facts are trained from a bank, where heads do not rest on BOS: leave out --stream.")
    return _train(base.model, base.inputs, spec, out, config, replace(reading, stream=stream), watch, options)


def _named(study: Study) -> str:
    """Return the heads that a study knows to matter, as they are named to ``select``.

    Raises:
        SettingError: it knows none.
    """
    heads = [head.site.removeprefix("a") for head in named_heads(study)]
    if not heads:
        raise SettingError(
            f"No heads of {study.model.name} are known to matter for {study.name}: find them (ioi: `inversionview heads`, "
            "facts: `inversionview recall`) and name them, as in --heads 16.3,17.0."
        )
    return ",".join(dict.fromkeys(heads))


def train_texts(
    model: str,
    texts: str,
    out: Path,
    config: TrainConfig,
    *,
    field: str | None = None,
    max_length: int = 64,
    reading: Reading = Reading(),
    watch: Watch = Watch(),
    **options: Any,
) -> Study:
    """Train a decoder for any causal LM on the user's texts into the run folder ``out``.

    Args:
        model: a Hugging Face directory, a hub name or a GGUF file.
        texts: a text file (one input a line); JSON, CSV, Parquet or Arrow, packed or not; a folder that ``datasets`` saved; or
            a dataset on the hub; see ``read_texts``.
        out: the run's folder; an interrupted run in it goes on.
        config: length and recipe.
        field: where a record has its text, by default ``text``.
        max_length: longer texts are cut there, in tokens with BOS and EOS.
        reading: sites, and where activations come from: a bank holds the END of every text, a stream all positions.
        watch: who is told.
        options: ``start``, ``base`` and ``tuning`` of ``train``, and fields of ``DecoderConfig``.

    Raises:
        InputError: the texts cannot be read, none can be encoded, or they are too few.
        WeightsError, UnknownSiteError: there is no such model or site.
        MismatchError: ``out`` holds another run.
        LockedError: another process trains into it.
    """
    with watch.alone(out):
        unread = watch.rank[0] == 0 and not (out / "corpus" / "state.json").exists()
        if unread and watch.texts is not None:
            watch.texts(0.0, "0 texts")  # loading a model takes a while, too
        return _train_texts(model, texts if unread else None, field, out, config, max_length, reading, watch, options)


def _train_texts(
    model: str,
    texts: str | None,
    field: str | None,
    out: Path,
    config: TrainConfig,
    max_length: int,
    reading: Reading,
    watch: Watch,
    options: dict[str, Any],
) -> Study:
    probed = ProbedModel.from_pretrained(model, device=reading.device, dtype=reading.dtype)
    chosen = reading.chosen("*", probed)
    begun: dict[str, Any] = {"inputs": "texts", "distance": "cosine", "model": resolved(model), "dtype": reading.precision}
    spec = StudySpec(sites=chosen, site=chosen[-1], **begun)
    if (out / "study.json").exists():  # a run that goes on keeps its own
        spec = spec.model_copy(update=read_spec(out).model_dump(include={"distance", "epsilon", "epsilons"}))
    corpus, length = out / "corpus", min(max_length, probed.shape.max_length)
    if texts is not None:
        rows = read_texts(texts, field, report=watch.texts)
        with replacing(corpus) as temporary:
            TextInputs.tokenize(rows, probed.vocabulary, length, folder=temporary, leave_out=True)
    watch.together()
    inputs = TextInputs.load(corpus, probed.vocabulary)
    return _train(probed, inputs, spec, out, config, reading, watch, options)


def _train(
    model: ProbedModel,
    inputs: Inputs,
    spec: StudySpec,
    out: Path,
    config: TrainConfig,
    reading: Reading,
    watch: Watch,
    options: dict[str, Any],
) -> Study:
    spec = spec.model_copy(update={"files": model_files(spec.model)})
    if (out / "study.json").exists():
        was = read_spec(out)
        check_model(was, out)
        was = was.model_copy(update={"files": spec.files})
        changed = [k for k, v in spec.model_dump().items() if was.model_dump()[k] != v]
        if changed:
            told = ", ".join(changed)
            raise MismatchError(f"{out} holds a run with another {told}: go on with that, or choose another --out.")
    study = Study(str(out), spec, model, out)
    learn(study, [spec.distance], [site for site in study.sites if site.single])
    bank = None if reading.stream or reading.bank is None else study.bank(reading.bank)
    if watch.rank[0] == 0:
        write_spec(out, spec)
    config = replace(config, epsilon=spec.epsilon, distance=spec.distance)
    if not reading.stream:
        bank = _harvested(study, reading.inputs, watch) if bank is None else bank
        config = sparing(config, len(spec.sites))
    if study.definition.own_epsilons and not spec.epsilons and watch.rank[0] == 0:
        study.spec = spec.model_copy(update={"epsilons": _epsilons(study, bank)})
        write_spec(out, study.spec)
    watch.together()
    spec = read_spec(out)  # with what the first process has measured
    own = {site.short: spec.epsilons[site.family] for site in study.sites if site.family in spec.epsilons}
    config = replace(config, epsilons=own)
    if options.get("base"):
        config = replace(config, pool=min(config.pool, LM_POOL))
    options = {"width": spec.width, **options}
    if bank is not None and study.definition.retrieves:
        options["telling"] = _telling(model, bank, expand(spec.sites, model.sites), out, watch)
        config = replace(config, rebalance=0.0)  # good ratios are those of all inputs
    train(model, inputs, spec.sites, config, out, bank=bank, report=watch.report, accelerator=watch.accelerator, **options)
    return study


def _harvested(study: Study, rows: int, watch: Watch) -> ActivationBank:
    """Make the run's bank, or what lacks of it; the processes share its shards."""
    assert study.folder is not None
    rank, world = watch.rank
    rows = min(rows, study.inputs.corpus_size or rows)
    build_bank(study, study.folder / "bank", rows=rows, sites=study.spec.sites, rank=rank, world=world, report=watch.harvest)
    watch.together()
    return study.bank(study.folder)


def _epsilons(study: Study, bank: ActivationBank | None) -> Mapping[str, float]:
    """Return an ε for each family of sites, from random texts at their end."""
    inputs, rng = study.inputs, np.random.default_rng(41)

    def activations(site: Site) -> torch.Tensor:
        if bank is not None:
            return bank.activations(site, "END", np.sort(rng.permutation(len(bank))[:TEXTS]))
        tokens = inputs.tokens(rng.permutation(len(inputs))[:TEXTS])
        return study.model.harvest(tokens, [site], inputs.named_positions(tokens)["END"][:, None])[0, :, 0].float().cpu()

    return typical_epsilons(activations, study.sites, partial(study.model.metric, study.spec.distance))


def _telling(model: ProbedModel, bank: ActivationBank, sites: Sequence[Site], out: Path, watch: Watch) -> npt.NDArray[np.bool_]:
    """Return which of a bank's activations tell something, ``[site, row, position]``: not those of heads that rest on BOS.

    Huang et al. 2024, section 3.4. Measured once, by the first process, then kept in the run.
    """
    mark = hashlib.sha256(bank.tokens(np.arange(len(bank))).tobytes())
    mark.update(" ".join([model.fingerprint, *bank.manifest.positions, *(site.short for site in sites)]).encode())
    kept = out / f"telling-{mark.hexdigest()[:16]}.npz"
    if watch.rank[0] == 0 and read_array(kept) is None:
        write_array(kept, _measured_telling(model, bank, sites, watch))
    watch.together()
    told = read_array(kept)
    assert told is not None
    return told


def _measured_telling(model: ProbedModel, bank: ActivationBank, sites: Sequence[Site], watch: Watch) -> npt.NDArray[np.bool_]:
    heads = [number for number, site in enumerate(sites) if site.is_head]
    telling = np.ones((len(sites), len(bank), len(bank.manifest.positions)), dtype=np.bool_)
    for start in range(0, len(bank) if heads else 0, 1024):
        rows = np.arange(start, min(start + 1024, len(bank)))
        tokens = bank.tokens(rows)
        named = bank.inputs.named_positions(tokens)
        at = np.stack([named[name] for name in bank.manifest.positions], axis=1)
        telling[np.ix_(np.array(heads), rows)] = attends_elsewhere(model, tokens, at, [sites[number] for number in heads])
        if watch.harvest is not None:
            done = int(rows[-1]) + 1
            watch.harvest(done / len(bank), f"{done:,} of {len(bank):,} inputs")
    return telling


def sparing(config: TrainConfig, sites: int) -> TrainConfig:
    """Measure the good ratio less often: a language model takes longer for that than a batch takes to train."""
    return replace(config, evaluations=min(config.evaluations, 4), queries=min(config.queries, max(8, 400 // sites)))


def resolved(model: str) -> str:
    """Return the whole path of a model that lies in a folder, a hub name as it is."""
    path = Path(model).expanduser()
    return str(path.resolve()) if model and path.exists() else model

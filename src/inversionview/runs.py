"""Make a run: the folder that ``inversionview train`` writes and ``load`` reads.

``study.json``, ``corpus/`` (texts as Arrow), ``checkpoints/``, ``metrics.jsonl``, and at the end ``decoder/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inversionview.decoder.training import Report, TrainConfig, train
from inversionview.errors import InputError, MismatchError, SettingError
from inversionview.inputs import Inputs, TextInputs
from inversionview.probed import ProbedModel
from inversionview.sites import expand
from inversionview.spec import StudySpec, read_spec, write_spec
from inversionview.storage import replacing
from inversionview.studies import SHIPPED, shipped_inputs
from inversionview.study import Study, load

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_study(
    study: str, out: Path, config: TrainConfig, *, model: str | None = None, sites: str | None = None, device: str = "cpu",
    start: str | None = None, report: Report | None = None, accelerator: Accelerator | None = None, **sizes: Any,
) -> Study:  # fmt: skip
    """Train a decoder for a shipped study (or for another checkpoint of its vocabulary) into the run folder ``out``.

    Raises:
        UnknownStudyError, UnknownSiteError, WeightsError: there is no such study, site or model.
        MismatchError: ``out`` holds another run.
    """
    base = load(study, model=model, device=device)
    if study not in SHIPPED:
        raise SettingError(f"{study} is a run: train it anew with the command that began it, or name a shipped study.")
    chosen = [s.short for s in expand(sites or base.spec.sites, base.model.sites)]
    site = base.spec.site if base.spec.site in chosen else chosen[0]
    spec = base.spec.model_copy(update={"model": _absolute(model or ""), "sites": chosen, "site": site})
    return _train(base.model, shipped_inputs(study), spec, out, config, {"start": start, **sizes}, report, accelerator)


def train_texts(
    model: str, texts: str, out: Path, config: TrainConfig, *, sites: str = "*", max_length: int = 64, device: str = "cpu",
    start: str | None = None, report: Report | None = None, accelerator: Accelerator | None = None, **sizes: Any,
) -> Study:  # fmt: skip
    """Train a decoder for any causal LM on the user's texts into the run folder ``out``.

    Args:
        model: a Hugging Face directory, a hub name or a GGUF file.
        texts: a text file (one input a line), a JSON-lines file with a ``text`` field, or a dataset on the hub.
        out: the run's folder; an interrupted run in it goes on.
        config: length and recipe.
        sites: patterns.
        max_length: longer texts are cut there, in tokens with BOS and EOS.
        device: where to run.
        report: called after every pool.
        accelerator: of Hugging Face Accelerate.
        sizes: fields of ``DecoderConfig``.

    Raises:
        InputError: the texts cannot be read, are empty or too few.
        WeightsError, UnknownSiteError: there is no such model or site.
        MismatchError: ``out`` holds another run.
    """
    probed = ProbedModel.from_pretrained(model, device=device)
    chosen = [s.short for s in expand(sites, probed.sites)]
    spec = StudySpec(inputs="texts", model=_absolute(model), sites=chosen, site=chosen[-1])
    corpus, length = out / "corpus", min(max_length, probed.shape.max_length)
    if not (corpus / "state.json").exists():
        rows = list(read_texts(texts))
        with replacing(corpus) as temporary:
            TextInputs.tokenize(rows, probed.vocabulary, length, folder=temporary)
        inputs = TextInputs.load(corpus, probed.vocabulary)
    return _train(probed, inputs, spec, out, config, {"start": start, **sizes}, report, accelerator)


def _train(
    model: ProbedModel, inputs: Inputs, spec: StudySpec, out: Path, config: TrainConfig, options: dict[str, Any],
    report: Report | None, accelerator: Accelerator | None,
) -> Study:  # fmt: skip
    if (out / "study.json").exists() and (was := read_spec(out)) != spec:
        changed = [k for k, v in spec.model_dump().items() if was.model_dump()[k] != v]
        raise MismatchError(f"{out} holds a run with another {', '.join(changed)}: go on with that, or choose another --out.")
    if accelerator is None or accelerator.is_main_process:
        write_spec(out, spec)
    options = {"width": spec.width, **options}
    train(model, inputs, spec.sites, config, out, report=report, accelerator=accelerator, **options)
    return Study(str(out), spec, model, out)


def _absolute(model: str) -> str:
    path = Path(model).expanduser()
    return str(path.resolve()) if model and path.exists() else model


def read_texts(source: str, limit: int = 2_000_000) -> Iterator[str]:
    """Yield the texts of a ``.txt`` file (one a line), a ``.jsonl`` file (field ``text``) or a hub dataset's train split.

    Raises:
        InputError: the source is missing or not of that form.
    """
    path = Path(source).expanduser()
    if path.is_file():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text ({error.reason}): convert it first.") from error
        if path.suffix == ".jsonl":
            yield from (_text_of(line, path, i) for i, line in enumerate(lines, 1) if line.strip())
        else:
            yield from lines
        return
    if path.suffix in (".txt", ".jsonl") or source.startswith((".", "/", "~")):
        raise InputError(f"There is no file {source}: give a .txt file, a .jsonl file with a text field, or a hub dataset.")
    from datasets import load_dataset

    try:
        rows = load_dataset(source, split="train", streaming=True)
        yield from (row["text"] for row in islice(rows, limit))
    except Exception as error:  # the hub's errors share no base
        raise InputError(
            f"The dataset {source} cannot be read ({type(error).__name__}): is the name right, has it a train split with a "
            "text column, is there a network?"
        ) from error


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        return str(json.loads(line)["text"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"Line {number} of {path} is not a JSON object with a text field.") from error

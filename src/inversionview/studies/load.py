"""Loads a study by its name, a run by its folder, or a model alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from inversionview.core.errors import InputError, SettingError, UnknownStudyError, WeightsError
from inversionview.core.progress import Progress
from inversionview.core.scope import Distance
from inversionview.core.storage import replacing
from inversionview.corpora.natural import TextSource, opened
from inversionview.corpora.texts import begun_before
from inversionview.corpora.windows import WindowInputs
from inversionview.model.probed import PRECISIONS, ProbedModel
from inversionview.model.sites.patterns import expand
from inversionview.model.tokens import Vocabulary
from inversionview.studies.definition import Definition
from inversionview.studies.naming import STUDIES
from inversionview.studies.registry import default_model_called, defined, stated
from inversionview.studies.shipped import check_shipped, shipped_path
from inversionview.studies.spec import StudySpec, check_model, model_files, write_spec
from inversionview.studies.study import Study
from inversionview.studies.texts_and_models import options_of

DISTANCE: Distance = "cosine-normed"
"""Of language models, where nobody names another; ``docs/distance.md`` says why."""


def load(
    name: str | Path | None = None,
    *,
    model: Any = None,
    tokenizer: Any = None,
    texts: str | Path | TextSource | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    report: Progress | None = None,
    **options: Any,
) -> Study:
    """Load a study by its name, a run by its folder, or a model: with natural text, or alone, which is read by walks.

    Args:
        name: ``"counting"``, ``"addition"``, ``"ioi"``, ``"facts"`` or the folder of a run; ``None`` for a model alone.
        model: of ``counting`` and ``addition`` another checkpoint of the same vocabulary; of ``ioi`` and ``facts`` any language
            model, by default SmolLM2-135M; alone any causal LM, by the cosine under the norm that reads the stream. A folder,
            hub name or GGUF file, or a model that is in memory already; see ``ProbedModel.wrap``.
        tokenizer: of a model in memory, where it has none beside it.
        texts: with a model and no study: natural text, every token of which can be found; see ``TextSource``.
        device: where to run; one in memory stays where it is, and as it is.
        dtype: of the weights; by default the run's, else float32.
        report: called with the share of the texts that was read, where they are cut into windows for the first time.
        options: of a language model's study, for its inputs: ``names`` of ``ioi``; ``facts`` of ``facts``, a
            file of the user's own, of COUNTERFACT, or a folder of BEAR.

    Raises:
        UnknownStudyError: there is neither a study nor a run of that name.
        WeightsError: the model cannot be loaded, or its vocabulary is another.
        InputError: the model's tokenizer, or an option, does not do for the study.
        SettingError: options are given to a study that has none.
    """
    if name is None:
        if model is None:
            raise UnknownStudyError(f"Name a study ({', '.join(STUDIES)}), the folder of a run, or a model.")
        probed = _opened(model, tokenizer, device, dtype or torch.float32)
        return _alone(probed, probed.name) if texts is None else on_texts(probed, probed.name, texts, report)
    if texts is not None:
        raise SettingError(f"Texts are read with a model alone, and {name} has inputs of its own: leave out one of the two.")
    text = str(name)
    spec, run = stated(name)
    if run is not None and model is None:
        check_model(spec, run)
    definition = defined(spec.inputs)
    if options and not definition.options:
        raise SettingError(f"The inputs of {text} have no options: leave out {', '.join(options)}.")
    named = spec.model if model is None else model
    probed = _probed(definition, named, tokenizer, device, dtype or PRECISIONS[spec.dtype])
    spec = spec.model_copy(
        update={"options": {**spec.options, **definition.kept_options(options)}, "site": spec.site or _last(spec, probed)}
    )
    if run is not None and begun_before(run, probed.vocabulary):
        probed.vocabulary.begin(probed.vocabulary.former or 0)
    study = Study(text, spec, probed, run)
    if definition.any_model:
        _check_length(study)
    return study


def _check_length(study: Study) -> None:
    """Raise ``InputError`` where inputs do not do for this model; else that would be told later."""
    longest, most = study.inputs.max_length, study.model.shape.max_length
    if longest > most:
        raise InputError(
            f"The longest input of {study.name} has {longest} tokens, the model reads {most}: leave long ones out."
        )


def _place(model: ProbedModel) -> str:
    """Return where a model lies, as its study states it; nowhere, if it is in memory."""
    return "" if model.in_memory else model.name


def _alone(model: ProbedModel, name: str) -> Study:
    """Return a model alone, every site of which is read by walks."""
    every = [site.short for site in model.sites]
    return Study(name, StudySpec(inputs="none", model=_place(model), sites=every, site=every[-1], distance=DISTANCE), model)


def on_texts(model: ProbedModel, name: str, texts: str | Path | TextSource, report: Progress | None = None) -> Study:
    """Return a model with natural text, every token of which can be found; cosine under the next norm, ε = 0.1."""
    source = texts if isinstance(texts, TextSource) else TextSource(str(texts))
    windows = opened(source, model, report)
    every = [site.short for site in model.sites]
    spec = StudySpec(
        inputs="windows", options=options_of(source), model=_place(model), sites=every, site=every[-1], distance=DISTANCE
    )
    made = Study(name, spec, model)
    made.inputs = windows  # as its definition would open them
    return made


def _opened(model: Any, tokenizer: Any, device: str, dtype: torch.dtype, vocabulary: Vocabulary | None = None) -> ProbedModel:
    """Return a model that is named, or one in memory."""
    if isinstance(model, ProbedModel):
        return model
    if not isinstance(model, str | Path):
        return ProbedModel.wrap(model, vocabulary if tokenizer is None else tokenizer)
    if tokenizer is not None:
        raise SettingError(f"The tokenizer of {model} lies beside it: give one with a model in memory alone.")
    return ProbedModel.from_pretrained(model, device=device, dtype=dtype, vocabulary=vocabulary)


def _probed(definition: Definition, model: Any, tokenizer: Any, device: str, dtype: torch.dtype) -> ProbedModel:
    """Return the probed model of a study: the one that is named or given, else the study's default."""
    default = isinstance(model, str) and not model
    if definition.ships_model and default:
        check_shipped(f"{definition.name}/model")
    shipped = Vocabulary.from_folder(shipped_path(definition.name, "model")) if definition.ships_model else None
    where = definition.default_model() if default else model
    probed = _opened(where, tokenizer, device, dtype, shipped)
    if default:
        probed.name = definition.default_name
    if definition.ships_model:
        check_vocabulary(probed, definition)
    return probed


def _last(spec: StudySpec, model: ProbedModel) -> str:
    return expand(spec.sites, model.sites)[-1].short


def check_vocabulary(model: ProbedModel, definition: Definition) -> None:
    """Raise ``WeightsError`` unless the model has the vocabulary of a study that ships one, in its order."""
    wanted = definition.inputs(model, {})
    if model.vocabulary.tokens[: wanted.pad + 1] != wanted.vocabulary or model.shape.max_length < wanted.max_length:
        raise WeightsError(
            f"{model.name} is not a model of the {definition.name} study: its vocabulary must be "
            f"{''.join(wanted.vocabulary)}, in this order, and it must read {wanted.max_length} tokens."
        )


def keep(study: Study, folder: Path) -> None:
    """Write ``study.json`` into a run's folder that has none, so that ``load`` reads it as this study; its windows, too.

    Raises:
        WeightsError: its model lies nowhere.
    """
    if (folder / "study.json").exists():
        return
    if study.model.in_memory:
        raise WeightsError(
            f"{study.model.name} is in memory alone: save it (save_pretrained) and load it from there to keep a run."
        )
    path = study.spec.model or ("" if default_model_called(study.model.name) else str(study.model_path.resolve()))
    here = Path(path).expanduser()
    path = str(here.resolve()) if path and here.exists() else path
    if isinstance(study.inputs, WindowInputs) and study.inputs.folder is not None and not (folder / "corpus").exists():
        with replacing(folder / "corpus") as temporary:
            shutil.copytree(study.inputs.folder, temporary)
    write_spec(folder, study.spec.model_copy(update={"model": path, "files": model_files(path)}))

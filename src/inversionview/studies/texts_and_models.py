"""What is read without a study's name: a run on the user's own texts, natural text with any model, and a model alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from inversionview.core.errors import InputError, WeightsError
from inversionview.corpora.natural import TextSource, opened
from inversionview.corpora.texts import TextInputs
from inversionview.corpora.windows import WindowInputs
from inversionview.model.probed import ProbedModel
from inversionview.studies.definition import Definition, Options


def _kept_texts(model: ProbedModel, options: Options, run: Path | None) -> TextInputs:
    """Open the Arrow corpus of a run, memory-mapped."""
    corpus = (run or Path()) / "corpus"
    inputs = TextInputs.load(corpus, model.vocabulary)
    if inputs.max_length > model.shape.max_length:
        raise InputError(f"The corpus in {corpus} holds longer texts than {model.name} reads: train the run again.")
    return inputs


def _windows(model: ProbedModel, options: Options, run: Path | None) -> WindowInputs:
    """Open the windows of natural text that a run keeps, or those in the user's cache; they are made where there are none."""
    return opened(source_of(options), model, folder=run / "corpus" if run else None)


def source_of(options: Options) -> TextSource:
    """Return which texts options of a study name."""
    numbers = {name: int(options[name]) for name in ("context", "tokens") if name in options}
    return TextSource(**{**options, **numbers})


def options_of(source: TextSource) -> dict[str, str | list[str]]:
    """Return a source as a study's options state it."""
    return {name: str(value) for name, value in asdict(source).items() if value is not None}


def _no_model() -> Path:
    raise WeightsError("A run on texts is read with the model that its study.json names, and it names none: give --model.")


TEXTS = Definition(name="texts", written=_kept_texts, default_model=_no_model, positions=False, moves=False, own_epsilons=True)
"""A run on texts: its ``corpus`` folder."""
WINDOWS = Definition(
    name="windows",
    written=_windows,
    options=("texts", "field", "per", "context", "tokens"),
    default_model=_no_model,
    positions=False,
    moves=False,
    read_by=("corpus", "walk"),
)
"""Natural text, of which every token can be found."""
ALONE = Definition(name="none", default_model=_no_model, positions=False, moves=False)
"""A model alone."""

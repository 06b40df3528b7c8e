"""What is read without a study's name: a run on the user's own texts, and a model alone."""

from __future__ import annotations

from pathlib import Path

from inversionview.core.errors import InputError, WeightsError
from inversionview.corpora.texts import TextInputs
from inversionview.model.probed import ProbedModel
from inversionview.studies.definition import Definition, Options


def _kept_texts(model: ProbedModel, options: Options, run: Path | None) -> TextInputs:
    """Open the Arrow corpus of a run, memory-mapped."""
    corpus = (run or Path()) / "corpus"
    inputs = TextInputs.load(corpus, model.vocabulary)
    if inputs.max_length > model.shape.max_length:
        raise InputError(f"The corpus in {corpus} holds longer texts than {model.name} reads: train the run again.")
    return inputs


def _no_model() -> Path:
    raise WeightsError("A run on texts is read with the model that its study.json names, and it names none: give --model.")


TEXTS = Definition(name="texts", written=_kept_texts, default_model=_no_model, positions=False, moves=False, own_epsilons=True)
"""A run on texts: its ``corpus`` folder."""
ALONE = Definition(name="none", default_model=_no_model, positions=False, moves=False)
"""A model alone."""

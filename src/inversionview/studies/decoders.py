"""Where the decoder lies that a study or a run is read with."""

from __future__ import annotations

from pathlib import Path

from inversionview.core.errors import MismatchError, SettingError, WeightsError
from inversionview.core.storage import recover
from inversionview.decoder.decoder import Decoder
from inversionview.model.probed import ProbedModel
from inversionview.studies.registry import defined
from inversionview.studies.shipped import shipped_path


def decoder_path(inputs: str, run: Path | None) -> Path:
    """Return where the decoder lies, or would, that a study or run reads with.

    A run of a shipped study with a bank but no training reads with the shipped one.

    Args:
        inputs: which the study has, as ``StudySpec.inputs``.
        run: its folder.
    """
    shipped = shipped_path(inputs, "decoder")
    if run is None:
        return shipped
    recover(run / "decoder")
    begun = any((run / part).exists() for part in ("decoder", "checkpoints"))
    banked = defined(inputs).spec is not None and (run / "bank").exists()
    return shipped if banked and not begun else run / "decoder"


def trained_decoder(name: str, inputs: str, run: Path | None) -> Path:
    """Return what ``decoder_path`` does, if a decoder is there; ``name`` is the study's, or the run's folder as it was given.

    Raises:
        WeightsError: there is none.
    """
    path = decoder_path(inputs, run)
    if not (path / "config.json").exists():
        what = f"--model {name} --texts FILE" if inputs == "windows" else name
        missing = (
            f"{name} has no trained decoder in {path}: run `inversionview train` to its end first"
            if run is not None
            else f"No decoder comes with {name}: train one, `inversionview train {what} --out RUN`, and read RUN"
        )
        raise WeightsError(f"{missing}; or read without one: --source walk, --source corpus.")
    return path


def opened_decoder(name: str, inputs: str, run: Path | None, model: ProbedModel) -> Decoder:
    """Return the decoder that a study or run reads with.

    Raises:
        WeightsError: there is none, or it is damaged.
        MismatchError: it was trained for another probed model.
    """
    path = trained_decoder(name, inputs, run)
    decoder = Decoder.from_pretrained(path).to(model.device).eval()
    if decoder.config.unread != (model.vocabulary.bos is None):
        trained, read = ("without", "with") if decoder.config.unread else ("with", "without")
        raise MismatchError(
            f"The decoder in {path} was trained on texts {trained} a BOS, but {name} runs them {read} one: train one "
            "with `inversionview train`."
        )
    if decoder.config.fingerprint != model.fingerprint:
        raise MismatchError(
            f"The decoder in {path} was trained for another probed model ({decoder.config.model}) than {model.name}"
            ": train one for this model with `inversionview train`, or leave --model out."
        )
    return decoder.speak(model.vocabulary)


def check_whole(decoder: Decoder, command: str) -> None:
    """Raise ``SettingError`` if a decoder writes what precedes tokens: there is no list of texts to hold it against."""
    if decoder.config.prefix:
        raise SettingError(
            f"The decoder writes what precedes tokens of natural text, and {command} needs a list of whole inputs: ask for its "
            "good ratio, `inversionview evaluate`."
        )

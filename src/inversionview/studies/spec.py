"""What a study states in ``study.json``: where its inputs and model come from, which sites are read, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from inversionview.core.errors import UnknownStudyError, WeightsError
from inversionview.core.integrity import KEY, changed, digests, file_digest, read_sealed, reason, sealed
from inversionview.core.scope import Distance
from inversionview.core.storage import write_json
from inversionview.model.probed import Precision
from inversionview.studies.naming import STUDIES


class StudySpec(BaseModel):
    """What ``study.json`` of a run holds."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    inputs: str
    """Of which study; ``texts``, the run's own ``corpus`` folder; ``windows`` of natural text; ``none``, a model alone. See
    ``studies.registry``."""
    options: dict[str, str | list[str]] = {}
    """Of the inputs, by name; see ``studies.definition``."""
    model: str = ""
    """Path or hub name of the probed model; empty for the shipped one, of a language model's study for SmolLM2-135M."""
    dtype: Precision = "fp32"
    """Of the model's weights."""
    files: dict[str, str] = {}
    """Checksums of the model's files, by name, where it is a local one: a run is of the model that it was made with."""
    sites: list[str]
    text: str = ""
    """An input to begin with, where one is worth showing."""
    at: str = "END"
    """The position that is read when none is named."""
    site: str
    """The site that is read when none is named."""
    distance: Distance = "euclidean"
    epsilon: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    epsilons: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    """By family of site (``residual``, ``head``, ``mlp``) the ε of a reading there, from the run's own texts; see
    ``runs.epsilons``. Elsewhere, and where many sites are compared, it is ``epsilon``."""
    rows: int = Field(default=200_000, ge=1)
    """Inputs of the bank that the first search builds."""
    width: int = Field(default=96, ge=1)
    """Width of the decoder that is trained unless another is asked for."""

    @property
    def example(self) -> str:
        """An activation of this study, for errors that say how one is named."""
        return f"{self.at}:{self.site}"

    @field_validator("inputs")
    @classmethod
    def _known(cls, inputs: str) -> str:
        if inputs not in (known := (*STUDIES, "texts", "windows", "none")):
            raise ValueError(f"there are only {', '.join(known)}")
        return inputs

    @field_validator("options")
    @classmethod
    def _typed(cls, options: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        if not isinstance(options.get("names", []), list) or not isinstance(options.get("facts", ""), str):
            raise ValueError("names are a list, facts a path")
        return options

    @field_validator("sites")
    @classmethod
    def _some(cls, names: list[str]) -> list[str]:
        if not names:
            raise ValueError("there must be at least one")
        return names


def read_spec(folder: Path) -> StudySpec:
    """Read a run's ``study.json``.

    Raises:
        UnknownStudyError: it is damaged.
    """
    path = folder / "study.json"
    try:
        return StudySpec.model_validate(read_sealed(path))
    except (OSError, ValueError) as error:
        raise UnknownStudyError(f"{path} is damaged ({reason(error)}): mend it, or make the run again.") from error


_FILES = (".json", ".model", ".txt", ".safetensors", ".bin", ".gguf")
"""Of a model's folder: its configuration, tokenizer and weights."""


def model_files(model: str) -> dict[str, str]:
    """Return the checksums of a model's files, by name; none of one on the hub.

    Raises:
        WeightsError: one cannot be read.
    """
    path = Path(model).expanduser()
    try:
        if path.is_file():
            return {path.name: file_digest(path)}
        kinds = [kind for kind in _FILES if kind != ".bin" or not any(path.glob("*.safetensors"))]
        return digests(path, kinds) if model and path.is_dir() else {}
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({reason(error)}): copy the model again.") from error


def check_model(spec: StudySpec, folder: Path) -> None:
    """Hold the files of a run's model against those that the run in ``folder`` was made with.

    Raises:
        WeightsError: one is another, or missing.
    """
    path = Path(spec.model).expanduser()
    if not path.exists():  # which is told by whoever loads it
        return
    own = path.parent if path.is_file() else path
    if wrong := changed(own, spec.files):
        raise WeightsError(
            f"{own / wrong[0]} is damaged, or not what the run {folder} was made with (its checksum is another): bring it "
            f'back; or, if it was changed on purpose, delete "{KEY}" and all of "files" from {folder / "study.json"}.'
        )


def write_spec(folder: Path, spec: StudySpec) -> None:
    """Write a run's ``study.json``."""
    write_json(folder / "study.json", sealed(spec.model_dump()))

"""What a study states in ``study.json``: where its inputs and model come from, which sites are read, and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from inversionview.distances import Distance
from inversionview.errors import UnknownStudyError
from inversionview.probed import Precision
from inversionview.storage import write_json


class StudySpec(BaseModel):
    """What ``study.json`` of a run holds."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    inputs: str
    """``counting``, ``addition``, ``ioi``, ``facts``; ``texts``, the run's own ``corpus`` folder; ``none``, a model alone."""
    options: dict[str, Any] = {}
    """Of the inputs, by name; see ``studies.language_inputs``."""
    model: str = ""
    """Path or hub name of the probed model; empty for the shipped one, of a language model's study for SmolLM2-135M."""
    dtype: Precision = "fp32"
    """Of the model's weights."""
    sites: list[str]
    text: str = ""
    """An input to begin with, where one is worth showing."""
    at: str = "END"
    """The position that is read when none is named."""
    site: str
    """The site that is read when none is named."""
    distance: Distance = "euclidean"
    epsilon: float = 0.1
    rows: int = 200_000
    """Inputs of the bank that the first search builds."""
    width: int = 96
    """Width of the decoder that is trained unless another is asked for."""

    @property
    def pool(self) -> Literal["auto", "facts"]:
        """Settings under which the decoder's candidates are drawn unless others are asked for; see ``preimage.sampled``."""
        return "facts" if self.inputs == "facts" else "auto"


SPECS = {
    "counting": StudySpec(
        inputs="counting",
        sites=["x0.pre", "a0.0", "x0.mid", "m0", "x0.post", "a1.0", "x1.mid", "m1", "x1.post"],
        text="vvzccvczvvvzvcvc|v:8",
        at=":",
        site="a1.0",
        width=64,
    ),
    "addition": StudySpec(
        inputs="addition", sites=["x0.pre", "a*.*", "x*.mid", "x*.post"], text="615+861=1476", at="=", site="a0.0"
    ),
    "ioi": StudySpec(
        inputs="ioi",
        sites=["a*.*"],
        text="When Mary and John went to the store, John gave a drink to",
        at="END",
        site="",
        distance="cosine",
        rows=20_000,
    ),
    "facts": StudySpec(
        inputs="facts",
        sites=["a*.*"],
        text="The capital of France is",
        at="END",
        site="",
        distance="cosine",
        epsilon=0.25,
        rows=20_000,
    ),
}
"""The studies of Huang et al. 2024: sites of sections 3.1 and 3.3; distances of 3.2 and 3.4, and ε of 3.4.

No site: the model's last of these.
"""


def read_spec(folder: Path) -> StudySpec:
    """Read a run's ``study.json``.

    Raises:
        UnknownStudyError: it is damaged.
    """
    try:
        return StudySpec.model_validate(json.loads((folder / "study.json").read_text()))
    except (OSError, ValueError, ValidationError) as error:
        raise UnknownStudyError(f"{folder / 'study.json'} is damaged ({type(error).__name__}): train the run again.") from error


def write_spec(folder: Path, spec: StudySpec) -> None:
    """Write a run's ``study.json``."""
    write_json(folder / "study.json", spec.model_dump())

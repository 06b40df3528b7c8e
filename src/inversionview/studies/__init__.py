"""The shipped studies: their inputs, and where their files lie."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from inversionview.inputs import Inputs
from inversionview.studies.addition import AdditionInputs
from inversionview.studies.counting import CountingInputs

SHIPPED = ("counting", "addition")


@cache
def shipped_inputs(study: str) -> Inputs:
    """Return the inputs of a shipped study."""
    return CountingInputs() if study == "counting" else AdditionInputs()


def shipped_path(study: str, part: Literal["model", "decoder"]) -> Path:
    """Return the folder of a shipped study's probed model or decoder."""
    return Path(__file__).parent / "files" / study / part

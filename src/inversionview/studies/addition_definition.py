"""What the study of addition is."""

from __future__ import annotations

from functools import cache, partial

from inversionview.spec import StudySpec
from inversionview.studies.addition import AdditionInputs
from inversionview.studies.definition import Definition
from inversionview.studies.shipped import shipped_path

DEFINITION = Definition(
    name="addition",
    spec=StudySpec(
        inputs="addition",
        sites=["x0.pre", "a*.*", "x*.mid", "x*.post"],
        text="615+861=1476",
        at="=",
        site="a0.0",
    ),
    own=cache(AdditionInputs),
    default_name="addition",
    default_model=partial(shipped_path, "addition", "model"),
    streamed=True,
)
"""Sites of Huang et al. 2024, section 3.3."""

"""What the study of addition is."""

from __future__ import annotations

from functools import cache, partial

from inversionview.studies.addition.corpus import AdditionInputs
from inversionview.studies.definition import Definition
from inversionview.studies.shipped import shipped_path
from inversionview.studies.spec import StudySpec

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

"""What the study of counting is."""

from __future__ import annotations

from functools import cache, partial

from inversionview.studies.counting.corpus import CountingInputs
from inversionview.studies.definition import Definition
from inversionview.studies.shipped import shipped_path
from inversionview.studies.spec import StudySpec

DEFINITION = Definition(
    name="counting",
    spec=StudySpec(
        inputs="counting",
        sites=["x0.pre", "a0.0", "x0.mid", "m0", "x0.post", "a1.0", "x1.mid", "m1", "x1.post"],
        text="vvzccvczvvvzvcvc|v:8",
        at=":",
        site="a1.0",
        width=64,
    ),
    own=cache(CountingInputs),
    default_name="counting",
    default_model=partial(shipped_path, "counting", "model"),
    streamed=True,
)
"""Sites of Huang et al. 2024, section 3.1."""

"""What the study of indirect object identification is."""

from __future__ import annotations

from pathlib import Path

from inversionview.model.backend import Shape
from inversionview.model.probed import ProbedModel
from inversionview.studies.definition import Definition, Options, PublishedHeads
from inversionview.studies.ioi.corpus import IOIInputs
from inversionview.studies.spec import StudySpec

PUBLISHED = PublishedHeads(
    Shape((12,) * 12, 768, 50257, 1024),
    {
        "name mover": "9.9 10.0 9.6 9.0 9.7 10.1 10.2 10.6 10.10 11.2 11.9",
        "negative name mover": "10.7 11.10",
        "S-inhibition": "7.3 7.9 8.6 8.10",
        "induction": "5.5 5.8 5.9 6.9",
        "duplicate token": "0.1 0.10 3.0",
        "previous token": "2.2 4.11",
    },
)
"""The 26 heads of GPT-2 small (Wang et al. 2022, Fig. 2; Huang et al. 2024, Table 2); from 9.0 on, backup name movers."""


def _written(model: ProbedModel, options: Options, run: Path | None) -> IOIInputs:
    return IOIInputs(model.vocabulary, **options)


DEFINITION = Definition(
    name="ioi",
    spec=StudySpec(
        inputs="ioi",
        sites=["a*.*"],
        text="When Mary and John went to the store, John gave a drink to",
        at="END",
        site="",
        distance="cosine",
        rows=20_000,
    ),
    written=_written,
    options=("names",),
    published=PUBLISHED,
)
"""Distance of Huang et al. 2024, section 3.2. No site: the model's last of these."""

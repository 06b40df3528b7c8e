"""What the study of factual recall is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inversionview.model.probed import ProbedModel
from inversionview.studies.definition import Definition, Options
from inversionview.studies.facts.corpus import FactsInputs
from inversionview.studies.facts.known import kept_known
from inversionview.studies.spec import StudySpec


def _written(model: ProbedModel, options: Options, run: Path | None) -> FactsInputs:
    inputs = FactsInputs(model.vocabulary, **options)
    inputs.known = kept_known(model, inputs)
    return inputs


def _kept(options: Options) -> dict[str, Any]:
    """Make the path of a file of facts absolute."""
    facts = options.get("facts")
    return {**options, "facts": str(Path(facts).expanduser().resolve())} if facts is not None else dict(options)


DEFINITION = Definition(
    name="facts",
    spec=StudySpec(
        inputs="facts",
        sites=["a*.*"],
        text="The capital of France is",
        at="END",
        site="",
        distance="cosine",
        epsilon=0.25,
        rows=20_000,
    ),
    written=_written,
    options=("facts",),
    kept_options=_kept,
    pool="facts",
    retrieves=True,
)
"""Distance and ε of Huang et al. 2024, section 3.4. No site: the model's last of these."""

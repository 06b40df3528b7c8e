"""What requests may say: the parameters of the API's routes, with their bounds and what OpenAPI says of them.

Annotations are values here, not strings: FastAPI looks the fields of ``ReadOptions`` up where it is given the class alone.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from fastapi import Path as PathParameter
from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from inversionview.core.scope import Distance
from inversionview.explorer.answers.readings import told
from inversionview.sources.registry import ALL, names, one_of

StudyId = Annotated[str, PathParameter(max_length=200, description="A study.", examples=["addition"])]
Text = Annotated[
    str, Query(min_length=1, max_length=4000, description="The input, without or with BOS and EOS.", examples=["615+861=1476"])
]
At = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=200,
        description="A token, a named position or an index as #8; by default the study's.",
        examples=["="],
    ),
]
SiteName = Annotated[
    str | None,
    Query(
        max_length=1000,
        description="x0.post, a0.3, n1.17, x1.post|sae:addition#27, …, or the TransformerLens or LaTeX name; by "
        "default the study's.",
    ),
]
Epsilon = Annotated[
    float | None, Query(gt=0, le=1e6, allow_inf_nan=False, description="Threshold of the preimage; by default the study's.")
]
DistanceName = Annotated[Distance | None, Query(description="By default the study's.")]
Seed = Annotated[int, Query(ge=0, lt=2**31, description="The same seed gives the same result.")]


def _known(name: str) -> str:
    """Return the name of a source, or of all; what pydantic says of a value that is none of a few, where it is neither."""
    some = [*names(), ALL]
    if name not in some:
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": one_of([*map(repr, some)])})
    return name


_Source = Annotated[str, AfterValidator(_known), WithJsonSchema({"enum": [*names(), ALL], "type": "string"})]
SourceName = Annotated[_Source | None, Query(description="What makes it; by default the first that can.")]


@dataclass(frozen=True)
class ReadOptions:
    """How an activation is read."""

    source: SourceName = None
    epsilon: Epsilon = None
    distance: DistanceName = None
    count: Annotated[int, Query(ge=1, le=2000, description="Samples at most.")] = 100
    seed: Seed = 0
    temperature: Annotated[float | None, Query(gt=0, le=100, description="Of the decoder; by default a pool of several.")] = (
        None
    )
    noise: Annotated[float, Query(ge=0, le=10, description="On the activation, in units of std(z).")] = 0.0
    fixed: Annotated[str | None, Query(min_length=1, max_length=200, description="Compare this position only.")] = None
    seconds: Annotated[float, Query(gt=0, le=60, description="How long a walk goes.")] = 5.0

    @property
    def told(self) -> dict[str, Any]:
        """What sources are told of their own options."""
        return told(self.temperature, self.noise, self.seconds)


def _client(
    request: Request,
    x_client: Annotated[str, Header(max_length=100, description="Who asks, where several share an address.")] = "",
) -> str:
    return f"{request.client.host if request.client else ''} {x_client}"


Client = Annotated[str, Depends(_client)]

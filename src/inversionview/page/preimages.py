"""A preimage as JSON: one pydantic model for every value in it, ``Preimage`` being exactly ``Preimage.to_json()``."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from inversionview.core.scope import Distance

SOURCES = ("decoder", "corpus", "walk")
"""What makes samples, as pages know it: the names of ``sources.registry``, which are not asked for here."""
Source = Annotated[str, WithJsonSchema({"type": "string", "enum": [*SOURCES]})]
"""What made samples."""
SourceOrAll = Annotated[str, WithJsonSchema({"type": "string", "enum": [*SOURCES, "all"]})]
"""The same, of several that were merged ``all``."""


class Model(BaseModel):
    """Any of these values."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), ser_json_inf_nan="null")

    def json_bytes(self) -> bytes:
        """Return JSON in UTF-8; what was left out stays out, and a number that is none is null."""
        return self.model_dump_json(exclude_unset=True).encode()

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values."""
        return dict(json.loads(self.json_bytes()))


class Asked(Model):
    """The query of a preimage: `Query.to_json()`."""

    text: str
    tokens: list[str]
    ids: list[int] = Field(default=[], description="Of the tokens.")
    position: int
    site: str
    value: float | None = Field(default=None, description="Of one number: p_q.")
    model: str
    attention: list[float] | None = Field(default=None, description="Weight of each token, where the site is a head.")
    bos: bool = Field(default=True, description="The first token is BOS, not the first of the text.")
    vector: str = Field(default="", description="Where a vector came from whose input is not known: then there are no tokens.")


class Sample(Model):
    """One input that was run through the probed model and measured."""

    tokens: list[str]
    text: str
    distance: float = Field(description="D(z_q, x).")
    position: int = Field(description="Where it is reached.")
    inside: bool = Field(description="D ≤ ε.")
    token_distances: list[float | None] = Field(description="Of every token's activation; null where D may not be reached.")
    effect: list[float] | None = Field(
        description="p(token ∣ prefix, z_q) − p(token ∣ prefix, z_BOS), in [−1, 1]; null without a decoder."
    )
    source: Source
    count: int = Field(description="How often it was drawn; in natural text, how many occurrences have this prefix.")
    ids: list[int] = Field(default=[], description="Of the tokens.")
    nats: float | None = Field(
        default=None, description="What its activation changes in the query's place, where that was asked."
    )
    log_p: float | None = Field(default=None, description="Of a decoder's: log p(x ∣ z_q) in nats, at temperature 1.")


class Information(Model):
    """How many bits the activation tells, with its 95 % interval."""

    value: float = Field(
        description="With one hit or none the most that can be shown, log₂ of the inputs: then `low` is what is known."
    )
    low: float
    high: float | None = Field(description="null where it is not known.")
    hits: int
    inputs: int
    method: Literal["corpus", "splitting", "importance"]
    occurrences: int | None = Field(default=None, description="Of natural text: how many lie inside ε.")
    windows: int | None = Field(default=None, description="Of natural text: how many windows these lie in.")
    effective: float | None = Field(
        default=None, description="By importance: draws of equal weight that those inside are worth."
    )
    k_hat: float | None = Field(default=None, description="By importance: the tail of their weights; unreliable above 0.7.")


class Extent(Model):
    """How much natural text was searched."""

    texts: int
    windows: int
    occurrences: int
    context: int = Field(description="Tokens of a window at most.")
    source: str


class StatisticsOf(Model):
    """Of which corpus the statistics are that a distance maps vectors by."""

    corpus: str
    fingerprint: str
    tokens: int


class MappedDistance(Model):
    """A distance that needs statistics."""

    name: Distance | Literal["spread"] = Field(description="`spread`: of one number, in units of its spread over the corpus.")
    statistics: StatisticsOf


class StandIn(Model):
    """By how many nats members, put in the query's place, change what the model says next."""

    median: float
    members: int = Field(description="How many were tried, by lot.")


class Preimage(Model):
    """Samples of a query's preimage and its surroundings, by distance: `Preimage.to_json()`."""

    query: Asked
    distance: Distance | MappedDistance = Field(
        description="Its name; with the corpus that its statistics are of, if it needs some."
    )
    epsilon: float
    within: float | None = Field(default=None, description="Of one number, δ: ε in its own units, as p_q ± δ.")
    seed: int
    samples: list[Sample]
    candidates: int
    source: SourceOrAll
    inside: int | None = Field(
        default=None, description="How many of the candidates lie inside ε, of a walk its members; the samples are a choice."
    )
    distinct: int | None = Field(default=None, description="How many distinct inputs these are.")
    bits: Information | None = None
    nats: StandIn | None = None
    places: Literal["all"] | list[str] | None = Field(
        default=None, description="Which positions of inputs were compared, by name; all: every token."
    )
    corpus: Extent | None = Field(
        default=None, description="Of natural text; a sample's tokens are the window that it lies in."
    )
    per_window: int | None = Field(default=None, description="So many occurrences of one window at most are among the samples.")
    walk: dict[str, Any] | None = Field(default=None, description="What the walk did, and whether to trust it.")
    recall: float | None = None
    notes: list[str] | None = Field(default=None, description="What a reader must know, in sentences.")

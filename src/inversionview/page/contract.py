"""What explorer, exported page, widget and API exchange: one pydantic model for every JSON value.

``Reading`` is what a panel shows, and ``Preimage`` in it is exactly ``Preimage.to_json()`` of the library.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from inversionview.core.scope import Distance

Value = bool | int | float | str
"""Of a feature."""
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


class Problem(Model):
    """Why a request failed."""

    detail: str = Field(description="One sentence: what was wrong, and the way out.")


class Failure(Problem):
    """Why a stream ended early."""

    retry_after: int | None = Field(description="Seconds after which to ask again, where the server is busy.")


class Place(Model):
    """An input and a position in it."""

    text: str
    tokens: list[str] = Field(
        description="Labels: text with its spaces, or bytes, ⟨e7⟩; BOS, where there is one, and EOS included."
    )
    ids: list[int]
    bos: bool = Field(default=True, description="The first token is BOS, not the first of the text.")
    position: int = Field(ge=0, description="Index into the tokens.")
    names: dict[str, int] = Field(description="Named positions of this input.")


class Asked(Model):
    """The query of a preimage: `Query.to_json()`."""

    text: str
    tokens: list[str]
    ids: list[int] = Field(default=[], description="Of the tokens.")
    position: int
    site: str
    model: str
    attention: list[float] | None = Field(default=None, description="Weight of each token, where the site is a head.")
    bos: bool = Field(default=True, description="The first token is BOS, not the first of the text.")


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


class Information(Model):
    """How many bits the activation tells, with its 95 % interval."""

    value: float = Field(
        description="With one hit or none the most that can be shown, log₂ of the inputs: then `low` is what is known."
    )
    low: float
    high: float | None = Field(description="null where it is not known.")
    hits: int
    inputs: int
    method: Literal["corpus", "splitting"]
    occurrences: int | None = Field(default=None, description="Of natural text: how many lie inside ε.")
    windows: int | None = Field(default=None, description="Of natural text: how many windows these lie in.")


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

    name: Distance
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


class PlaceEvent(Place):
    """First event of a stream: what is read."""

    site: str
    attention: list[float] | None
    source: SourceOrAll = Field(description="What reads it: what was asked for, or the first.")


class Progress(Model):
    """Event of a stream: how far the work is."""

    share: float
    note: str


class FeatureInside(Model):
    """A feature among all inputs that were found inside ε, with 95 % intervals."""

    agreeing: int = Field(description="How many have the query's value.")
    share: float
    low: float
    high: float
    bits: float | None = Field(description="log2(share / prior), the prior as one more input; null where that is not known.")
    bits_low: float | None
    bits_high: float | None
    values: list[tuple[Value, int]] = Field(description="The most frequent values, and how many have each.")
    distinct: int = Field(description="How many values there are.")
    divergence: float | None = Field(description="Of a decoder, as measured at this site: KL from the exact preimage, in bits.")
    chance: float | None = Field(description="The same for as many draws from the exact preimage.")
    trusted: bool = Field(description="The share may be read as the preimage's; false where it is biased or not mixed.")


class Inside(Model):
    """What one source says of all features inside ε, from all that it found, not from the samples that are shown."""

    source: Source
    epsilon: float
    inside: int
    candidates: int
    counted: int = Field(description="How many of those inside were counted: all, or a random choice.")
    features: list[FeatureInside] = Field(description="By name, in order; empty where the source cannot tell.")
    note: str = Field(description="What a reader must know of them.")
    recall: float | None = Field(description="Of a decoder, as measured at this site.")


class Features(Model):
    """Features of the query and of every sample, and how common the query's values are among the study's inputs."""

    names: list[str]
    query: dict[str, Value]
    prior: dict[str, float] = Field(description="P(φ = φ(x_q)) among the study's inputs.")
    entropy: dict[str, float] = Field(description="Bits of the feature among the study's inputs.")
    values: list[list[Value]] = Field(description="Of each sample, by name; the samples' order.")
    inside: Inside | None = Field(default=None, description="Of all that was found inside ε.")


class Rows(Model):
    """Event of a stream: samples as they are measured, and the values of their features."""

    samples: list[Sample]
    values: list[list[Value]]


class Reading(Model):
    """What one panel shows."""

    version: Literal[1]
    study: str
    place: Place
    site: str
    preimage: Preimage
    features: Features | None = Field(description="null for studies without features.")


class SiteInfo(Model):
    """A site that can be read."""

    short: str
    latex: str
    hook: str
    layer: int
    kind: str
    head: int | None
    epsilon: float = Field(description="Threshold of a reading there unless another is asked for.")


class Default(Model):
    """What to show first."""

    text: str
    at: str
    site: str


class HeadNamed(Model):
    """A head of a known circuit."""

    site: str
    position: str = Field(description="The named position at which it does its part.")
    group: str = Field(description="What it does: name mover, S-inhibition, induction, …; `none` where that is not known.")


class StudyInfo(Model):
    """What can be read of a study, and how."""

    id: str
    name: str
    model: str
    layers: int
    heads: list[int] = Field(description="Of each layer.")
    parallel: bool = Field(description="Attention and MLP read the same residual stream, so there is no x.mid.")
    sites: list[SiteInfo]
    positions: list[str] = Field(description="Named positions.")
    default: Default
    distance: Distance
    distances: list[Distance] = Field(description="All that inputs can be compared by.")
    epsilon: float
    sources: list[Source]
    features: list[str]
    enumerable: bool = Field(description="Its inputs can be listed and its decoder can score them.")
    targets: list[str] = Field(description="Answer tokens that patching may ask for.")
    changes: list[str] = Field(description="What a contrast may change.")
    heads_named: list[HeadNamed] = Field(description="Heads of a known circuit; empty where none is known.")
    lacking: str | None = Field(
        description="Why the corpus cannot be searched yet, and the way out, where its bank takes long to build; else null."
    )
    texts: str | None = Field(
        default=None, description="What natural text is searched, every token of it; null where inputs are searched."
    )


class Failed(Model):
    """A study that could not be loaded."""

    id: str
    detail: str


class Studies(Model):
    """All studies that are served."""

    studies: list[StudyInfo]
    failed: list[Failed] = Field(description="Studies that could not be loaded, and why.")
    loading: list[str] = Field(description="Studies that are still being loaded, by id; empty where they were waited for.")


class Attention(Model):
    """How much a head attends from a position to each token."""

    site: str
    position: int
    weights: list[float]


class Cell(Model):
    """A site of the map; null where nothing is known."""

    site: str
    value: float | None
    low: float | None
    high: float | None = Field(
        description="null where no input lies inside ε. Where at most one does, `low` is all that is known."
    )
    hits: int | None = Field(default=None, description="Inputs inside ε.")
    inputs: int | None = Field(default=None, description="Inputs searched, the query left out.")


class Map(Model):
    """Every site at one position of one input."""

    kind: Literal["bits", "ratio"]
    position: int
    epsilon: float
    distance: Distance
    cells: list[Cell]


class Effect(Model):
    """A mean over pairs with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Patched(Model):
    """One contrast, and what patching it in did."""

    contrast: str
    answer: str
    ld_orig: float
    ld_patched: float


class Patch(Model):
    """What becomes of the answer when one activation of the query is replaced by a contrast's; logit differences in nats."""

    site: str
    position: int
    target: str
    answer: str
    pairs: int
    ld_orig: float
    ld_contrast: float
    effect: Effect = Field(description="LD_orig − LD_patched.")
    share: float | None = Field(description="The effect over LD_orig − LD_contrast; null where that is 0.")
    examples: list[Patched]


class Interpretation(Model):
    """What the inputs inside ε have in common, in features, and whether that is true of unseen inputs."""

    site: str
    position: int
    statement: str
    epsilon: float
    distance: Distance
    bits: float = Field(description="I_ε(q) over the bank.")
    balanced_accuracy: float | None = Field(description="On unseen inputs; null where there are too few.")
    auroc: float | None
    inputs: int = Field(description="Unseen inputs, half inside ε, half outside.")
    gap: float = Field(description="Those outside begin at so many times ε.")
    line: float | None = Field(description="The balanced accuracy where they begin at ε.")


class Complete(Model):
    """log p(x ∣ z_q) of the decoder against D(z_q, x), input by input."""

    points: list[Annotated[list[int | float | str | None], Field(min_length=4, max_length=4)]] = Field(
        description="distance, log p (null where it is impossible), inside (0 or 1), text."
    )
    recall: float | None = Field(description="Share of the inputs inside whose log p is above the percentile.")
    percentile: float | None = Field(description="95th percentile of log p of the inputs outside.")
    epsilon: float
    distance: Distance


class Work(Model):
    """The work under way."""

    running: int
    waiting: int


class Health(Model):
    """That the server is up."""

    status: Literal["ok"]
    version: str
    queue: Work

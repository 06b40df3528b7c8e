"""What explorer, exported page, widget and API exchange: one pydantic model for every JSON value but preimages'.

``Reading`` is what a panel shows, and ``Preimage`` in it is exactly ``Preimage.to_json()`` of the library.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from inversionview.core.scope import Distance
from inversionview.page.preimages import Model, Preimage, Sample, Source, SourceOrAll

Value = bool | int | float | str
"""Of a feature."""


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
    position: int = Field(ge=-1, description="Index into the tokens; −1 of a vector whose input is not known: it has none.")
    vector: str = Field(default="", description="Where such a vector came from.")
    names: dict[str, int] = Field(description="Named positions of this input.")


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
    weighed: bool = Field(default=False, description="Of a decoder: its draws are weighed, so these are the preimage's shares.")


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
    head: int | None = Field(description="Its number among those of its kind in the layer: of a head, or of a neuron.")
    numbers: int = Field(description="How many numbers an activation has.")
    epsilon: float = Field(description="Threshold of a reading there unless another is asked for.")


class SiteKind(Model):
    """Sites that can be read besides, of one kind."""

    short: str = Field(description="Their names, with {layer} and {head}.")
    what: str
    layers: int = Field(description="In how many layers there are some, from the first on.")
    each: int | None = Field(description="How many a layer has, numbered from 0; null where it has one without a number.")
    numbers: int


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
    others: list[SiteKind] = Field(default=[], description="Kinds of sites that can be read where they are named.")
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

    kind: Literal["bits", "ratio", "foretold"]
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

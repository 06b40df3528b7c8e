"""The one value everything turns around: the preimage of a query. Sources make it, views show it, analyses read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.files import write_page
from inversionview.core.information import Bits
from inversionview.core.results import Result
from inversionview.core.scope import SPREAD, Distance
from inversionview.core.storage import check_writable
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.positions import Positions
from inversionview.decoder.bias import Truth
from inversionview.markov.report import WalkReport
from inversionview.model.sites.site import Site

INSIDE_SHARE = 0.7
"""Share of the shown samples that lie inside ε, where so many were found (the paper shows 60–80 %)."""


@dataclass(frozen=True, eq=False)
class Query:
    """An input, a position in it and a site: the activation to be read, z_q = f_s(x_q)_t."""

    text: str
    ids: tuple[int, ...]
    """Token ids, BOS (where texts are run with one) and EOS included."""
    tokens: tuple[str, ...]
    """The same as labels: text with its spaces, or bytes that are part of a character, ``⟨e7⟩``."""
    position: int
    """Index into ``tokens``."""
    site: Site
    model: str
    z: Float[Tensor, " d_model"] = field(repr=False)
    """The query activation."""
    attention: tuple[float, ...] | None = field(default=None, repr=False)
    """How much the site's head attends from ``position`` to each token; 0 behind it. ``None`` where the site is no head."""
    bos: bool = True
    """The first token is BOS, which every input has, and not the first of the text."""
    vector: str = ""
    """Where the activation came from, if it is of no input that is known: then there are no tokens, and the position is −1."""

    @property
    def textless(self) -> bool:
        """Whether the input is not known: the activation came from outside."""
        return not self.ids

    @property
    def ends(self) -> tuple[str, str]:
        """The labels of BOS, empty where there is none, and of EOS."""
        if self.textless:
            return "", ""
        return self.tokens[0] if self.bos else "", self.tokens[-1]

    @property
    def off(self) -> bool:
        """Whether it is a latent's, which does not fire."""
        part = self.site.part
        return part is not None and part.numbers == 1 and part.rectified and not float(self.z[0])

    def to_json(self) -> dict[str, Any]:
        """Return where the activation was read, as plain JSON values."""
        where = {"text": self.text, "tokens": list(self.tokens), "ids": list(self.ids), "position": self.position}
        where = {**where, "vector": self.vector} if self.textless else where
        attention = {} if self.attention is None else {"attention": list(self.attention)}
        value = {"value": float(self.z[0])} if self.site.single else {}
        where = {**where, "site": self.site.short, **value, "model": self.model}
        return {**where, **attention, **({} if self.bos else {"bos": False})}


@dataclass(frozen=True)
class Sample:
    """One distinct input, run through the probed model and measured."""

    tokens: tuple[str, ...]
    """Labels as the query's, BOS and EOS included, no padding."""
    text: str
    distance: float
    """D(z_q, x)."""
    position: int
    """Where it is reached."""
    inside: bool
    """D ≤ ε."""
    token_distances: tuple[float | None, ...]
    """Distance of every token's activation to z_q; ``None`` at EOS, which is never a candidate."""
    effect: tuple[float, ...] | None
    """p(token ∣ prefix, z_q) − p(token ∣ prefix, z_BOS) of every token, in [−1, 1]; 0 at BOS. ``None`` without a decoder."""
    source: str
    """What made it: ``decoder``, ``corpus`` or ``walk``."""
    count: int
    """How often it was drawn."""
    ids: tuple[int, ...] = field(default=(), repr=False)
    """Token ids of ``tokens``."""
    nats: float | None = None
    """By how much its activation, put in the query's place, changes what the model says next; ``None`` where nobody asked."""
    log_p: float | None = None
    """log p_θ(x ∣ z_q, s), in nats at temperature 1, of a decoder's sample; ``None`` of what no decoder made."""

    def to_json(self) -> dict[str, Any]:
        """Return all as plain JSON values."""
        return {name: value for name, value in vars(self).items() if name not in ("nats", "log_p") or value is not None}


@dataclass(frozen=True, eq=False)
class Weighed:
    """Draws inside ε of known density, the query left out, weighed so that they stand for all of the preimage."""

    tokens: Ids
    """``[draw, pos]``, repeats included."""
    weights: Float[np.ndarray, " draw"]
    """π(x) over the density of what drew them: shares by these are shares of π inside ε."""
    bits: Bits
    doubts: tuple[str, ...] = ()
    """Why neither should be believed yet, in sentences."""


@dataclass(frozen=True)
class StandIn:
    """Whether members can stand in for the query: KL in nats of what the model says next from the same with theirs in place."""

    median: float
    members: int
    """How many were tried, by lot."""


@dataclass(frozen=True)
class Extent:
    """How much natural text was searched."""

    texts: int
    """That the windows were cut from."""
    windows: int
    occurrences: int
    context: int
    """Tokens of a window at most, BOS counted."""
    source: str = ""


class Reader(Protocol):
    """What a preimage knows of the study that made it: what its inputs have in common is told by it."""

    name: str

    @property
    def bare(self) -> bool:
        """It is a model alone, without inputs."""

    @property
    def inputs(self) -> Inputs:
        """The study's inputs."""

    @property
    def positions(self) -> Positions:
        """What finds positions in inputs."""

    @property
    def truth(self) -> Truth | None:
        """What was measured of the decoder's bias."""


@dataclass(frozen=True, eq=False, repr=False)
class Preimage(Result):
    """Verified samples of a query's preimage and its surroundings, sorted by distance."""

    formats: ClassVar[tuple[str, ...]] = (".html", ".json", ".csv", ".parquet")

    query: Query
    distance: Distance
    epsilon: float
    seed: int
    samples: tuple[Sample, ...]
    candidates: int
    """How many inputs were drawn (repeats counted) or searched, and measured; ``samples`` are a choice of them, by which no
    share may be told."""
    source: str = "decoder"
    """What made it: ``decoder``, ``corpus`` or ``walk``."""
    bits: Bits | None = None
    """How much the activation tells, where a corpus was searched, a ladder of ε walked, or a decoder's draws weighed."""
    recall: float | None = None
    """Share of what lies inside ε that an approximate search finds, as measured on random queries; ``None``: all of it."""
    inside_count: int | None = None
    """How many of the ``candidates`` lie inside ε: of the decoder's with repeats, of a corpus' inputs. Of a walk, which
    measures what it proposes, the distinct members. ``None`` where several sources are merged."""
    distinct: int | None = None
    """How many distinct inputs these are."""
    draws: Ids | None = field(default=None, repr=False)
    """Token ids of all that was drawn or found inside ε, ``[n, pos]``, repeats of draws included; not in the JSON."""
    places: Int[np.ndarray, " n"] | None = field(default=None, repr=False)
    """Where in each of the ``draws`` it was found, where that is an occurrence in natural text; not in the JSON."""
    weighed: Weighed | None = field(default=None, repr=False)
    """Of a decoder whose inputs have a known distribution: draws that shares may be told by; not in the JSON."""
    compared: Literal["all"] | list[str] | None = None
    """The positions of inputs that were compared, by their names; ``"all"``: every token."""
    corpus: Extent | None = None
    """Of natural text: how much was searched."""
    stand_in: StandIn | None = None
    """Whether members can stand in for the query, where that was tried."""
    statistics: dict[str, Any] | None = None
    """Of which corpus the statistics are that the distance maps vectors by; ``None`` where it needs none."""
    within: float | None = None
    """Of one number, δ: ε in the number's own units, so that what lies in p_q ± δ is inside."""
    per_window: int | None = None
    """Of natural text: so many occurrences of one window at most are among the samples; ``None``: any number."""
    walk: WalkReport | None = None
    """What the walk did and whether it can be trusted, where one made the samples."""
    notes: tuple[str, ...] = ()
    """What a reader must know of query, ε and comparison, in sentences; those of a walk are in ``walk``."""
    study: Reader | None = field(default=None, repr=False, compare=False)
    """The study that made it, which knows the features of its inputs; not in the JSON, and left out of copies."""

    @property
    def inside(self) -> tuple[Sample, ...]:
        """The samples inside the ε-preimage."""
        return tuple(s for s in self.samples if s.inside)

    @property
    def outside(self) -> tuple[Sample, ...]:
        """The samples outside."""
        return tuple(s for s in self.samples if not s.inside)

    def choice(self, count: int) -> Preimage:
        """Return this preimage with at most ``count`` samples: of those inside an even choice, then the nearest outside."""
        inside, outside = self.inside, self.outside
        wanted = min(len(inside), max(round(INSIDE_SHARE * count), count - len(outside)))
        every = [inside[i * len(inside) // wanted] for i in range(wanted)]
        return replace(self, samples=(*every, *outside[: count - wanted]))

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def measure(self) -> str:
        """What its distance is called: of one number, whatever was asked for, ``spread``; see ``model.distances.metric``."""
        return SPREAD if self.query.site.single else self.distance

    @property
    def interval(self) -> str:
        """What is inside of one number, in its own units: ``p_q ± 0.31``; of a latent that is off, those that are."""
        assert self.within is not None
        return "off alone" if self.query.off else f"p_q ± {self.within:.4g}"

    @property
    def border(self) -> str:
        """What the line at ε is called: ``ε, cosine`` or, of one number, ``p_q ± 0.31, ε of its spread``."""
        return f"ε, {self.measure}" if self.within is None else f"{self.interval}, ε of its spread"

    def to_json(self) -> dict[str, Any]:
        """Return the preimage as plain JSON values, the form that everything else reads."""
        return {
            "query": self.query.to_json(),
            "distance": self.measure if self.statistics is None else {"name": self.measure, "statistics": self.statistics},
            "epsilon": self.epsilon,
            "seed": self.seed,
            "samples": [s.to_json() for s in self.samples],
            "candidates": self.candidates,
            "source": self.source,
            **({} if self.inside_count is None else {"inside": self.inside_count, "distinct": self.distinct}),
            **({} if self.bits is None else {"bits": self.bits.to_json()}),
            **({} if self.within is None else {"within": float(f"{self.within:.6g}")}),
            **({} if self.stand_in is None else {"nats": asdict(self.stand_in)}),
            **({} if self.compared is None else {"places": self.compared}),
            **({} if self.corpus is None else {"corpus": asdict(self.corpus)}),
            **({} if self.per_window is None else {"per_window": self.per_window}),
            **({} if self.walk is None else {"walk": self.walk.to_json()}),
            **({} if self.recall is None else {"recall": self.recall}),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def to_html(self, path: str | Path) -> Path:
        """Write the preimage as one HTML file to look at and to send, which works from disk without a network.

        Raises:
            StorageError: it cannot be written.
        """
        path = check_writable(Path(path))
        write_page(self.shown_as("page"), path)
        return path

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each sample, for a data frame."""
        asked = any(sample.nats is not None for sample in self.samples)
        names = ("text", "distance", "inside", "position", "source", "count", *(["nats"] if asked else []))
        return [{name: getattr(sample, name) for name in names} for sample in self.samples]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "study": None}

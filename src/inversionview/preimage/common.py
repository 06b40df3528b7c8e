"""What the inputs inside ε have in common: for every feature the share that has the query's value, and its bits.

Told from all that was found inside ε, never from the rows that are shown, with a 95 % interval. A corpus' inputs are draws from
the preimage, a mixed walk's as well. A decoder's are samples near z. Where the study knows how likely its inputs are, draws of
it are weighed, so that their shares are the preimage's; else shares are given only where ``truth`` has measured how far the
samples are from it, and with that beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from inversionview.core.arrays import Ids
from inversionview.core.information import entropy, wilson
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.places import row_marks
from inversionview.decoder.bias import SiteTruth, Truth
from inversionview.markov.report import WalkReport
from inversionview.preimage.preimage import Preimage, Weighed

BACKGROUND = 20_000
"""Inputs of a study, or occurrences in natural text, among which a value is called common or rare."""
MOST_VALUES = 12
"""Of a feature so many values are counted one by one, the most frequent ones."""
BIASED = 0.1
"""Bits of KL beyond chance from which on a decoder's shares are marked."""


@dataclass(frozen=True)
class Common:
    """One feature inside ε."""

    feature: str
    value: Any
    """The query's."""
    agreeing: int
    """Of the inputs that were counted, those that have it."""
    share: float
    low: float
    high: float
    """The share's 95 % interval."""
    bits: float | None
    """log2(share / prior), the prior counted as one more input; ``None`` where the source cannot tell, or none has it. At most
    what the whole reading tells, as a corpus says it: nothing that is true of a preimage can tell more than that it lies in it.
    Below 0, the query's value is less common inside ε than among all inputs."""
    bits_low: float | None
    bits_high: float | None
    """Their interval; never more than the value's own −log2 prior."""
    values: tuple[tuple[Any, int], ...]
    """The most frequent values and how many have each."""
    distinct: int
    """How many values there are."""
    divergence: float | None = None
    """Of a decoder, as measured at this site: KL of its samples from the exact preimage, in bits."""
    chance: float | None = None
    """The same for as many draws from the exact preimage."""
    trusted: bool = True
    """The share may be read as the preimage's."""


@dataclass(frozen=True)
class Told:
    """What one source says of all features."""

    source: str
    epsilon: float
    inside: int
    """Inputs inside ε."""
    candidates: int
    """Of how many."""
    counted: int
    """How many of those inside were counted: all, or a random choice."""
    features: tuple[Common, ...]
    """In the order of the study; none where the source cannot tell."""
    note: str
    """What a reader must know of them, in sentences; may be empty."""
    recall: float | None = None
    """Of a decoder, as measured at this site; see ``SiteTruth``."""
    weighed: bool = False
    """Of a decoder: the draws are weighed, so that these are shares of the preimage."""

    @property
    def telling(self) -> list[Common]:
        """Return the features, the most telling first."""
        return sorted(self.features, key=lambda f: (not f.trusted, -(-1.0 if f.bits is None else f.bits), -f.share))


@dataclass(frozen=True)
class Background:
    """The features of a random sample of a study's inputs."""

    columns: dict[str, npt.NDArray[Any]]
    entropy: dict[str, float]
    size: int
    whole: bool
    """These are all inputs that there are."""


_BACKGROUNDS: WeakKeyDictionary[Inputs, Background] = WeakKeyDictionary()


def background(inputs: Inputs) -> Background:
    """Return the features of the corpus' first inputs, or occurrences, a random sample, and their entropy; kept once made."""
    if inputs not in _BACKGROUNDS:
        columns, found = inputs.example_features(BACKGROUND), {}
        for name, values in columns.items():
            _, counts = np.unique(values, return_counts=True)
            found[name] = entropy(counts / counts.sum())
        size = len(next(iter(columns.values())))
        whole = inputs.corpus_size == size and not inputs.sampled
        _BACKGROUNDS[inputs] = Background(columns, found, size, whole)
    return _BACKGROUNDS[inputs]


def told(inputs: Inputs, preimage: Preimage, truth: Truth | None = None, names: Sequence[str] = ()) -> Told | None:
    """Return what is common inside ε; ``None`` where the preimage does not hold what was found, but only rows.

    Args:
        inputs: of the study.
        preimage: of a single source.
        truth: of the study's decoder, where it was measured.
        names: of the query's position; a decoder's bias is known at named positions only.
    """
    if preimage.draws is None or preimage.inside_count is None:
        return None
    if preimage.weighed is not None and preimage.weighed.bits.hits and not preimage.weighed.doubts:
        return _weighed(inputs, preimage, preimage.weighed)
    drawn = _Drawn.of(preimage)
    bare = Told(preimage.source, preimage.epsilon, preimage.inside_count, preimage.candidates, len(drawn), (), "")
    if preimage.source == "decoder":
        return _decoded(bare, inputs, preimage, drawn, truth, names)
    if not len(drawn):
        what = "inputs" if preimage.places is None else "occurrences"
        none = f"None of {bare.candidates:,} {what} lies inside ε, the query itself left out."
        return replace(bare, note="The walk has no draws yet that count." if preimage.walk is not None else none)
    if preimage.walk is not None:
        return _walked(bare, inputs, preimage, drawn, preimage.walk)
    exact = not inputs.sampled and inputs.corpus_size is not None and preimage.candidates >= inputs.corpus_size - 1
    known = float("inf") if exact and len(drawn) == preimage.inside_count else float(drawn.apart)
    return replace(bare, features=_counted(inputs, preimage, drawn, dict.fromkeys(_names(inputs), known)))


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What was found inside ε, the query itself left out."""

    tokens: Ids
    """``[n, pos]``."""
    positions: Int[np.ndarray, " n"]
    """Where each was found; of whole inputs, where the query is read."""
    apart: int
    """How many of them are independent: of occurrences in natural text, the windows, in which they hang together."""
    weights: Float[np.ndarray, " n"] | None = None
    """What each counts, of weighed draws."""

    @classmethod
    def of(cls, preimage: Preimage) -> _Drawn:
        draws, ids, at = preimage.draws, np.array(preimage.query.ids), preimage.query.position
        assert draws is not None
        places = np.full(len(draws), at) if preimage.places is None else preimage.places
        if preimage.places is None:
            places = np.minimum(places, draws.shape[-1] - 1)
        length = len(ids) if preimage.places is None else at + 1  # of an occurrence its prefix is all
        own = np.zeros(len(draws), dtype=bool)
        if length and not preimage.query.textless and preimage.source != "decoder" and draws.shape[-1] >= length:
            own = (draws[:, :length] == ids[:length]).all(1) & (places == min(at, draws.shape[-1] - 1))
        kept = draws[~own]
        apart = len(kept) if preimage.places is None else len(np.unique(row_marks(kept)))
        return cls(kept, places[~own], apart)

    def __len__(self) -> int:
        return len(self.tokens)

    def counted(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Return the distinct values and how many of the draws have each; of weighed draws as many as their share makes."""
        if self.weights is None:
            return np.unique(values, return_counts=True)
        each, which = np.unique(values, return_inverse=True)
        shares = np.bincount(which, self.weights, len(each)) / self.weights.sum()
        return each, np.rint(shares * len(self)).astype(np.int64)


def _names(inputs: Inputs) -> list[str]:
    return list(background(inputs).columns)


def _counted(
    inputs: Inputs, preimage: Preimage, drawn: _Drawn, worth: Mapping[str, float], bits: bool = True
) -> tuple[Common, ...]:
    """Count the values of every feature; ``worth`` is the effective number of draws, infinite where all inputs are counted."""
    ids, width = preimage.query.ids, drawn.tokens.shape[1]
    rows = np.full((len(drawn) + 1, max(width, len(ids), inputs.max_length)), inputs.pad, dtype=np.int64)
    rows[1:, :width] = drawn.tokens
    rows[0] = rows[1] if preimage.query.textless else [*ids, *rows[0, len(ids) :]]
    known = background(inputs)
    found = []
    for name, column in inputs.features_at(rows, np.array([preimage.query.position, *drawn.positions])).items():
        own, values = column[0], column[1:]
        each, counts = drawn.counted(values)
        order = np.argsort(-counts, kind="stable")[:MOST_VALUES]
        own = each[order[0]] if preimage.query.textless else own  # of no input that is known: what is commonest
        agreeing = int(counts[each == own].sum())
        share = float(np.average(values == own, weights=drawn.weights))
        low, high = (share, share) if worth[name] == float("inf") else wilson(share * worth[name], worth[name])
        prior = int((known.columns[name] == own).sum())
        told_bits = _bits(agreeing, len(drawn), (low, high), prior, known, _ceiling(preimage)) if bits else (None, None, None)
        listed = tuple(zip(each[order].tolist(), counts[order].tolist(), strict=True))
        found.append(Common(name, own.item(), agreeing, share, low, high, *told_bits, listed, len(each)))
    return tuple(found)


def _bits(
    agreeing: int, counted: int, share: tuple[float, float], prior: int, known: Background, most: tuple[float, float]
) -> tuple[float | None, float | None, float | None]:
    """Return the bits that a share means, with the interval that share and prior leave; none where the value is unknown."""
    if not agreeing or not prior:
        return None, None, None
    p = prior / known.size
    rarest, commonest = (p, p) if known.whole else wilson(prior, known.size)
    low = min(log2(share[0] / commonest), most[0]) if share[0] else -float("inf")
    high = min(log2(share[1] / rarest), -log2(rarest), most[1])
    value = min(log2((agreeing + p) / (counted + 1) / p), most[0])
    return min(max(value, low), high), (None if low == -float("inf") else low), high


def _ceiling(preimage: Preimage) -> tuple[float, float]:
    """Return the most bits that anything inside ε can tell, and the end of their interval: those of the reading, if known."""
    told = preimage.bits
    if told is None or told.bounded or told.high is None or told.method != "corpus":
        return float("inf"), float("inf")
    return told.value, told.high


def _walked(bare: Told, inputs: Inputs, preimage: Preimage, drawn: _Drawn, walk: WalkReport) -> Told:
    """What a walk's draws say: shares of π, to be trusted once it has mixed; bits only under the study's own prior."""
    sizes = {f.feature: f.ess for f in walk.features}
    worth = {name: max(1.0, min(sizes.get(name, walk.ess), len(drawn))) for name in _names(inputs)}
    counted = _counted(inputs, preimage, drawn, worth, bits=walk.prior == "study" and walk.mixed)
    notes = [] if walk.mixed else ["The walk has not mixed: these shares are not yet those of the preimage."]
    if walk.prior != "study":
        notes.append(f"Shares are those under the walk's prior ({walk.prior}), not among the study's inputs.")
    return replace(bare, features=tuple(replace(f, trusted=walk.mixed) for f in counted), note=" ".join(notes))


def _weighed(inputs: Inputs, preimage: Preimage, found: Weighed) -> Told:
    """What a decoder's weighed draws say: shares of the preimage, as if of so many draws as they are worth."""
    told, at = found.bits, preimage.query.position
    places = np.full(len(found.tokens), min(at, found.tokens.shape[1] - 1))
    drawn = _Drawn(found.tokens, places, len(found.tokens), found.weights)
    worth = dict.fromkeys(_names(inputs), max(1.0, told.effective or 0.0))
    features = _counted(inputs, preimage, drawn, worth)
    return Told(preimage.source, preimage.epsilon, told.hits, told.inputs, len(drawn), features, "", weighed=True)


def _decoded(bare: Told, inputs: Inputs, preimage: Preimage, drawn: _Drawn, truth: Truth | None, names: Sequence[str]) -> Told:
    """What a decoder's samples say, with how far from the preimage they were measured to be; nothing where that is unknown."""
    site = preimage.query.site.short
    measured, why = _bias(truth, preimage, site, names)
    if inputs.every_token:
        why = "of natural text it is not known how far they are from it"
    near = "Samples of a decoder are not draws from the preimage: "
    if measured is None:
        return replace(bare, note=f"{near}{why}, so no shares are told. Read the corpus or a walk for these.")
    recall = "" if measured.recall is None else f"recall {measured.recall:.2f}, "
    worst = max(measured.divergence, key=lambda name: measured.divergence[name] - measured.floor[name])
    apart = f"KL of {worst} {measured.divergence[worst]:.1f} bits (chance {measured.floor[worst]:.1f})"
    note = f"{near}at {site} {recall}{apart}, over {measured.compared} queries. ≠ marks shares that differ from the preimage's."
    if not len(drawn):
        return replace(bare, note=note, recall=measured.recall)
    counted = _counted(inputs, preimage, drawn, dict.fromkeys(_names(inputs), float(len(drawn))), bits=False)
    return replace(bare, features=tuple(_biased(f, measured) for f in counted), note=note, recall=measured.recall)


def _biased(one: Common, measured: SiteTruth) -> Common:
    apart, chance = measured.divergence[one.feature], measured.floor[one.feature]
    return replace(one, divergence=apart, chance=chance, trusted=apart - chance <= BIASED)


def _bias(truth: Truth | None, preimage: Preimage, site: str, names: Sequence[str]) -> tuple[SiteTruth | None, str]:
    """Return what was measured of a decoder at a site, or why that does not hold for this reading."""
    if truth is None:
        return None, "how far its samples are from it was not measured (`inversionview truth` does that)"
    if (truth.epsilon, truth.distance) != (preimage.epsilon, preimage.distance):
        return None, f"how far its samples are from it was measured at ε = {truth.epsilon:g}, {truth.distance}, only"
    if not {*names} & {*truth.positions}:
        return None, f"how far its samples are from it was measured at {', '.join(truth.positions)} only"
    measured = truth.of(site)
    if measured is None:
        return None, f"how far its samples are from it was not measured at {site}, which holds too few inputs inside ε"
    return measured, ""


def common(preimage: Preimage) -> Told | None:
    """Return what all the inputs inside ε have in common, feature by feature, with intervals.

    ``None`` for a model alone, for a preimage merged of several sources, and for one that has lost its study.

    Args:
        preimage: from ``read``, ``search`` or ``walk``.

    Raises:
        WeightsError: what was measured of the decoder that made it is damaged.
    """
    study, query = preimage.study, preimage.query
    if study is None or study.bare:
        return None
    there = {} if query.textless else study.positions.names(query.ids)
    names = [name for name, at in there.items() if at == query.position]
    return told(study.inputs, preimage, study.truth if preimage.source == "decoder" else None, names)

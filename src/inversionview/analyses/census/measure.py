"""A census of a model on natural text: at every site, what an activation tells about each feature of its occurrence.

For a feature φ: the mean over queries of log₂ P(φ = φ(q) ∣ preimage) / P(φ = φ(q)), as in ``inform``. Queries come from
different windows, and the corpus goes by once: each block of windows is run, all its activations are held against the queries',
and only counts are kept, so no bank is needed. What was counted is kept in the user's cache, from where it goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from inversionview.analyses.census.kept import Arrays, Kept
from inversionview.analyses.census.predictions import OWN, Predictions
from inversionview.analyses.census.tally import Codes, HitCounts
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.core.scope import Scope
from inversionview.corpora.places import Marks, prefix_marks
from inversionview.corpora.token_features import TokenFeature, Windows
from inversionview.corpora.windows import WindowInputs
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

_NUMBERS = 2**26
"""Numbers of a block's activations in memory at once."""
_MOST = 8192
"""Tokens of a block."""


@dataclass(frozen=True, eq=False)
class SearchedText:
    """The occurrences that are counted, those of some windows, in the order in which they are run.

    Attributes:
        tokens: the windows, the longest first, ``[window, pos]``.
        there: which of their tokens are occurrences.
        marks: of the prefix of each, ``[occurrence]``.
        codes: values of the features; those that a run of the model tells are filled in as it goes.
        ends: where the occurrences of each window end.
    """

    tokens: Ids
    there: npt.NDArray[np.bool_]
    marks: Marks
    codes: Codes
    ends: Int[np.ndarray, " window"]

    @classmethod
    def of(cls, inputs: WindowInputs, count: int, features: Sequence[TokenFeature]) -> SearchedText:
        """Return those of the corpus' first windows that hold ``count``, with what the tokens alone tell of them."""
        tokens = inputs.corpus(np.arange(inputs.windows_of(count)))
        tokens = tokens[np.argsort(-inputs.lengths(tokens), kind="stable")]
        windows, there = Windows(tokens, inputs.read_by), inputs.occurring(tokens)
        codes = np.stack([each.codes(windows)[there] for each in features]).astype(np.int32)
        return cls(tokens, there, prefix_marks(tokens)[there], codes, there.sum(1).cumsum())

    def __len__(self) -> int:
        return len(self.marks)

    def blocks(self, numbers: int) -> Iterator[Int[np.ndarray, " window"]]:
        """Yield windows to run together, by how many numbers an occurrence's activations are."""
        budget, start = min(_MOST, _NUMBERS // numbers), 0
        while start < len(self.tokens):
            longest = int(self.there[start].nonzero()[0].max()) + 1
            stop = min(len(self.tokens), start + max(1, budget // longest))
            yield np.arange(start, stop)
            start = stop

    def numbers(self, windows: Int[np.ndarray, " window"]) -> Int[np.ndarray, " occurrence"]:
        """Return which occurrences these windows have, window by window."""
        return np.concatenate([np.arange(self.ends[w - 1] if w else 0, self.ends[w]) for w in windows])

    def draw(self, count: int, seed: int) -> Int[np.ndarray, " query"]:
        """Return random occurrences, each of another window; fewer where there are fewer windows."""
        rng = np.random.default_rng((seed, 41))
        sizes = np.diff(self.ends, prepend=0)
        windows = rng.choice(len(sizes), min(count, len(sizes)), replace=False, p=sizes / sizes.sum())
        found: Int[np.ndarray, " query"] = (self.ends - sizes)[windows] + rng.integers(sizes[windows])
        return found


@dataclass(frozen=True, eq=False)
class Counted:
    """What a pass counted; see ``HitCounts`` for the first three."""

    inside: Int[np.ndarray, "site query"]
    agreeing: Int[np.ndarray, "site query feature"]
    allowed: Int[np.ndarray, " query"]
    codes: Int[np.ndarray, "feature occurrence"]
    """Values of all occurrences."""
    queries: Int[np.ndarray, " query"]
    """Which of the occurrences are queries."""
    windows: int


class Pass:
    """One pass over a corpus."""

    def __init__(
        self, model: ProbedModel, inputs: WindowInputs, sites: Sequence[Site], features: Sequence[TokenFeature], count: int
    ) -> None:
        """Prepare it.

        Args:
            model: the probed model.
            inputs: the corpus.
            sites: that are looked at.
            features: that are asked for.
            count: of occurrences; whole windows are taken, so it may be some more.
        """
        self.model, self.inputs, self.sites, self.features = model, inputs, list(sites), list(features)
        self.all = SearchedText.of(inputs, count, features)
        self.own = [i for i, each in enumerate(features) if each in OWN]
        self.predictions = Predictions(model, self.all.tokens[-2:]) if self.own else None
        from_stream = self.predictions is not None and self.predictions.from_stream
        stream = self.predictions.site if from_stream and self.predictions else None
        self.read = [*self.sites, *([stream] if stream and stream not in self.sites else [])]
        self.stream = self.read.index(stream) if stream else None

    def run(self, windows: Int[np.ndarray, " window"]) -> tuple[list[Tensor], Codes]:
        """Return the activations of some windows' occurrences, ``[occurrence, width]`` for each site, and their values."""
        there = self.all.there[windows]
        width = int(there.nonzero()[1].max()) + 1
        tokens, there = self.all.tokens[windows, : width + 1], there[:, :width]
        first = int(there.argmax(1).min())
        last = width - 1 - there[:, ::-1].argmax(1)
        at = np.minimum(np.arange(first, width), last[:, None])
        mask = torch.from_numpy(there[:, first:])
        z = [part[mask] for part in self.model.harvest_compact(tokens, self.read, at)]
        codes, numbers = self.all.codes, self.all.numbers(windows)
        if self.predictions is not None:
            behind = ((0, 0), (0, tokens.shape[1] - width))
            codes[np.array(self.own)[:, None], numbers] = self._expected(z, tokens, np.pad(there, behind))
        return z[: len(self.sites)], codes[:, numbers]

    def _expected(self, z: Sequence[Tensor], tokens: Ids, there: npt.NDArray[np.bool_]) -> Codes:
        """Return the values of the features that only a run of the model tells."""
        assert self.predictions is not None
        told = self.predictions.codes(z[self.stream or 0], tokens, there)
        return told[[OWN.index(self.features[i]) for i in self.own]]

    def queried(self, queries: Int[np.ndarray, " query"]) -> tuple[list[Tensor], Int[np.ndarray, "feature query"]]:
        """Return the activations and values of some occurrences, each of another window."""
        windows = np.searchsorted(self.all.ends, queries, side="right")
        tokens, places = self.all.tokens[windows], self.all.there[windows].nonzero()[1]
        at = places[np.isin(self.all.numbers(windows), queries)]
        z = [part[:, 0] for part in self.model.harvest_compact(tokens, self.read, at[:, None])]
        codes = self.all.codes[:, queries]
        if self.predictions is not None:
            there = np.arange(tokens.shape[1]) == at[:, None]
            codes[self.own] = self._expected(z, tokens, there)
        return z[: len(self.sites)], codes


def count(run: Pass, queries: int, scope: Scope, seed: int, kept: Kept, report: Progress | None = None) -> Counted:
    """Hold every occurrence against random queries at every site, or go on with what was counted before.

    Args:
        run: over the corpus.
        queries: how many, each of another window.
        scope: how near is inside.
        seed: of the choice of queries.
        kept: where counts are kept.
        report: called with the share of the occurrences that is done.

    Raises:
        SettingError: ``queries`` is below 1, or the corpus has a single window.
    """
    every, before = run.all, kept.read()
    chosen = every.draw(whole(queries, "The number of queries"), check_seed(seed))
    if len(every.tokens) < 2:
        raise SettingError("The corpus has a single window, and queries are held against those of others: give more text.")
    done = 0
    if before is not None:
        every.codes[run.own], done = before["codes"], int(before["done"])
    if before is None or done < len(every):
        metrics = [run.model.metric(scope.distance, site) for site in run.sites]
        tally = HitCounts(*run.queried(chosen), every.marks[chosen], scope.epsilon, metrics)
        if before is not None:
            tally.inside, tally.agreeing, tally.allowed = before["inside"], before["agreeing"], before["allowed"]
        _count(run, tally, done, kept, report)
        before = _arrays(run, tally, len(every))
    return Counted(before["inside"], before["agreeing"], before["allowed"], every.codes, chosen, len(every.tokens))


def _count(run: Pass, tally: HitCounts, done: int, kept: Kept, report: Progress | None) -> None:
    """Count all blocks behind the first ``done`` occurrences."""
    every = run.all
    for windows in every.blocks(sum(run.model.width(site) for site in run.read)):
        numbers = every.numbers(windows)
        if numbers[0] < done:
            continue
        found, told = run.run(windows)
        tally.add(found, every.marks[numbers], told)
        stop = int(numbers[-1]) + 1
        kept.write(_arrays(run, tally, stop), last=stop == len(every))
        if report is not None:
            report(stop / len(every), f"{stop:,} of {len(every):,} occurrences")


def _arrays(run: Pass, tally: HitCounts, done: int) -> Arrays:
    counts = {"inside": tally.inside, "agreeing": tally.agreeing, "allowed": tally.allowed}
    return {**counts, "codes": run.all.codes[run.own], "done": np.array(done)}

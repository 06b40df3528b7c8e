"""Runs of the model with some activations replaced by those of another input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core.progress import Progress
from inversionview.corpora.contrasts import Pairs
from inversionview.corpora.positions import Positions
from inversionview.intervene.activations import EMBED, POS_EMBED, PRE, Activation, place_of
from inversionview.model.backend import Patch
from inversionview.model.harvest import tokens_per_pass
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import EMBEDDINGS, Site

_SMALL = 2**22
"""A model of more weights than this is patched in several ways at once: reading its weights takes longer than using them."""


class PatchedRuns:
    """Runs of the originals of a contrast set with any sets of their activations replaced by the contrasts'.

    What comes before the first replaced position is run once and kept as keys and values; the contrasts run once for all sets.
    """

    def __init__(self, model: ProbedModel, pairs: Pairs, activations: Sequence[Activation], positions: Positions) -> None:
        self.model, self.pairs, self.activations = model, pairs, activations
        self.places = {a.at: place_of(a.at, pairs, positions) for a in activations}
        own = [place.original for place in self.places.values() if place is not None]
        theirs = [place.contrast for place in self.places.values() if place is not None]
        every = np.zeros(len(pairs), np.int64) if None in self.places else pairs.read
        self._first = np.minimum.reduce([pairs.read, every, *own])
        self._last = np.maximum.reduce([pairs.read, *own])
        self._contrast_last = np.maximum.reduce([pairs.contrast_read, *theirs])
        self._large = 12 * len(model.shape.heads) * model.shape.d_model**2 > _SMALL

    def differences(self, sets: Sequence[Sequence[int]], report: Progress | None = None) -> Differences:
        """Return the logit differences of all pairs, with each of ``sets`` (of numbers of activations) replaced."""
        original, contrast = np.empty((2, len(self.pairs)), np.float32)
        patched = np.empty((len(self.pairs), len(sets)), np.float32)
        right = np.empty(len(self.pairs), np.bool_)
        done = 0
        for rows in self._batches():
            run = _Batch(self, rows)
            original[rows], right[rows] = run.original()
            contrast[rows] = run.contrast()
            several = max(1, self._most(rows) // len(rows)) if self._large else 1
            for start in range(0, len(sets), several):
                patched[rows, start : start + several] = run.patched(sets[start : start + several])
            done += len(rows)
            if report is not None:
                report(done / len(self.pairs), f"{done:,} of {len(self.pairs):,} pairs")
        return Differences(original, contrast, patched, right)

    def _batches(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield rows whose inputs are cut alike, so many as fit."""
        keys = np.stack([self._last, self._first, self._contrast_last], axis=1)
        _, kind = np.unique(keys, axis=0, return_inverse=True)
        order = np.argsort(kind, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(kind[order])) + 1):
            size = self._most(rows)
            yield from (rows[start : start + size] for start in range(0, len(rows), size))

    def _most(self, rows: npt.NDArray[np.int64]) -> int:
        """Return how many inputs that are cut as these run at once."""
        shape, sites = self.model.shape, {a.site for a in self.activations}
        length, new = int(self._last[rows[0]]) + 1, int(self._last[rows[0]] - self._first[rows[0]]) + 1
        kept = len(sites) * shape.d_model * (length if None in self.places else len(self.places))
        return max(1, min(4 * tokens_per_pass(self.model.device) // length, 2**26 // kept, 2**26 // (new * shape.vocabulary)))


@dataclass(frozen=True, eq=False)
class Differences:
    """Logit differences, in nats, of every pair."""

    original: Float[np.ndarray, " pair"]
    """LD_orig."""
    contrast: Float[np.ndarray, " pair"]
    """LD of the contrast run, of the same two answers: what patching everything would give."""
    patched: Float[np.ndarray, "pair set"]
    right: npt.NDArray[np.bool_]
    """Whether the original's answer is the model's own, ``[pair]``."""


class _Batch:
    """Some pairs whose inputs are cut alike."""

    def __init__(self, runs: PatchedRuns, rows: npt.NDArray[np.int64]) -> None:
        self.runs, self.model, self.rows = runs, runs.model, rows
        pairs, i = runs.pairs, int(rows[0])
        self.first, last, contrast_last = int(runs._first[i]), int(runs._last[i]), int(runs._contrast_last[i])
        self.own = torch.from_numpy(pairs.original[rows, : last + 1])
        self.theirs = torch.from_numpy(pairs.contrast[rows, : contrast_last + 1])
        self.read, self.contrast_read = torch.from_numpy(pairs.read[rows]), torch.from_numpy(pairs.contrast_read[rows])
        self.answers = torch.from_numpy(pairs.answers[rows]).to(self.model.device)
        self.each = torch.arange(len(rows))
        self.cache = self.model.extend(self.own[:, : self.first], logits=False).cache if self.first else None

    def original(self) -> tuple[Float[np.ndarray, " row"], npt.NDArray[np.bool_]]:
        """Return LD_orig and whether the model's answer is right."""
        logits = self._logits({})
        return self._difference(logits), (logits.argmax(-1) == self.answers[:, 0]).cpu().numpy()

    def contrast(self) -> Float[np.ndarray, " row"]:
        """Return LD of the contrast run."""
        start = int(self.contrast_read.min())  # logits of all positions would take gigabytes
        cache = self.model.extend(self.theirs[:, :start], logits=False).cache if start else None
        logits = self.model.extend(self.theirs[:, start:], cache).logits
        assert logits is not None
        return self._difference(logits[self.each, self.contrast_read - start])

    def patched(self, sets: Sequence[Sequence[int]]) -> Float[np.ndarray, "row set"]:
        """Return LD_patched with each of the sets replaced, all in one run of so many copies of the inputs."""
        patches = [self._patches([self.runs.activations[i] for i in members]) for members in sets]
        differences = self._difference(self._logits(_side_by_side(patches, len(self.rows)), len(sets)), len(sets))
        return differences.reshape(len(sets), -1).T

    def _logits(self, patches: dict[Site, Patch], copies: int = 1) -> Float[Tensor, "copy_row vocabulary"]:
        each, cache = self.each.repeat(copies), self.cache
        if copies > 1 and cache is not None:
            cache = cache.rows(each.to(self.model.device))
        logits = self.model.extend(self.own[each, self.first :], cache, patches=patches).logits
        assert logits is not None
        return logits[torch.arange(len(each)), self.read[each] - self.first]

    def _difference(self, logits: Float[Tensor, "copy_row vocabulary"], copies: int = 1) -> Float[np.ndarray, " copy_row"]:
        chosen = logits.gather(1, self.answers.repeat(copies, 1)).float()
        difference: Float[np.ndarray, " row"] = (chosen[:, 0] - chosen[:, 1]).cpu().numpy()
        return difference

    def _where(self, at: str | None) -> tuple[Int[Tensor, "row k"], Int[Tensor, "row k"]]:
        """Return a position's indices in originals and contrasts."""
        place = self.runs.places[at]
        if place is None:
            every = torch.arange(min(self.own.size(1), self.theirs.size(1))).expand(len(self.rows), -1)
            return every, every
        return torch.from_numpy(place.original[self.rows])[:, None], torch.from_numpy(place.contrast[self.rows])[:, None]

    @cached_property
    def _values(self) -> dict[Activation, Float[Tensor, "row k d_model"]]:
        """The contrasts' activations."""
        wanted = list(dict.fromkeys([PRE if a.site in EMBEDDINGS else a.site for a in self.runs.activations]))
        parts = {at: self._where(at) for at in self.runs.places}
        z = self.model.activations(self.theirs, wanted, torch.cat([theirs for _, theirs in parts.values()], dim=1))
        split = dict(zip(parts, z.split([theirs.size(1) for _, theirs in parts.values()], dim=2), strict=True))
        numbers = [site.numbers(self.model.shape.widths) for site in wanted]
        return {Activation(site, at): part[i, ..., : numbers[i]] for at, part in split.items() for i, site in enumerate(wanted)}

    def _first_stream(self, members: Sequence[Activation]) -> Float[Tensor, "row pos d_model"]:
        """Return ``x0.pre`` with some token and position embeddings of the contrasts; what is replaced as ``x0.pre`` wins."""
        tokens, every = self.own, torch.arange(self.own.size(1)).expand(len(self.rows), -1)
        for a in members:
            if a.site == EMBED:
                own, theirs = self._where(a.at)
                tokens = tokens.scatter(1, own, self.theirs.gather(1, theirs))
        x = self.model.activations(tokens, [PRE], every)[0]
        for a in sorted((a for a in members if a.site in (POS_EMBED, PRE)), key=lambda a: a.site):
            own, theirs = self._where(a.at)
            if a.site == PRE:
                new = self._values[a]
            else:  # the token, in the place that the contrast has it in
                new = self.model.activations(self.theirs.scatter(1, theirs, tokens.gather(1, own)), [PRE], theirs)[0]
            x[self.each[:, None], own] = new
        return x

    def _patches(self, members: Sequence[Activation]) -> dict[Site, Patch]:
        parts: dict[Site, list[tuple[Int[Tensor, "row k"], Float[Tensor, "row k d_model"]]]] = {}
        embedded = any(a.site in EMBEDDINGS for a in members)
        if embedded:
            new = torch.arange(self.first, self.own.size(1)).expand(len(self.rows), -1)
            parts[PRE] = [(new, self._first_stream(members)[:, self.first :])]
        for a in members:
            if a.site not in EMBEDDINGS and not (embedded and a.site == PRE):
                parts.setdefault(a.site, []).append((self._where(a.at)[0], self._values[a]))
        device = self.model.device
        return {
            site: Patch(torch.cat([at for at, _ in found], 1).to(device), torch.cat([value for _, value in found], 1))
            for site, found in parts.items()
        }


def _side_by_side(patches: Sequence[dict[Site, Patch]], rows: int) -> dict[Site, Patch]:
    """Return patches of copies of the same inputs, each for its own copy, as patches of one batch."""
    if len(patches) == 1:
        return patches[0]
    parts: dict[Site, list[Patch]] = {}
    for copy, each in enumerate(patches):
        for site, patch in each.items():
            k = patch.positions.size(1)
            here = torch.arange(rows, device=patch.positions.device).repeat_interleave(k) + copy * rows
            parts.setdefault(site, []).append(Patch(patch.positions.reshape(-1, 1), patch.values.flatten(0, 1)[:, None], here))
    return {
        site: Patch(*(torch.cat([getattr(p, part) for p in found]) for part in ("positions", "values", "rows")))
        for site, found in parts.items()
    }

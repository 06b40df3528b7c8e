"""What every latent that fires at an activation tells, by the codes of a bank: no vector is read, and no model is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from inversionview.analyses.latents.result import Feature, Fired, Occurrence
from inversionview.bank.hits import Hits, Rows
from inversionview.bank.latents.codes import KeptCodes
from inversionview.bank.latents.search import LatentSearch
from inversionview.core.information import Bits, bits
from inversionview.core.progress import Progress
from inversionview.corpora.windows import WindowInputs
from inversionview.model.distances.registry import metric_of_numbers
from inversionview.model.sites.site import Site
from inversionview.sources.text_hits import TextHits

_STRONGEST, _SHOWN = 100, 3
"""Of a latent so many of those on which it fires most are looked at for what they have in common, and shown."""
_SAMPLE = 5000
"""Occurrences or inputs by which it is known how common something is."""


class MeasuredCodes:
    """Latents at one activation, held against a bank.

    Attributes:
        codes: of the bank.
        size: how many inputs, or occurrences, are compared, the query's own left out.
    """

    def __init__(self, codes: KeptCodes, site: Site, own: Rows, positions: Sequence[int], epsilon: float) -> None:
        self.codes, self.site, self.own, self.positions, self.epsilon = codes, site, own, list(positions), epsilon
        bank = codes.bank
        of, last = bank.places.inputs_of, np.array([len(bank) - 1])
        merged = int(of(last)[0]) + 1 - min(1, len(own)) if bank.places.merged else 0
        self.size = merged or len(bank) - len(own)
        self._text = TextHits(bank, bank.inputs, own) if isinstance(bank.inputs, WindowInputs) else None

    def fired(self, z: npt.NDArray[np.float32], verify: bool, report: Progress | None = None) -> list[Fired]:
        """Return every latent that is not 0 in a code, the most bits first."""
        on = np.flatnonzero(z)
        found = []
        for number, latent in enumerate(on.tolist()):
            found.append(self._one(latent, float(z[latent]), verify))
            if report is not None:
                report((number + 1) / len(on), f"{number + 1:,} of {len(on):,} latents")
        return sorted(found, key=lambda each: (-each.bits.value, -abs(each.code)))

    def _one(self, latent: int, code: float, verify: bool) -> Fired:
        summary = self.codes.summary
        fires, spread = int(summary.counts[latent]), float(summary.spreads[latent])
        if not spread > 0:
            return Fired(latent, code, self._bits(np.empty(0, np.int64)), fires, None)
        searched = self._searched(latent, spread)
        inside = searched.hits(code, self.epsilon, 0, verify).rows
        unsure = 0 if verify else searched.unsure(code, self.epsilon)
        return Fired(latent, code, self._bits(inside[~np.isin(inside, self.own)]), fires, spread, unsure)

    def _searched(self, latent: int, spread: float) -> LatentSearch:
        site = Site(self.site.layer, self.site.kind, self.site.head, f"{self.site.through}#{latent}")
        metric = metric_of_numbers("euclidean", torch.tensor([spread]), rectified=True)
        return LatentSearch(self.codes, site, metric, self.positions, len(self.codes.bank))

    def _bits(self, rows: Rows) -> Bits:
        """Return what rows inside ε mean, as a search of the latent tells it."""
        if self._text is not None:
            return self._text.bits(Hits(rows, np.zeros(len(rows), np.float32), np.zeros_like(rows), self.size))
        if self.codes.bank.places.merged:
            rows = np.unique(self.codes.bank.places.inputs_of(rows))
        return bits(len(rows), self.size)

    def strongest(self, latents: Sequence[int]) -> dict[int, tuple[Feature | None, tuple[Occurrence, ...]]]:
        """Return of some latents what most of the inputs have in common on which they fire most, and the first of these."""
        bank, every = self.codes.bank, {latent: self._most(latent) for latent in latents}
        rows = np.unique(np.concatenate([rows for rows, _, _ in every.values()] or [np.empty(0, np.int64)]))
        if not len(rows):
            return dict.fromkeys(latents, (None, ()))
        features, sample = bank.features(rows), bank.inputs.example_features(_SAMPLE)
        told = {}
        for latent, (own, places, codes) in every.items():
            where = np.searchsorted(rows, own)
            common = self._common({name: np.asarray(values)[where] for name, values in features.items()}, sample)
            told[latent] = (common, self._shown(own, places, codes))
        return told

    def _most(self, latent: int) -> tuple[Rows, Rows, npt.NDArray[np.float32]]:
        """Return where a latent fires most: rows, positions and codes."""
        found = [(place, each) for place, each in self.codes.entries(latent, self.positions)]
        codes = np.concatenate([np.where(each.on, np.abs(each.codes), -1) for _, each in found])
        rows = np.concatenate([each.rows for _, each in found])
        places = np.repeat([place for place, _ in found], [len(each.rows) for _, each in found])
        order = np.argsort(-codes, kind="stable")[:_STRONGEST]
        order = order[(codes[order] >= 0) & ~np.isin(rows[order], self.own)]
        return rows[order], places[order], codes[order]

    def _common(
        self, features: Mapping[str, npt.NDArray[np.generic]], sample: Mapping[str, npt.NDArray[np.generic]]
    ) -> Feature | None:
        """Return the value that tells these most from the corpus: of which share · log₂(share / its share there) is largest."""
        best, found = 0.0, None
        for name, values in features.items():
            if name not in sample or not len(values):
                continue
            known, counts = np.unique(values, return_counts=True)
            value, share = known[counts.argmax()], float(counts.max()) / len(values)
            base = float((np.asarray(sample[name]) == value).mean())
            worth = share * float(np.log2(share / max(base, 1 / len(sample[name]))))
            if worth > best:
                best, found = worth, Feature(name, self.codes.bank.inputs.said(name, value), share, base)
        return found

    def _shown(self, rows: Rows, places: Rows, codes: npt.NDArray[np.float32]) -> tuple[Occurrence, ...]:
        bank, found = self.codes.bank, []
        names, vocabulary = bank.manifest.positions, bank.model.vocabulary
        for row, place, code in zip(rows[:_SHOWN], places[:_SHOWN], codes[:_SHOWN], strict=True):
            tokens, at = bank.located(np.array([row]), [names[place]])
            ids = [int(token) for token in tokens[0] if token != bank.inputs.pad]
            found.append(Occurrence(tuple(vocabulary.strings(ids)), int(at[0, 0]), float(code)))
        return tuple(found)

"""A decoder held against the truth: what it finds of the exact preimage, and whether it finds it in the right proportions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.analyses.feature_codes import Codes, codes_of
from inversionview.bank.hits import Hits
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import MismatchError
from inversionview.core.information import divergence, shares
from inversionview.core.memory import check_memory
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.core.scope import PAPER, Scope
from inversionview.decoder.bias import ENOUGH_HITS, SiteTruth
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.sampling import sample, token_log_probs
from inversionview.model.measure import distance_to
from inversionview.model.sites.site import Site

_MEMBERS, _OUTSIDE = 300, 1000
"""Inputs inside and outside ε that are scored under the decoder, at most."""


def decoder_against_truth(
    decoder: Decoder,
    bank: ActivationBank,
    sites: list[Site],
    *,
    scope: Scope[Any] = PAPER,
    queries: int = 100,
    samples: int = 128,
    seed: int = 0,
    report: Progress | None = None,
) -> list[SiteTruth]:
    """Return for each site how the decoder's samples compare with the exact preimages of a bank.

    Queries are inputs of the test split at random positions that the decoder is trained on and the bank holds; D is the
    minimum over the bank's positions, for both.

    Args:
        decoder: to be held against the bank.
        bank: of the same model.
        sites: which the decoder was trained on and the bank holds.
        scope: within which ε, by which distance.
        queries: at each site.
        samples: of each query, at temperature 1.
        seed: of queries and samples.
        report: called with the share of the sites that is done, and a note.

    Raises:
        MismatchError: the decoder belongs to another model than the bank.
    """
    if decoder.config.fingerprint != bank.model.fingerprint:
        raise MismatchError("The decoder and the bank belong to different probed models.")
    check_seed(seed)
    width, longest = bank.model.shape.d_model, bank.inputs.max_length
    check_memory(whole(samples, "The number of samples"), "samples", 4 * 4 * width + 8 * 8 * longest)
    check_memory(whole(queries, "The number of queries"), "queries", 8 * 6 * longest + 4 * 2 * len(sites) * width)
    codes = codes_of(bank)
    rng = np.random.default_rng((seed, 6))
    tokens = bank.inputs.draw(queries, split="test", seed=(seed, 7))
    allowed = bank.inputs.trained_positions(tokens) & _held(bank, tokens)
    at = np.where(allowed, rng.random(allowed.shape), -1).argmax(1)
    z = bank.model.harvest(tokens, sites, at[:, None])[:, :, 0]
    out = []
    for i, site in enumerate(sites):
        one = _Site(decoder, bank, codes, site, scope, samples, np.random.default_rng((seed, i)))
        out.append(one.compare(tokens, z[i]))
        if report is not None:
            report((i + 1) / len(sites), f"{i + 1} of {len(sites)} sites")
    return out


def _held(bank: ActivationBank, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which positions of inputs are among the bank's named ones, ``[rows, pos]``."""
    named = bank.inputs.named_positions(tokens)
    places = np.stack([named[name] for name in bank.manifest.positions], axis=1)
    held = np.zeros((len(tokens), tokens.shape[1] + 1), dtype=bool)  # −1 marks the extra column
    np.put_along_axis(held, places, True, axis=1)
    return held[:, :-1]


@dataclass(frozen=True)
class _Site:
    """The comparison at one site."""

    decoder: Decoder
    bank: ActivationBank
    codes: Codes
    site: Site
    scope: Scope[Any]
    samples: int
    rng: np.random.Generator

    def compare(self, tokens: npt.NDArray[np.int64], z: Float[Tensor, "query d_model"]) -> SiteTruth:
        found = search(self.bank, self.site, z, epsilon=self.scope.epsilon, distance=self.scope.distance, verify=False)
        good, recalls = [], []
        apart: list[npt.NDArray[np.float64]] = []
        chance: list[npt.NDArray[np.float64]] = []
        for query, z_q, hits in zip(tokens, z, found, strict=True):
            drawn = self._inside(z_q)
            good.append(len(drawn) / self.samples)
            members = hits.rows[(self.bank.tokens(hits.rows) != query).any(1)]
            if len(members) < ENOUGH_HITS:
                continue
            recalls.append(self._recall(z_q, members, hits))
            drawn = drawn[self.bank.inputs.in_corpus(drawn)]  # of what the bank never could hold, nothing is to be compared
            if len(drawn):
                apart.append(self._divergence(self.codes.encode(self.bank.inputs.features(drawn)), members))
                again = members[self.rng.integers(len(members), size=len(drawn))]
                chance.append(self._divergence(self.codes.codes[again], members))
        return SiteTruth(
            self.site.short, float(np.mean(good)), float(np.mean(recalls)) if recalls else None,
            self._mean(apart), self._mean(chance), len(tokens), len(recalls),
        )  # fmt: skip

    def _mean(self, rows: list[npt.NDArray[np.float64]]) -> dict[str, float]:
        return dict(zip(self.codes.names, np.mean(rows, axis=0).tolist(), strict=True)) if rows else {}

    def _inside(self, z: Float[Tensor, " d_model"]) -> npt.NDArray[np.int64]:
        """Return the decoder's samples at temperature 1 that lie inside ε."""
        generator = torch.Generator().manual_seed(int(self.rng.integers(2**31)))
        many = z.expand(self.samples, -1)
        drawn = sample(self.decoder, many, self._number(self.samples), generator=generator)
        per_token, _, _ = distance_to(self.bank.model, drawn, many, self.site, self.scope.distance)
        held = torch.from_numpy(_held(self.bank, drawn.numpy()))
        nearest = per_token.masked_fill(~held, torch.inf).min(1).values
        return drawn[nearest <= self.scope.epsilon].numpy()

    def _number(self, count: int) -> Tensor:
        return torch.full((count,), self.decoder.config.sites.index(self.site.short))

    def _recall(self, z: Float[Tensor, " d_model"], members: npt.NDArray[np.int64], hits: Hits) -> float:
        """Return the share of members whose log p exceeds the 95th percentile of inputs outside."""
        inside = self.rng.choice(members, size=min(_MEMBERS, len(members)), replace=False)
        drawn = self.rng.integers(len(self.bank), size=_OUTSIDE)
        rows = np.concatenate([inside, np.setdiff1d(drawn, hits.rows)])
        tokens = torch.from_numpy(self.bank.tokens(rows))
        scores = token_log_probs(self.decoder, tokens, z.expand(len(rows), -1), self._number(len(rows))).sum(1).numpy()
        outside = scores[len(inside) :]
        return float((scores[: len(inside)] > np.quantile(outside, 0.95)).mean()) if len(outside) else 1.0

    def _divergence(self, drawn: npt.NDArray[np.int32], members: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return KL(drawn ‖ members) of every feature; the prior counts as one more member, so that it is finite."""
        exact, out = self.codes.codes[members], np.empty(len(self.codes.names))
        for f, prior in enumerate(self.codes.prior):
            p = shares(drawn[:, f], len(prior))
            q = (shares(exact[:, f], len(prior)) * len(exact) + prior) / (len(exact) + 1)
            out[f] = divergence(p, q)
        return out

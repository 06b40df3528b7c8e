"""Ablation: replace activations by what says nothing of the input, and see what the model still predicts.

By the mean over the inputs, by zero, or by the activation of another random input (resampling). At every answer position: the
divergence KL(original ‖ patched) and how far the logit of the originally first token falls (Huang et al. 2024, Table 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.analyses.ablate.result import WAYS, Ablated, Ablation, By, Loss
from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError, UnknownPositionError
from inversionview.core.information import interval, resampled
from inversionview.core.progress import Progress
from inversionview.corpora.positions import Positions
from inversionview.intervene.activations import Activation
from inversionview.model.backend import Patch
from inversionview.model.harvest import tokens_per_pass
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import EMBEDDINGS, Site

_MEASURES = ("kl", "top", "patched_top", "right", "patched_right")


def check_way(by: str) -> By:
    """Return ``by`` if activations can be ablated so.

    Raises:
        SettingError: they cannot.
    """
    for way in WAYS:
        if by == way:
            return way
    raise SettingError(f"Activations cannot be ablated by {by!r}: choose {', '.join(WAYS)}.")


def ablation(
    model: ProbedModel,
    tokens: Ids,
    reads: Mapping[str, Ids],
    activations: Sequence[Activation],
    positions: Positions,
    *,
    by: By = "mean",
    study: str = "",
    answers: Mapping[str, Ids] | None = None,
    where: Sequence[str] = (),
    seed: int = 0,
    report: Progress | None = None,
) -> Ablation:
    """Ablate ``activations`` on ``tokens``, each alone and, where there are several, all at once.

    Args:
        model: the probed model.
        tokens: inputs, ``[row, pos]``, padded on the right; means and resampled activations are over these.
        reads: for each target the position that predicts it, ``[row]``.
        answers: for each target the right token, ``[row]``; by default the next one.
        activations: what is replaced.
        positions: finds their positions.
        by: ``"mean"`` (of the same position over the inputs), ``"zero"``, or ``"resample"`` (of another random input).
        study: name of the study, for the record.
        where: filters that the inputs satisfy, for the record.
        seed: of the resampling and the bootstrap.
        report: called with the share of the inputs that are done, and a note.

    Raises:
        SettingError: there is no such way, or nothing to ablate, or an embedding is named.
        UnknownPositionError: some input lacks a position.
    """
    check_way(by)
    if not len(tokens) or not activations:
        raise SettingError("There is nothing to ablate: give at least one input and one activation.")
    if by == "resample" and len(tokens) < 2:
        raise SettingError("Resampling takes the activation of another input: give at least two.")
    if any(a.site in EMBEDDINGS for a in activations):
        raise SettingError("Embeddings are patched, not ablated: name x0.pre in their place.")
    runs = _Runs(model, tokens, reads, activations, positions, by, seed, answers)
    sets = [(i,) for i in range(len(activations))] + ([tuple(range(len(activations)))] if len(activations) > 1 else [])
    measured = np.empty((len(tokens), len(sets), len(reads), len(_MEASURES)))
    for done, rows in runs.batches():
        original = runs.logits(rows, ())
        for number, members in enumerate(sets):
            measured[rows, number] = runs.measure(rows, original, runs.logits(rows, members))
        if report is not None:
            report(done / len(tokens), f"{done:,} of {len(tokens):,} inputs")
    return Ablation(
        study, model.name, by, tuple(where), len(tokens), seed,
        tuple(
            Ablated(tuple(str(activations[i]) for i in members), tuple(
                _loss(target, measured[:, number, t], seed) for t, target in enumerate(reads)
            ))
            for number, members in enumerate(sets)
        ),
    )  # fmt: skip


def _loss(target: str, measured: Float[np.ndarray, "row measure"], seed: int) -> Loss:
    kl, top, patched, right, still = measured.mean(0)
    drawn = resampled(measured, seed=seed)
    fall = drawn[:, 1] - drawn[:, 2]
    return Loss(
        target, interval(kl, drawn[:, 0]), interval(top, drawn[:, 1]), interval(top - patched, fall),
        interval((top - patched) / top, fall / drawn[:, 1]), float(right), float(still),
    )  # fmt: skip


class _Runs:
    """The inputs with what replaces their activations."""

    def __init__(
        self,
        model: ProbedModel,
        tokens: Ids,
        reads: Mapping[str, Ids],
        activations: Sequence[Activation],
        positions: Positions,
        by: By,
        seed: int,
        answers: Mapping[str, Ids] | None,
    ) -> None:
        self.model, self.tokens, self.activations, self.by = model, tokens, activations, by
        self.reads = np.stack(list(reads.values()), axis=1)
        following = (self.reads + 1).clip(max=tokens.shape[1] - 1)
        self.right = np.take_along_axis(tokens, following, axis=1)
        if answers is not None:
            self.right = np.stack([answers[target] for target in reads], axis=1)
        self.sites = list(dict.fromkeys(a.site for a in activations))
        self.length = self.reads.max(1) + 1
        self.at = {a.at: self._places(a.at, positions) for a in activations}
        for at in self.at.values():
            self.length = np.maximum(self.length, at.max(1) + 1)
        self.donor = _others(len(tokens), np.random.default_rng((seed, 31)))
        self.means = self._means() if by == "mean" else {}

    def _places(self, at: str | None, positions: Positions) -> Ids:
        """Return the index of a position in every input, ``[row, 1]``; of every position, ``[row, pos]``, the last repeated."""
        if at is None:
            every = np.arange(int(self.length.max()))
            return np.minimum(every[None], self.length[:, None] - 1)
        found = positions.many(self.tokens, at)
        if (found < 0).any():
            raise UnknownPositionError(
                f"{int((found < 0).sum()):,} of {len(found):,} inputs have no single position {at!r}: name another "
                f"({', '.join(positions.named(self.tokens))}), or filter the inputs."
            )
        return found[:, None]

    def batches(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield how many inputs are done after a batch, and its rows, which are of about one length."""
        order, done, shape = np.argsort(self.length, kind="stable"), 0, self.model.shape
        while done < len(order):
            longest = int(self.length[order[done]]) + 1
            size = max(1, min(2 * tokens_per_pass(self.model.device) // longest, 2**26 // (longest * shape.vocabulary)))
            rows = order[done : done + size]
            done += len(rows)
            yield done, rows

    def _cut(self, rows: npt.NDArray[np.int64]) -> Int[Tensor, "row pos"]:
        return torch.from_numpy(self.tokens[rows, : int(self.length[rows].max())])

    def logits(self, rows: npt.NDArray[np.int64], members: Sequence[int]) -> Float[Tensor, "row target vocabulary"]:
        """Return the logits that predict the targets, with some activations replaced."""
        patches = self._patches(rows, [self.activations[i] for i in members]) if members else None
        logits = self.model.logits(self._cut(rows), patches)
        return logits[torch.arange(len(rows))[:, None], torch.from_numpy(self.reads[rows])].float()

    def measure(
        self,
        rows: npt.NDArray[np.int64],
        original: Float[Tensor, "row target vocabulary"],
        patched: Float[Tensor, "row target vocabulary"],
    ) -> Float[np.ndarray, "row target measure"]:
        """Return KL, the highest logit, that token's after patching, and whether the first token is the right one, twice."""
        p, q = original.log_softmax(-1), patched.log_softmax(-1)
        top, first = original.max(-1)
        right = torch.from_numpy(self.right[rows]).to(first.device)
        parts = [
            (p.exp() * (p - q)).sum(-1).clamp(min=0), top, patched.gather(-1, first[..., None])[..., 0], first == right,
            patched.argmax(-1) == right,
        ]  # fmt: skip
        out: Float[np.ndarray, "row target measure"] = torch.stack([part.double() for part in parts], dim=-1).cpu().numpy()
        return out

    def _patches(self, rows: npt.NDArray[np.int64], members: Sequence[Activation]) -> dict[Site, Patch]:
        parts: dict[Site, list[tuple[Int[Tensor, "row k"], Float[Tensor, "row k d_model"]]]] = {}
        for a in members:
            at = torch.from_numpy(self.at[a.at][rows]).to(self.model.device)
            parts.setdefault(a.site, []).append((at, self._values(rows, a, at)))
        return {
            site: Patch(torch.cat([at for at, _ in found], 1), torch.cat([z for _, z in found], 1))
            for site, found in parts.items()
        }

    def _values(self, rows: npt.NDArray[np.int64], a: Activation, at: Int[Tensor, "row k"]) -> Float[Tensor, "row k d_model"]:
        if self.by == "zero":
            return torch.zeros(*at.shape, a.site.numbers(self.model.shape.widths), device=self.model.device)
        if self.by == "mean":
            mean = self.means[a]
            return mean[at] if a.at is None else mean.expand(*at.shape, -1)
        donors = self.donor[rows]
        there = self.at[a.at][rows if a.at is None else donors]  # where a donor is shorter, its last
        z: Tensor = self.model.harvest(self.tokens[donors], [a.site], np.minimum(there, self.length[donors][:, None] - 1))[0]
        return z.to(self.model.device)

    def _means(self) -> dict[Activation, Float[Tensor, "place d_model"]]:
        """Return each activation's mean over the inputs, one row; of every position, a row for each."""
        widths = self.model.shape.widths
        sums = {a: torch.zeros(self.at[a.at].shape[1], a.site.numbers(widths), dtype=torch.float64) for a in self.activations}
        counts = {at: np.zeros(places.shape[1]) for at, places in self.at.items()}
        for _, rows in self.batches():
            for at, places in self.at.items():
                there = _distinct(places[rows])
                counts[at] += there.sum(0)
                z = self.model.harvest(self.tokens[rows], self.sites, places[rows]).double()
                for i, site in enumerate(self.sites):
                    if Activation(site, at) in sums:
                        own = self.model.own(z[i], site)
                        sums[Activation(site, at)] += (own * torch.from_numpy(there)[..., None]).sum(0)
        means = {a: (total / torch.from_numpy(counts[a.at])[:, None]).float() for a, total in sums.items()}
        return {a: z.to(self.model.device) for a, z in means.items()}


def _distinct(places: Ids) -> npt.NDArray[np.bool_]:
    """Return which of each row's positions are new, not the last one repeated, ``[row, k]``."""
    return np.concatenate([np.ones((len(places), 1), np.bool_), np.diff(places, axis=1) > 0], axis=1)


def _others(count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return another random row for each row: the next in a random order."""
    order = rng.permutation(count)
    donor = np.empty(count, np.int64)
    donor[order] = np.roll(order, -1)
    return donor

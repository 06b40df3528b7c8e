"""Which latents fire on vectors that were rounded when they were stored, and where the rounding could decide.

A stored vector lies within u‖x‖ of the true one, u being half a step of its precision. Where what the dictionary encodes moves
by Δ for that, a pre-activation moves by |w·Δ| ≤ ‖w‖ ‖Δ‖ (Cauchy and Schwarz), times its scale; so does the k-th largest of
all, with the largest of these bounds: an order statistic moves by no more than the numbers that are ordered. A latent is *sure*
where all that decides whether it fires is farther from its edge. What is not is looked at again, by the numbers of that
vector: |w·Δ| ≤ u Σ|wx|, and below 3u √Σ(wx)² but for 5 standard deviations, as ``Metric.moved`` has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.model.dictionaries.dictionary import Dictionary

_DEVIATIONS = 3.0
"""5 standard deviations of a rounding error, which is even up to its bound, in units of that bound."""
_PAIRS = 2**14
"""(vector, latent) pairs looked at again together."""


class Firing(NamedTuple):
    """Codes of the latents that fire on some vectors, or may fire."""

    rows: Int[Tensor, " entry"]
    latents: Int[Tensor, " entry"]
    codes: Float[Tensor, " entry"]
    """What the code is where it fires."""
    on: Bool[Tensor, " entry"]
    """It fires on the vector as it is stored."""
    sure: Bool[Tensor, " entry"]
    """It fires, and rounding did not decide that."""


@dataclass(frozen=True, eq=False)
class _Edges:
    """Latents that may fire, and what decides that: they do where every margin lies above 0."""

    rows: Int[Tensor, " entry"]
    latents: Int[Tensor, " entry"]
    codes: Float[Tensor, " entry"]
    margins: list[tuple[Float[Tensor, " entry"], Float[Tensor, " entry"]]]
    """Each with by how much it moves as w·x moves by 1."""
    ahead: Float[Tensor, " entry"] | None = None
    """By how much it is ahead of the first that does not fire, or behind (< 0) the last that does, where latents compete."""

    @property
    def on(self) -> Bool[Tensor, " entry"]:
        """Which fire."""
        every = [margin for margin, _ in self.margins] + ([] if self.ahead is None else [self.ahead])
        return torch.stack(every).amin(0) > 0

    def part(self, which: Int[Tensor, " some"]) -> _Edges:
        """Return some entries."""
        margins = [(margin[which], worth[which]) for margin, worth in self.margins]
        ahead = None if self.ahead is None else self.ahead[which]
        return _Edges(self.rows[which], self.latents[which], self.codes[which], margins, ahead)

    def decided(
        self, bound: Float[Tensor, " entry"], rivals: Float[Tensor, " entry"]
    ) -> tuple[Bool[Tensor, " entry"], Bool[Tensor, " entry"]]:
        """Return which fire for sure and which for sure do not, where w·x and that of those they compete with is off so far."""
        every = [(margin, worth * bound) for margin, worth in self.margins]
        every += [] if self.ahead is None else [(self.ahead, 2 * rivals)]
        sure, never = torch.ones_like(self.codes, dtype=torch.bool), torch.zeros_like(self.codes, dtype=torch.bool)
        for margin, reach in every:
            sure &= margin > reach
            never |= margin < -reach
        return sure, never


class SparseEncoder:
    """Encodes stored vectors.

    Attributes:
        dictionary: by which.
        norms: of the encoder's rows.
        gains: by how much each latent's code moves at most, where it fires, as what is encoded moves by 1.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary, p = dictionary, dictionary.parts
        self.norms: Float[Tensor, " latents"] = dictionary.encoder.norm(dim=1)
        ones = torch.ones_like(self.norms)
        self._scale = ones if p.scale is None else p.scale.float()
        self._magnitude = None if p.magnitude is None else p.magnitude.float().exp()
        self.gains = self.norms * (self._scale.abs() if self._magnitude is None else self._magnitude)

    def moved(self, x: Float[Tensor, "row d_in"], share: float) -> Float[Tensor, " row"]:
        """Return by how much what is encoded of vectors may be off, in length, where each number is by a share of itself."""
        off = x.norm(dim=-1) * share * abs(self.dictionary.factor)
        if self.dictionary.normalisation == "none":
            return off
        _, spread = self.dictionary.moments(x * self.dictionary.factor)  # which is off itself, by as much of its size
        return 2.02 * off / spread[..., 0].clamp(min=1e-30)

    def fired(self, x: Float[Tensor, "row d_in"], share: float, *, plain: bool = True) -> Firing:
        """Return the codes of vectors that are not 0, or may not be.

        Args:
            x: vectors as they are stored, in fp32.
            share: by which share of itself each number may be off.
            plain: these are the numbers that were rounded, not others that were made of them.

        Raises:
            SettingError: they are of another width.
        """
        off = self.moved(x, share)
        edges = self._edges(self.dictionary.taken(x) @ self.dictionary.encoder.T, self.gains.max() * off)
        bound, rivals = self.norms[edges.latents] * off[edges.rows], self.gains.max() * off[edges.rows]
        sure, never = edges.decided(bound, rivals)
        left = (~sure & ~never).nonzero()[:, 0]
        if plain and self.dictionary.normalisation == "none" and len(left):
            some = edges.part(left)
            finer = torch.minimum(bound[left], self.off(x, some.rows, some.latents, share))
            largest = torch.zeros(len(x)).scatter_reduce(0, some.rows, finer * self._scale[some.latents].abs(), "amax")
            sure[left], never[left] = some.decided(finer, largest[some.rows])
        kept = (~never).nonzero()[:, 0]
        return Firing(edges.rows[kept], edges.latents[kept], edges.codes[kept], edges.on[kept], sure[kept])

    def off(
        self, x: Float[Tensor, "row d_in"], rows: Int[Tensor, " pair"], latents: Int[Tensor, " pair"], share: float
    ) -> Float[Tensor, " pair"]:
        """Return by how much w·x may be off for pairs of vectors and latents, by the numbers of the vectors."""
        found = []
        for start in range(0, len(rows), _PAIRS):
            part = slice(start, start + _PAIRS)
            terms = self.dictionary.encoder[latents[part]] * x[rows[part]]
            found.append(torch.minimum(_DEVIATIONS * terms.norm(dim=1), terms.abs().sum(1)))
        return torch.cat(found) * share * abs(self.dictionary.factor) if found else torch.zeros(0)

    @cached_property
    def _threshold(self) -> Float[Tensor, " latents"]:
        """The pre-activation above which a latent fires by itself."""
        p = self.dictionary.parts
        return torch.zeros_like(self.norms) if p.threshold is None else p.threshold.float().clamp(min=0)

    def _edges(self, linear: Float[Tensor, "row latents"], reach: Float[Tensor, " row"]) -> _Edges:
        """Return all latents that may fire, by w·x and how far a pre-activation may be off at most."""
        p = self.dictionary.parts
        if p.gate_bias is not None and self._magnitude is not None:
            gate = linear + p.gate_bias.float()
            rows, latents = (gate >= -reach[:, None]).nonzero(as_tuple=True)
            codes = linear[rows, latents] * self._magnitude[latents] + p.encoder_bias.float()[latents]
            own = gate[rows, latents]
            return _Edges(rows, latents, codes, [(own, torch.ones_like(own)), (codes, self._magnitude[latents])])
        pre = linear.add_(p.encoder_bias.float())
        if p.scale is not None:
            pre *= self._scale
        if self.dictionary.k is not None:
            return self._competing(pre, reach)
        rows, latents = (pre - self._threshold >= -reach[:, None]).nonzero(as_tuple=True)
        codes = pre[rows, latents]
        return _Edges(rows, latents, codes, [(codes - self._threshold[latents], self._scale[latents].abs())])

    def _competing(self, pre: Float[Tensor, "row latents"], reach: Float[Tensor, " row"]) -> _Edges:
        """Return those that may be among the largest: of all, or of their groups."""
        k, signed = self.dictionary.k or 1, self.dictionary.activation == "abstopk"
        score = pre.abs() if signed else pre
        grouped = self.dictionary.activation == "groupmax"
        groups = score.unflatten(-1, (k, -1)) if grouped else score[:, None]  # [row, group, latent]
        wanted, size = 1 if grouped else k, groups.size(-1)
        best = groups.topk(min(wanted + 1, size), dim=-1).values
        last = best[..., wanted - 1]
        first_out = best[..., wanted] if size > wanted else torch.full_like(last, -torch.inf)
        floor = torch.maximum(last - 2 * reach[:, None], torch.zeros(()) if signed else -reach[:, None])
        rows, latents = (groups >= floor[..., None]).flatten(1).nonzero(as_tuple=True)
        own, group = score[rows, latents], latents // size
        inside = own >= last[rows, group]
        ahead = own - torch.where(inside, first_out[rows, group], last[rows, group])
        codes = pre[rows, latents]
        return _Edges(rows, latents, codes, [(own, self._scale[latents].abs())], ahead)

"""Can one activation stand in for another? What the model says next, with the one in place of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.model.backend import Patch
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

_NUMBERS, _ROWS = 2**24, 512
"""Logits of a pass, and runs, at most."""


def nats(
    model: ProbedModel, ids: Sequence[int], position: int, site: Site, z: Float[Tensor, "row d_model"]
) -> Float[Tensor, " row"]:
    """Return KL(p ‖ p′) in nats: p is what the model says after ``ids`` up to ``position``, p′ with z at the site there.

    Only what the model says at that very position is compared. What comes before it is run once, then one token a row.

    Args:
        model: the probed model.
        ids: the query's tokens.
        position: where it is read.
        site: at which site.
        z: activations that are put there, one after the other.
    """
    return PatchedToken(model, ids, position).nats([(site, z)])[0]


@dataclass(frozen=True)
class _Part:
    """Rows of a pass: some of the activations that are put at one site."""

    number: int
    """Of the site, among those that are asked for."""
    site: Site
    z: Float[Tensor, "row d_model"]


class PatchedToken:
    """A token of a text at which activations are replaced; what comes before it is run once, whatever is put there."""

    def __init__(self, model: ProbedModel, ids: Sequence[int], position: int) -> None:
        """Run the text up to ``position``.

        Args:
            model: the probed model.
            ids: of the text.
            position: where it is read.
        """
        self.model, self.position, self.token = model, position, int(ids[position])
        self._before = model.extend(torch.tensor([list(ids[:position])]), None).cache if position else None
        self.plain = self._said(None)
        """Log p of the tokens that may follow, ``[1, vocabulary]``."""

    def nats(self, put: Sequence[tuple[Site, Float[Tensor, "row d_model"]]]) -> list[Float[Tensor, " row"]]:
        """Return what ``nats`` does for several sites, each with activations of its own, run together."""
        found: list[list[Tensor]] = [[] for _ in put]
        p = self.plain.exp()
        for parts in _passes(put, max(1, min(_ROWS, _NUMBERS // self.plain.size(-1)))):
            told = (p * (self.plain - self._said(parts))).sum(-1).clamp(min=0).cpu()
            for part, own in zip(parts, told.split([len(part.z) for part in parts]), strict=True):
                found[part.number].append(own)
        return [torch.cat(some) if some else torch.empty(0) for some in found]

    def _said(self, parts: Sequence[_Part] | None) -> Float[Tensor, "row vocabulary"]:
        """Return the log probabilities of what follows, in rows one after the other for all parts."""
        device, patches, rows = self.model.device, dict[Site, Patch](), 0
        for part in parts or ():
            own = torch.arange(rows, rows + len(part.z), device=device)
            at = torch.full((len(own), 1), self.position, device=device)
            patches[part.site] = Patch(at, part.z[:, None].to(self.plain), own)
            rows += len(own)
        out = self.model.variants(self.token, self._before, max(rows, 1), patches)
        return out.float().log_softmax(-1)


def _passes(put: Sequence[tuple[Site, Float[Tensor, "row d_model"]]], room: int) -> Iterator[list[_Part]]:
    """Yield parts of at most so many rows together, no site twice."""
    waiting: list[_Part] = []
    for number, (site, z) in enumerate(put):
        for some in z.split(room) if len(z) else ():
            rows = sum(len(part.z) for part in waiting)
            if waiting and (rows + len(some) > room or any(part.site == site for part in waiting)):
                yield waiting
                waiting = []
            waiting.append(_Part(number, site, some))
    if waiting:
        yield waiting

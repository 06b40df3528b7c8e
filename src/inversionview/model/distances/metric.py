"""A distance at one site: vectors are mapped linearly, then one of the two geometries holds.

``registry.py`` says which map each distance has. A search maps what a bank holds and goes on as ever: what it finds is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.core.scope import Distance
from inversionview.model.distances.geometry import between

_ULP = 2.0**-23
"""Of single precision, relative to a number."""
_DEVIATIONS = 3.0
"""5 standard deviations of a rounding error, which is even up to its bound, in units of that bound."""


@dataclass(frozen=True, eq=False)
class Metric:
    """The distance d(A(z_q − μ), A(z − μ)) of vectors at a site, d being a geometry.

    Vectors have d_model numbers, or, of heads, the d_head coordinates of ``ProbedModel.frame`` in which banks keep them. With
    neither μ nor A both give the same, for a frame turns nothing but coordinates; else the first are taken to the second.
    """

    distance: Distance
    shift: Float[Tensor, " width"] | None = None
    """μ."""
    gain: Float[Tensor, " width"] | None = None
    """A as a diagonal matrix."""
    matrix: Float[Tensor, "width out"] | None = None
    """A as any other, vectors being rows."""
    centres: bool = False
    """Each vector's own mean over its numbers is taken off first, as LayerNorm does."""
    frame: Float[Tensor, "width d_model"] | None = None
    jump: float = 0.0
    """Added to A z, with its sign, unless z is 0: of numbers of which 0 is a value of its own, far from all others."""
    absolute: bool = False
    """Of one number: the difference itself, A being 1 / its spread over a corpus, and not relative to the query's length.

    A number may be 0 at the query, so that no other would be near it, and it has no direction.
    """

    @property
    def cosine(self) -> bool:
        """The geometry is the cosine, not the Euclidean one."""
        return self.distance.startswith("cosine") and not self.absolute

    @property
    def plain(self) -> bool:
        """Vectors are compared as they are."""
        return self.shift is None and self.gain is None and self.matrix is None and not self.centres

    @property
    def elementwise(self) -> bool:
        """Each number of a vector is mapped by itself, onto a multiple: what moves it in proportion does so after it, too."""
        return self.shift is None and self.matrix is None and not self.centres and not self.absolute

    @property
    def spread(self) -> float:
        """Of one number, how large a difference D = 1 is, in its own units."""
        assert self.absolute
        assert self.gain is not None
        return 1 / float(self.gain)

    def within(self, query: Float[Tensor, " 1"], amount: float) -> float:
        """Return the ε of p_q ± ``amount``, in a number's own units; a tie is inside, for rounding takes off nothing.

        Numbers of which 0 is a value of its own keep it apart: it is inside where the query is 0 itself.
        """
        size = (abs(float(query)) + amount) / self.spread + self.jump
        return amount / self.spread + 2 * _ULP * size

    def mapped(self, z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch out"]:
        """Return A(z − μ)."""
        if self.plain:
            return z
        if self.frame is not None and z.size(-1) == self.frame.size(1):
            z = z @ self.frame.to(z).T
        if self.shift is not None:
            z = z - self.shift.to(z)
        if self.centres:
            z = z - z.mean(-1, keepdim=True)
        if self.gain is not None:
            z = z * self.gain.to(z)
        if self.jump:
            z = z + self.jump * z.sign()
        return z if self.matrix is None else z @ self.matrix.to(z)

    def moved(self, z: Float[Tensor, "*batch width"], share: float) -> Float[Tensor, "*batch"]:
        """Return by how much A(z − μ) may be off, in Euclidean length, where each number of z is by this share of itself.

        Of a matrix, for numbers that are off independently of one another, as by rounding: by no more than 5 standard
        deviations; if all were off in the worst of all ways at once, it would be √width times as much.
        """
        off = z.abs()
        if self.centres:
            off = off + off.mean(-1, keepdim=True)
        if self.gain is not None:
            off = off * self.gain.to(z).abs()
        if self.matrix is not None:
            off = _DEVIATIONS * off * self.matrix.to(z).norm(dim=1)
        return off.norm(dim=-1) * share

    def between(self, query: Float[Tensor, "*#batch width"], z: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch"]:
        """Return the distance from the query activation to ``z``."""
        return self.of_mapped(self.mapped(query), self.mapped(z))

    def of_mapped(self, query: Float[Tensor, "*#batch out"], z: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch"]:
        """Return the same of vectors that are mapped."""
        if self.absolute:
            return (z - query).norm(dim=-1)
        return between("cosine" if self.cosine else "euclidean", query, z)

    def lengths(self, points: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch"]:
        """Return what a difference from each of some mapped queries is divided by, where the geometry is not the cosine."""
        return torch.ones_like(points[..., 0]) if self.absolute else points.norm(dim=-1)

"""Activation sites: places in a transformer where a vector is read, by the names and readouts of their kinds.

``REGISTRY`` lists the kinds; names, patterns, families, the order of computation and a model's sites all come from it. A new
kind is a file beside this one and its line there.

Huang et al. 2024, section 2 and appendix A.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inversionview.core.errors import UnknownSiteError
from inversionview.model.sites.embedding import EMBED, POS_EMBED
from inversionview.model.sites.head import HEAD
from inversionview.model.sites.kind import TAPS, Kind, SiteKind, Tap, Weights
from inversionview.model.sites.mlp import MLP
from inversionview.model.sites.residual import MID, POST, PRE

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


REGISTRY: tuple[SiteKind, ...] = (EMBED, POS_EMBED, PRE, MID, POST, HEAD, MLP)
"""All kinds of sites."""
FAMILIES: dict[Kind, str] = {kind.name: kind.family for kind in REGISTRY if kind.family}
"""What a kind of site belongs to; sites of one family have a default ε in common."""
KINDS: dict[Kind, str] = {kind.name: kind.pattern for kind in REGISTRY if kind.pattern}
"""Patterns that mean all sites of a kind."""
_BY_NAME = {kind.name: kind for kind in REGISTRY}
_ORDERED = sorted(REGISTRY, key=lambda kind: TAPS.index(kind.tap))
_RANK = {kind.name: rank for rank, kind in enumerate(_ORDERED)}


@dataclass(frozen=True)
class Site:
    """A place in a transformer where an activation vector of width d_model is read."""

    layer: int
    kind: Kind
    head: int | None = None

    @property
    def readout(self) -> SiteKind:
        """What is known of its kind.

        Raises:
            KeyError: there is no kind of this name.
        """
        return _BY_NAME[self.kind]

    @property
    def short(self) -> str:
        """The short name: ``x0.pre``, ``a0.3``, ``m1``."""
        return self.readout.short.format(layer=self.layer, head=self.head)

    @property
    def hook(self) -> str:
        """The TransformerLens name; a head's carries its index in brackets."""
        return self.readout.hook.format(layer=self.layer, head=self.head)

    @property
    def latex(self) -> str:
        """The paper's notation."""
        return self.readout.latex.format(layer=self.layer, head=self.head)

    @property
    def family(self) -> str:
        """What its kind belongs to: ``residual``, ``head``, ``mlp``; empty for embeddings."""
        return self.readout.family

    @property
    def is_head(self) -> bool:
        """Whether it is the output of an attention head."""
        return self.kind == HEAD.name

    @property
    def tap(self) -> Tap:
        """Where a backend reads it."""
        return Tap(self.layer, self.readout.tap)

    @property
    def written(self) -> Tap:
        """Where a backend writes it."""
        return Tap(self.layer, self.readout.written)

    def width(self, d_model: int, d_head: int) -> int:
        """Return how many numbers hold an activation: a head's output lies in a space of d_head dimensions."""
        return self.readout.width(d_model, d_head)

    def matrix(self, weights: Weights) -> Float[Tensor, "d_in d_model"] | None:
        """Return what ``read`` multiplies with, of a model's weights; ``None``: nothing."""
        return self.readout.matrix(weights, self.layer, self.head)

    def read(
        self, x: Float[Tensor, "batch pos *width"], matrix: Float[Tensor, "d_in d_out"] | None
    ) -> Float[Tensor, "batch pos d_out"]:
        """Return the site's activations from ``x``, the value of its ``tap``; ``x`` itself where they are all of it."""
        return self.readout.read(x, self.head, matrix)

    def write(
        self,
        x: Float[Tensor, "*batch d_model"],
        z: Float[Tensor, "*batch d_model"],
        old: Float[Tensor, "*batch d_model"] | None = None,
    ) -> Float[Tensor, "*batch d_model"]:
        """Return what ``x``, the value of the tap ``written``, becomes with the activations ``z`` in place of ``old``.

        Of a site that is a term of ``x``, without ``old`` ``z`` is added.
        """
        return self.readout.write(x, z, old)

    def __str__(self) -> str:
        return self.short

    def __lt__(self, other: Site) -> bool:
        return self._key < other._key

    @property
    def _key(self) -> tuple[int, int, int]:
        return (self.layer, _RANK[self.kind], self.head or 0)

    @classmethod
    def parse(cls, name: str | Site) -> Site:
        """Return the site that ``name`` means in any of the three styles.

        Raises:
            UnknownSiteError: the name follows none of them.
        """
        if isinstance(name, Site):
            return name
        for kind in REGISTRY:
            if found := kind.parse(name.strip()):
                return cls(found[0], kind.name, found[1])
        *examples, last = (kind.example for kind in REGISTRY if kind.example)
        raise UnknownSiteError(
            f"{name!r} is not the name of a site: write {', '.join(examples)} or {last}, or the TransformerLens or LaTeX name."
        )


EMBEDDINGS = (Site(0, EMBED.name), Site(0, POS_EMBED.name))
"""The two parts of ``x0.pre``: no sites to read, they hold the token and its place, but to intervene on."""


def all_sites(heads: Sequence[int], *, parallel: bool = False) -> list[Site]:
    """Return every site of a model in the order of computation.

    Args:
        heads: number of attention heads of each layer.
        parallel: attention and MLP read the same residual stream (GPT-NeoX, GPT-J), so there is no ``x.mid``.
    """
    kinds = [kind for kind in _ORDERED if kind.pattern and not (parallel and kind.serial)]
    return [Site(layer, kind.name, head) for layer, count in enumerate(heads) for kind in kinds for head in kind.heads(count)]


class Sites(list[Site]):
    """A model's sites.

    Args:
        sites: to choose from.
        withheld: kinds of sites that are not offered, and why, as the end of a sentence.
    """

    def __init__(self, sites: Iterable[Site], withheld: Mapping[Kind, str]) -> None:
        super().__init__(site for site in sites if site.kind not in withheld)
        self.withheld = withheld

"""Activation sites: places in a transformer where a vector is read, by the names and readouts of their kinds.

``REGISTRY`` lists the kinds; names, patterns, families, the order of computation and a model's sites all come from it. A new
kind is a file beside this one and its line there.

Huang et al. 2024, section 2 and appendix A.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inversionview.core.errors import SettingError, UnknownSiteError
from inversionview.model.sites.attention import ATTN, GATHERED, K, Q, V, Z
from inversionview.model.sites.ends import EMBED, LN_FINAL, POS_EMBED
from inversionview.model.sites.head import HEAD
from inversionview.model.sites.kind import TAPS, Kind, SiteKind, Sizes, Tap, Weights, Widths
from inversionview.model.sites.mlp import MLP
from inversionview.model.sites.neurons import NEURON, NEURONS
from inversionview.model.sites.residual import MID, POST, PRE
from inversionview.model.sites.through import Through, foreign, opened, split

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


REGISTRY: tuple[SiteKind, ...] = (
    EMBED, POS_EMBED, PRE, MID, POST, HEAD, MLP, Q, K, V, Z, GATHERED, ATTN, NEURONS, NEURON, LN_FINAL,
)  # fmt: skip
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
    """A place in a transformer where an activation vector is read."""

    layer: int
    kind: Kind
    head: int | None = None
    """Its number among the sites of its kind in the layer: of a head, or of a neuron."""
    through: str = ""
    """What is read of the vector that lies there, in place of all its numbers; see ``through.py``."""

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
        return self.readout.short.format(layer=self.layer, head=self.head) + self.through

    @property
    def hook(self) -> str:
        """The TransformerLens name; a head's carries its index in brackets."""
        return self.readout.hook.format(layer=self.layer, head=self.head) + self.through

    @property
    def latex(self) -> str:
        """The paper's notation."""
        return self.readout.latex.format(layer=self.layer, head=self.head) + self.through

    @property
    def key(self) -> str:
        """Its short name, with what the files hold that it is read through in place of what they are called."""
        part = self.part
        if part is None:
            return self.short
        return f"{self.base.short}|{part.fingerprint}#{self.through.rpartition('#')[2] if '#' in self.through else ''}"

    @property
    def base(self) -> Site:
        """The site whose vector it is read of: itself, where that is read as it is."""
        return replace(self, through="") if self.through else self

    @property
    def part(self) -> Through | None:
        """What its vector is read through, from files; ``None``: it is read as it is.

        Raises:
            InputError, WeightsError, SettingError: a file is missing or damaged, or does not hold what is named.
        """
        return opened(self.through) if self.through else None

    @property
    def family(self) -> str:
        """What its kind belongs to: ``residual``, ``head``, ``mlp``; empty for embeddings."""
        return self.readout.family

    @property
    def is_head(self) -> bool:
        """Whether it is the output of an attention head."""
        return self.kind == HEAD.name

    @property
    def single(self) -> bool:
        """Whether its activations are one number."""
        part = self.part
        return self.readout.single if part is None else part.numbers == 1

    @property
    def tap(self) -> Tap:
        """Where a backend reads it."""
        return Tap(self.layer, self.readout.tap)

    @property
    def written(self) -> Tap:
        """Where a backend writes it."""
        return Tap(self.layer, self.readout.written)

    def width(self, widths: Widths) -> int:
        """Return how many numbers hold an activation in a bank: a head's output lies in a space of d_head dimensions."""
        part = self.part
        return self.readout.width(widths) if part is None else part.numbers

    def numbers(self, widths: Widths) -> int:
        """Return how many numbers an activation has when it is read."""
        part = self.part
        return self.readout.numbers(widths) if part is None else part.numbers

    def read(
        self, x: Float[Tensor, "batch pos *width"], weights: Weights, matrix: Float[Tensor, "d_in d_out"] | None = None
    ) -> Float[Tensor, "batch pos d_out"]:
        """Return the site's activations from ``x``, the value of its ``tap``; ``x`` itself where they are all of it.

        ``matrix`` stands for a head's slice of W_O, so that its output comes in other coordinates.
        """
        part = self.part
        if part is None:
            return self.readout.read(x, self.layer, self.head, weights, matrix)
        return part.read(self.readout.read(x, self.layer, self.head, weights))

    def write(
        self,
        x: Float[Tensor, "*batch width"],
        z: Float[Tensor, "*batch d_out"],
        old: Float[Tensor, "*batch d_out"] | None = None,
    ) -> Float[Tensor, "*batch width"]:
        """Return what ``x``, the value of the tap ``written``, becomes with the activations ``z`` in place of ``old``.

        Of a site that is a term of ``x``, without ``old`` ``z`` is added.
        """
        part = self.part
        if part is None:
            return self.readout.write(x, z, self.head, old)
        return self.readout.added(x, (z if old is None else z - old) @ part.rows(z).to(x), self.head)

    def check(self, widths: Widths) -> None:
        """Raise ``SettingError`` where what it is read through does not go with the vectors of its place."""
        part = self.part
        if part is None:
            return
        there = self.readout.numbers(widths)
        if part.taken != there:
            raise SettingError(
                f"{self.through.lstrip('@|')} is for vectors of {part.taken} numbers, but {self.base.short} has {there}: it "
                "belongs to another site or model."
            )
        if part.centred and not foreign(self.through):
            raise SettingError(
                f"{self.through.lstrip('@|')} was trained on a model whose writing weights were centred, and these are "
                "not: give --anyway, or write |sae!:, to read it all the same."
            )
        if part.hook is not None and not foreign(self.through) and not self._is_at(part.hook):
            raise SettingError(
                f"{self.through.lstrip('@|')} belongs at {part.hook}, as its files say, not at {self.base.hook}: name that "
                "site; to read it here all the same give --anyway, or write |sae!:."
            )

    def _is_at(self, hook: str) -> bool:
        """Return whether a hook point is its own; the stream after a layer is the one before the next."""
        try:
            named = Site.parse(hook)
        except UnknownSiteError:
            return True  # of a place that has no name here
        same = {self.base}
        if self.kind == POST.name:
            same.add(Site(self.layer + 1, PRE.name))
        if self.kind == PRE.name and self.layer:
            same.add(Site(self.layer - 1, POST.name))
        return named in same

    def __str__(self) -> str:
        return self.short

    def __lt__(self, other: Site) -> bool:
        return self._key < other._key

    @property
    def _key(self) -> tuple[int, int, int, str]:
        return (self.layer, _RANK[self.kind], self.head or 0, self.through)

    @classmethod
    def parse(cls, name: str | Site) -> Site:
        """Return the site that ``name`` means in any of the three styles.

        Raises:
            UnknownSiteError: the name follows none of them.
        """
        if isinstance(name, Site):
            return name
        bare, through = split(name.strip())
        for kind in REGISTRY:
            if found := kind.parse(bare):
                return cls(found[0], kind.name, found[1], through)
        *examples, last = (kind.example for kind in REGISTRY if kind.example)
        raise UnknownSiteError(
            f"{name!r} is not the name of a site: write {', '.join(examples)} or {last}, or the TransformerLens or LaTeX name."
        )


EMBEDDINGS = (Site(0, EMBED.name), Site(0, POS_EMBED.name))
"""The two parts of ``x0.pre``: no sites to read, they hold the token and its place, but to intervene on."""


def all_sites(sizes: Sizes, *, parallel: bool = False, usual: bool = True) -> list[Site]:
    """Return the sites of a model in the order of computation.

    Args:
        sizes: how many there are.
        parallel: attention and MLP read the same residual stream (GPT-NeoX, GPT-J), so there is no ``x.mid``.
        usual: those that are taken where none are named: the stream, heads and MLPs; else all others but single neurons.
    """
    kinds = [k for k in _ORDERED if k.pattern and k.usual == usual and k is not NEURON and not (parallel and k.serial)]
    layers = {layer for kind in kinds for layer in kind.layers(len(sizes.heads))}
    return [site for layer in sorted(layers) for kind in kinds for site in _of_layer(kind, layer, sizes)]


def _of_layer(kind: SiteKind, layer: int, sizes: Sizes) -> list[Site]:
    """Return the sites of a kind in a layer."""
    if layer not in kind.layers(len(sizes.heads)):
        return []
    return [Site(layer, kind.name, head) for head in kind.heads(layer, sizes)]


def exists(site: Site, sizes: Sizes, *, parallel: bool = False) -> bool:
    """Return whether a model of these sizes has a site that can be read."""
    kind = site.readout
    if not kind.pattern or (parallel and kind.serial) or site.layer not in kind.layers(len(sizes.heads)):
        return False
    return site.head in kind.heads(site.layer, sizes)


class Sites(list[Site]):
    """A model's sites: those of the usual kinds, which is what they are without names; ``in`` finds the others, too.

    Args:
        sites: to choose from.
        withheld: kinds of sites that are not offered, and why, as the end of a sentence.
        sizes: of the model; without, there are no others.
        widths: of its vectors, against which files that they are read through are held.
        parallel: see ``all_sites``.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        withheld: Mapping[Kind, str],
        sizes: Sizes | None = None,
        widths: Widths | None = None,
        *,
        parallel: bool = False,
    ) -> None:
        super().__init__(site for site in sites if site.kind not in withheld)
        self.withheld, self.sizes, self.widths, self.parallel = withheld, sizes, widths, parallel

    def __contains__(self, site: object) -> bool:
        if super().__contains__(site):
            return True
        if isinstance(site, Site) and site.through:
            return site.base in self
        if not isinstance(site, Site) or self.sizes is None or site.readout.usual or site.kind in self.withheld:
            return False
        return exists(site, self.sizes, parallel=self.parallel)

    @property
    def others(self) -> list[Site]:
        """The sites of all other kinds but single neurons."""
        if self.sizes is None:
            return []
        found = all_sites(self.sizes, parallel=self.parallel, usual=False)
        return [site for site in found if site.kind not in self.withheld]

    def of_kind(self, kind: Kind) -> list[Site]:
        """Return all sites of a kind."""
        if self.sizes is None or kind in self.withheld or (self.parallel and _BY_NAME[kind].serial):
            return [site for site in self if site.kind == kind]
        made = _BY_NAME[kind]
        return [site for layer in made.layers(len(self.sizes.heads)) for site in _of_layer(made, layer, self.sizes)]

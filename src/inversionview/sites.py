"""Activation sites: their three names, and patterns over the sites of a model.

=========  ===========================  ==============================  =============================================
short      TransformerLens              LaTeX                           what
=========  ===========================  ==============================  =============================================
``x0.pre`` ``blocks.0.hook_resid_pre``  ``x^{0,pre}``                   residual stream before block 0
``x0.mid`` ``blocks.0.hook_resid_mid``  ``x^{0,mid}``                   between attention and MLP
``x0.post`` ``blocks.0.hook_resid_post`` ``x^{0,post}``                 after block 0
``a0.3``   ``blocks.0.attn.hook_result[3]`` ``a^{0,3}``                 output of head 3 after W_O, without bias
``m0``     ``blocks.0.hook_mlp_out``    ``m^{0}``                       MLP output
``embed``  ``hook_embed``               ``E_{token}``                   token embedding (patched, not read)
``pos_embed`` ``hook_pos_embed``        ``E_{position}``                position embedding (patched, not read)
=========  ===========================  ==============================  =============================================

Huang et al. 2024, section 2 and appendix A.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from inversionview.errors import SettingError, UnknownSiteError, did_you_mean

Kind = Literal["embed", "pos_embed", "pre", "head", "mid", "mlp", "post"]
_ORDER: tuple[Kind, ...] = ("embed", "pos_embed", "pre", "head", "mid", "mlp", "post")
_STYLES: tuple[tuple[str, Kind | None], ...] = (
    (r"x(?P<layer>\d+)\.(?P<kind>pre|mid|post)", None),
    (r"blocks\.(?P<layer>\d+)\.hook_resid_(?P<kind>pre|mid|post)", None),
    (r"\$?x\^\{(?P<layer>\d+),\s*(?P<kind>pre|mid|post)\}\$?", None),
    (r"a(?P<layer>\d+)\.(?P<head>\d+)", "head"),
    (r"blocks\.(?P<layer>\d+)\.attn\.hook_result[\[.](?P<head>\d+)\]?", "head"),
    (r"\$?a\^\{(?P<layer>\d+),\s*(?P<head>\d+)\}\$?", "head"),
    (r"m(?P<layer>\d+)", "mlp"),
    (r"blocks\.(?P<layer>\d+)\.hook_mlp_out", "mlp"),
    (r"\$?m\^\{?(?P<layer>\d+)\}?\$?", "mlp"),
)
FAMILIES: dict[Kind, str] = {"pre": "residual", "mid": "residual", "post": "residual", "head": "head", "mlp": "mlp"}
"""What a kind of site belongs to; sites of one family have a default ε in common."""
KINDS: dict[Kind, str] = {"pre": "x*.pre", "mid": "x*.mid", "post": "x*.post", "head": "a*.*", "mlp": "m*"}
"""Patterns that mean all sites of a kind."""
_EMBEDDING_LATEX = {"embed": "E_{token}", "pos_embed": "E_{position}"}


@dataclass(frozen=True)
class Site:
    """A place in a transformer where an activation vector of width d_model is read."""

    layer: int
    kind: Kind
    head: int | None = None

    @property
    def short(self) -> str:
        """The short name: ``x0.pre``, ``a0.3``, ``m1``."""
        if self.kind in _EMBEDDING_LATEX:
            return self.kind
        if self.kind == "head":
            return f"a{self.layer}.{self.head}"
        return f"m{self.layer}" if self.kind == "mlp" else f"x{self.layer}.{self.kind}"

    @property
    def hook(self) -> str:
        """The TransformerLens name; a head's carries its index in brackets."""
        if self.kind in _EMBEDDING_LATEX:
            return f"hook_{self.kind}"
        if self.kind == "head":
            return f"blocks.{self.layer}.attn.hook_result[{self.head}]"
        return f"blocks.{self.layer}.hook_" + ("mlp_out" if self.kind == "mlp" else f"resid_{self.kind}")

    @property
    def latex(self) -> str:
        """The paper's notation."""
        if self.kind in _EMBEDDING_LATEX:
            return _EMBEDDING_LATEX[self.kind]
        if self.kind == "head":
            return f"a^{{{self.layer},{self.head}}}"
        return f"m^{{{self.layer}}}" if self.kind == "mlp" else f"x^{{{self.layer},{self.kind}}}"

    def __str__(self) -> str:
        return self.short

    def __lt__(self, other: Site) -> bool:
        return self._key < other._key

    @property
    def _key(self) -> tuple[int, int, int]:
        return (self.layer, _ORDER.index(self.kind), self.head or 0)

    @classmethod
    def parse(cls, name: str | Site) -> Site:
        """Return the site that ``name`` means in any of the three styles.

        Raises:
            UnknownSiteError: the name follows none of them.
        """
        if isinstance(name, Site):
            return name
        for embedding in EMBEDDINGS:
            if name.strip() in (embedding.short, embedding.hook, embedding.latex):
                return embedding
        for pattern, kind in _STYLES:
            if found := re.fullmatch(pattern, name.strip()):
                parts = found.groupdict()
                head = parts.get("head")
                return cls(int(parts["layer"]), kind or parts["kind"], int(head) if head else None)  # type: ignore[arg-type]
        raise UnknownSiteError(
            f"{name!r} is not the name of a site: write x0.pre, x0.mid, x0.post, a0.3 (layer.head) or m0, "
            "or the TransformerLens or LaTeX name."
        )


EMBEDDINGS = (Site(0, "embed"), Site(0, "pos_embed"))
"""The two parts of ``x0.pre``: no sites to read, they hold the token and its place, but to intervene on."""


def all_sites(heads: Sequence[int], *, parallel: bool = False) -> list[Site]:
    """Return every site of a model in the order of computation.

    Args:
        heads: number of attention heads of each layer.
        parallel: attention and MLP read the same residual stream (GPT-NeoX, GPT-J), so there is no ``x.mid``.
    """
    sites = []
    for layer, count in enumerate(heads):
        sites.append(Site(layer, "pre"))
        sites += [Site(layer, "head", head) for head in range(count)]
        sites += [] if parallel else [Site(layer, "mid")]
        sites += [Site(layer, "mlp"), Site(layer, "post")]
    return sites


class Sites(list[Site]):
    """A model's sites.

    Args:
        sites: to choose from.
        withheld: kinds of sites that are not offered, and why, as the end of a sentence.
    """

    def __init__(self, sites: Iterable[Site], withheld: Mapping[Kind, str]) -> None:
        super().__init__(site for site in sites if site.kind not in withheld)
        self.withheld = withheld


def find_site(name: str | Site, known: Sequence[Site]) -> Site:
    """Return the site of that name, if it is one of ``known``.

    Raises:
        UnknownSiteError: it is not; the message lists what exists.
    """
    short = name.short if isinstance(name, Site) else name
    try:
        site = Site.parse(name)
    except UnknownSiteError:
        site = None
    if site is None or site not in known:
        _check_offered(short, known)
        names = [s.short for s in known]
        listing = ", ".join(names) if len(names) <= 24 else ", ".join(names[:12]) + f", … ({len(names)} sites)"
        said = f"there are {listing}.{did_you_mean(short, names)}" if site is None else _instead(site, known, listing)
        raise UnknownSiteError(f"There is no site {short!r}; {said}")
    return site


def _check_offered(name: str, known: Sequence[Site]) -> None:
    """Raise ``UnknownSiteError`` with the reason where a name or pattern means a kind of sites that is not offered."""
    try:
        site = Site.parse(name.replace("*", "0"))
    except UnknownSiteError:
        return
    name, kind = name if "*" in name else site.short, site.kind
    if isinstance(known, Sites) and kind in known.withheld:
        there = next((site.short for site in reversed(known) if FAMILIES.get(site.kind) == FAMILIES.get(kind)), known[-1].short)
        raise UnknownSiteError(f"{name} is not offered: {known.withheld[kind]}; choose another site, such as {there}.")


def _instead(site: Site, known: Sequence[Site], listing: str) -> str:
    """Return which layers or heads there are in place of a site's."""
    same = [s for s in known if s.kind == site.kind]
    if not same:
        return f"none of this kind is there, there are {listing}."
    layers = {s.layer for s in same}
    if site.layer not in layers:
        what = {"head": "heads", "mlp": "MLPs (m0, …)"}.get(site.kind, f"x*.{site.kind}")
        return f"{what} are in {_ranges('layer', layers)}."
    return f"layer {site.layer} has {_ranges('head', {s.head or 0 for s in same if s.layer == site.layer})}."


def _ranges(what: str, numbers: Collection[int]) -> str:
    """Return numbers as ``layers 0–29`` or ``heads 1, 4 and 6–8``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else parts[0]
    return f"{what}{'s' if len(numbers) > 1 else ''} {listed}"


def expand(patterns: str | Sequence[str | Site], known: Sequence[Site]) -> list[Site]:
    """Return the sites that patterns such as ``"a*.*,x*.post"`` mean, in the order of ``known``.

    Raises:
        UnknownSiteError: a pattern matches none of ``known``, or there is no pattern.
    """
    listed = patterns.split(",") if isinstance(patterns, str) and "{" not in patterns else patterns
    listed = [listed] if isinstance(listed, str) else list(listed)
    chosen: set[Site] = set()
    names = {s.short: s for s in known}
    for pattern in listed:
        text = pattern.strip() if isinstance(pattern, str) else pattern
        if text in names:
            matches = [names[text]]
        else:
            matches = [s for name, s in names.items() if isinstance(text, str) and fnmatch.fnmatchcase(name, text)]
        chosen.update(matches or [find_site(text, known)])
    if not chosen:
        raise UnknownSiteError("No site is asked for: write for instance --sites 'a*.*,x*.post'.")
    return [s for s in known if s in chosen]


def select(sites: Sequence[Site], layers: str | None = None, heads: str | None = None) -> list[Site]:
    """Return those of ``sites`` that lie in some layers, such as ``12-20,25``, or are some heads, such as ``16.3,17.0``.

    With both, a head must be named and lie in one of the layers.

    Raises:
        UnknownSiteError: a head is none of ``sites``, or nothing is left.
        SettingError: the layers or heads are not written like that.
    """
    chosen = list(sites)
    if layers is not None:
        wanted = {n for part in layers.split(",") for n in _layers(part)}
        if lacking := sorted(wanted - {s.layer for s in chosen}):
            there = _ranges("layer", {s.layer for s in chosen})
            raise UnknownSiteError(f"There is no site in layer {lacking[0]}: there are sites in {there}.")
        chosen = [s for s in chosen if s.layer in wanted]
    if heads is not None:
        named = [part.strip().removeprefix("a") for part in heads.split(",")]
        if wrong := next((part for part in named if not re.fullmatch(r"\d+\.\d+", part)), None):
            raise SettingError(f"{wrong!r} is no head: write layer.head, for instance 16.3,17.0.")
        known = [s for s in sites if s.kind == "head"]
        wanted_heads = {find_site(f"a{part}", known) for part in named}
        chosen = [s for s in chosen if s in wanted_heads]
    if not chosen:
        raise UnknownSiteError("No site is left: none of these heads lies in one of these layers.")
    return chosen


def _layers(part: str) -> range:
    found = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise SettingError(f"{part.strip()!r} is no layer or range of layers: write for instance 12-20,25.")
    return range(int(found[1]), int(found[2] or found[1]) + 1)

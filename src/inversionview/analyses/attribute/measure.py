"""Direct logit attribution: what an activation alone adds to the logits of the tokens, past everything that would read it.

Huang et al. 2024 project a head's output with W_U and count how often the expected token is among the most promoted (Table 4).
Here the last norm may be *folded* in: with its scale frozen at the input's own last residual x it is a linear map, so that the
contributions of everything that was added to the residual stream add up to the model's logits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.analyses.attribute.cases import Cases
from inversionview.analyses.attribute.result import Attribution, Rate, Rates, RateTable, TokenLogit
from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError, SettingError, UnknownPositionError
from inversionview.core.progress import Progress
from inversionview.model.frozen_norm import FrozenNorm
from inversionview.model.last_norm import last_norm, token_count
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.patterns import expand, find_site
from inversionview.model.sites.site import Site

_NUMBERS = 2**23
"""Of a pass: inputs × vocabulary, or × sites × d_model, at most."""


@dataclass(frozen=True)
class Component:
    """What is attributed: the activation of a site, or what came to the residual stream between two places."""

    site: Site
    since: Site | None = None

    def __str__(self) -> str:
        return self.site.short if self.since is None else f"{self.site.short}-{self.since.short}"

    @property
    def sites(self) -> tuple[Site, ...]:
        """What must be read for it."""
        return (self.site,) if self.since is None else (self.site, self.since)


def _written(site: Site) -> Site:
    """Return a site whose vectors are states of the residual stream, or enter it as they are.

    Raises:
        SettingError: they do not.
    """
    if site.through or not site.readout.stream:
        raise SettingError(
            f"{site} is no vector of the residual stream, so it promotes no tokens by itself: attribute heads, attn0, MLPs or "
            "states of the stream."
        )
    return site


def components(what: str, known: Sequence[Site]) -> list[Component]:
    """Return what ``"a*.*,m1,x1.post-x0.post"`` means: sites, patterns, differences of two states of the residual stream.

    Raises:
        UnknownSiteError: a pattern matches none of ``known``.
        SettingError: a difference is not one of two states of the residual stream, or a site does not enter it.
    """
    found: list[Component] = []
    for part in re.split(r",(?![^{]*\})", what):
        ends = [end.strip() for end in re.split("[-−]", part)]
        if len(ends) == 1:
            found += [Component(_written(site)) for site in expand(ends, known)]
            continue
        sites = [find_site(end, known) for end in ends if end]
        if len(ends) != 2 or len(set(sites)) != 2 or any(site.family != "residual" for site in sites):
            raise SettingError(f"{part!r} is no difference of two states of the residual stream: write x1.post-x0.post.")
        found.append(Component(*sites))
    return list(dict.fromkeys(found))


class Entrances:
    """What heads go through on their way into the residual stream, layer by layer.

    Gemma 2 and 3 and OLMo 2 and 3 norm what the attention gives, all heads together; Granite scales it; elsewhere heads
    enter as they are.

    Args:
        model: the probed model.
        layers: whose heads will be asked for.
    """

    def __init__(self, model: ProbedModel, layers: Iterable[int]) -> None:
        self.model, like = model, torch.empty(model.shape.d_model, device=model.device)
        found = {layer: model.backend.entering(layer) for layer in sorted(set(layers))}
        self.norms = {layer: FrozenNorm(norm, like) for layer, norm in found.items() if norm is not None}

    def scales(self, tokens: Ids, positions: Ids) -> dict[int, Float[Tensor, "row 1"]]:
        """Return by how much each layer's entrance scales what its attention gives at a position of each input."""
        if not self.norms:
            return {}
        at = torch.from_numpy(positions)[:, None]
        given = self.model.attention_outputs(torch.from_numpy(tokens), list(self.norms), at)[:, :, 0]
        return {layer: norm.scale(own) for (layer, norm), own in zip(self.norms.items(), given, strict=True)}

    def entered(
        self, site: Site, v: Float[Tensor, "row d_model"], scales: Mapping[int, Float[Tensor, "row 1"]] | None = None
    ) -> Float[Tensor, "row d_model"]:
        """Return what a site adds to the residual stream; without ``scales`` up to a factor of each row."""
        norm = self.norms.get(site.layer) if site.is_head else None
        if norm is None:
            return v
        return norm.frozen(v, torch.ones_like(v[:, :1]) if scales is None else scales[site.layer])


class _Reading:
    """Components of inputs at one position each, and what they add to the logits."""

    def __init__(self, model: ProbedModel, what: Sequence[Component], folded: bool) -> None:
        self.model, self.what = model, what
        if not model.sound.adds_up and any(component.site.family in ("head", "mlp") for component in what):
            raise SettingError(
                f"Heads and MLPs of {model.name} do not add up to its residual stream, which it norms between them: attribute "
                "states of the stream, such as x0.post."
            )
        self.norm = last_norm(model) if folded else None
        self.entrances = Entrances(model, [component.site.layer for component in what if component.site.is_head])
        self.bias = model.backend.unembed(torch.zeros(1, model.shape.d_model, device=model.device)).float()
        last = Site(len(model.shape.heads) - 1, "post")
        self.sites = sorted({site for component in what for site in component.sites} | {last})
        self.last = self.sites.index(last)

    def contributions(self, tokens: Ids, positions: Ids) -> Iterator[Float[Tensor, "row token"]]:
        """Yield for each component its contribution to every token's logit, [rows, tokens of the vocabulary]."""
        z = self.model.harvest(tokens, self.sites, positions[:, None])[:, :, 0].to(self.model.device)
        r = None if self.norm is None else self.norm.scale(z[self.last])
        scales = self.entrances.scales(tokens, positions)
        for component in self.what:
            v, *since = (z[self.sites.index(site)] for site in component.sites)
            v = v - since[0] if since else v
            v = self.entrances.entered(component.site, v, scales)
            if self.norm is not None and r is not None:
                v = self.norm.frozen(v, r)
            yield (self.model.backend.unembed(v).float() - self.bias)[:, : token_count(self.model)]


def check_k(k: int | None, tokens: int) -> int:
    """Return how many tokens count as the most promoted: 30 as in Huang et al. 2024, or a tenth of a smaller vocabulary.

    Raises:
        SettingError: there are not so many, or ``k`` is below 1.
    """
    k = max(1, min(30, tokens // 10)) if k is None else k
    if not 1 <= k <= tokens:
        raise SettingError(f"k must be from 1 to the vocabulary's {tokens} tokens, but is {k}.")
    return k


@torch.no_grad()
def attributions(
    model: ProbedModel, ids: Sequence[int], position: int, what: str, *, k: int | None = None, folded: bool = True
) -> list[Attribution]:
    """Return which tokens each component promotes and suppresses most at one position of an input.

    Args:
        model: the probed model.
        ids: the input's token ids.
        position: where its activations are read; negative from the end.
        what: sites, patterns and differences of two states of the residual stream, as in ``components``.
        k: how many tokens either way; by default as in ``check_k``.
        folded: fold the last norm in, its scale frozen at this input: contributions are parts of the logits. Otherwise
            v @ W_U alone.

    Where a model norms or scales what its attention layer gives before adding it (Gemma 2 and 3, OLMo 2 and 3; Granite), that
    is applied to the head's output, at the scale of this input: what is attributed is what enters the residual stream. A soft
    cap or scale that a model puts on its logits at the very end (Gemma 2; Cohere, Granite, Falcon-H1) is left out.

    Raises:
        UnknownSiteError, SettingError: as in ``components`` and ``check_k``; a norm cannot be folded, or heads and MLPs do not
            add up to the stream.
        UnknownPositionError: the input has no such position.
    """
    what_for, k = components(what, model.sites), check_k(k, token_count(model))
    if not -len(ids) <= position < len(ids):
        raise UnknownPositionError(f"There is no position {position}: the input has tokens 0 to {len(ids) - 1}.")
    position %= len(ids)
    strings = tuple(model.vocabulary.strings(ids))

    def most(logits: Float[Tensor, " token"], sign: int) -> tuple[TokenLogit, ...]:
        best = (sign * logits).topk(k).indices
        names = model.vocabulary.strings(best.tolist())
        return tuple(map(TokenLogit, names, best.tolist(), logits[best].tolist()))

    rows = _Reading(model, what_for, folded).contributions(np.array([list(ids)]), np.array([position]))
    return [
        Attribution(model.name, strings, position, str(component), folded, most(logits, 1), most(logits, -1))
        for component, (logits,) in zip(what_for, rows, strict=True)
    ]


@torch.no_grad()
def promotion_rates(
    model: ProbedModel, cases: Cases, what: str, *, k: int | None = None, folded: bool = True, report: Progress | None = None
) -> RateTable:
    """Return how often each component promotes and suppresses the expected word (Huang et al. 2024, Table 4).

    A word is among the k most promoted tokens where fewer than k others have a contribution as large as its own, its better
    variant's; it is first where no rival has one. Where a component adds nothing at all, the word is neither.

    Args:
        model: the probed model.
        cases: inputs with the words that are expected.
        what: as in ``attribute``.
        k: as in ``check_k``.
        folded: as in ``attribute``.
        report: called with the share of the readings, inputs × activations, that is done, and a note.

    Raises:
        InputError: there are no inputs.
        UnknownSiteError, SettingError: as in ``attribute``.
    """
    parts, size = components(what, model.sites), token_count(model)
    k = check_k(k, size)
    if not len(cases):
        raise InputError("There is no input to take rates over.")
    reading, device = _Reading(model, parts, folded), model.device
    longest = max(map(len, cases.words))
    words = torch.tensor([[*ids, *ids[:1] * (longest - len(ids))] for ids in cases.words], device=device)
    outsiders = torch.from_numpy(~cases.candidates).to(device)
    hits = torch.zeros(len(parts), 2, 2, dtype=torch.long)
    step = max(1, _NUMBERS // max(size, words.numel(), len(reading.sites) * model.shape.d_model))
    order = np.argsort(cases.positions, kind="stable")
    for start in range(0, len(order), step):
        rows = order[start : start + step]
        expected = torch.from_numpy(cases.expected[rows]).to(device)
        for i, logits in enumerate(reading.contributions(cases.tokens[rows], cases.positions[rows])):
            hits[i] += torch.stack([_hits(sign * logits, words, outsiders, expected, k) for sign in (1, -1)]).cpu()
            if report is not None:
                done, total = start * len(parts) + (i + 1) * len(rows), len(order) * len(parts)
                report(done / total, f"{done:,} of {total:,} readings")
    found = [
        Rates(str(part), *(Rate.of(count, len(cases)) for count in counts.flatten().tolist()))
        for part, counts in zip(parts, hits, strict=True)
    ]
    return RateTable(model.name, len(cases), int(cases.candidates.sum()), k, size, folded, tuple(found))


def _hits(
    logits: Float[Tensor, "row token"],
    words: Int[Tensor, "word variant"],
    outsiders: Bool[Tensor, " word"],
    expected: Int[Tensor, " row"],
    k: int,
) -> Int[Tensor, " 2"]:
    """Return in how many rows the expected word is among the k largest, and in how many it is also before all rivals."""
    best = logits[:, words].amax(2)
    own = best.gather(1, expected[:, None])
    within = (logits >= own).sum(1) <= k
    rivals = best.masked_fill(outsiders, -torch.inf).scatter(1, expected[:, None], -torch.inf)
    first = own[:, 0] > rivals.amax(1)
    return torch.stack([within.sum(), (within & first).sum()])

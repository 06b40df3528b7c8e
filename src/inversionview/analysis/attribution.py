"""Direct logit attribution: what an activation alone adds to the logits of the tokens, past everything that would read it.

Huang et al. 2024 project a head's output with W_U and count how often the expected token is among the most promoted (Table 4).
Here the last norm may be *folded* in: with its scale frozen at the input's own last residual x it is a linear map, so that the
contributions of everything that was added to the residual stream add up to the model's logits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.backend import Norm
from inversionview.errors import InputError, SettingError, UnknownPositionError
from inversionview.information import clopper_pearson
from inversionview.inputs import Ids, Inputs
from inversionview.probed import ProbedModel
from inversionview.progress import Progress
from inversionview.ranges import check_seed, whole
from inversionview.sites import Site, expand, find_site

_NUMBERS = 2**23
"""Of a pass: inputs × vocabulary, or × sites × d_model, at most."""
_MISFIT = 0.02
"""A last norm is taken for linear at fixed scale where it is so up to this share: bfloat16 rounds to 0.004."""


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


def components(what: str, known: Sequence[Site]) -> list[Component]:
    """Return what ``"a*.*,m1,x1.post-x0.post"`` means: sites, patterns, differences of two states of the residual stream.

    Raises:
        UnknownSiteError: a pattern matches none of ``known``.
        SettingError: a difference is not one of two states of the residual stream.
    """
    found: list[Component] = []
    for part in re.split(r",(?![^{]*\})", what):
        ends = [end.strip() for end in re.split("[-−]", part)]
        if len(ends) == 1:
            found += [Component(site) for site in expand(ends, known)]
            continue
        sites = [find_site(end, known) for end in ends if end]
        if len(ends) != 2 or len(set(sites)) != 2 or any(site.family != "residual" for site in sites):
            raise SettingError(f"{part!r} is no difference of two states of the residual stream: write x1.post-x0.post.")
        found.append(Component(*sites))
    return list(dict.fromkeys(found))


class FrozenNorm:
    """A norm N(x) = r(x) · g ⊙ Cx + b, whichever class it is of; frozen at x it is v ↦ r(x) · g ⊙ Cv.

    N is probed, not read. With u = (1, −1, 1, …), b is (N(u) + N(−u)) / 2. N centres (LayerNorm: C = I − 11ᵀ/d) where u + 1 is
    to it the same as u; otherwise C = I (RMSNorm, or no norm). The gain is g = (N(u) − N(−u)) / 2Cu, up to a factor that r
    takes up. At a residual x, r(x) is the least-squares fit of r · g ⊙ Cx to N(x) − b.

    Args:
        norm: N; a multiplication by a constant is one, too.
        like: a vector of its width, on its device.

    Raises:
        SettingError: when it is frozen: N has not this form.
    """

    def __init__(self, norm: Norm, like: Float[Tensor, " d_model"]) -> None:
        self.norm = norm
        u = torch.ones_like(like)
        u[1::2] = -1
        up, down, moved = self.norm(torch.stack([u, -u, u + 1])).float()
        self.bias: Float[Tensor, " d_model"] = (up + down) / 2
        self.centres = bool((moved - up).norm() < 0.05 * (up - down).norm())
        self.gain: Float[Tensor, " d_model"] = (up - down) / 2 / self._centred(u)

    def _centred(self, v: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return v - v.mean(-1, keepdim=True) if self.centres else v

    def scale(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """Return r(x)."""
        wanted, shape = self.norm(x).float() - self.bias, self.gain * self._centred(x)
        r = (wanted * shape).sum(-1, keepdim=True) / (shape**2).sum(-1, keepdim=True).clamp(min=1e-30)
        if bool(((wanted - r * shape).norm(dim=-1) > _MISFIT * wanted.norm(dim=-1)).any()):
            raise SettingError(
                "A norm of the model does not only scale, so it cannot be frozen: attribute without the last one (plain), or "
                "the residual stream alone."
            )
        return r

    def frozen(self, v: Float[Tensor, "*batch d_model"], r: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch d_model"]:
        """Return v under the norm with the scale of another vector; its bias belongs to no activation."""
        return r * self.gain * self._centred(v)


def last_norm(model: ProbedModel) -> FrozenNorm:
    """Return the model's last norm."""
    return FrozenNorm(model.backend.final_norm, torch.empty(model.shape.d_model, device=model.device))


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


def token_count(model: ProbedModel) -> int:
    """Return how many tokens have logits; a model's vocabulary may have further rows that stand for no token."""
    return min(model.vocabulary.size, model.shape.vocabulary)


def check_k(k: int | None, tokens: int) -> int:
    """Return how many tokens count as the most promoted: 30 as in Huang et al. 2024, or a tenth of a smaller vocabulary.

    Raises:
        SettingError: there are not so many, or ``k`` is below 1.
    """
    k = max(1, min(30, tokens // 10)) if k is None else k
    if not 1 <= k <= tokens:
        raise SettingError(f"k must be from 1 to the vocabulary's {tokens} tokens, but is {k}.")
    return k


# -- one input ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenLogit:
    """A token and what is added to its logit."""

    token: str
    id: int
    logit: float


@dataclass(frozen=True)
class Attribution:
    """The tokens that a component promotes and suppresses most at one position of one input."""

    model: str
    tokens: tuple[str, ...]
    """BOS and EOS included."""
    position: int
    site: str
    """Or the difference of two."""
    folded: bool
    """Whether the last norm is folded in."""
    promoted: tuple[TokenLogit, ...]
    """Largest contribution first."""
    suppressed: tuple[TokenLogit, ...]
    """Smallest first."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each token, for a data frame."""
        plain = {"site": self.site, "position": self.position, "folded": self.folded}
        return [
            {**plain, "direction": direction, "rank": rank, **asdict(found)}
            for direction in ("promoted", "suppressed")
            for rank, found in enumerate(getattr(self, direction), 1)
        ]


@torch.no_grad()
def attribute(
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


# -- rates over a set --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cases:
    """Inputs, each read at one position where one word is expected next."""

    tokens: Ids
    """Padded on the right, ``[rows, pos]``."""
    positions: Ids
    """``[rows]``"""
    expected: Ids
    """Of each row its word, an index into ``words``."""
    words: tuple[tuple[int, ...], ...]
    """Each word's token ids: its variants, of which the better one counts."""
    candidates: npt.NDArray[np.bool_]
    """Which words are rivals of the expected one."""

    def __len__(self) -> int:
        return len(self.tokens)


def answer_cases(inputs: Inputs, target: str, count: int = 1000, *, seed: int = 0) -> Cases:
    """Return inputs of a study's test split, each read before its answer; rivals are all tokens that occur as that answer.

    Args:
        inputs: of the study.
        target: one of ``inputs.answers``.
        count: how many are drawn; those that lack the target are left out.
        seed: of the draw.

    Raises:
        InputError: the inputs have no such answer, or none of those drawn has it.
        SettingError: ``count`` is below 1.
    """
    whole(count, "The number of inputs")
    check_seed(seed)
    if target not in inputs.answers:
        there = f"there are {', '.join(inputs.answers)}" if inputs.answers else "they have no answers of their own"
        raise InputError(f"There is no answer {target!r} in these inputs: {there}.")
    tokens = inputs.draw(count, split="test", seed=(seed, 23))
    read = inputs.read_at(tokens, target)
    tokens, read = tokens[read >= 0], read[read >= 0]
    if not len(read):
        raise InputError(f"None of the {count} inputs has an answer {target}: draw more.")
    answers, expected = np.unique(inputs.answer_of(tokens, target), return_inverse=True)
    words = tuple(inputs.forms(int(answer)) for answer in answers)
    return Cases(tokens, read, expected, words, np.ones(len(words), dtype=bool))


@dataclass(frozen=True)
class Rate:
    """A share of inputs with its 95 % interval (Clopper and Pearson)."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, trials: int) -> Rate:
        """Return the share that ``hits`` of ``trials`` are."""
        return cls(hits / trials, *clopper_pearson(hits, trials))


@dataclass(frozen=True)
class Rates:
    """How often the expected word is among the k most promoted (suppressed) tokens by one component (Table 4)."""

    site: str
    """Or the difference of two."""
    promoted: Rate
    promoted_first: Rate
    """And is promoted more than every rival."""
    suppressed: Rate
    suppressed_first: Rate
    """And is suppressed more than every rival."""


@dataclass(frozen=True)
class RateTable:
    """Rates of several components over the same inputs."""

    model: str
    inputs: int
    candidates: int
    """How many words are rivals."""
    k: int
    tokens: int
    """Size of the vocabulary: by chance the expected word, where it is one token, is among the k with k / tokens."""
    folded: bool
    rows: tuple[Rates, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each component, for a data frame."""
        plain = {"inputs": self.inputs, "k": self.k, "folded": self.folded}
        ends = {"value": "", "low": "_low", "high": "_high"}
        names = ("promoted", "promoted_first", "suppressed", "suppressed_first")
        return [
            {"site": row.site} | {n + end: getattr(getattr(row, n), part) for n in names for part, end in ends.items()} | plain
            for row in self.rows
        ]


@torch.no_grad()
def rates(
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

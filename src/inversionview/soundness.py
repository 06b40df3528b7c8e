"""What must hold of every causal LM, asked of the one that was loaded: a wrong number is to be refused, not shown.

On a few tokens: what each attention layer gives is the sum of its heads and its bias; added up, the parts are the residual
stream; its states, put in place of another text's, make the model say what it says of theirs; MLPs put back where they were
read change nothing; neither padding nor what follows changes an activation. In single precision, these are equal to about
10⁻³; where they are not, the bridge reads something else than the site is said to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.backend import Backend, Patch
from inversionview.errors import WeightsError
from inversionview.sites import Kind, Site

_LENGTH, _BEGINNING = 12, 5
"""Tokens of the text that is run, and of its beginning, which is run alone."""
_SAME_DIRECTION = 0.95
"""Cosine of the last state, normed and unembedded, with the logits: these may be scaled or softly capped on top."""


@dataclass(frozen=True)
class Soundness:
    """What was found of a model."""

    lacking: dict[Kind, str] = field(default_factory=dict)
    """Kinds of sites that are not what they should be, and why: they are not offered."""
    adds_up: bool = True
    """Heads, biases and MLPs, as they enter it, add up to the residual stream, and this under the last norm to the logits."""


@torch.no_grad()
def soundness(backend: Backend, name: str) -> Soundness:
    """Hold what a backend reads and writes against what must hold of it.

    Args:
        backend: of the model.
        name: of the model, for errors.

    Raises:
        WeightsError: activations are not finite, or depend on padding or on what follows: nothing can be read.
    """
    return _Trial(backend, name).result()


class _Trial:
    """Two texts, and all that was read of the first."""

    def __init__(self, backend: Backend, name: str) -> None:
        self.backend, self.name, self.shape = backend, name, backend.shape
        ids = torch.arange(2 * _LENGTH, device=backend.device) * 7919 + 1
        self.text, self.other = ids.remainder(self.shape.vocabulary).view(2, 1, _LENGTH)
        self.every = torch.arange(_LENGTH, device=backend.device)[None]
        self.sites = self.shape.sites
        self.z = dict(zip(self.sites, self._read(self.text), strict=True))
        self.logits, self.others = (backend.logits(tokens, None) for tokens in (self.text, self.other))
        self.given = backend.attention_outputs(self.text, None, range(len(self.shape.heads)), self.every)

    def _read(self, tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "site 1 pos d_model"]:
        return self.backend.activations(tokens, None, self.sites, self.every[:, : tokens.size(1)])

    def _near(self, a: Tensor, b: Tensor) -> bool:
        tolerance = torch.finfo(self.logits.dtype).eps ** 0.5
        return float((a.float() - b.float()).norm()) <= tolerance * float(b.float().norm()) + 1e-30

    def result(self) -> Soundness:
        """Return what holds."""
        self._check_finite()
        self._check_alone()
        lacking = {kind: why for kind in _KINDS if (why := self._wrong(kind)) is not None}
        if {"pre", "post"} <= lacking.keys():
            raise WeightsError(
                f"What is read of {self.name} is not its residual stream ({lacking['pre']}): choose a causal LM of another "
                "architecture."
            )
        return Soundness(lacking, self._adds_up())

    def _check_finite(self) -> None:
        if all(bool(torch.isfinite(each).all()) for each in (*self.z.values(), self.logits)):
            return
        name = str(self.logits.dtype).removeprefix("torch.")
        way = "its weights are damaged" if name == "float32" else "load it in fp32 or bf16 (--dtype)"
        raise WeightsError(f"Activations of {self.name} are not finite in {name}: {way}.")

    def _check_alone(self) -> None:
        """Raise ``WeightsError`` where what follows, or padding, changes activations."""
        last = Site(len(self.shape.heads) - 1, "post")
        wanted = self.z[last][:, :_BEGINNING]
        alone = self.backend.activations(self.text[:, :_BEGINNING], None, [last], self.every[:, :_BEGINNING])[0]
        if not self._near(alone, wanted):
            raise WeightsError(f"{self.name} looks at what follows a token, so it is no causal LM: choose another.")
        for side in (slice(0, _BEGINNING), slice(_LENGTH - _BEGINNING, _LENGTH)):
            batch, mask = self.text.expand(2, -1).clone(), torch.ones(2, _LENGTH, dtype=torch.bool, device=self.text.device)
            mask[1] = False
            batch[1, side], mask[1, side] = self.text[0, :_BEGINNING], True
            padded = self.backend.activations(batch, mask, [last], self.every.expand(2, -1))[0]
            if not (self._near(padded[1:, side], wanted) and self._near(padded[:1], self.z[last])):
                raise WeightsError(
                    f"Padding changes the activations of {self.name}: choose a causal LM of another architecture."
                )

    def _wrong(self, kind: Kind) -> str | None:
        """Return why sites of a kind are not what they should be."""
        sites = [site for site in self.sites if site.kind == kind]
        if not sites:
            return None
        if kind == "head":
            return (
                None if all(map(self._heads_add_up, range(len(self.shape.heads)))) else "heads do not add up to the attention"
            )
        if not self._near(self._patched(sites, self.text), self.logits):
            return "put back where it was read, it changes the logits"
        if kind != "mlp" and not self._near(self._patched(sites[len(sites) // 2 :][:1], self.other), self.others):
            return "put in place of another text's, it does not make the model say the same"
        return None

    def _patched(self, sites: Sequence[Site], source: Int[Tensor, "1 pos"]) -> Float[Tensor, "1 pos vocabulary"]:
        z = self.backend.activations(source, None, sites, self.every)
        return self.backend.logits(self.text, None, {site: Patch(self.every, own) for site, own in zip(sites, z, strict=True)})

    def _heads_add_up(self, layer: int) -> bool:
        return self._near(self._heads(layer), self.given[layer])

    def _heads(self, layer: int) -> Float[Tensor, "1 pos d_model"]:
        heads = torch.stack([self.z[Site(layer, "head", head)] for head in range(self.shape.heads[layer])]).sum(0)
        bias = self.backend.b_o(layer)
        return heads if bias is None else heads + bias

    def _adds_up(self) -> bool:
        last = self.backend.unembed(self.backend.final_norm(self.z[Site(len(self.shape.heads) - 1, "post")]))
        if float(torch.cosine_similarity(last.float(), self.logits.float(), dim=-1).min()) < _SAME_DIRECTION:
            return False
        for layer, given in enumerate(self.given):
            enters = self.backend.entering(layer)
            after = self.z[Site(layer, "pre")] + (given if enters is None else enters(given))
            mid = self.z.get(Site(layer, "mid"), after)
            if not self._near(after, mid) or not self._near(mid + self.z[Site(layer, "mlp")], self.z[Site(layer, "post")]):
                return False
            if layer and not self._near(self.z[Site(layer - 1, "post")], self.z[Site(layer, "pre")]):
                return False
        return True


_KINDS: tuple[Kind, ...] = ("pre", "head", "mid", "mlp", "post")

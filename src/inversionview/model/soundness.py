"""What must hold of every causal LM, asked of the one that was loaded: a wrong number is to be refused, not shown.

On two texts of a few tokens: what each attention layer gives is the sum of its heads and its bias; added up, the parts are the
residual stream; its states, put in place of another text's, make the model say what it says of theirs; all kinds of sites put
back where they were read change nothing; neither padding nor what follows changes an activation. In single precision, these are
equal to about 10⁻³; where they are not, the backend reads something else than the site is said to be. What is found is kept in
the user's cache, by the model's files and what runs them. Whether a model goes on from keys and values, ``bridge.py`` asks it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

import inversionview
from inversionview.core.errors import StorageError, WeightsError
from inversionview.core.integrity import digest, read_sealed, sealed
from inversionview.core.storage import write_json
from inversionview.model.backend import Backend, Patch
from inversionview.model.sites.kind import Kind
from inversionview.model.sites.site import KINDS, Site

_LENGTH = 4
"""Tokens of a text that is run, at most; its first half is run alone, too."""
_SAME_DIRECTION = 0.95
"""Cosine of the last state, normed and unembedded, with the logits: these may be scaled or softly capped on top."""
_STREAM: tuple[Kind, ...] = ("pre", "mid", "post")
_LACKING = {
    "head": "heads and the bias do not add up to what the attention of this model gives",
    "own": "put back where it was read, it changes the logits of this model",
    "other": "put in place of another text's, it does not make this model say the same",
}
_FORMAT = 1
"""Of what is kept; another check is another number."""


@dataclass(frozen=True)
class Soundness:
    """What was found of a model."""

    lacking: dict[Kind, str] = field(default_factory=dict)
    """Kinds of sites that are not what they should be, and why: they are not offered."""
    adds_up: bool = True
    """Heads, biases and MLPs, as they enter it, add up to the residual stream, and this under the last norm to the logits."""


def soundness_of(backend: Backend, name: str, files: Iterable[Path]) -> Soundness:
    """Do what ``soundness`` does, once for each state of a model's files.

    Args:
        backend: of the model.
        name: of the model, for errors.
        files: of the model; their names, sizes and times tell whether it is the same. Without any, nothing is kept.

    Raises:
        WeightsError: see ``soundness``.
    """
    path = _place(backend, files)
    found = None if path is None else _kept(path)
    if found is None:
        found = soundness(backend, name)
        if path is not None:
            with suppress(StorageError):
                write_json(path, sealed(asdict(found)))
    return found


def _place(backend: Backend, files: Iterable[Path]) -> Path | None:
    """Return where what was found of a model is kept, under all that it depends on."""
    from platformdirs import user_cache_path

    try:
        stated = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
    except OSError:
        return None
    if not stated:
        return None
    weights = next(iter(backend.weights()))[1]
    runs = [type(backend).__name__, str(weights.dtype), weights.device.type, inversionview.__version__, torch.__version__]
    runs += [version("transformers"), version("transformer-lens")]
    return user_cache_path("inversionview") / "checked" / f"{digest(json.dumps([_FORMAT, runs, stated]).encode())}.json"


def _kept(path: Path) -> Soundness | None:
    """Return what was found before; ``None`` where nothing is kept, or it is damaged."""
    try:
        value = read_sealed(path)
        lacking, adds_up = value["lacking"], value["adds_up"]
    except (OSError, ValueError, KeyError):
        return None
    whole = isinstance(lacking, dict) and isinstance(adds_up, bool)
    if not whole or not all(kind in KINDS and isinstance(why, str) for kind, why in lacking.items()):
        return None
    return Soundness(lacking, adds_up)


@torch.no_grad()
def soundness(backend: Backend, name: str) -> Soundness:
    """Hold what a backend reads and writes against what must hold of it.

    Args:
        backend: of the model.
        name: of the model, for errors.

    Raises:
        WeightsError: activations are not finite, or depend on padding or on what follows; or the states of the stream are none:
            nothing can be read.
    """
    return _Trial(backend, name).result()


class _Trial:
    """Two texts, and all that was read of them: a row each."""

    def __init__(self, backend: Backend, name: str) -> None:
        self.backend, self.name, self.shape = backend, name, backend.shape
        self.length = min(_LENGTH, self.shape.max_length, self.shape.steady or _LENGTH)
        self.beginning = max(1, self.length // 2)
        ids = torch.arange(2 * self.length, device=backend.device) * 7919 + 1
        self.texts = ids.remainder(self.shape.vocabulary).view(2, self.length)
        self.every = torch.arange(self.length, device=backend.device)[None]
        layers, sites = range(len(self.shape.heads)), self.shape.sites
        self.last, self.middle = Site(layers[-1], "post"), (len(layers) - 1) // 2
        self.z = dict(zip(sites, backend.activations(self.texts, None, sites, self.every.expand(2, -1)), strict=True))
        self.given = backend.attention_outputs(self.texts[:1], None, layers, self.every)
        (self.logits, self.others), self.patched = self._run()

    def _near(self, a: Tensor, b: Tensor) -> bool:
        tolerance = torch.finfo(self.logits.dtype).eps ** 0.5
        return float((a.float() - b.float()).norm()) <= tolerance * float(b.float().norm()) + 1e-30

    def result(self) -> Soundness:
        """Return what holds."""
        self._check_finite()
        self._check_beginning()
        lacking = self._lacking()
        if {"pre", "post"} <= lacking.keys():
            raise WeightsError(
                f"What is read of {self.name} is not its residual stream ({lacking['pre']}): choose a causal LM of another "
                "architecture."
            )
        return Soundness(lacking, self._adds_up())

    def _check_finite(self) -> None:
        if all(bool(torch.isfinite(each).all()) for each in (*self.z.values(), self.logits, self.others)):
            return
        name = str(self.logits.dtype).removeprefix("torch.")
        way = "its weights are damaged" if name == "float32" else "load it in fp32 or bf16 (--dtype)"
        raise WeightsError(f"Activations of {self.name} are not finite in {name}: {way}.")

    def _check_beginning(self) -> None:
        """Raise ``WeightsError`` where what follows, or padding, changes activations."""
        count, whole = self.beginning, self.z[self.last][:1]
        text, wanted = self.texts[:1], whole[:, :count]
        alone = self.backend.activations(text[:, :count], None, [self.last], self.every[:, :count])[0]
        if not self._near(alone, wanted):
            raise WeightsError(f"{self.name} looks at what follows a token, so it is no causal LM: choose another.")
        batch, mask = text.repeat(3, 1), torch.ones(3, self.length, dtype=torch.bool, device=text.device)
        places = {1: slice(0, count), 2: slice(self.length - count, self.length)}
        for row, here in places.items():
            mask[row] = False
            batch[row, here], mask[row, here] = text[0, :count], True
        padded = self.backend.activations(batch, mask, [self.last], self.every.expand(3, -1))[0]
        if not self._near(padded[:1], whole) or not all(
            self._near(padded[[row], here], wanted) for row, here in places.items()
        ):
            raise WeightsError(f"Padding changes the activations of {self.name}: choose a causal LM of another architecture.")

    def _lacking(self) -> dict[Kind, str]:
        """Return which kinds of sites are not what they should be, and why."""
        lacking: dict[Kind, str] = {}
        if not all(self._near(self._sum(layer), given) for layer, given in enumerate(self.given)):
            lacking["head"] = _LACKING["head"]
        for (kind, what), logits in self.patched.items():
            if kind not in lacking and not self._near(logits, self.others if what == "other" else self.logits):
                lacking[kind] = _LACKING[what]
        return lacking

    def _run(self) -> tuple[Float[Tensor, "2 pos vocabulary"], dict[tuple[Kind, str], Float[Tensor, "pos vocabulary"]]]:
        """Return the logits of both texts, and of the first with sites patched, all from one run, a row each.

        Patched are states of the stream half way up, by themselves and by the other text's; all MLPs, and heads of the outer
        layers, by themselves.
        """
        patches, ways = dict[Site, Patch](), list[tuple[Kind, str]]()
        rows = torch.arange(2, 10, device=self.texts.device)
        for kind in _STREAM:
            site = Site(self.middle, kind)
            if site in self.z:
                patches[site] = Patch(self.every.expand(2, -1), self.z[site], rows[len(ways) : len(ways) + 2])
                ways += [(kind, "own"), (kind, "other")]
        outer = {0, len(self.shape.heads) - 1}
        for kind, layers in (("mlp", set(range(len(self.shape.heads)))), ("head", outer)):
            chosen = [site for site in self.z if site.kind == kind and site.layer in layers]
            patches |= {site: Patch(self.every, self.z[site][:1], rows[[len(ways)]]) for site in chosen}
            ways.append((kind, "own"))
        logits = self.backend.logits(torch.cat([self.texts, self.texts[:1].expand(len(ways), -1)]), None, patches)
        return logits[:2], dict(zip(ways, logits[2:], strict=True))

    def _sum(self, layer: int) -> Float[Tensor, "1 pos d_model"]:
        """Return what a layer's heads and bias add up to."""
        heads = torch.stack([self.z[Site(layer, "head", head)][:1] for head in range(self.shape.heads[layer])]).sum(0)
        bias = self.backend.b_o(layer)
        return heads if bias is None else heads + bias

    def _adds_up(self) -> bool:
        z = {site: each[:1] for site, each in self.z.items()}
        last = self.backend.unembed(self.backend.final_norm(z[self.last]))
        if float(torch.cosine_similarity(last.float(), self.logits.float(), dim=-1).min()) < _SAME_DIRECTION:
            return False
        for layer, given in enumerate(self.given):
            enters = self.backend.entering(layer)
            after = z[Site(layer, "pre")] + (given if enters is None else enters(given))
            mid = z.get(Site(layer, "mid"), after)
            if not self._near(after, mid) or not self._near(mid + z[Site(layer, "mlp")], z[Site(layer, "post")]):
                return False
            if layer and not self._near(z[Site(layer - 1, "post")], z[Site(layer, "pre")]):
                return False
        return True

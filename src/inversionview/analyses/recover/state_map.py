"""A linear map from states to tokens, learned once for each model and site: which tokens to try first.

States are taken for z = μ + A(e − ē) + noise with one covariance Σ, e the token's embedding: what the site shows of a token,
and what its context does to that. Then log p(z | token) = z Σ⁻¹ A e − ½ eᵀ Aᵀ Σ⁻¹ A e + …, linear in z: Fisher's linear
discriminant, with class means that are themselves linear in the embedding, so that tokens that were never seen are ranked, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.errors import StorageError
from inversionview.core.integrity import digest
from inversionview.core.storage import replacing
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

_FORMAT = 1
_EMBEDDING, _NOISE, _FLOOR = 1e-2, 1e-3, 1e-7
"""Added to the diagonals of the embeddings' and the noise's covariance, in units of their mean; a floor, in the states'."""
_AT_ONCE = 32
"""Windows of text that are run together."""


@dataclass(frozen=True, eq=False)
class StateMap:
    """The map of one site."""

    mean: Float[Tensor, " numbers"]
    """μ."""
    forward: Float[Tensor, "embedded numbers"]
    """A transposed: what a step in the embedding does to the state."""
    back: Float[Tensor, "numbers embedded"]
    """Σ⁻¹ A."""
    centre: Float[Tensor, " embedded"]
    """ē."""
    bias: Float[Tensor, " vocabulary"]
    """½ eᵀ Aᵀ Σ⁻¹ A e of every token."""
    tokens: int
    """It was learned on so many."""

    def scores(
        self, states: Float[Tensor, "state numbers"], embeddings: Float[Tensor, "vocabulary embedded"]
    ) -> Float[Tensor, "state vocabulary"]:
        """Return log p(state | token), up to what is the same for all tokens."""
        seen = (states - self.mean) @ self.back
        return seen @ embeddings.T - (seen @ self.centre)[:, None] - self.bias

    def expected(self, embedded: Float[Tensor, "token embedded"]) -> Float[Tensor, "token numbers"]:
        """Return the states that tokens are expected to have."""
        return self.mean + (embedded - self.centre) @ self.forward


class MomentSums:
    """First and second moments of states and embeddings, summed up in passes.

    Attributes:
        count: of tokens.
    """

    def __init__(self, numbers: int, embedded: int) -> None:
        self.count = 0
        self.sum = torch.zeros(embedded + numbers, dtype=torch.float64)
        self.square = torch.zeros(embedded + numbers, embedded + numbers, dtype=torch.float64)
        self.embedded = embedded

    def add(self, embedded: Float[Tensor, "token embedded"], states: Float[Tensor, "token numbers"]) -> None:
        """Take some tokens in."""
        both = torch.cat([embedded, states], dim=1).float()
        self.count += len(both)
        self.sum += both.sum(0)
        self.square += both.T @ both

    def solved(self, embeddings: Float[Tensor, "vocabulary embedded"]) -> StateMap:
        """Return the map that they make."""
        mean = self.sum / self.count
        covariance = self.square / self.count - mean[:, None] * mean
        e, z = slice(0, self.embedded), slice(self.embedded, None)
        see, sez, szz = covariance[e, e], covariance[e, z], covariance[z, z]
        forward = torch.linalg.solve(_raised(see, _EMBEDDING * float(see.diagonal().mean())), sez)
        part = forward.T @ sez
        noise = szz - part - part.T + forward.T @ see @ forward
        floor = _NOISE * float(noise.diagonal().mean()) + _FLOOR * float(szz.diagonal().mean())
        back = torch.linalg.solve(_raised(noise, floor), forward.T).float()
        forward, centre = forward.float(), mean[e].float()
        root = forward @ back  # symmetric, positive: Aᵀ Σ⁻¹ A
        bias = torch.cat([((part - centre) @ root * (part - centre)).sum(1) / 2 for part in embeddings.split(4096)])
        return StateMap(mean[z].float(), forward, back, centre, bias, self.count)


def _raised(square: Float[Tensor, "n n"], by: float) -> Float[Tensor, "n n"]:
    return square + max(by, torch.finfo(square.dtype).tiny) * torch.eye(len(square), dtype=square.dtype)


def learned(
    model: ProbedModel,
    windows: Ids,
    sites: Sequence[Site],
    embeddings: Float[Tensor, "vocabulary embedded"],
    report: Callable[[float], None] | None = None,
) -> list[StateMap]:
    """Return the maps of some sites, learned in one pass over windows of text.

    Args:
        model: the probed model.
        windows: texts, padded on the right; what stands before a text, padding and EOS are not learned from.
        sites: of which.
        embeddings: of all tokens, in float32.
        report: called with the share that is done.
    """
    v, front = model.vocabulary, len(model.vocabulary.front)
    found = [MomentSums(site.numbers(model.shape.widths), embeddings.size(1)) for site in sites]
    for start in range(0, len(windows), _AT_ONCE):
        tokens = torch.from_numpy(windows[start : start + _AT_ONCE])
        there = (tokens != v.pad) & (tokens != v.eos)
        there[:, :front] = False
        last = int((there * torch.arange(1, tokens.size(1) + 1)).max())
        tokens, there = tokens[:, :last], there[:, :last]
        states = model.activations(tokens, sites).float().cpu()
        embedded = embeddings[tokens[there]]
        for moments, site, z in zip(found, sites, states, strict=True):
            moments.add(embedded, model.own(z, site)[there])
        if report is not None:
            report(min(1.0, (start + _AT_ONCE) / len(windows)))
    return [moments.solved(embeddings) for moments in found]


def random_windows(model: ProbedModel, tokens: int, length: int, seed: int) -> Ids:
    """Return texts of random tokens, where no text is at hand."""
    v, rng = model.vocabulary, np.random.default_rng((seed, 23))
    allowed = usable(model).numpy()
    front, rows = list(v.front), -(-tokens // (length - len(v.front)))
    body = rng.choice(allowed, size=(rows, length - len(front)))
    return np.concatenate([np.tile(front, (rows, 1)).astype(np.int64).reshape(rows, len(front)), body], axis=1)


def usable(model: ProbedModel) -> Int[Tensor, " token"]:
    """Return the ids of all tokens that a text can hold: not what stands for padding, which the model never sees."""
    ids = torch.arange(model.shape.vocabulary)
    return ids[model.mask(ids[None])[0]]


def embeddings_of(model: ProbedModel) -> Float[Tensor, "vocabulary embedded"]:
    """Return the embeddings of all tokens, in float32 on the CPU."""
    return model.embeddings().detach().float().cpu()


class KeptMap:
    """The map of one site, in memory and in the user's cache."""

    def __init__(self, stated: dict[str, Any], memory: dict[str, StateMap]) -> None:
        """Open it.

        Args:
            stated: all that it depends on, as JSON values.
            memory: what was read or made before.
        """
        from platformdirs import user_cache_path

        self._name, self._memory = digest(json.dumps([_FORMAT, stated], sort_keys=True).encode()), memory
        self.path: Path = user_cache_path("inversionview") / "recovery" / f"{self._name}.npz"

    def read(self) -> StateMap | None:
        """Return it; ``None`` where there is none, or none whole."""
        if self._name not in self._memory:
            try:
                with np.load(self.path, allow_pickle=False) as file:
                    parts = {name: torch.from_numpy(file[name]) for name in _parts()}
                    self._memory[self._name] = StateMap(**parts, tokens=int(file["tokens"]))
            except Exception:  # whatever a damaged archive makes of itself: it is learned anew
                return None
        return self._memory[self._name]

    def write(self, made: StateMap, on_disk: bool) -> None:
        """Keep it; where the cache cannot be written it is learned anew by the next process."""
        self._memory[self._name] = made
        if on_disk:
            with suppress(StorageError), replacing(self.path) as temporary, temporary.open("wb") as file:
                parts: dict[str, Any] = {name: getattr(made, name).numpy() for name in _parts()}
                np.savez(file, tokens=made.tokens, **parts)


def _parts() -> list[str]:
    return [field.name for field in fields(StateMap) if field.name != "tokens"]

"""A decoder trained from scratch: a causal transformer over the probed model's tokens, conditioned on one activation vector.

After Huang et al. 2024, figure 12: the activation, normalised and joined with a learned site embedding, runs
through residual MLP blocks; for every layer its own linear map turns the result into one extra key/value position that all
tokens see. What is ours is tuning: the result is also added to the token embeddings, tokens carry how often they have
occurred so far, and normalisation and activation function are those that train fastest on a CPU.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from inversionview.decoder import files
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.decoder import Decoder, initialise
from inversionview.decoder.loading import Shapes
from inversionview.decoder.pathway import TokenTable


class Layer(nn.Module):
    """Attention over [the activation's slot, tokens], then an MLP; both before a residual sum."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_1, self.norm_2, self.norm_slot = (nn.LayerNorm(width) for _ in range(3))
        self.slot = nn.Linear(config.pathway, width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def split(self, x: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch head pos d_head"]:
        """Return what each head has of ``x``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def memory(self, u: Float[Tensor, "batch pathway"]) -> tuple[Tensor, Tensor]:
        """Return key and value of the activation's slot, ``[batch, head, 1, d_head]`` each."""
        slot = self.norm_slot(self.slot(u))[:, None]
        return self.split(self.key(slot)), self.split(self.value(slot))

    def forward(
        self, x: Float[Tensor, "batch pos width"], memory: tuple[Tensor, Tensor], cache: list[Tensor] | None = None
    ) -> Float[Tensor, "batch pos width"]:
        """``cache``: keys and values of earlier positions, slot first; this call's are appended (one token a step)."""
        h = self.norm_1(x)
        q, k, v = self.split(self.query(h)), self.split(self.key(h)), self.split(self.value(h))
        past = memory if cache is None or not cache else (cache[0], cache[1])
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        if cache is not None:
            cache[:] = [k, v]
        mask = None
        if q.size(2) > 1:
            mask = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=x.device).tril(k.size(2) - q.size(2))
        a = attend(q, k, v, mask)
        x = x + self.out(a.transpose(1, 2).flatten(2))
        return x + self.down(F.relu(self.up(self.norm_2(x))).square())


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Float[Tensor, "batch head pos d_head"]:
    """Attention written out, its softmax too: for the short sequences here quicker on a CPU than the fused kernels."""
    scores = (q * q.size(-1) ** -0.5) @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    return (weights @ v) / weights.sum(-1, keepdim=True)


class ScratchDecoder(Decoder):
    """See the module's text."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        width = config.width
        self.embed_token = nn.Embedding(config.size, width)
        self.embed_position = nn.Embedding(config.max_length, width)
        self.embed_occurrence = nn.Embedding(config.occurrences + 1, width) if config.occurrences else None
        self.entrance = nn.Linear(config.pathway, width)
        self.position_entrance = nn.Parameter(
            torch.randn(config.max_length, width, config.pathway) * 0.25 / config.pathway**0.5
        )
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, config.size, bias=False)
        self.apply(initialise)
        nn.init.zeros_(self.lm_head.weight)

    def embed(self, tokens: Int[Tensor, "batch pos"], start: int = 0) -> Float[Tensor, "batch new width"]:
        """Return the embeddings of ``tokens[:, start:]`` (the earlier ones count as occurrences)."""
        new = tokens[:, start:]
        x = self.embed_token(new) + self.embed_position.weight[start : tokens.size(1)]
        if self.embed_occurrence is not None:
            same = new[:, :, None] == tokens[:, None, :]  # (batch, new, pos)
            count = same.tril(start).sum(-1).clamp(max=self.config.occurrences)
            x = x + self.embed_occurrence(count)
        return x

    def enter(self, u: Float[Tensor, "batch pathway"], length: int) -> Float[Tensor, "batch pos width"]:
        """Return what is added to the first ``length`` embeddings, by a matrix of all positions and by each one's own."""
        return self.entrance(u)[:, None] + torch.einsum("bu,pwu->bpw", u, self.position_entrance[:length])

    def memories(self, u: Float[Tensor, "batch pathway"]) -> list[tuple[Tensor, Tensor]]:
        """Return every layer's key and value of the activation's slot."""
        return [cast(Layer, layer).memory(u) for layer in self.layers]

    def hidden(
        self, tokens: Int[Tensor, "batch pos"], z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        """Return what the output head reads at every position; ``site`` indexes ``config.sites``."""
        u = self.pathway(z, site)
        x = self.embed(tokens) + self.enter(u, tokens.size(1))
        for layer, memory in zip(self.layers, self.memories(u), strict=True):
            x = layer(x, memory)
        normed: Tensor = self.norm(x)
        return normed

    def head(self) -> tuple[Float[Tensor, "vocabulary width"], Float[Tensor, " vocabulary"] | None]:
        """Return weight and bias of the output head."""
        return self.lm_head.weight, None

    def begin(self, z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]) -> _Steps:
        """Return what writes inputs one token at a time."""
        return _Steps(self, z, site)

    @property
    def device(self) -> torch.device:
        """Where the decoder runs."""
        return self.lm_head.weight.device


class _Steps:
    """See ``Steps``."""

    def __init__(self, decoder: ScratchDecoder, z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]) -> None:
        self.decoder = decoder
        u = decoder.pathway(z, site)
        self.memories = decoder.memories(u)
        self.caches: list[list[Tensor]] = [[] for _ in decoder.layers]
        self.entrance = decoder.enter(u, decoder.config.max_length)

    def next(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch vocabulary"]:
        place = tokens.size(1)
        x = self.decoder.embed(tokens, start=place - 1) + self.entrance[:, place - 1 : place]
        for layer, memory, cache in zip(self.decoder.layers, self.memories, self.caches, strict=True):
            x = layer(x, memory, cache)
        logits: Tensor = self.decoder.lm_head(self.decoder.norm(x))[:, 0]
        return logits

    def keep(self, rows: Bool[Tensor, " batch"]) -> None:
        self.entrance = self.entrance[rows]
        self.caches = [[t[rows] for t in cache] for cache in self.caches]
        self.memories = [(k[rows], v[rows]) for k, v in self.memories]


def empty(config: DecoderConfig, shapes: Shapes, device: str) -> Decoder:
    """Return a decoder whose weights are still to come.

    Raises:
        ValueError: they are not of these shapes; found out before memory is taken.
    """
    if max(config.layers, config.blocks) > len(shapes):
        raise ValueError(f"{config.layers} layers and {config.blocks} blocks are more than its {len(shapes)} tensors")
    with torch.device("meta"):
        decoder = ScratchDecoder(config)
    wanted = {name: tuple(t.shape) for name, t in decoder.state_dict().items()}
    files.check_shapes(shapes, wanted)
    decoder.to_empty(device=device)
    decoder.own = TokenTable(config).to(device)  # no weights, but a function of the settings
    return decoder

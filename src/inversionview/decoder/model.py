"""The decoder p_θ(x ∣ z, s): a causal transformer over the probed model's tokens, conditioned on one activation vector.

After Huang et al. 2024, figure 12: the activation, normalised and joined with a learned site embedding, runs
through residual MLP blocks; for every layer its own linear map turns the result into one extra key/value position that all
tokens see. What is ours is tuning: the result is also added to the token embeddings, tokens carry how often they have
occurred so far, and normalisation and activation function are those that train fastest on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from inversionview.decoder import files
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.loss import cross_entropy
from inversionview.errors import WeightsError

_WRITING = 2**30
"""Bytes that inputs may take while they are written."""


class TokenTable(nn.Module):
    """The probed model's ids ↔ the decoder's own."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.restricted = bool(config.tokens)
        self.vocabulary = config.vocabulary
        written = torch.tensor(config.tokens, dtype=torch.long)
        own = torch.full((config.vocabulary + 1 if self.restricted else 0,), -1)
        own[written] = torch.arange(len(written))
        self.written, self.own = nn.Buffer(written, persistent=False), nn.Buffer(own, persistent=False)

    def forward(self, tokens: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Return the decoder's own ids of the model's; −1 for those that it does not write."""
        if self.restricted:
            return self.own[tokens.clamp(max=self.vocabulary)]
        return tokens.masked_fill(tokens >= self.vocabulary, -1)

    def back(self, own: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Return the model's ids of the decoder's own."""
        return self.written[own] if self.restricted else own


def polar(z: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_model+1"]:
    """Return direction and log norm: among these, small Euclidean distances are distances relative to the norm."""
    norm = z.norm(dim=-1, keepdim=True) + 1e-6
    return torch.cat([z / norm, norm.log()], dim=-1)


class Pathway(nn.Module):
    """z and its site → one vector u: ``[batch, pathway]``.

    A site's activations differ far more between kinds of position than within one. So each site has *cells*, clusters of
    its activations, and z is whitened by the statistics of its own: fully among the site's principal directions, and as one
    in the rest of the space. The whitened vector enters twice, by a matrix that all share and by the cell's own.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        n, cells, width = len(config.sites), config.cells, config.pathway
        rank = min(config.d_model, config.rank)
        self.mean = nn.Buffer(torch.zeros(n, config.d_model))
        self.directions = nn.Buffer(torch.eye(rank, config.d_model).repeat(n, 1, 1))
        self.rest = nn.Buffer(torch.ones(n))
        self.cells_at = nn.Buffer(torch.zeros(n, cells, config.d_model + 1))
        self.cells_mean = nn.Buffer(torch.zeros(n, cells, rank))
        self.cells_whiten = nn.Buffer(torch.eye(rank).repeat(n, cells, 1, 1))
        self.sites_embed = nn.Parameter(torch.randn(n, n))
        self.cells_enter = nn.Parameter(torch.randn(n, cells, width, rank) * 0.5 / rank**0.5)
        self.cells_bias = nn.Parameter(torch.randn(n, cells, width) * 0.5)
        self.enter = nn.Linear(config.d_model + n, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, width))
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]) -> Float[Tensor, "batch pathway"]:
        """Whiten z and send it through the blocks."""
        z = z.to(self.mean.dtype)
        mine = site, (polar(z)[:, None] - self.cells_at[site]).square().sum(-1).argmin(-1)
        z, directions = z - self.mean[site], self.directions[site]  # (batch, rank, d_model)
        along = torch.einsum("bd,brd->br", z, directions)
        white = torch.einsum("br,bqr->bq", along - self.cells_mean[mine], self.cells_whiten[mine])
        z = (z - torch.einsum("br,brd->bd", along, directions)) / self.rest[site, None]
        z = z + torch.einsum("br,brd->bd", white, directions)
        own = torch.einsum("br,bwr->bw", white, self.cells_enter[mine]) + self.cells_bias[mine]
        u = own + self.enter(torch.cat([z, self.sites_embed[site]], dim=-1))
        for block in self.blocks:
            u = u + block(u)
        normed: Tensor = self.norm(u)
        return normed


class _Layer(nn.Module):
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


class Decoder(nn.Module, PyTorchModelHubMixin, library_name="inversionview", tags=["interpretability"]):
    """p_θ(x ∣ z, s), see the module's text.

    Tokens here are the decoder's own ids, ``own`` of the probed model's; what lies outside, in ``sampling.py`` and
    ``scoring.py``, speaks the model's.

    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` are those of Hugging Face; weights are safetensors only.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.own = TokenTable(config)
        self.pathway = Pathway(config)
        self.embed_token = nn.Embedding(config.size, width)
        self.embed_position = nn.Embedding(config.max_length, width)
        self.embed_occurrence = nn.Embedding(config.occurrences + 1, width) if config.occurrences else None
        self.entrance = nn.Linear(config.pathway, width)
        self.position_entrance = nn.Parameter(
            torch.randn(config.max_length, width, config.pathway) * 0.25 / config.pathway**0.5
        )
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, config.size, bias=False)
        self.apply(self._initialise)

    @torch.no_grad()
    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight, gain=0.5 if module.weight.size(0) > 1 else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
        if isinstance(module, Decoder):
            nn.init.zeros_(self.lm_head.weight)

    def begun(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch own_pos"]:
        """Return inputs as the decoder's sequences: with its BOS in front, where inputs have none."""
        return F.pad(tokens, (1, 0), value=self.config.bos) if self.config.unread else tokens

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
        return [cast(_Layer, layer).memory(u) for layer in self.layers]

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

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        z: Float[Tensor, "batch d_model"],
        site: Int[Tensor, " batch"],
        target: Int[Tensor, "batch pos"] | None = None,
    ) -> Tensor:
        """Return next-token logits, ``[batch, pos, vocabulary]``; with ``target`` its summed cross entropy in nats.

        A negative target does not count.
        """
        hidden, (weight, bias) = self.hidden(tokens, z, site), self.head()
        if target is None:
            return F.linear(hidden, weight, bias)
        return cross_entropy(hidden.flatten(0, 1), weight, target.flatten(), bias)

    def begin(self, z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]) -> Steps:
        """Return what writes inputs one token at a time."""
        return Steps(self, z, site)

    @property
    def device(self) -> torch.device:
        """Where the decoder runs."""
        return self.lm_head.weight.device

    @property
    def rows_at_once(self) -> int:
        """How many inputs are written together: what they take is bounded, see ``row_bytes``."""
        return max(64, min(2**16, _WRITING // self.row_bytes))

    @property
    def row_bytes(self) -> int:
        """Memory of an input while it is written: keys and values, which are copied to grow, and a few rows of logits."""
        c = self.config
        return 4 * (4 * c.layers * c.width * c.max_length + 6 * c.size)

    @property
    def rows_trained(self) -> int:
        """How many inputs go through the decoder together in training; gradients add up over the parts of a batch."""
        return 2**16

    def kept(self) -> dict[str, Tensor]:
        """Return all that a checkpoint holds."""
        return self.state_dict()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``kept`` returned.

        Raises:
            RuntimeError: names or shapes are others.
        """
        self.load_state_dict(state)

    def _save_pretrained(self, save_directory: Path) -> None:
        files.write(save_directory, self.config, self.kept())

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, map_location: str = "cpu", **download: Any
    ) -> Decoder:
        """Load a decoder from a folder or the hub.

        Args:
            pretrained_model_name_or_path: where it lies.
            map_location: the device that it is loaded to.
            download: ``revision``, ``token``, ``cache_dir``, … of ``hf_hub_download``.

        Raises:
            WeightsError: it is missing, damaged or not a decoder.
        """
        where = str(pretrained_model_name_or_path)
        path = Path(where)
        try:
            if not path.is_dir():
                for name in ("config.json", "model.safetensors"):
                    path = Path(hf_hub_download(where, name, **download)).parent
        except Exception as error:  # the hub's errors and the network's share no base
            raise WeightsError(f"{where} holds no readable decoder ({error}).") from error
        return _read(path, map_location)


def _read(folder: Path, device: str) -> Decoder:
    """Return the decoder in a folder, ready to be read with.

    Raises:
        WeightsError: it is missing, damaged or not a decoder.
    """
    anew = "copy the decoder again or train it anew."
    path = folder / "config.json"
    try:
        config, digest = files.read_config(path)
        path = folder / "model.safetensors"
        files.check_digest(path, digest)
        shapes = files.shapes_in(path)
    except files.UNREADABLE as error:
        kind = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({files.reason(error)})"
        raise WeightsError(f"{path} is {kind}: {anew}") from error
    try:
        decoder = _around_lm(config, shapes) if config.base else _empty(config, shapes, device)
        decoder.restore(files.finite_tensors(path, device))
    except WeightsError:
        raise
    except Exception as error:  # a foreign LM's errors share no base
        raise WeightsError(
            f"{path} is damaged, or of another decoder than its config.json ({files.reason(error)}): {anew}"
        ) from error
    return decoder.eval()


def _empty(config: DecoderConfig, shapes: Mapping[str, tuple[int, ...]], device: str) -> Decoder:
    """Return a decoder whose weights are still to come.

    Raises:
        ValueError: they are not of these shapes; found out before memory is taken.
    """
    if max(config.layers, config.blocks) > len(shapes):
        raise ValueError(f"{config.layers} layers and {config.blocks} blocks are more than its {len(shapes)} tensors")
    with torch.device("meta"):
        decoder = Decoder(config)
    wanted = {name: tuple(t.shape) for name, t in decoder.state_dict().items()}
    files.check_shapes(shapes, wanted)
    decoder.to_empty(device=device)
    decoder.own = TokenTable(config).to(device)  # no weights, but a function of the settings
    return decoder


def _around_lm(config: DecoderConfig, shapes: Mapping[str, tuple[int, ...]]) -> Decoder:
    """Return a decoder around a causal LM.

    Raises:
        ValueError: what was trained of it is not of these shapes; found out before memory is taken.
    """
    from inversionview.decoder.pretrained import PretrainedDecoder, check_parts  # which brings transformers along

    check_parts(config, shapes)
    return PretrainedDecoder.on(config)


class Steps:
    """A decoder that writes: one token a step, on the keys and values of those before."""

    def __init__(self, decoder: Decoder, z: Float[Tensor, "batch d_model"], site: Int[Tensor, " batch"]) -> None:
        self.decoder = decoder
        u = decoder.pathway(z, site)
        self.memories = decoder.memories(u)
        self.caches: list[list[Tensor]] = [[] for _ in decoder.layers]
        self.entrance = decoder.enter(u, decoder.config.max_length)

    def next(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch vocabulary"]:
        """Return the logits after ``tokens``, of which all but the last have gone through ``next`` before."""
        place = tokens.size(1)
        x = self.decoder.embed(tokens, start=place - 1) + self.entrance[:, place - 1 : place]
        for layer, memory, cache in zip(self.decoder.layers, self.memories, self.caches, strict=True):
            x = layer(x, memory, cache)
        logits: Tensor = self.decoder.lm_head(self.decoder.norm(x))[:, 0]
        return logits

    def keep(self, rows: Bool[Tensor, " batch"]) -> None:
        """Drop all other rows."""
        self.entrance = self.entrance[rows]
        self.caches = [[t[rows] for t in cache] for cache in self.caches]
        self.memories = [(k[rows], v[rows]) for k, v in self.memories]

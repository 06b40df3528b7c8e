"""What both kinds of decoder have: a table of the tokens that they write, and the way from an activation to one vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from inversionview.decoder.config import DecoderConfig


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
    """z and its site → one vector u: ``[batch, pathway]``; zeros stand for the numbers that a site's vectors lack.

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
        z = F.pad(z, (0, self.mean.size(1) - z.size(-1))).to(self.mean.dtype)
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

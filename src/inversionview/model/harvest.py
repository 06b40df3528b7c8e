"""Activations of many inputs, harvested in passes of inputs of like length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.model.backend import widest
from inversionview.model.runner import Runner
from inversionview.model.sites.site import Site


def tokens_per_pass(device: torch.device, d_model: int = 0) -> int:
    """Return how many tokens to run at once where many inputs wait: on a CPU what stays in the cache runs fastest."""
    return min(6000, 2**20 // max(d_model, 1)) if device.type == "cpu" else 240_000


@torch.no_grad()
def harvest(
    model: Runner,
    tokens: Ids,
    sites: Sequence[Site],
    positions: npt.NDArray[np.int64],
    pick: npt.NDArray[np.int64] | None = None,
) -> Tensor:
    """Return activations of many inputs, on the CPU in float32, in passes of inputs of like length.

    Nothing behind the last asked position is computed: a causal model does not look there.

    Args:
        model: what is read.
        tokens: padded on the right, ``[rows, pos]``.
        sites: the sites to read.
        positions: ``[rows, k]``.
        pick: which site (index into ``sites``) is wanted at each position, ``[rows, k]``; without it, all are.

    Returns:
        ``[site, rows, k, d_model]``, or ``[rows, k, d_model]`` with ``pick``; where vectors of the sites have unlike
        numbers, zeros follow the shorter ones up to the longest.
    """
    n, k = positions.shape
    width = widest(model.shape, sites)
    out = torch.empty((n, k, width) if pick is not None else (len(sites), n, k, width))
    for rows, cut, at in _passes(model, tokens, positions, len(sites) * width):
        z = model.backend.activations(cut, None, sites, at)
        model.check_finite(z)
        if pick is None:
            out[:, rows] = z.float().cpu()
        else:
            i = torch.arange(len(rows))[:, None]
            out[rows] = z[torch.from_numpy(pick[rows]), i, torch.arange(k)[None]].float().cpu()
    return out


@torch.no_grad()
def harvest_compact(
    model: Runner,
    tokens: Ids,
    sites: Sequence[Site],
    positions: npt.NDArray[np.int64],
    maps: Mapping[Site, Float[Tensor, "d_head width"]],
) -> list[Float[Tensor, "rows k width"]]:
    """Return what ``harvest`` does, some sites in coordinates of their own.

    Args:
        model: what is read.
        tokens: padded on the right, ``[rows, pos]``.
        sites: the sites to read.
        positions: ``[rows, k]``.
        maps: what stands for the ``matrix`` of some sites, so that they are read in fewer numbers.

    Returns:
        for each site ``[rows, k, width]`` in float32, on the CPU; its map's width, or all its numbers.
    """
    widths = [maps[site].size(1) if site in maps else site.numbers(model.shape.widths) for site in sites]
    out = [torch.empty(*positions.shape, width) for width in widths]
    for rows, cut, at in _passes(model, tokens, positions, sum(widths)):
        made = [model.backend.w_o(0).new_empty(*at.shape, width) for width in widths]
        model.backend.read_into(made, cut, None, sites, at, maps)
        for all_rows, part in zip(out, made, strict=True):
            model.check_finite(part)
            all_rows[rows] = part.float().cpu()
    return out


def _passes(
    model: Runner, tokens: Ids, positions: npt.NDArray[np.int64], numbers: int
) -> Iterator[tuple[Ids, Int[Tensor, "row pos"], Int[Tensor, "row k"]]]:
    """Yield rows to run together, of like length, with their tokens and positions; a pass keeps ``numbers`` × k a row.

    They are cut behind the last position that is asked for, unless activations depend on the length of the whole text.
    """
    needed, steady = positions.max(1) + 1, model.shape.steady or tokens.shape[1]
    lengths = (tokens != model.vocabulary.pad).sum(1)
    needed = np.where(lengths > steady, lengths, needed)
    order, longest = np.argsort(needed, kind="stable"), int(needed.max())
    budget = min(
        tokens_per_pass(model.device, model.shape.d_model), 2**26 // (numbers * positions.shape[1]) * longest + longest
    )
    start, room = 0, budget // needed[order]
    while start < len(order):
        many = int((np.arange(1, len(order) - start + 1) <= room[start:]).sum())  # the last of them is the longest
        rows = order[start : start + max(1, many)]
        first = needed[rows[0]]
        rows = rows[needed[rows] <= (steady if first <= steady else first)]
        cut = torch.from_numpy(tokens[rows, : needed[rows].max()])
        at = torch.from_numpy(positions[rows]).to(model.device)
        yield rows, cut.masked_fill(~model.mask(cut), 0).to(model.device), at
        start += len(rows)

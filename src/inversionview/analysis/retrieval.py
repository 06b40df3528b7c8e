"""Heads that retrieve facts: which facts a model knows, which heads write most of the stream there, and where they look.

Huang et al. 2024, section 3.4: heads of the upper half of the layers, picked by attribution at the last token of known facts;
and only inputs on which a head does not rest on BOS count for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.analysis.attribution import Entrances
from inversionview.errors import InputError, SettingError
from inversionview.harvest import tokens_per_pass
from inversionview.inputs import Ids, Inputs
from inversionview.probed import ProbedModel
from inversionview.progress import Progress
from inversionview.sites import Site
from inversionview.storage import read_array, write_array

LEAST_SHARE = 0.02
"""Share of the proximity from which a head counts as retrieving (Huang et al. 2024)."""
MOST_BOS = 0.6
"""A head that attends so much to BOS rests (Huang et al. 2024)."""
LEAST_KNOWN = 20
"""Fewer known facts say nothing about heads."""
_ROWS = 256


# -- known facts ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def measured_known(model: ProbedModel, inputs: Inputs, report: Progress | None = None) -> npt.NDArray[np.bool_]:
    """Return which rows of inputs the model completes rightly, ``[row]``: its most probable next token is the answer's first.

    Rows without an answer are not.
    """
    target, known = inputs.answers[0], np.zeros(len(inputs), dtype=np.bool_)
    last = Site(len(model.shape.heads) - 1, "post")
    words = min(model.vocabulary.size, model.shape.vocabulary)
    read = np.concatenate([inputs.read_at(inputs.tokens(rows), target) for rows in _parts(np.arange(len(inputs)), 4096)])
    asked = np.flatnonzero(read >= 0)
    for start in range(0, len(asked), _ROWS):
        rows = asked[start : start + _ROWS]
        tokens = inputs.tokens(rows)
        z = model.harvest(tokens, [last], read[rows][:, None])[0, :, 0].to(model.device)
        logits = model.backend.unembed(model.backend.final_norm(z)).float()[:, :words]
        known[rows] = logits.argmax(1).cpu().numpy() == inputs.answer_of(tokens, target)
        if report is not None:
            report(min(1.0, (start + _ROWS) / len(asked)), "known facts")
    return known


def _known_folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("inversionview") / "known"


def kept_known(model: ProbedModel, inputs: Inputs) -> npt.NDArray[np.bool_] | None:
    """Return which facts a model knows, as the user's cache has it; ``None`` where that was never measured."""
    if not any(_known_folder().glob(f"*-{inputs.fingerprint}.npz")):  # a large model's fingerprint takes its time
        return None
    kept = read_array(_known_folder() / f"{model.fingerprint}-{inputs.fingerprint}.npz")
    fits = kept is not None and kept.shape == (len(inputs),) and kept.dtype == np.bool_
    return kept if fits else None  # never measured, or damaged: it is measured again


def keep_known(model: ProbedModel, inputs: Inputs, known: npt.NDArray[np.bool_]) -> None:
    """Keep in the user's cache which facts a model knows."""
    write_array(_known_folder() / f"{model.fingerprint}-{inputs.fingerprint}.npz", known)


def check_known(known: npt.NDArray[np.bool_], asked: int, model: str) -> None:
    """Raise ``InputError`` if a model knows so few facts that nothing can be said of how it retrieves them."""
    count = int(known.sum())
    if count < LEAST_KNOWN:
        raise InputError(
            f"{model} completes {count} of {asked:,} facts rightly ({count / max(1, asked):.1%}), at least {LEAST_KNOWN} are "
            "needed: choose a larger model, or give facts that it knows."
        )


def _parts(rows: Ids, size: int) -> list[Ids]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


# -- heads by attribution ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RetrievalHead:
    """A head that was picked, as the study's named heads are."""

    site: str
    position: str
    group: str
    share: float
    """Of the proximity to the residual stream after its layer's attention, the mean over known facts."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def proximity_shares(
    parts: Float[Tensor, "part row d_model"], whole: Float[Tensor, "row d_model"]
) -> Float[Tensor, "part row"]:
    """Return how much of a sum each part is, by L1 proximity: max(‖y‖₁ − ‖y − z_j‖₁, 0), as a share of all parts'.

    Ferrando et al. 2022 (arXiv 2203.04212) and Ferrando and Voita 2024 (arXiv 2403.00824). A part that points away from the sum
    has 0; without any part that is near, all have. Invariant to the scale of all.
    """
    near = (whole.abs().sum(-1) - (whole - parts).abs().sum(-1)).clamp(min=0)
    return near / near.sum(0).clamp(min=torch.finfo(near.dtype).tiny)


@torch.no_grad()
def retrieval_heads(
    model: ProbedModel,
    tokens: Ids,
    positions: Ids,
    *,
    position: str = "END",
    layers: Sequence[int] | None = None,
    least: float = LEAST_SHARE,
    report: Progress | None = None,
) -> list[RetrievalHead]:
    """Return the heads that make up more than ``least`` of the stream at one position, those that make up most first.

    The stream after a layer's attention is the stream before it, the heads' outputs, and a bias: shares are over all of these.
    Where a model norms what attention gives before adding it (Gemma 2 and 3, OLMo 2), a head's output is not itself a term of
    that sum, and its share means little.

    Args:
        model: the probed model.
        tokens: known facts, padded on the right, ``[row, pos]``.
        positions: where each is read, ``[row]``.
        position: the name of that.
        layers: to look at; by default the upper half.
        least: share that a head must exceed.
        report: called with the share of the work that is done.

    Raises:
        InputError: there is no fact.
        SettingError: there is no such layer, or ``least`` is not from 0 to below 1.
    """
    depth = len(model.shape.heads)
    chosen = range(depth // 2, depth) if layers is None else layers
    if not len(tokens):
        raise InputError("There is no fact to attribute: give at least one that the model knows.")
    if not 0 <= least < 1 or not len(chosen) or not all(0 <= layer < depth for layer in chosen):
        raise SettingError(f"Layers must be of 0 to {depth - 1} and the least share from 0 to below 1.")
    sites = [site for site in model.sites if site.layer in set(chosen) and site.kind in ("pre", "head", "mid")]
    total = dict.fromkeys((site for site in sites if site.is_head), 0.0)
    size = max(8, 2**25 // (len(sites) * model.shape.d_model))
    entrances = Entrances(model, chosen)
    for done, rows in enumerate(_parts(np.arange(len(tokens)), size)):
        z = dict(zip(sites, model.harvest(tokens[rows], sites, positions[rows, None])[:, :, 0], strict=True))
        scales = entrances.scales(tokens[rows], positions[rows])
        for layer in chosen:
            heads = [site for site in total if site.layer == layer]
            entered = (entrances.entered(head, z[head].to(model.device), scales).cpu() for head in heads)
            parts = torch.stack([z[Site(layer, "pre")], *entered])
            whole = z.get(Site(layer, "mid"), parts.sum(0))  # where attention and MLP are parallel there is no mid
            shares = proximity_shares(torch.cat([parts, (whole - parts.sum(0))[None]]), whole)
            for head, share in zip(heads, shares[1:].double().sum(1).tolist(), strict=False):
                total[head] += share / len(tokens)
        if report is not None:
            report(min(1.0, (done + 1) * size / len(tokens)), "heads")
    picked = sorted((item for item in total.items() if item[1] > least), key=lambda item: -item[1])
    return [RetrievalHead(head.short, position, "retrieval", share) for head, share in picked]


# -- heads at rest ----------------------------------------------------------------------------------------------------


def bos_attention(
    model: ProbedModel, tokens: Ids, heads: Sequence[Site], positions: Ids | None = None
) -> Float[np.ndarray, "head row k"]:
    """Return how much each head attends to BOS from some positions of each input, by one pass over them.

    Where inputs have no BOS, their first token takes its part: heads rest there.

    Args:
        model: the probed model.
        tokens: padded on the right, ``[row, pos]``.
        heads: which.
        positions: ``[row, k]``; without it all, values at padding meaning nothing.

    Raises:
        SettingError: one of ``heads`` is no head.
    """
    if any(head.head is None for head in heads):
        raise SettingError("Only heads attend: name sites such as a9.6.")
    at = np.tile(np.arange(tokens.shape[1]), (len(tokens), 1)) if positions is None else positions
    found = np.zeros((len(heads), *at.shape), dtype=np.float32)
    for rows in _parts(np.argsort(at.max(1), kind="stable"), max(1, tokens_per_pass(model.device) // tokens.shape[1])):
        cut = torch.from_numpy(tokens[rows, : at[rows].max() + 1])
        patterns = model.patterns(cut, torch.from_numpy(at[rows]))[..., 0].float().cpu().numpy()
        for i, head in enumerate(heads):
            found[i, rows] = patterns[head.layer, :, head.head]
    return found


def attends_elsewhere(
    model: ProbedModel, tokens: Ids, positions: Ids, heads: Sequence[Site], most: float = MOST_BOS
) -> npt.NDArray[np.bool_]:
    """Return on which inputs each head attends less than ``most`` to BOS; the others are left out for it.

    Args:
        model: the probed model.
        tokens: padded on the right, ``[row, pos]``.
        positions: where each is read, ``[row]`` or ``[row, k]``; −1 where it cannot be.
        heads: which.
        most: the attention from which a head rests.

    Returns:
        ``[head, row]`` or ``[head, row, k]``.
    """
    at = positions if positions.ndim == 2 else positions[:, None]
    elsewhere = (bos_attention(model, tokens, heads, at.clip(min=0)) < most) & (at >= 0)
    return elsewhere.reshape(len(heads), *positions.shape)

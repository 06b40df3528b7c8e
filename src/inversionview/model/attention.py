"""Whether heads attend elsewhere than to BOS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float

from inversionview.core.arrays import Ids
from inversionview.core.errors import SettingError
from inversionview.model.harvest import tokens_per_pass
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

MOST_BOS = 0.6
"""A head that attends so much to BOS rests (Huang et al. 2024)."""


def slices_of(rows: Ids, size: int) -> list[Ids]:
    """Return rows in slices of so many."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


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
    for rows in slices_of(np.argsort(at.max(1), kind="stable"), max(1, tokens_per_pass(model.device) // tokens.shape[1])):
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

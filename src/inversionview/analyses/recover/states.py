"""The states that a text shall be recovered from: as a file or a caller gives them, checked, padding cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.analyses.recover.rounding import precision_of, rounded
from inversionview.core.errors import InputError, SettingError
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

Given = str | Path | Tensor | npt.NDArray[Any]
"""States ``[pos, numbers]``, or ``[1, pos, numbers]``, or what names them in a file, ``PATH[:key]``."""


@dataclass(frozen=True, eq=False)
class GivenStates:
    """States of consecutive positions, none of them padding at either end that is all zeros."""

    values: Float[Tensor, "pos numbers"]
    precision: str
    """See ``rounding.precision_of``."""
    before: int = 0
    """Rows of zeros that stood before them."""
    behind: int = 0


def from_outside(given: Given, site: Site, model: ProbedModel, positions: Sequence[int] | None) -> GivenStates:
    """Return states that a file or a caller gives.

    Raises:
        InputError: the file is missing or damaged; they are of another width, hold NaN, or a row within is zero; positions are
            missing; there are more than the model reads.
    """
    values, named = _read(given)
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    wanted = site.numbers(model.shape.widths)
    if values.ndim != 2 or values.size(1) != wanted or not len(values):
        raise InputError(
            f"{named} have the shape {list(values.shape)}, but states at {site} are [positions, {wanted}]: take them at this "
            "site of this model, of one text."
        )
    odd = (~values.isfinite().all(1)).nonzero()[:, 0].tolist()
    if odd:
        raise InputError(f"Row {odd[0]} of {named} holds NaN or infinity: take the states anew.")
    if positions is not None:
        _check_positions(list(positions), len(values), site)
    there = values.any(1).nonzero()[:, 0].tolist()
    if not there:
        raise InputError(f"{named} are all zero: take the states anew.")
    first, last = there[0], there[-1]
    if last - first + 1 > len(there):
        hole = next(i for i in range(first, last) if i not in set(there))
        raise InputError(f"Row {hole} of {named} is zero between others: positions are missing, but each stands on all before.")
    if len(there) > model.shape.max_length:
        raise InputError(f"{named} are of {len(there)} tokens, the model reads {model.shape.max_length}: give fewer rows.")
    cut = values[first : last + 1]
    return GivenStates(cut, precision_of(cut), first, len(values) - 1 - last)


def attends(site: Site) -> bool:
    """Return whether the states of a site depend on the tokens before."""
    return site.tap.blocks > 0


def _check_positions(positions: Sequence[int], rows: int, site: Site) -> None:
    if len(positions) != rows:
        raise InputError(f"There are {rows} states, but {len(positions)} positions: give one for each.")
    if attends(site) and list(positions) != list(range(rows)):
        lacking = next((i for i in range(max(positions, default=0)) if i not in set(positions)), 0)
        raise InputError(
            f"Position {lacking} is missing: states at {site} attend to all tokens before them, so give all of them, in order."
        )


def _read(given: Given) -> tuple[Float[Tensor, "*shape"], str]:
    """Return numbers in float32, and what they are called."""
    if isinstance(given, str | Path):
        from inversionview.records.vectors.states import read_states

        return torch.from_numpy(read_states(given)), str(given)
    values = torch.as_tensor(given).detach()
    if values.is_complex() or values.dtype == torch.bool:
        raise InputError(f"The states are of {values.dtype}, not real numbers.")
    return values.float().cpu(), "The states"


def of_text(
    model: ProbedModel, ids: Sequence[int], site: Site, precision: str, noise: float, seed: int
) -> Float[Tensor, "pos numbers"]:
    """Return the states of a text, with noise, rounded: what a test of oneself recovers it from.

    Args:
        model: the probed model.
        ids: the text in its frame.
        site: where.
        precision: to which they are rounded.
        noise: length of the normally distributed noise on each, relative to its own.
        seed: of the noise.
    """
    v = model.vocabulary
    body = list(ids[:-1]) if ids[-1] == v.eos else list(ids)
    z = model.own(model.activations(torch.tensor([body]), [site])[0, 0].float().cpu(), site)
    if noise:
        random = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed))
        random[: len(v.front)] = 0
        z = z + noise * z.norm(dim=1, keepdim=True) / z.size(1) ** 0.5 * random
    return rounded(z, precision)


def check_recoverable(site: Site) -> None:
    """Raise ``SettingError`` where a site holds nothing of a token, or one number of it."""
    if site.tap.name == "pos_embed":
        raise SettingError(f"{site} is the same for all texts: recover from a residual stream such as x0.post.")
    if site.single:
        raise SettingError(f"{site} is one number, which thousands of tokens share: recover from a vector such as x0.post.")

"""An input run through the probed model and read at one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.core.errors import SettingError
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.patterns import find_site
from inversionview.model.sites.site import Site
from inversionview.preimage.preimage import Query

Vector = str | Path | Tensor | npt.NDArray[Any]
"""An activation from outside, ``[numbers]``, or what names one in a file, ``PATH[:key][[row]]``."""


def check_one(text: object, at: object, vector: object) -> None:
    """Raise ``SettingError`` unless there is either a text or a vector, and no position in a vector."""
    if (text is None) == (vector is None) or (vector is not None and at is not None):
        raise SettingError("Name either a text and a position in it, or a vector, which has none.")


def _outside(vector: Vector) -> tuple[Float[Tensor, " numbers"], str, str | None]:
    """Return a vector from outside, what it is called, and where its file says that it belongs.

    Raises:
        InputError: the file is missing or damaged, or does not hold what is named.
        SettingError: several vectors are named.
    """
    if not isinstance(vector, str | Path):
        return torch.as_tensor(vector), "given", None
    from inversionview.records.vectors.vectors import read_vectors

    found = read_vectors(vector)
    if len(found) != 1:
        raise SettingError(f"{vector} holds {len(found):,} vectors: name one, as in {vector}[0].")
    return torch.from_numpy(found.values[0]), str(vector), found.hook


def from_outside(model: ProbedModel, vector: Vector | None, named: str | Site | None, default: str) -> Query:
    """Return the query of a vector whose input is not known, at the site that is named, or that its file names, or by default.

    Raises:
        InputError: the file is missing or damaged, or does not hold what is named.
        SettingError: several vectors are named; it has another number of numbers than activations of the site; it is zero or
            not finite.
    """
    assert vector is not None
    z, source, hook = _outside(vector)
    site = find_site(named or hook or default, model.sites)
    z, wanted = z.detach().float().cpu(), site.numbers(model.shape.widths)
    if z.ndim != 1 or len(z) != wanted:
        raise SettingError(f"{source} has the shape {tuple(z.shape)}, but an activation at {site} is one of {wanted} numbers.")
    if not bool(z.isfinite().all()):
        raise SettingError(f"{source} holds NaN or infinity, so nothing can be near it.")
    if not site.single and not bool(z.any()):
        raise SettingError(f"{source} is zero: it has neither a direction nor a length to compare with.")
    return Query("", (), (), -1, site, model.name, z, None, model.vocabulary.bos is not None, source)


def queried(model: ProbedModel, ids: Sequence[int], position: int, site: Site) -> Query:
    """Return the query of an input's ids at a position and site; a head's with what it attends to."""
    model.check_unchanged()
    ids = list(ids)
    z = model.activations(torch.tensor([ids]), [site], torch.tensor([[position]]))[0, 0, 0].float().cpu()
    strings = tuple(model.vocabulary.strings(ids))
    shown = model.vocabulary.decode(ids)
    attention = None
    if site.is_head:  # what stands behind the position is never computed
        pattern = model.attention(torch.tensor([ids[: position + 1]]), site.layer)[0, site.head, position].tolist()
        attention = (*pattern, *[0.0] * (len(ids) - len(pattern)))
    return Query(shown, tuple(ids), strings, position, site, model.name, z, attention, model.vocabulary.bos is not None)

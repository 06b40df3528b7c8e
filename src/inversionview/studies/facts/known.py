"""Which facts a model knows, as measured and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from inversionview.core.errors import InputError
from inversionview.core.progress import Progress
from inversionview.core.storage import read_array, write_array
from inversionview.corpora.inputs import Inputs
from inversionview.model.attention import slices_of
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site

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
    read = np.concatenate([inputs.read_at(inputs.tokens(rows), target) for rows in slices_of(np.arange(len(inputs)), 4096)])
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

"""Where banks lie: in a run's folder, or in the user's cache; and which one a search takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inversionview.bank.store import ActivationBank, read_manifest
from inversionview.errors import BankError
from inversionview.inputs import Inputs
from inversionview.probed import ProbedModel


def cache() -> Path:
    """Return the folder of the user's cache where banks of this format lie."""
    from platformdirs import user_cache_path

    return user_cache_path("inversionview") / "banks" / "format-3"


def cached(model: ProbedModel, inputs: Inputs, rows: int) -> Path:
    """Return where in the user's cache a bank of this model and corpus lies."""
    return cache() / f"{model.fingerprint}-{inputs.fingerprint}-{rows}"


def find(model: ProbedModel, inputs: Inputs, folders: Sequence[Path] = ()) -> ActivationBank | None:
    """Return the first finished bank of ``folders``, else the largest of this model and corpus in the user's cache.

    Raises:
        BankError, MismatchError: one of ``folders`` holds a bank that is damaged, unfinished or another model's.
    """
    for folder in folders:
        if (folder / "manifest.json").exists():
            return ActivationBank.open(folder, model, inputs)
    found = []
    for path in cached(model, inputs, 0).parent.glob(f"{model.fingerprint}-{inputs.fingerprint}-*"):
        try:
            manifest = read_manifest(path)
        except BankError:
            continue
        found.append((manifest.inputs, path))
    for _, path in sorted(found, reverse=True):
        try:
            return ActivationBank.open(path, model, inputs)
        except BankError:  # being built by another process, or interrupted
            continue
    return None

"""Checkpoints of a training run: weights and optimiser state as safetensors, the rest as JSON; and its metrics file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from inversionview.decoder.model import Decoder
from inversionview.errors import MismatchError, StorageError, WeightsError
from inversionview.storage import recover, replacing


@dataclass
class Progress:
    """Where a run stands: all that is not a tensor."""

    fingerprint: str
    """Of the probed model."""
    settings: dict[str, Any]
    """The run's ``TrainConfig``; a run goes on only under its own settings."""
    weights: list[list[float]]
    """How likely a pair is drawn in the next pool, ``[site][place]``; only their ratios count."""
    pool: int = 0
    step: int = 0
    pairs: int = 0
    seconds: float = 0.0
    evaluated: int = 0


def save_checkpoint(folder: Path, progress: Progress, model: Decoder, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Write a checkpoint in place of the last one, atomically.

    Raises:
        StorageError: it could not be written; the last one still stands.
    """
    state = {f"model.{name}": t.detach().cpu().contiguous() for name, t in model.kept().items()}
    for i, optimizer in enumerate(optimizers):
        for key, values in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{key}.{name}": torch.as_tensor(v).cpu() for name, v in values.items()}
    with replacing(folder) as temporary:
        temporary.mkdir()
        save_file(state, temporary / "state.safetensors")
        (temporary / "progress.json").write_text(json.dumps(asdict(progress), indent=1))


def load_checkpoint(
    folder: Path,
    settings: dict[str, Any],
    fingerprint: str,
    model: Decoder,
    optimizers: Sequence[torch.optim.Optimizer],
) -> Progress | None:
    """Restore the last checkpoint, if there is one.

    Raises:
        MismatchError: it belongs to another probed model or was made under other settings.
        WeightsError: its files are damaged.
    """
    recover(folder)
    if not folder.exists():
        return None
    try:
        progress = Progress(**json.loads((folder / "progress.json").read_text()))
        state = load_file(folder / "state.safetensors")
    except Exception as error:
        raise WeightsError(f"The checkpoint {folder} is damaged ({error}): delete it to begin anew.") from error
    if progress.fingerprint != fingerprint:
        raise MismatchError(f"The run in {folder.parent} was begun for another probed model: choose another --out.")
    changed = sorted(k for k in settings if progress.settings.get(k) != settings[k])
    if changed:
        was = ", ".join(f"{k} = {progress.settings.get(k)}" for k in changed)
        raise MismatchError(f"The run in {folder.parent} was begun with {was}: go on with that, or choose another --out.")
    model.restore({n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")})
    for i, optimizer in enumerate(optimizers):
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            head, number, key, *rest = name.split(".", 3) if name.startswith("optimizer.") else ("", "", "", "")
            if head and int(number) == i:
                slots.setdefault(int(key), {})[rest[0]] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    return progress


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Append one line to ``metrics.jsonl``.

    Raises:
        StorageError: it could not be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise StorageError(f"{path} could not be written ({error}).") from error


def cut_metrics(path: Path, step: int) -> None:
    """Drop lines beyond ``step`` (made after the checkpoint a run goes on from) and a last line cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(temporary, path)

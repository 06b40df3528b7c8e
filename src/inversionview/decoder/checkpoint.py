"""Checkpoints of a training run: weights and optimiser state as safetensors, the rest as JSON; and its metrics file.

``progress.json`` is sealed and holds the checksum of the rest, so that no run goes on from what was damaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict
from safetensors.torch import save_file

from inversionview.core.errors import MismatchError, StorageError, WeightsError
from inversionview.core.integrity import file_digest, sealed
from inversionview.core.optim import Muon
from inversionview.core.storage import replacing, sweep
from inversionview.decoder import files
from inversionview.decoder.decoder import Decoder

_DIGEST = "state"
"""Of the checksum of ``state.safetensors``, in ``progress.json``."""
_SHOWN = 60
"""Characters of a setting that an error tells at most."""


@dataclass
class Standing:
    """Where a run stands: all that is not a tensor."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

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


def save_checkpoint(folder: Path, standing: Standing, model: Decoder, optimizers: Sequence[torch.optim.Optimizer]) -> None:
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
        content = sealed({**asdict(standing), _DIGEST: file_digest(temporary / "state.safetensors")})
        (temporary / "progress.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_checkpoint(
    folder: Path, begun: Standing, model: Decoder, optimizers: Sequence[torch.optim.Optimizer]
) -> Standing | None:
    """Restore the last checkpoint, if there is one.

    Args:
        folder: where it lies.
        begun: how the run begins that is to go on there.
        model: takes over the weights.
        optimizers: take over their state.

    Raises:
        MismatchError: it belongs to another probed model or was made under other settings.
        WeightsError: its files are damaged.
    """
    sweep(folder.parent)
    if not folder.exists():
        return None
    try:
        standing, digest = _read_progress(folder / "progress.json")
    except files.UNREADABLE as error:
        raise _damaged(folder, error) from error
    run, was = folder.parent.parent, standing.settings
    if standing.fingerprint != begun.fingerprint:
        raise MismatchError(f"The run in {run} was begun for another probed model: choose another --out.")
    if told := ", ".join(_others(was, begun.settings)):
        raise MismatchError(
            f"The run in {run} was begun with {told}: go on with that, choose another --out, or delete {folder.parent} to "
            "begin anew."
        )
    try:
        _check_progress(standing, begun)
        files.check_digest(folder / "state.safetensors", digest)
        _restore(folder / "state.safetensors", model, optimizers)
    except (*files.UNREADABLE, RuntimeError) as error:
        raise _damaged(folder, error) from error
    return standing


def _others(was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Yield the settings that were others; of a decoder those of its own that were."""
    for name in sorted(now):
        before, value = was.get(name), now[name]
        if isinstance(before, dict) and isinstance(value, dict) and before != value:
            yield from (f"{name} {one}" for one in _others(before, value)) if before.keys() == value.keys() else [name]
        elif before != value:
            yield f"{name} = {before if len(str(before)) <= _SHOWN else 'others'}"


def _damaged(folder: Path, why: Exception) -> WeightsError:
    return WeightsError(f"The checkpoint {folder} is damaged ({files.reason(why)}): delete it to begin anew.")


def _read_progress(path: Path) -> tuple[Standing, str | None]:
    """Return what ``progress.json`` states, and the checksum of the state; older ones have none."""
    rest, digest = files.read_sealed(path, _DIGEST)
    return files.validated(Standing, rest), digest


def _check_progress(standing: Standing, begun: Standing) -> None:
    """Raise ``ValueError`` unless a run that began so can stand there."""
    settings, step, pool = begun.settings, standing.step, standing.pool
    most = pool * settings["pool"]
    if not most - settings["pool"] < step <= min(most, settings["steps"] or most) or pool < 0:
        raise ValueError(f"step {step} is not of pool {pool}")
    if standing.pairs != step * settings["batch"]:
        raise ValueError(f"{standing.pairs} pairs are not those of {step} steps")
    if not 0 <= standing.evaluated <= settings["evaluations"]:
        raise ValueError(f"it says {standing.evaluated} evaluations")
    if not 0 <= standing.seconds < float("inf"):
        raise ValueError(f"it says {standing.seconds} seconds")
    if [len(row) for row in standing.weights] != [len(row) for row in begun.weights]:
        raise ValueError("its weights are not those of this run's sites and places")
    if not (np.isfinite(standing.weights).all() and np.min(standing.weights) >= 0 and np.sum(standing.weights) > 0):
        raise ValueError("its weights are not those of pairs")


def _restore(path: Path, model: Decoder, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Set model and optimisers to what a checkpoint holds.

    Raises:
        ValueError, OSError, SafetensorError, RuntimeError: it is not a state of these.
    """
    shapes, kept = files.shapes_in(path), list(_slots(optimizers))
    wanted = {f"model.{name}": tuple(t.shape) for name, t in model.kept().items()}
    for _, _, tensors in kept:
        if shapes.keys() & tensors.keys():  # a parameter that never had a gradient has none
            wanted |= tensors
    if foreign := sorted(shapes.keys() - wanted.keys()):
        raise ValueError(f"{foreign[0]} is not of this run")
    files.check_shapes(shapes, wanted)
    state = files.finite_tensors(path)
    for number, optimizer in enumerate(optimizers):
        own = {
            key: {name.rsplit(".", 1)[1]: state[name] for name in tensors}
            for which, key, tensors in kept
            if which == number and tensors.keys() <= state.keys()
        }
        optimizer.load_state_dict({**optimizer.state_dict(), "state": own})
    model.restore({n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")})


def _slots(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[int, int, dict[str, tuple[int, ...]]]]:
    """Yield optimiser, parameter, and the shapes of what is kept of it by the name it has in the file."""
    for number, optimizer in enumerate(optimizers):
        kinds = ("momentum",) if isinstance(optimizer, Muon) else ("step", "exp_avg", "exp_avg_sq")
        for key, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            shapes = {kind: () if kind == "step" else tuple(p.shape) for kind in kinds}
            yield number, key, {f"optimizer.{number}.{key}.{kind}": shape for kind, shape in shapes.items()}


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


def cut_metrics(path: Path, step: int) -> dict[str, Any]:
    """Drop lines beyond ``step`` (made after the checkpoint a run goes on from) and what is no line of metrics.

    Returns:
        The last that is left, on which the next goes on; nothing where there is none.

    Raises:
        StorageError: it could not be written.
    """
    if not path.exists():
        return {}
    kept = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if _step(line) <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    return dict(json.loads(kept[-1])) if kept else {}


def _step(line: str) -> float:
    """Return the step of a line of metrics, infinity of one that was damaged or cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")

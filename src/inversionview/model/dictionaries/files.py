"""The files of dictionaries: their settings and tensors, checked before memory is taken; no pickle is run."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inversionview.core.errors import InversionViewError, WeightsError
from inversionview.core.integrity import reason
from inversionview.core.memory import check_bytes
from inversionview.records.vectors.arrays import array_in

_ROWS = 1024
"""So many rows are looked through at once."""


@dataclass(frozen=True, eq=False)
class Tensors:
    """The tensors of one file."""

    path: Path
    held: Mapping[str, Tensor]

    def __contains__(self, name: str) -> bool:
        return name in self.held

    def only(self, names: Iterable[str]) -> None:
        """Refuse tensors of other names: they might change what is computed.

        Raises:
            WeightsError: there is one.
        """
        known = set(names)
        if other := next((name for name in self.held if name not in known), None):
            raise WeightsError(
                f"{self.path} holds a tensor {other!r} that is not known here and might change its codes: give a dictionary of "
                "a known architecture."
            )

    def shape(self, name: str) -> tuple[int, int]:
        """Return the shape of a matrix.

        Raises:
            WeightsError: it is not there, or is none.
        """
        if name not in self.held:
            raise WeightsError(f"{self.path} lacks {name}, it holds {_some(self.held)}: give a whole dictionary.")
        shape = self.held[name].shape
        if len(shape) != 2 or not all(shape):
            raise WeightsError(f"{name} in {self.path} is of the shape {list(shape)}, no matrix: give a whole dictionary.")
        return int(shape[0]), int(shape[1])

    def part(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of floating-point numbers.

        Raises:
            WeightsError: it is not there, of another shape or kind, or holds NaN or infinite numbers.
        """
        if name not in self.held:
            raise WeightsError(f"{self.path} lacks {name}, it holds {_some(self.held)}: give a whole dictionary.")
        tensor = self.held[name]
        if tuple(tensor.shape) != shape:
            raise WeightsError(
                f"{name} in {self.path} must be {list(shape)}, but is {list(tensor.shape)}: give weights and settings of one "
                "dictionary."
            )
        if not tensor.is_floating_point():
            raise WeightsError(f"{name} in {self.path} holds {tensor.dtype}: give a dictionary of floating-point numbers.")
        if not all(bool(torch.isfinite(rows).all()) for rows in torch.atleast_1d(tensor).split(_ROWS)):
            raise WeightsError(f"{name} in {self.path} holds NaN or infinite numbers: copy it again, or train it anew.")
        return tensor

    def vector(self, name: str, length: int) -> Tensor:
        """Return a tensor of so many numbers, where one number may stand for all.

        Raises:
            WeightsError: as of ``part``.
        """
        one = name in self.held and self.held[name].numel() == 1 and length != 1
        if not one:
            return self.part(name, length)
        return self.part(name, *self.held[name].shape).reshape(1).expand(length)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file.

    Raises:
        WeightsError: it is missing, damaged, or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(value, dict):
            raise ValueError("it is no object")
    except FileNotFoundError as error:
        raise WeightsError(f"There is no {path.name} in {path.parent}: put it beside the weights.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read ({_reason(error)}): copy or download it again.") from error
    return value


def whole(settings: Mapping[str, Any], name: str, path: Path, most: int | None = None) -> int:
    """Return a positive whole number of settings.

    Raises:
        WeightsError: it is none, or larger than it can be.
    """
    value = settings.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
        bound = "" if most is None else f" up to {most}"
        raise WeightsError(f"{path} states {name} = {value!r}, not a whole number from 1{bound}: give another dictionary.")
    return value


def read_safetensors(path: Path) -> Tensors:
    """Return the tensors of a safetensors file, mapped: a matrix takes memory when it is used.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return Tensors(path, {name: file.get_tensor(name) for name in sorted(file.keys())})
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_npz(path: Path) -> Tensors:
    """Return the arrays of a ``.npz`` file, which are read: a zip archive cannot be mapped with its checksums.

    Raises:
        WeightsError: the file is damaged, or holds pickled objects.
        SettingError: they need more memory than can be had.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            largest = max((each.file_size for each in members), default=0)
            check_bytes(sum(each.file_size for each in members) + largest, str(path))
            held = {each.filename.removesuffix(".npy"): torch.from_numpy(_native(array_in(archive, each))) for each in members}
    except InversionViewError:
        raise
    except Exception as error:  # what damaged headers and archives make NumPy raise shares no base
        if "pickle" in str(error) or "Object arrays" in str(error):
            raise WeightsError(f"{path} holds pickled Python objects, which could run code: give plain arrays.") from error
        raise _unreadable(path, error) from error
    return Tensors(path, held)


def _native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def read_pt(path: Path) -> Tensors:
    """Return the tensors of a state dictionary that PyTorch saved, mapped where its format allows; nothing else is unpickled.

    Raises:
        WeightsError: the file is damaged, holds anything else, or would need code to be run.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(4) == b"PK\x03\x04"
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=packed)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is truncated, or would need code to be run: save the dictionary's state_dict() alone, by torch.save."
        ) from error
    except Exception as error:  # what PyTorch raises of damaged files shares no base
        raise _unreadable(path, error) from error
    if not isinstance(state, Mapping) or not all(isinstance(each, Tensor) for each in state.values()):
        raise WeightsError(f"{path} holds no tensors by their names: save the dictionary's state_dict() alone, by torch.save.")
    room = path.stat().st_size
    if any(math.prod(each.shape) * each.element_size() > room for each in state.values()):
        raise WeightsError(f"{path} states more numbers than its {room:,} bytes can hold: copy or download it again.")
    return Tensors(path, {str(name): each.detach() for name, each in state.items()})


def _unreadable(path: Path, error: Exception) -> WeightsError:
    if isinstance(error, FileNotFoundError):
        return WeightsError(f"There is no {path.name} in {path.parent}: put it beside the settings.")
    return WeightsError(f"The weights in {path} are truncated or no weights ({_reason(error)}): copy or download them again.")


def _reason(error: Exception) -> str:
    return reason(error).rstrip(":")


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:8]) + (", …" if len(found) > 8 else "") if found else "nothing"

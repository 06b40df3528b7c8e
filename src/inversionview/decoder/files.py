"""A decoder's files: ``model.safetensors``, and ``config.json``, sealed, which holds the checksum of the weights.

What a damaged file says is told before it is believed, and before memory is taken that the weights do not fill. Checkpoints
of a training are read by the same rules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from inversionview.core.errors import InversionViewError
from inversionview.core.integrity import file_digest, sealed, unsealed
from inversionview.core.storage import replacing, write_json
from inversionview.decoder.config import DecoderConfig
from inversionview.model.sites.site import Site

T = TypeVar("T")
_DIGEST = "weights"
"""Of the checksum of the weights, in ``config.json``."""
_FLOATS = {"F64", "F32", "F16", "BF16"}
UNREADABLE = (OSError, ValueError, SafetensorError, InversionViewError, RecursionError)
"""What reading a damaged file raises."""


def write(folder: Path, config: DecoderConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write a decoder's files, the weights first.

    Raises:
        StorageError: they cannot be written.
    """
    weights = folder / "model.safetensors"
    with replacing(weights) as path:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
    write_json(folder / "config.json", sealed({**dict(sorted(asdict(config).items())), _DIGEST: file_digest(weights)}))


def read_config(path: Path) -> tuple[DecoderConfig, str | None]:
    """Return what ``config.json`` states, and the checksum of the weights; older ones have none.

    Raises:
        OSError, ValueError, InversionViewError, RecursionError: it is missing, damaged, or no decoder's.
    """
    rest, digest = read_sealed(path, _DIGEST)
    config = validated(DecoderConfig, rest)
    for name in config.sites:
        Site.parse(name)
    return config, digest


def read_sealed(path: Path, name: str) -> tuple[dict[str, Any], str | None]:
    """Return a JSON object that is sealed, but for the checksum of another file that it holds under ``name``, and that one.

    Raises:
        OSError, ValueError, RecursionError: it is missing, or damaged.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    rest = unsealed(content)
    digest = rest.pop(name, None)
    if not (digest is None or isinstance(digest, str)):
        raise ValueError(f"{name} is no checksum")
    return rest, digest


def validated(kind: type[T], value: object) -> T:
    """Return a value of JSON as what it must be.

    Raises:
        ValueError: it is not; says where, in a line.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where + ': ' if where else ''}{first['msg'][0].lower()}{first['msg'][1:]}") from error


def reason(error: Exception) -> str:
    """Return what an error says as a part of a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def check_digest(path: Path, stated: str | None) -> None:
    """Raise ``ValueError`` if a file has another checksum than is stated of it; older files have none."""
    if stated is not None and file_digest(path) != stated:
        raise ValueError("its checksum is another")


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the header of a safetensors file states; no tensor is read.

    Raises:
        ValueError: one is not of floating-point numbers.
        OSError, SafetensorError: it cannot be read.
    """
    found = {}
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        for name in names:
            part = file.get_slice(name)
            if part.get_dtype() not in _FLOATS:
                raise ValueError(f"{name} holds {part.get_dtype()}")
            found[name] = tuple(part.get_shape())
    return found


def check_shapes(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ``ValueError`` unless all that is wanted was found."""
    for name, shape in wanted.items():
        if found.get(name) != shape:
            is_there = f"is {list(found[name])}" if name in found else "is not there"
            raise ValueError(f"{name} must be {list(shape)}, but {is_there}")


def finite_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        ValueError: one holds a number that is not finite.
    """
    state = load_file(path, device=device)
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or infinite numbers")
    return state

"""A decoder's folder, here or on the hub: checked before it is believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from huggingface_hub import hf_hub_download
from torch import Tensor

from inversionview.core.errors import WeightsError
from inversionview.decoder import files
from inversionview.decoder.config import DecoderConfig

Shapes = Mapping[str, tuple[int, ...]]
"""Of the tensors in a file, by name."""


class Restored(Protocol):
    """What takes over weights."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take them over."""


R = TypeVar("R", bound=Restored)


def located(name: str | Path, **download: Any) -> Path:
    """Return the folder of a decoder, downloaded from the hub where it is none here.

    Raises:
        WeightsError: there is none.
    """
    where = str(name)
    path = Path(where)
    try:
        if not path.is_dir():
            for name in ("config.json", "model.safetensors"):
                path = Path(hf_hub_download(where, name, **download)).parent
    except Exception as error:  # the hub's errors and the network's share no base
        raise WeightsError(f"{where} holds no readable decoder ({error}).") from error
    return path


def read(folder: Path, device: str, empty: Callable[[DecoderConfig, Shapes, str], R]) -> R:
    """Return the decoder in a folder.

    Args:
        folder: where it lies.
        device: that it is loaded to.
        empty: makes it of its configuration, before its weights come; raises ``ValueError`` where their shapes are others.

    Raises:
        WeightsError: it is missing, damaged or not a decoder.
    """
    anew = "copy the decoder again or train it anew."
    path = folder / "config.json"
    try:
        config, digest = files.read_config(path)
        path = folder / "model.safetensors"
        files.check_digest(path, digest)
        shapes = files.shapes_in(path)
    except files.UNREADABLE as error:
        kind = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({files.reason(error)})"
        raise WeightsError(f"{path} is {kind}: {anew}") from error
    try:
        decoder = empty(config, shapes, device)
        decoder.restore(files.finite_tensors(path, device))
    except WeightsError:
        raise
    except Exception as error:  # a foreign LM's errors share no base
        raise WeightsError(
            f"{path} is damaged, or of another decoder than its config.json ({files.reason(error)}): {anew}"
        ) from error
    return decoder

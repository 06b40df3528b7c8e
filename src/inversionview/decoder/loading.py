"""Decoders of either kind, from a folder or the hub: checked before they are believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download

from inversionview.core.errors import WeightsError
from inversionview.decoder import files
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.pathway import TokenTable
from inversionview.decoder.scratch import ScratchDecoder


def from_pretrained(name: str | Path, device: str = "cpu", **download: Any) -> Decoder:
    """Load a decoder from a folder or the hub; see ``Decoder.from_pretrained``.

    Args:
        name: where it lies.
        device: that it is loaded to.
        download: ``revision``, ``token``, ``cache_dir``, … of ``hf_hub_download``.

    Raises:
        WeightsError: it is missing, damaged or not a decoder.
    """
    where = str(name)
    path = Path(where)
    try:
        if not path.is_dir():
            for name in ("config.json", "model.safetensors"):
                path = Path(hf_hub_download(where, name, **download)).parent
    except Exception as error:  # the hub's errors and the network's share no base
        raise WeightsError(f"{where} holds no readable decoder ({error}).") from error
    return _read(path, device)


def _read(folder: Path, device: str) -> Decoder:
    """Return the decoder in a folder, ready to be read with.

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
        decoder = _around_lm(config, shapes) if config.base else _empty(config, shapes, device)
        decoder.restore(files.finite_tensors(path, device))
    except WeightsError:
        raise
    except Exception as error:  # a foreign LM's errors share no base
        raise WeightsError(
            f"{path} is damaged, or of another decoder than its config.json ({files.reason(error)}): {anew}"
        ) from error
    return decoder.eval()


def _empty(config: DecoderConfig, shapes: Mapping[str, tuple[int, ...]], device: str) -> Decoder:
    """Return a decoder whose weights are still to come.

    Raises:
        ValueError: they are not of these shapes; found out before memory is taken.
    """
    if max(config.layers, config.blocks) > len(shapes):
        raise ValueError(f"{config.layers} layers and {config.blocks} blocks are more than its {len(shapes)} tensors")
    with torch.device("meta"):
        decoder = ScratchDecoder(config)
    wanted = {name: tuple(t.shape) for name, t in decoder.state_dict().items()}
    files.check_shapes(shapes, wanted)
    decoder.to_empty(device=device)
    decoder.own = TokenTable(config).to(device)  # no weights, but a function of the settings
    return decoder


def _around_lm(config: DecoderConfig, shapes: Mapping[str, tuple[int, ...]]) -> Decoder:
    """Return a decoder around a causal LM.

    Raises:
        ValueError: what was trained of it is not of these shapes; found out before memory is taken.
    """
    from inversionview.decoder.pretrained import PretrainedDecoder, check_parts

    check_parts(config, shapes)
    return PretrainedDecoder.on(config)

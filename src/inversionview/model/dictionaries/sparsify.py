"""Dictionaries of EleutherAI's sparsify: ``cfg.json`` and ``sae.safetensors``, in a folder that is called as what they read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inversionview.core.errors import WeightsError
from inversionview.model.dictionaries.dictionary import Activation, Dictionary, Parts
from inversionview.model.dictionaries.files import read_safetensors, read_settings, whole

SETTINGS, WEIGHTS = "cfg.json", "sae.safetensors"
_NAMES = {"encoder.weight", "encoder.bias", "W_dec", "b_dec", "W_skip"}
_MODULE = re.compile(r"(?:.*\.)?(?:layers|h|blocks)[._](?P<layer>\d+)(?:\.(?P<part>mlp|self_attn|attn|attention))?")
"""What Hugging Face calls a block, and its MLP and attention."""


def read_sparsify(folder: Path) -> Dictionary:
    """Return the dictionary in a folder of sparsify; its model is what ``config.json`` of the folder around it names.

    Raises:
        WeightsError: files are missing, damaged, do not fit one another, or state what is not known here.
    """
    path = folder / SETTINGS
    settings = read_settings(path)
    d_in = whole(settings, "d_in", path)
    latents = whole(settings, "num_latents", path) if settings.get("num_latents") else 0
    latents = latents or d_in * whole(settings, "expansion_factor", path)
    tensors = read_safetensors(folder / WEIGHTS)
    tensors.only(_NAMES)
    if "W_dec" not in tensors:
        raise WeightsError(f"{folder / WEIGHTS} has no decoder (W_dec): give a whole dictionary.")
    transcoder = settings.get("transcode") is True
    bias = tensors.part("b_dec", d_in)
    hook, hook_out = _hooks(folder.absolute().name, transcoder)
    activation, k = _activation(settings, path, latents)
    return Dictionary(
        source=str(folder),
        form="sparsify",
        activation=activation,
        parts=Parts(
            encoder=tensors.part("encoder.weight", latents, d_in),
            encoder_bias=tensors.part("encoder.bias", latents),
            decoder=tensors.part("W_dec", latents, d_in),
            decoder_bias=bias,
            subtracted=None if transcoder else bias,
            skip=tensors.part("W_skip", d_in, d_in) if settings.get("skip_connection") is True else None,
        ),
        k=k,
        transcoder=transcoder,
        hook=hook,
        hook_out=hook_out,
        model=_model(folder),
    )


def _activation(settings: Mapping[str, Any], path: Path, latents: int) -> tuple[Activation, int]:
    stated = settings.get("activation", "topk")
    k = whole(settings, "k", path, latents)
    if stated == "groupmax":
        if latents % k:
            raise WeightsError(
                f"{path} states {k} groups of {latents:,} latents, which do not divide: give another dictionary."
            )
        return "groupmax", k
    if stated != "topk":
        raise WeightsError(f"{path} states the activation {stated!r}, which is not known here: choose topk or groupmax.")
    return ("abstopk" if settings.get("signed") is True else "topk"), k


def _hooks(module: str, transcoder: bool) -> tuple[str | None, str | None]:
    """Return the names of what a module is given and what it gives, of an autoencoder twice what it gives.

    Blocks give the stream after them, MLP and attention what they add to it. The input of an MLP is called as by
    TransformerLens' bridge.
    """
    if module == "embed_tokens":
        return "hook_embed", "hook_embed"
    match = _MODULE.fullmatch(module)
    if match is None:
        return None, None
    block = f"blocks.{match['layer']}"
    part = "attn" if match["part"] not in (None, "mlp") else match["part"]
    given = {None: f"{block}.hook_resid_pre", "mlp": f"{block}.mlp.hook_in", "attn": f"{block}.attn.hook_in"}[part]
    gives = {None: f"{block}.hook_resid_post", "mlp": f"{block}.hook_mlp_out", "attn": f"{block}.hook_attn_out"}[part]
    return given if transcoder else gives, gives


def _model(folder: Path) -> str | None:
    for path in (folder.absolute().parent / "config.json", folder / "config.json"):
        if path.is_file():
            model = read_settings(path).get("model")
            return model if isinstance(model, str) and model else None
    return None

"""Dictionaries of dictionary_learning: ``ae.pt``, and ``config.json`` beside it, which names the class where it is there.

``AutoEncoder`` is used as that library loads it: with rows of the decoder that are scaled to 1, and codes in turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from inversionview.core.errors import WeightsError
from inversionview.model.dictionaries.dictionary import Activation, Dictionary, Parts
from inversionview.model.dictionaries.files import Tensors, read_pt, read_settings, whole

WEIGHTS, SETTINGS = "ae.pt", "config.json"
_LINEAR = {"encoder.weight", "encoder.bias", "decoder.weight"}
_FREE = {"W_enc", "b_enc", "W_dec", "b_dec"}
_CLASSES: dict[str, tuple[set[str], set[str]]] = {
    "AutoEncoder": (_LINEAR | {"bias"}, set()),
    "AutoEncoderNew": (_LINEAR | {"decoder.bias"}, set()),
    "GatedAutoEncoder": ({"encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias", "mag_bias"}, set()),
    "AutoEncoderTopK": (_LINEAR | {"b_dec"}, {"k", "threshold"}),
    "BatchTopKSAE": (_LINEAR | {"b_dec", "threshold"}, {"k"}),
    "MatryoshkaBatchTopKSAE": (_FREE | {"threshold", "group_sizes"}, {"k"}),
    "JumpReluAutoEncoder": (_FREE | {"threshold"}, set()),
}  # fmt: skip
"""The tensors that each class must have, and may have."""
_PLACES = {
    "resid_post": "hook_resid_post", "resid_pre": "hook_resid_pre", "resid": "hook_resid_post", "mlp_out": "hook_mlp_out",
    "mlp": "hook_mlp_out", "attn_out": "hook_attn_out", "attention_out": "hook_attn_out", "attn": "hook_attn_out",
}  # fmt: skip
_SUBMODULE = re.compile(rf"(?P<place>{'|'.join(_PLACES)})_layer_?(?P<layer>\d+)")


def read_dictionary_learning(path: Path) -> Dictionary:
    """Return the dictionary in a file of dictionary_learning.

    Raises:
        WeightsError: it is damaged, of an unknown class, its tensors do not fit one another, or which class it is cannot be
            told without ``config.json``.
    """
    tensors = read_pt(path)
    settings = read_settings(path.parent / SETTINGS) if (path.parent / SETTINGS).is_file() else {}
    trainer = settings.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    kind = _class(tensors, trainer, path)
    tensors.only(set.union(*_CLASSES[kind]))
    parts = _linear(tensors, kind) if "encoder.weight" in tensors else _free(tensors, kind)
    activation: dict[str, Activation] = {"GatedAutoEncoder": "gated", "AutoEncoderTopK": "topk"}
    hook = _hook(trainer)
    model = trainer.get("lm_name")
    return Dictionary(
        source=str(path.parent),
        form="dictionary_learning",
        activation="jumprelu" if parts.threshold is not None else activation.get(kind, "relu"),
        parts=parts,
        k=_k(tensors, trainer, path, len(parts.encoder_bias)) if kind == "AutoEncoderTopK" else None,
        hook=hook,
        hook_out=hook,
        model=model if isinstance(model, str) and model else None,
    )


def _class(tensors: Tensors, trainer: Mapping[str, Any], path: Path) -> str:
    """Return the class that ``config.json`` names, or the only one that has such tensors."""
    stated = trainer.get("dict_class")
    if stated is not None:
        if not isinstance(stated, str) or stated not in _CLASSES:
            raise WeightsError(f"{path.parent / SETTINGS} names the class {stated!r}: choose one of {', '.join(_CLASSES)}.")
        return stated
    names = set(tensors.held)
    fit = [kind for kind, (needed, allowed) in _CLASSES.items() if needed <= names <= needed | allowed]
    if len(fit) == 1:
        return fit[0]
    if fit:
        raise WeightsError(f"{path} may be {' or '.join(fit)}, which encode otherwise: put its {SETTINGS} beside it.")
    raise WeightsError(f"{path} holds the tensors of no class that is known here: give one of {', '.join(_CLASSES)}.")


def _linear(tensors: Tensors, kind: str) -> Parts:
    """Return the parts of a class with two linear layers, whose decoder's columns are the directions."""
    latents, d_in = tensors.shape("encoder.weight")
    encoder, decoder = tensors.part("encoder.weight", latents, d_in), tensors.part("decoder.weight", d_in, latents).T
    bias_name = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}.get(kind, "b_dec")
    bias, gated = tensors.part(bias_name, d_in), kind == "GatedAutoEncoder"
    return Parts(
        encoder=encoder,
        encoder_bias=tensors.part("mag_bias" if gated else "encoder.bias", latents),
        decoder=decoder,
        decoder_bias=bias,
        subtracted=None if kind == "AutoEncoderNew" else bias,
        threshold=tensors.vector("threshold", latents) if kind == "BatchTopKSAE" else None,
        gate_bias=tensors.part("gate_bias", latents) if gated else None,
        magnitude=tensors.part("r_mag", latents) if gated else None,
        scale=_norms(decoder) if kind == "AutoEncoder" else None,
    )


def _norms(decoder: Tensor) -> Tensor | None:
    """Return the norms of the rows; ``None`` where all are 1, or one is 0 and has no direction."""
    norms = decoder.float().norm(dim=1)
    return None if bool(((norms - 1).abs() < 1e-5).all()) or not bool((norms > 0).all()) else norms


def _free(tensors: Tensors, kind: str) -> Parts:
    d_in, latents = tensors.shape("W_enc")
    bias = tensors.part("b_dec", d_in)
    return Parts(
        encoder=tensors.part("W_enc", d_in, latents).T,
        encoder_bias=tensors.part("b_enc", latents),
        decoder=tensors.part("W_dec", latents, d_in),
        decoder_bias=bias,
        subtracted=bias if kind == "MatryoshkaBatchTopKSAE" else None,
        threshold=tensors.vector("threshold", latents),
    )


def _k(tensors: Tensors, trainer: Mapping[str, Any], path: Path, latents: int) -> int:
    if "k" in tensors and tensors.held["k"].numel() == 1:
        return whole({"k": tensors.held["k"].item()}, "k", path, latents)
    return whole(trainer, "k", path.parent / SETTINGS, latents)


def _hook(trainer: Mapping[str, Any]) -> str | None:
    match = _SUBMODULE.search(str(trainer.get("submodule_name")))
    return None if match is None else f"blocks.{match['layer']}.{_PLACES[match['place']]}"

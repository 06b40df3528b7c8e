"""Dictionaries of SAELens, of version 6 and earlier: ``cfg.json`` and ``sae_weights.safetensors``.

Batch top-k autoencoders are saved as ``jumprelu``, whose θ is the threshold that training learned; a checkpoint of their
training still calls itself ``batchtopk`` and holds it as ``topk_threshold``. Weights are used in fp32, whatever ``dtype`` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from inversionview.core.errors import WeightsError
from inversionview.model.dictionaries.dictionary import Activation, Dictionary, Normalisation, Parts
from inversionview.model.dictionaries.files import Tensors, read_safetensors, read_settings, whole

SETTINGS, WEIGHTS = "cfg.json", "sae_weights.safetensors"
_SCALER = "activation_scaler.json"
"""Beside checkpoints of a training: what activations are multiplied by."""
_KINDS: dict[str, Activation] = {
    "standard": "relu", "gated": "gated", "topk": "topk", "abstopk": "abstopk", "jumprelu": "jumprelu",
    "batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu", "transcoder": "relu", "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu", "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip
_NAMES = {
    "W_enc", "b_enc", "W_dec", "b_dec", "threshold", "log_threshold", "topk_threshold", "b_gate", "b_mag", "r_mag", "W_skip",
    "scaling_factor", "finetuning_scaling_factor",
}  # fmt: skip
_OLD = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""What earlier versions called settings."""


def read_saelens(folder: Path) -> Dictionary:
    """Return the dictionary in a folder of SAELens.

    Raises:
        WeightsError: files are missing, damaged, do not fit one another, or state what is not known here.
    """
    path = folder / SETTINGS
    settings = {_OLD.get(name, name): value for name, value in read_settings(path).items()}
    told = settings.get("metadata")
    told = {**settings, **told} if isinstance(told, dict) else settings
    kind = _kind(settings, path)
    activation, transcoder = _KINDS[kind], kind.endswith("transcoder")
    tensors = read_safetensors(folder / WEIGHTS)
    tensors.only(_NAMES)
    d_in, latents = whole(settings, "d_in", path), whole(settings, "d_sae", path)
    normalisation, factor = _normalisation(settings.get("normalize_activations"), folder)
    hook = _text(told, "hook_name")
    reshape = settings.get("reshape_activations")
    return Dictionary(
        source=str(folder),
        form="SAELens",
        activation=activation,
        parts=_parts(tensors, settings, kind, d_in, latents),
        k=_k(settings, path, latents) if activation in ("topk", "abstopk") else None,
        normalisation=normalisation,
        factor=factor,
        transcoder=transcoder,
        hook=hook,
        hook_out=_text(told, "hook_name_out") if transcoder else hook,
        head=told["hook_head_index"] if isinstance(told.get("hook_head_index"), int) else None,
        heads_flattened=reshape == "hook_z" or (reshape is None and "hook_z" in (hook or "")),
        model=_text(told, "model_name"),
        model_options=_options(told),
    )


def _kind(settings: Mapping[str, Any], path: Path) -> str:
    kind, function = settings.get("architecture", "standard"), settings.get("activation_fn", "relu")
    if kind == "standard" and function == "topk":
        kind = "topk"
    elif function not in ("relu", "topk"):
        raise WeightsError(f"{path} states the activation function {function!r}, not relu or topk: give another dictionary.")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise WeightsError(
            f"{path} states the architecture {kind!r}, which is not known here: choose one of {', '.join(_KINDS)}."
        )
    return kind


def _k(settings: Mapping[str, Any], path: Path, latents: int) -> int:
    inner = settings.get("activation_fn_kwargs")
    given = {"k": settings.get("k", inner.get("k") if isinstance(inner, dict) else None)}
    return whole(given, "k", path, latents)


def _normalisation(stated: Any, folder: Path) -> tuple[Normalisation, float]:
    """Return what is done to each activation, and what all are multiplied by."""
    if stated in (None, False, "none"):
        return "none", 1.0
    if stated in ("constant_norm_rescale", "layer_norm"):
        return cast(Normalisation, stated), 1.0
    if stated in (True, "expected_average_only_in"):
        return "none", _factor(folder)
    if stated == "covariance_whitening":
        raise WeightsError(
            f"{folder} was trained on whitened activations, and the whitening is not in its weights: fold it in "
            "(fold_activation_whitening of SAELens) and save it again."
        )
    raise WeightsError(f"{folder / SETTINGS} states normalize_activations = {stated!r}, which is not known here: give another.")


def _factor(folder: Path) -> float:
    try:
        factor = json.loads((folder / _SCALER).read_text(encoding="utf-8"))["scaling_factor"]
        if isinstance(factor, int | float) and 0 < factor < float("inf"):
            return float(factor)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise WeightsError(
        f"{folder} was trained on activations times a factor that its files do not hold (expected_average_only_in): fold it in "
        f"(fold_activation_norm_scaling_factor of SAELens) and save it again, or put its {_SCALER} beside it."
    )


def _parts(tensors: Tensors, settings: Mapping[str, Any], kind: str, d_in: int, latents: int) -> Parts:
    transcoder = kind.endswith("transcoder")
    d_out = whole(settings, "d_out", tensors.path.parent / SETTINGS) if transcoder else d_in
    gated = kind == "gated"
    decoder, bias = tensors.part("W_dec", latents, d_out), tensors.part("b_dec", d_out)
    norms = decoder.float().norm(dim=1) if settings.get("rescale_acts_by_decoder_norm") is True else None
    return Parts(
        encoder=tensors.part("W_enc", d_in, latents).T,
        encoder_bias=tensors.part("b_mag" if gated else "b_enc", latents),
        decoder=_tuned(decoder, tensors, settings, latents),
        decoder_bias=bias,
        subtracted=bias if settings.get("apply_b_dec_to_input", True) is True and not transcoder else None,
        threshold=_threshold(tensors, latents) if _KINDS[kind] == "jumprelu" else None,
        gate_bias=tensors.part("b_gate", latents) if gated else None,
        magnitude=tensors.part("r_mag", latents) if gated else None,
        scale=norms,
        skip=tensors.part("W_skip", d_out, d_in) if "skip" in kind else None,
    )


def _tuned(decoder: Tensor, tensors: Tensors, settings: Mapping[str, Any], latents: int) -> Tensor:
    """Return the decoder with the factors by which fine-tuning stretched each latent, where it did."""
    name = next((name for name in ("finetuning_scaling_factor", "scaling_factor") if name in tensors), None)
    factors = None if name is None else tensors.part(name, latents)
    if name is None or factors is None or bool((factors == 1).all()):
        return decoder
    if settings.get("finetuning_scaling_factor") is not True:
        raise WeightsError(
            f"{tensors.path} holds {name}, but {SETTINGS} does not say that it is used (finetuning_scaling_factor): give "
            "weights and settings of one dictionary."
        )
    return decoder.float() * factors.float()[:, None]


def _threshold(tensors: Tensors, latents: int) -> Tensor:
    if "log_threshold" in tensors:
        return torch.exp(tensors.part("log_threshold", latents).float())
    return tensors.vector("topk_threshold" if "topk_threshold" in tensors else "threshold", latents)


def _text(told: Mapping[str, Any], name: str) -> str | None:
    value = told.get(name)
    return value if isinstance(value, str) and value else None


def _options(told: Mapping[str, Any]) -> dict[str, Any]:
    options = told.get("model_from_pretrained_kwargs")
    return dict(options) if isinstance(options, dict) else {}

"""Dictionaries of Gemma Scope: ``params.npz``, and what model and place they are of by the names of the folders around.

JumpReLU autoencoders, which encode x as it is, and transcoders (Lieberum et al. 2024).
"""

from __future__ import annotations

import re
from pathlib import Path

from inversionview.model.dictionaries.dictionary import Dictionary, Parts
from inversionview.model.dictionaries.files import Tensors, read_npz

WEIGHTS = "params.npz"
_NAMES = {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}
_RELEASE = re.compile(r"gemma-scope-(?P<size>\d+b)-(?P<tuned>pt|it)-(?P<part>res|mlp|att|transcoders)")
_LAYER = re.compile(r"layer_(\d+)")
_HOOKS = {
    "res": "blocks.{}.hook_resid_post", "mlp": "blocks.{}.hook_mlp_out", "att": "blocks.{}.attn.hook_z",
    "transcoders": "blocks.{}.ln2.hook_normalized",
}  # fmt: skip


def read_gemma_scope(path: Path) -> Dictionary:
    """Return the dictionary in a file of Gemma Scope.

    Raises:
        WeightsError: it is damaged, or its arrays do not fit one another.
        SettingError: it needs more memory than can be had.
    """
    tensors = read_npz(path)
    tensors = Tensors(path, {re.sub("^w_", "W_", name): each for name, each in tensors.held.items()})  # some files say w_enc
    tensors.only(_NAMES)
    (d_in, latents), d_out = tensors.shape("W_enc"), tensors.shape("W_dec")[1]
    release, layer = _named(path)
    part = None if release is None else release["part"]
    hook = None if part is None or layer is None else _HOOKS[part].format(layer)
    transcoder = part == "transcoders" or d_out != d_in
    return Dictionary(
        source=str(path.parent),
        form="Gemma Scope",
        activation="jumprelu",
        parts=Parts(
            encoder=tensors.part("W_enc", d_in, latents).T,
            encoder_bias=tensors.part("b_enc", latents),
            decoder=tensors.part("W_dec", latents, d_out),
            decoder_bias=tensors.part("b_dec", d_out),
            threshold=tensors.vector("threshold", latents),
        ),
        transcoder=transcoder,
        hook=hook,
        hook_out=(None if layer is None else f"blocks.{layer}.hook_mlp_out") if transcoder else hook,
        heads_flattened=part == "att",
        model=None if release is None else f"gemma-2-{release['size']}" + ("-it" if release["tuned"] == "it" else ""),
    )


def _named(path: Path) -> tuple[re.Match[str] | None, str | None]:
    """Return what the folders around a file say of its release and its layer; of embeddings no layer."""
    said = path.absolute().as_posix()
    layers = _LAYER.findall(said)
    return _RELEASE.search(said), layers[-1] if layers else None

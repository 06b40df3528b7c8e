"""A sparse dictionary: what it makes of an activation, whatever library trained it, and which direction each latent writes.

Definitions. With s what is subtracted (the decoder's bias, or nothing) and x̃ the activation as the dictionary takes it:

    pre       = ((x̃ − s) W_enc + b_enc) · scale
    relu      ReLU(pre)                                          (Bricken et al. 2023; "standard" in SAELens)
    gated     1[(x̃ − s) W_enc + b_gate > 0] · ReLU((x̃ − s) W_enc · exp(r_mag) + b_mag)     (Rajamanoharan et al. 2024a)
    topk      the k largest of ReLU(pre), the rest is 0          (Gao et al. 2024)
    abstopk   the k largest of |pre|, with their signs           (Zhu et al. 2025; "signed" in older files of sparsify)
    groupmax  of k groups of neighbouring latents the largest of ReLU(pre) each
    jumprelu  ReLU(pre) · 1[pre > θ]                             (Rajamanoharan et al. 2024b; batch top-k with its learned θ)

    x̂         = (codes / scale) W_dec + b_dec                    taken back from x̃ to x
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.core.errors import SettingError
from inversionview.core.memory import check_bytes

Activation = Literal["relu", "gated", "topk", "abstopk", "groupmax", "jumprelu"]
Normalisation = Literal["none", "constant_norm_rescale", "layer_norm"]
_SEPARABLE: tuple[Activation, ...] = ("relu", "gated", "jumprelu")
_EPS = 1e-5
"""Of SAELens' layer norm, added to the standard deviation."""
_TINY = 1e-30
"""The norm of a vector of zeros, when it is divided by."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The numbers of a dictionary, in the precision of their file; large ones may be mapped from it, not read."""

    encoder: Float[Tensor, "latents d_in"]
    encoder_bias: Float[Tensor, " latents"]
    decoder: Float[Tensor, "latents d_out"]
    decoder_bias: Float[Tensor, " d_out"]
    subtracted: Float[Tensor, " d_in"] | None = None
    """From what is encoded."""
    threshold: Float[Tensor, " latents"] | None = None
    """θ of ``jumprelu``."""
    gate_bias: Float[Tensor, " latents"] | None = None
    """b_gate of ``gated``, whose ``encoder_bias`` is b_mag."""
    magnitude: Float[Tensor, " latents"] | None = None
    """r_mag of ``gated``."""
    scale: Float[Tensor, " latents"] | None = None
    """What codes are multiplied by before they are compared, and divided by before they are decoded: the norms of the
    decoder's rows, where a library holds these for 1."""
    skip: Float[Tensor, "d_out d_in"] | None = None
    """A transcoder's linear connection past its latents."""

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield those that there are, by name."""
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                yield each.name, value


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A dictionary that was read from files; see the top of this file for what the activations compute."""

    source: str
    """What it was read from."""
    form: str
    """Whose files these are: ``SAELens``, ``sparsify``, ``Gemma Scope`` or ``dictionary_learning``."""
    activation: Activation
    parts: Parts = field(repr=False)
    k: int | None = None
    """How many latents fire, of ``topk`` and ``abstopk``; how many groups there are, of ``groupmax``."""
    normalisation: Normalisation = "none"
    """What is done to each activation first: ``constant_norm_rescale`` gives it the norm √d_in, ``layer_norm`` the mean 0
    and the standard deviation 1, as SAELens computes it."""
    factor: float = 1.0
    """What every activation is multiplied by first (``expected_average_only_in`` of SAELens)."""
    transcoder: bool = False
    """It predicts one activation from another: what is encoded stands at ``hook``, what is decoded at ``hook_out``."""
    hook: str | None = None
    """Where it reads, in TransformerLens' notation; ``None`` where the files do not say."""
    hook_out: str | None = None
    """Where what it decodes belongs; that of a plain autoencoder is ``hook``."""
    head: int | None = None
    """The one head whose vectors at ``hook`` it reads."""
    heads_flattened: bool = False
    """It reads all heads' vectors at ``hook`` (hook_z), one after another as one vector of n_heads · d_head numbers."""
    model: str | None = None
    """The model it was trained on, as the files call it."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """With which options TransformerLens loaded that model, where the files say."""

    @property
    def d_in(self) -> int:
        """Numbers of an activation that is encoded."""
        return int(self.parts.encoder.shape[1])

    @property
    def d_out(self) -> int:
        """Numbers of what is decoded."""
        return int(self.parts.decoder.shape[1])

    @property
    def d_latents(self) -> int:
        """How many latents there are."""
        return int(self.parts.encoder.shape[0])

    @property
    def separable(self) -> bool:
        """Whether a latent's code depends on no other latent, so that ``encode_some`` computes no more than it gives."""
        return self.activation in _SEPARABLE

    @property
    def centred(self) -> bool:
        """Whether the files say that the model's writing weights were centred: its activations then had the mean 0."""
        return self.model_options.get("center_writing_weights") is True

    @property
    def bias(self) -> Float[Tensor, " d_out"]:
        """What no latent at all decodes to, before it is taken back from x̃ to x."""
        return self.parts.decoder_bias.float()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all numbers (name, shape, values as float32) and over what else the codes depend on, 16 hex digits."""
        digest = hashlib.sha256()
        digest.update(repr((self.activation, self.k, self.normalisation, self.factor)).encode())
        for name, part in self.parts.named():
            digest.update(f"{name}{tuple(part.shape)}".encode())
            for rows in part.split(4096):
                digest.update(rows.float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch latents"]:
        """Return the codes of activations, in fp32; a latent that does not fire has 0."""
        return self._codes(self.taken(x), self.encoder, slice(None))

    def encode_some(self, x: Float[Tensor, "*batch d_in"], latents: Sequence[int]) -> Float[Tensor, "*batch some"]:
        """Return the codes of some latents; where these compete with all others (``topk`` and its kin), all are computed.

        Raises:
            SettingError: there is no such latent.
        """
        chosen = [self.checked(latent) for latent in latents]
        if not self.separable:
            return self.encode(x)[..., chosen]
        return self._codes(self.taken(x), self.parts.encoder[chosen].float(), chosen)

    @torch.no_grad()
    def decode(
        self, codes: Float[Tensor, "*batch latents"], of: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Return what codes stand for, in fp32, without what a transcoder's skip connection adds.

        Args:
            codes: as ``encode`` gives them, or changed.
            of: the activations whose codes they are or were; needed where each is normalised by itself.

        Raises:
            SettingError: they are needed and were not given.
        """
        codes = codes.float() if self.parts.scale is None else codes.float() / self.parts.scale.float()
        decoded = codes @ self._decoder + self.bias
        if self.transcoder:
            return decoded
        if self.normalisation != "none":
            if of is None:
                raise SettingError(
                    f"{self.source} normalises each activation by itself ({self.normalisation}): give the activations that "
                    "were encoded, too."
                )
            mean, spread = self.moments(of.float())
            decoded = decoded * spread + mean
        return decoded / self.factor

    def direction(self, latent: int) -> Float[Tensor, " d_out"]:
        """Return what a code of 1 adds to what is decoded, before it is taken back from x̃ to x: the decoder's row, in fp32.

        Raises:
            SettingError: there is no such latent.
        """
        row = self.parts.decoder[self.checked(latent)].float()
        return row.clone() if self.parts.scale is None else row / self.parts.scale[latent].float()

    def checked(self, latent: int) -> int:
        """Return a latent's number if there is one.

        Raises:
            SettingError: there is not.
        """
        if not 0 <= latent < self.d_latents:
            raise SettingError(f"{self.source} has latents 0 to {self.d_latents - 1}, not {latent}: choose one of them.")
        return int(latent)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is taken from each activation, and what it is then divided by; the eps of layer norm is not in it."""
        if self.normalisation == "layer_norm":
            mean = x.mean(-1, keepdim=True)
            return mean, (x - mean).std(-1, keepdim=True)
        return torch.zeros_like(x[..., :1]), x.norm(dim=-1, keepdim=True).clamp(min=_TINY) / self.d_in**0.5

    def taken(self, x: Tensor) -> Tensor:
        """Return x̃ − s.

        Raises:
            SettingError: they are of another width.
        """
        if x.shape[-1:] != (self.d_in,):
            raise SettingError(
                f"{self.source} reads vectors of {self.d_in} numbers, not {list(x.shape)}: is it of another site?"
            )
        x = x.float()
        if self.factor != 1.0:
            x = x * self.factor
        if self.normalisation != "none":
            mean, spread = self.moments(x)
            x = (x - mean) / (spread + _EPS if self.normalisation == "layer_norm" else spread)
        return x if self.parts.subtracted is None else x - self.parts.subtracted.float()

    @cached_property
    def encoder(self) -> Float[Tensor, "latents d_in"]:
        """The encoder in fp32."""
        return _fp32(self.parts.encoder, f"The encoder of {self.source}")

    @cached_property
    def _decoder(self) -> Tensor:
        return _fp32(self.parts.decoder, f"The decoder of {self.source}")

    def _codes(self, x: Tensor, encoder: Tensor, latents: slice | list[int]) -> Tensor:
        """Return the codes of some latents, or of all, with their rows of the encoder."""
        p = self.parts
        linear = x @ encoder.T
        if p.gate_bias is not None and p.magnitude is not None:
            gate = linear + p.gate_bias[latents].float() > 0
            return gate * (linear * p.magnitude[latents].float().exp() + p.encoder_bias[latents].float()).relu()
        pre = linear + p.encoder_bias[latents].float()
        if p.scale is not None:
            pre = pre * p.scale[latents].float()
        if p.threshold is not None:
            return pre.relu() * (pre > p.threshold[latents].float())
        if self.k is None:
            return pre.relu()
        codes = torch.zeros_like(pre)
        if self.activation == "groupmax":
            groups = pre.relu().unflatten(-1, (self.k, -1))
            largest, place = groups.max(-1, keepdim=True)
            return codes.unflatten(-1, (self.k, -1)).scatter(-1, place, largest).flatten(-2)
        kept = pre if self.activation == "abstopk" else pre.relu()
        places = kept.abs().topk(self.k, dim=-1, sorted=False).indices
        return codes.scatter(-1, places, kept.gather(-1, places))


def _fp32(matrix: Tensor, what: str) -> Tensor:
    """Return a matrix in fp32: itself where it is, which may be mapped from its file.

    Raises:
        SettingError: it needs more memory than can be had.
    """
    if matrix.dtype != torch.float32:
        check_bytes(4 * matrix.numel(), f"{what} in fp32")
    return matrix.float()

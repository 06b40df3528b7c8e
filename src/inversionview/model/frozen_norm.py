"""A norm, frozen at an input, so that it can be folded into what stands before it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.core.errors import SettingError
from inversionview.model.backend import Norm

_MISFIT = 0.02
"""A last norm is taken for linear at fixed scale where it is so up to this share: bfloat16 rounds to 0.004."""


class FrozenNorm:
    """A norm N(x) = r(x) · g ⊙ Cx + b, whichever class it is of; frozen at x it is v ↦ r(x) · g ⊙ Cv.

    N is probed, not read. With u = (1, −1, 1, …), b is (N(u) + N(−u)) / 2. N centres (LayerNorm: C = I − 11ᵀ/d) where u + 1 is
    to it the same as u; otherwise C = I (RMSNorm, or no norm). The gain is g = (N(u) − N(−u)) / 2Cu, up to a factor that r
    takes up. At a residual x, r(x) is the least-squares fit of r · g ⊙ Cx to N(x) − b.

    Args:
        norm: N; a multiplication by a constant is one, too.
        like: a vector of its width, on its device.

    Raises:
        SettingError: when it is frozen: N has not this form.
    """

    def __init__(self, norm: Norm, like: Float[Tensor, " d_model"]) -> None:
        self.norm = norm
        u = torch.ones_like(like)
        u[1::2] = -1
        up, down, moved = self.norm(torch.stack([u, -u, u + 1])).float()
        self.bias: Float[Tensor, " d_model"] = (up + down) / 2
        self.centres = bool((moved - up).norm() < 0.05 * (up - down).norm())
        self.gain: Float[Tensor, " d_model"] = (up - down) / 2 / self._centred(u)

    def _centred(self, v: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return v - v.mean(-1, keepdim=True) if self.centres else v

    def scale(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """Return r(x)."""
        wanted, shape = self.norm(x).float() - self.bias, self.gain * self._centred(x)
        r = (wanted * shape).sum(-1, keepdim=True) / (shape**2).sum(-1, keepdim=True).clamp(min=1e-30)
        if bool(((wanted - r * shape).norm(dim=-1) > _MISFIT * wanted.norm(dim=-1)).any()):
            raise SettingError(
                "A norm of the model does not only scale, so it cannot be frozen: attribute without the last one (plain), or "
                "the residual stream alone."
            )
        return r

    def frozen(self, v: Float[Tensor, "*batch d_model"], r: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch d_model"]:
        """Return v under the norm with the scale of another vector; its bias belongs to no activation."""
        return r * self.gain * self._centred(v)

"""Where the residual stream begins and what the model reads at its end.

=============  ============================  ================  ===================================================
short          TransformerLens               LaTeX             what
=============  ============================  ================  ===================================================
``embed``      ``hook_embed``                ``E_{token}``     the token's embedding
``pos_embed``  ``hook_pos_embed``            ``E_{position}``  its place's: not read, but intervened on
``ln_final``   ``ln_final.hook_normalized``  ``x^{final}``     what the last norm gives, which logits are made from
=============  ============================  ================  ===================================================
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from inversionview.model.sites.kind import AFTER, SiteKind


class OnceKind(SiteKind):
    """One site in the model: before the first layer."""

    def layers(self, count: int) -> Sequence[int]:
        """Return the first layer."""
        return (0,)


class LastNormKind(OnceKind):
    """What the last norm gives."""

    def layers(self, count: int) -> Sequence[int]:
        """Return what stands for the layer after the last."""
        return (AFTER,)

    def parse(self, name: str) -> tuple[int, int | None] | None:
        """Return where it is, if it is meant."""
        return (AFTER, None) if super().parse(name) is not None else None


def _named(*names: str) -> tuple[str, ...]:
    return tuple(map(re.escape, names))


EMBED = OnceKind(
    "embed",
    tap="embed",
    short="embed",
    hook="hook_embed",
    latex="E_{{token}}",
    forms=_named("embed", "hook_embed", "E_{token}"),
    family="residual",
    pattern="embed",
    plural="embeddings",
    usual=False,
    stream="pre",
)
POS_EMBED = OnceKind(
    "pos_embed",
    tap="pos_embed",
    short="pos_embed",
    hook="hook_pos_embed",
    latex="E_{{position}}",
    forms=_named("pos_embed", "hook_pos_embed", "E_{position}"),
)
LN_FINAL = LastNormKind(
    "ln_final",
    tap="ln_final",
    short="ln_final",
    hook="ln_final.hook_normalized",
    latex="x^{{final}}",
    forms=_named("ln_final", "ln_final.hook_normalized", "x^{final}"),
    family="residual",
    pattern="ln_final",
    plural="ln_final",
    usual=False,
)

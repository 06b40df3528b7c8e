"""The output of an MLP: ``m0``, TransformerLens ``blocks.0.hook_mlp_out``, LaTeX ``m^{0}``."""

from __future__ import annotations

from inversionview.model.sites.kind import SiteKind

MLP = SiteKind(
    "mlp",
    tap="mlp_out",
    short="m{layer}",
    hook="blocks.{layer}.hook_mlp_out",
    latex="m^{{{layer}}}",
    forms=(r"m(?P<layer>\d+)", r"blocks\.(?P<layer>\d+)\.hook_mlp_out", r"\$?m\^\{?(?P<layer>\d+)\}?\$?"),
    family="mlp",
    pattern="m*",
    example="m0",
    plural="MLPs (m0, …)",
    stream="post",
)

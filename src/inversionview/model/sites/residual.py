"""The residual stream before a block, between its attention and its MLP, and after it.

===========  ============================  ===============  ============================================
short        TransformerLens               LaTeX            what
===========  ============================  ===============  ============================================
``x0.pre``   ``blocks.0.hook_resid_pre``   ``x^{0,pre}``    before block 0
``x0.mid``   ``blocks.0.hook_resid_mid``   ``x^{0,mid}``    between attention and MLP, if one follows the
                                                            other
``x0.post``  ``blocks.0.hook_resid_post``  ``x^{0,post}``   after block 0
===========  ============================  ===============  ============================================
"""

from __future__ import annotations

from inversionview.model.sites.kind import SiteKind


def _stream(place: str, serial: str = "") -> SiteKind:
    return SiteKind(
        place,
        tap=f"resid_{place}",
        short=f"x{{layer}}.{place}",
        hook=f"blocks.{{layer}}.hook_resid_{place}",
        latex=f"x^{{{{{{layer}},{place}}}}}",
        forms=(
            rf"x(?P<layer>\d+)\.{place}",
            rf"blocks\.(?P<layer>\d+)\.hook_resid_{place}",
            rf"\$?x\^\{{(?P<layer>\d+),\s*{place}\}}\$?",
        ),
        family="residual",
        pattern=f"x*.{place}",
        example=f"x0.{place}",
        plural=f"x*.{place}",
        stream=place,
        serial=serial,
    )


PRE = _stream("pre")
MID = _stream("mid", serial="attention and MLP of this model read the same residual stream")
POST = _stream("post")

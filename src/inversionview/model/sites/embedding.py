"""The two parts of the first residual stream: no sites to read, they hold the token and its place, but to intervene on.

=============  ==================  ================
short          TransformerLens     LaTeX
=============  ==================  ================
``embed``      ``hook_embed``      ``E_{token}``
``pos_embed``  ``hook_pos_embed``  ``E_{position}``
=============  ==================  ================
"""

from __future__ import annotations

import re

from inversionview.model.sites.kind import SiteKind


def _embedding(name: str, latex: str) -> SiteKind:
    names = (name, f"hook_{name}", latex)
    braced = latex.replace("{", "{{").replace("}", "}}")
    return SiteKind(name, name, name, f"hook_{name}", braced, forms=tuple(map(re.escape, names)))


EMBED = _embedding("embed", "E_{token}")
POS_EMBED = _embedding("pos_embed", "E_{position}")

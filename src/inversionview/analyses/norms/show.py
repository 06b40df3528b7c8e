"""Norms as a table."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.analyses.norms.result import MASSIVE, Coordinate, Massive, Norms


def table(result: Norms) -> Group:
    """Return for each site the norm, the coordinates that dominate it, and tokens on which some are massive."""
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("site", no_wrap=True)
    grid.add_column("‖z‖", justify="right", no_wrap=True)
    grid.add_column("at BOS", justify="right", no_wrap=True)
    grid.add_column("coordinates with most of ‖z‖²")
    grid.add_column("massive")
    for s in result.sites:
        bos = "–" if s.bos is None else f"{s.bos:,.4g}"
        grid.add_row(s.site, f"{s.norm:,.4g}", bos, ", ".join(map(_coordinate, s.coordinates)), _massive(s.massive))
    note = (
        f"{result.tokens:,} tokens of {result.texts}. #i 62% ×40: coordinate i holds 62 % of ‖z‖² in the mean over tokens but "
        f"BOS, and its median magnitude is 40 times that of the median coordinate. Massive: {MASSIVE:,} times the median "
        "magnitude at the site; on which share of all tokens, what these are, and at which coordinates."
    )
    return Group(grid, Text(), Text(note, style="dim"))


def _coordinate(c: Coordinate) -> str:
    ratio = "" if c.ratio is None else f" ×{c.ratio:.2g}" if c.ratio < 100 else f" ×{c.ratio:,.0f}"
    return f"#{c.index} {c.share:.0%}{ratio}"


def _massive(massive: Massive | None) -> str:
    if massive is None:
        return "none"
    on = ", ".join(f"{kind} {share:.0%}" for kind, share in massive.on.items() if share >= 0.005)
    return f"{massive.tokens:.2%} of tokens ({on}), at {', '.join(f'#{i}' for i in massive.coordinates)}"

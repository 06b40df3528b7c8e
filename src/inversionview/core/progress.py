"""How long work tells how far it is."""

from __future__ import annotations

import math
from typing import Protocol


class Progress(Protocol):
    """What is called again and again by work that takes long; what it raises ends the work."""

    def __call__(self, share: float, note: str, /) -> None:
        """Hear how far the work is.

        Args:
            share: of the work that is done, in [0, 1].
            note: what is going on, or how much of it is done; may be empty.
        """


def duration(seconds: float) -> str:
    """Return a time as a reader would say it."""
    if seconds < 90:
        return f"{math.ceil(seconds / 10) * 10} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"

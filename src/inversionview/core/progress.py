"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What is called again and again by work that takes long; what it raises ends the work."""

    def __call__(self, share: float, note: str, /) -> None:
        """Hear how far the work is.

        Args:
            share: of the work that is done, in [0, 1].
            note: what is going on, or how much of it is done; may be empty.
        """

"""The one colour code of everything that is shown: terminal, notebook, page and figures.

Okabe and Ito's colours, which the colour-blind tell apart. Orange and light blue are of an activation's effect on tokens alone;
``explorer.css`` has the same numbers. Where colours name features or groups of heads, a legend beside the figure says which.
"""

from __future__ import annotations

LIKELIER, LESS_LIKELY = "#e69f00", "#56b4e9"
"""A token that the activation made likelier, or less likely; black letters read equally well on both."""
KNOWN, EPSILON, SUGGESTED = "#0072b2", "#b2182b", "#009e73"
"""What lies inside ε or is known; ε itself; an ε that is suggested."""
FORWARD, BACKWARD, SINGLE = "#009e73", "#cc79a7", "#8c510a"
"""Directions in which activations are patched."""


def tint(effect: float) -> str:
    """Return the colour of an effect in [−1, 1] on white: from a pale tint to the full colour; white below 0.05 in size."""
    strength = min(abs(effect), 1.0)
    share = 0.0 if strength < 0.05 else 0.15 + 0.85 * strength
    target = bytes.fromhex((LIKELIER if effect > 0 else LESS_LIKELY)[1:])
    return "#" + bytes(round(255 + (channel - 255) * share) for channel in target).hex()

"""Tokens in a terminal: visible, marked, coloured by effect."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from inversionview.drawing.colours import tint


def visible(token: str) -> str:
    """Return a token's text with line breaks and control characters made visible, so that no token can move the cursor."""
    return "".join({"\n": "⏎", "\t": "⇥"}.get(c, c if c.isprintable() else "·") for c in token)


def marked(
    tokens: Sequence[str], position: int, effect: Sequence[float] | None = None, ends: Sequence[str] | None = None
) -> Text:
    """Return tokens with the one at ``position`` in parentheses, coloured by effect: orange likelier, blue less likely.

    A space that the token begins with stands before the parenthesis, so that lines break between words.

    Args:
        tokens: of an input.
        position: where D is reached.
        effect: of each token, in [−1, 1]; see ``colour``.
        ends: the labels of BOS and EOS, as of a query: these two are named so where their own names are long.
    """
    text = Text()
    for i, token in enumerate(tokens):
        style = colour(effect[i]) if effect is not None else ""
        brief = None if ends is None else short_name(tokens, i, ends)
        shown = visible(token) if brief is None else brief
        style = style if brief is None else f"{style} dim".strip()
        if brief == "EOS":
            text.append(" ")
        if i == position:
            word = shown.removeprefix(" ")
            text.append(shown[: len(shown) - len(word)] if word else "", style=style)
            shown = word or shown
            text.append("(", style="bold")
            text.append(shown, style=f"{style} bold".strip())
            text.append(")", style="bold")
        else:
            text.append(shown, style=style)
        if brief == "BOS" and not "".join(tokens[1:2]).startswith(" "):
            text.append(" ")
    return text


_BRIEF = 3
"""Special tokens of so many letters are shown as they are."""


def short_name(tokens: Sequence[str], i: int, ends: Sequence[str]) -> str | None:
    """Return the short name of BOS, with which inputs begin, and of EOS, with which a whole one ends."""
    if len(tokens[i]) <= _BRIEF:
        return None
    if i == 0:
        return "BOS" if tokens[0] == ends[0] else None
    return "EOS" if i == len(tokens) - 1 and tokens[i] == ends[-1] else None


def colour(effect: float) -> str:
    """Return the background for an effect in [−1, 1]; below 0.05 in size none."""
    shade = tint(effect)
    return "" if shade == "#ffffff" else f"#000000 on {shade}"  # always under black letters

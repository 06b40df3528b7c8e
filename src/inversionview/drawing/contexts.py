"""A token in its context on one line of a terminal, as concordances set it: what follows is dimmed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from inversionview.drawing.tokens import colour, short_name, visible

_CUT = "…"
_BARE = "◌"
"""What a mark stands on that would else stand on the parenthesis before it."""
Piece = tuple[str, str]
"""Text and its style."""


def context_line(
    tokens: Sequence[str],
    position: int,
    before: int,
    after: int,
    ends: Sequence[str],
    effect: Sequence[float] | None = None,
) -> Text:
    """Return a line of at most ``before + after`` cells: the token at ``position``, in parentheses, begins behind ``before``.

    What does not fit is cut at both ends. A space that the token begins with stands before the parenthesis. EOS that follows
    is left out.

    Args:
        tokens: of a text.
        position: of the token in the middle.
        before: cells for what comes before it.
        after: cells for the token and what follows.
        ends: the labels of BOS and EOS, as of a query.
        effect: of each token, in [−1, 1]; see ``colour``.
    """
    shades = ["" if effect is None else colour(effect[i]) for i in range(len(tokens))]
    left, word, right = _parts(tokens, position, ends, shades)
    middle = _fitted(_clusters([(word, "bold")]), after - 2)
    line = Text.assemble(*_fitted(_clusters(left), before, outer=0))
    line = Text(" " * (before - cell_len(line.plain))).append(line)
    line.append("(", "bold").append(Text.assemble(*middle, style=shades[position])).append(")", "bold")
    return line.append(Text.assemble(*_fitted(_clusters(right), after - 2 - _width(middle))))


def context_room(tokens: Sequence[str], position: int, ends: Sequence[str]) -> tuple[int, int]:
    """Return how many cells a line has before its token, and from there on, if nothing is cut."""
    left, word, right = _parts(tokens, position, ends, [""] * len(tokens))
    return _width(_clusters(left)), 2 + _width(_clusters([(word, "")])) + _width(_clusters(right))


def _parts(
    tokens: Sequence[str], position: int, ends: Sequence[str], shades: Sequence[str]
) -> tuple[list[Piece], str, list[Piece]]:
    """Return what comes before a token, the token as it is shown, and what follows."""
    pieces = []
    for i, token in enumerate(tokens):
        brief = short_name(tokens, i, ends)
        if i == len(tokens) - 1 > position and token == ends[-1]:
            continue
        gap = " " if brief == "BOS" and i != position and not "".join(tokens[1:2]).startswith(" ") else ""
        shown = (brief or visible(token)) + gap
        dim = "" if i <= position and brief is None else " dim"
        pieces.append((shown, f"{shades[i]}{dim}".strip()))
    shown = pieces[position][0]
    word = shown.removeprefix(" ") or shown
    left = [*pieces[:position], (" ", "")] if word != shown else pieces[:position]
    return left, _BARE + word if word and not cell_len(word[0]) else word, pieces[position + 1 :]


def _clusters(pieces: Sequence[Piece]) -> list[Piece]:
    """Return each character with the marks on it, which take no cells."""
    return [(cluster, style) for text, style in pieces for cluster in _characters(text)]


def _characters(text: str) -> Iterator[str]:
    held = ""
    for character in text:
        if held and cell_len(character):
            yield held
            held = ""
        held += character
    if held:
        yield held


def _width(clusters: Sequence[Piece]) -> int:
    return sum(cell_len(text) for text, _ in clusters)


def _fitted(clusters: list[Piece], room: int, outer: int = -1) -> list[Piece]:
    """Return as much as fits, what is cut off at the outer end (0 the first, −1 the last) replaced by an ellipsis."""
    if _width(clusters) <= room:
        return clusters
    taken, wide = 0, 1
    ordered = clusters[::-1] if outer == 0 else clusters
    while wide + cell_len(ordered[taken][0]) <= room:
        wide += cell_len(ordered[taken][0])
        taken += 1
    kept = ordered[:taken]
    while outer == 0 and kept and not cell_len(kept[-1][0]):  # a mark whose letter was cut off
        kept.pop()
    kept.append((_CUT[:room], "dim"))
    return kept[::-1] if outer == 0 else kept

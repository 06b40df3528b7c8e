"""What is wrong with a command line that cannot even be parsed, as a sentence with the way out."""

from __future__ import annotations

import re
from collections.abc import Sequence


def sentence(said: str, arguments: Sequence[str]) -> str:
    """Return what typer says of a command line so that the reader knows what to write instead.

    Args:
        said: typer's own sentence.
        arguments: the command line.
    """
    said = said.rstrip(".")
    if extra := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", said, re.DOTALL):
        return (
            f'There are more words than the command takes: {extra[1]}. Put a text in quotes, as in "615+861=1476", and write '
            "options with two dashes; see --help."
        )
    wrong = re.match(r"Invalid value for '?(?:.* / )?(--?[\w-]+)'?.*(number|integer|float|int)\b", said, re.DOTALL)
    if wrong and (value := _given(wrong[1], arguments)) is not None:
        whole = wrong[2] in ("integer", "int") and "number" not in said
        return f"{wrong[1]} is a {'whole number' if whole else 'number'}, but {value!r} is none: {_written(value, whole)}."
    return f"{said}. See inversionview --help."


def _given(option: str, arguments: Sequence[str]) -> str | None:
    """Return the value of an option on the command line."""
    for word, following in zip(arguments, [*arguments[1:], None], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _written(value: str, whole: bool) -> str:
    """Return how a number is written, that one where it can be guessed."""
    plain = value.strip().replace(",", ".").replace("−", "-")
    try:
        if plain.endswith("%") and not whole:
            return f"write {float(plain.removesuffix('%')) / 100:g}"
        number = float(plain)
        return f"write {round(number)}" if whole else f"write {number:g}"
    except (ValueError, OverflowError):
        return f"write for instance {'10' if whole else '0.1'}"

"""What a number must be to be a setting: whole or finite, within its range. Each refuses in one sentence."""

from __future__ import annotations

import math
import operator

from inversionview.core.errors import SettingError

LARGEST = 2**63 - 1
"""The largest number that tensors and generators of random numbers take."""
YEAR = 366 * 24 * 3600.0
"""Seconds of the longest run."""


def whole(value: int, what: str, least: int = 1, most: int = LARGEST) -> int:
    """Return ``value`` if it is a whole number from ``least`` to ``most``; ``what`` begins the sentence that says it is not.

    Raises:
        SettingError: it is not.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise SettingError(f"{what} must be a whole number, but is {value!r}.") from None
    if number < least:
        raise SettingError(f"{what} must be {'positive, ' if least == 1 else ''}at least {least:,}, but is {number:,}.")
    if number > most:
        raise SettingError(f"{what} must be at most {most:,}, but is {number:,}.")
    return number


def finite(value: float, what: str, least: float = 0.0, most: float = math.inf) -> float:
    """Return ``value`` if it is a finite number from ``least`` to ``most``.

    Raises:
        SettingError: it is not.
    """
    if not isinstance(value, int | float) or not math.isfinite(value) or not least <= value <= most:
        upper = "" if math.isinf(most) else f" to {most:,.10g}"
        raise SettingError(f"{what} must be a number from {least:g}{upper}, but is {_said(value)}.")
    return value


def positive(value: float, what: str, most: float = math.inf) -> float:
    """Return ``value`` if it is a finite number above 0, at most ``most``.

    Raises:
        SettingError: it is not.
    """
    if not isinstance(value, int | float) or not math.isfinite(value) or not 0 < value <= most:
        upper = "" if math.isinf(most) else f", at most {most:,.10g}"
        raise SettingError(f"{what} must be positive and finite{upper}, but is {_said(value)}.")
    return value


def check_seed(seed: int) -> int:
    """Return ``seed`` if every generator of random numbers takes it.

    Raises:
        SettingError: it is negative or above 2⁶³ − 1.
    """
    if isinstance(seed, int) and seed < 0:
        raise SettingError(f"The seed must not be negative, but is {seed}.")
    return whole(seed, "The seed", 0)


def check_seconds(seconds: float, what: str = "The length in seconds") -> float:
    """Return ``seconds`` if it is a length of time that a run can have: above 0, at most a year.

    Raises:
        SettingError: it is not.
    """
    return positive(seconds, what, YEAR)


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)

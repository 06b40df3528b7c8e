"""Moves of a Markov chain over inputs: small edits, with what a Metropolis–Hastings step must know of them.

A study declares moves that keep its inputs valid. Pure functions on arrays of tokens; nothing here knows of models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

Tokens = Int[np.ndarray, "row pos"]


class Proposal(NamedTuple):
    """What a move proposes for each row."""

    tokens: Tokens
    log_ratio: Float[np.ndarray, " row"]
    """log q(x ∣ x′) − log q(x′ ∣ x), the proposal's part of the acceptance; −∞ where the move cannot be made."""


@dataclass(frozen=True)
class Move:
    """A way to change an input at random."""

    name: str
    propose: Callable[[Tokens, np.random.Generator], Proposal]


def symmetric(tokens: Tokens, possible: npt.NDArray[np.bool_] | None = None) -> Proposal:
    """Return a proposal that is as likely as its way back; ``possible`` says where it can be made."""
    ratio = np.zeros(len(tokens))
    return Proposal(tokens, ratio if possible is None else np.where(possible, ratio, -np.inf))


def pick(mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return a random column of each row where ``mask`` is true, each as likely as the others.

    >>> pick(np.array([[False, True, False]]), np.random.default_rng(0))
    array([1])
    """
    chosen: npt.NDArray[np.int64] = np.where(mask, rng.random(mask.shape), -1.0).argmax(1)
    return chosen

"""In which order tokens are tried at one position: rankings, interleaved, and refined by the states of what was tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.analyses.recover.state_map import StateMap
from inversionview.core.errors import SettingError

Ordering = Literal["mixed", "map", "next", "gradient", "id"]
"""``map``: by the linear map from states to tokens. ``next``: by what the model says comes next; of a first token by number.
``gradient``: by the first-order change of D² at the nearest token so far. ``id``: by number. ``mixed``: by the map alone at
first, then by the map less what is common to the states that were tried, by what comes next, and by the gradient, in turn."""
ORDERINGS: tuple[Ordering, ...] = get_args(Ordering)
FIRST, GROWTH, MOST = 8, 4, 256
"""Tokens of the first batch, by how much each is larger than the one before, and of the largest."""


def check_ordering(name: str) -> Ordering:
    """Return ``name`` if it names an order.

    Raises:
        SettingError: it does not.
    """
    for known in ORDERINGS:
        if name == known:
            return known
    raise SettingError(f"There is no order {name!r}: choose {', '.join(ORDERINGS[:-1])} or {ORDERINGS[-1]}.")


class Order:
    """The order of tokens at one position after one prefix.

    Args:
        ordering: by what.
        allowed: which tokens there are.
        known: the map's scores of all tokens here.
        state: the state that is looked for.
        mapped: the map.
        embeddings: of all tokens.
        next_token: gives the model's log p of all tokens here; ``None`` where nothing precedes.
        gradient: gives the gradient of D² with respect to the embedding of a token, at that token.
    """

    def __init__(
        self,
        ordering: Ordering,
        allowed: Bool[Tensor, " vocabulary"],
        known: Callable[[], Float[Tensor, " vocabulary"]],
        state: Float[Tensor, " numbers"],
        mapped: StateMap | None,
        embeddings: Float[Tensor, "vocabulary embedded"],
        next_token: Callable[[], Float[Tensor, " vocabulary"]] | None,
        gradient: Callable[[int], Float[Tensor, " embedded"]],
    ) -> None:
        self.ordering, self.left, self._state, self._map, self._embeddings = (
            ordering,
            allowed.clone(),
            state,
            mapped,
            embeddings,
        )
        self._known, self._next_token, self._gradient = known, next_token, gradient
        self._ids: list[Int[Tensor, " tried"]] = []
        self._states: list[Float[Tensor, "tried numbers"]] = []
        self._size = FIRST

    def batches(self, most: int = MOST) -> Iterator[Int[Tensor, " token"]]:
        """Yield what to try next, in batches that grow, until all tokens were; ``told`` must be called between two of them."""
        while bool(self.left.any()):
            size = min(self._size, most)
            chosen = interleaved(list(self._rankings()), self.left, size)
            self.left[chosen] = False
            self._size = self._size * GROWTH
            yield chosen

    def told(self, ids: Int[Tensor, " token"], states: Float[Tensor, "token numbers"]) -> None:
        """Hear which states tokens have that were tried; those of the first ones are enough to learn from."""
        if sum(map(len, self._ids)) < MOST:
            self._ids.append(ids)
            self._states.append(states)

    def _rankings(self) -> Iterator[Float[Tensor, " vocabulary"]]:
        """Yield scores of all tokens, larger is sooner."""
        match self.ordering:
            case "id" | "next" if self.ordering == "id" or self._next_token is None:
                yield -torch.arange(len(self.left), dtype=torch.float64)
            case "map":
                yield self._known()
            case "next":
                assert self._next_token is not None
                yield self._next_token()
            case "gradient":
                yield self._by_gradient() if self._ids else self._known()
            case "mixed" if not self._ids:
                yield self._known()
            case "mixed":
                corrected = self._corrected()
                yield corrected
                if self._next_token is not None:
                    log_p = self._next_token()
                    yield corrected + log_p
                    yield log_p
                yield self._by_gradient()

    def _corrected(self) -> Float[Tensor, " vocabulary"]:
        """Return the map's scores of the state less what all that was tried has beyond what is expected of it: the context."""
        assert self._map is not None
        ids, states = torch.cat(self._ids), torch.cat(self._states)
        beyond = states - self._map.expected(self._embeddings[ids])
        near = (-(states - self._state).norm(dim=1) / self._state.norm()).mul(8).softmax(0)
        return self._map.scores((self._state - near @ beyond)[None], self._embeddings)[0]

    def _by_gradient(self) -> Float[Tensor, " vocabulary"]:
        ids, states = torch.cat(self._ids), torch.cat(self._states)
        best = int(ids[(states - self._state).norm(dim=1).argmin()])
        gradient = self._gradient(best)
        step = (self._embeddings - self._embeddings[best]) @ gradient
        return -step / (self._embeddings - self._embeddings[best]).norm(dim=1).clamp(min=1e-12)


def interleaved(
    rankings: Sequence[Float[Tensor, " vocabulary"]], left: Bool[Tensor, " vocabulary"], size: int
) -> Int[Tensor, " token"]:
    """Return the first tokens of several rankings, taken in turn, each once; as many as there are, ``size`` at most."""
    size = min(size, int(left.sum()))
    tops = [score.masked_fill(~left, -torch.inf).topk(size).indices for score in rankings]
    in_turn = torch.stack(tops, dim=1).flatten().tolist()
    return torch.tensor(list(dict.fromkeys(in_turn))[:size], dtype=torch.long)

"""A whole text from its states: where it begins among the rows, then token by token, and going on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.analyses.recover.engine import Engine, Miss, Prefix, TokenFound
from inversionview.core.errors import StorageError
from inversionview.core.integrity import digest
from inversionview.core.storage import write_json

_EVERY = 10.0
"""Seconds from one writing of what was recovered to the next."""
_FORMAT = 1
Told = Callable[[int], None]
"""Called with how many rows are recovered."""


@dataclass(frozen=True)
class Outcome:
    """What was found of some states."""

    fits: tuple[Prefix, ...]
    """The texts; where there are none, what fits up to where nothing does."""
    start: int
    """Row of the first token that was recovered, or known."""
    miss: Miss | None
    more: bool
    """Others fit beside those that were followed."""


class Unfinished:
    """What was recovered so far, in the user's cache: an interrupted recovery goes on there."""

    def __init__(self, engine: Engine, model: str) -> None:
        from platformdirs import user_cache_path

        stated = [_FORMAT, model, engine.site.key, repr(engine.settings), digest(engine.states.numpy().tobytes())]
        name = digest(json.dumps(stated).encode())
        self.engine, self.path = engine, Path(user_cache_path("inversionview")) / "recovery" / "unfinished" / f"{name}.json"
        self._worked = 0.0

    def read(self) -> tuple[Prefix, int, int] | None:
        """Return what was recovered, the row where it begins and the next one; ``None`` where nothing is kept that fits."""
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            found, ids, start = tuple(TokenFound(**each) for each in told["found"]), tuple(told["ids"]), int(told["start"])
            row = int(told["row"])
            prefix = self.engine.begun(ids)
            rows = self.engine.states[row - len(found) : row]
            off = largest(self.engine, ids, rows)
        except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError):
            return None
        return (Prefix(prefix.ids, prefix.cache, found), start, row) if off <= self.engine.settings.threshold else None

    def write(self, prefixes: Sequence[Prefix], start: int, row: int) -> None:
        """Keep what was recovered, where it is one text and took a while; the cache may not be writable."""
        found = prefixes[0].found
        self._worked += found[-1].seconds if found else 0.0
        if len(prefixes) == 1 and self._worked > _EVERY:
            told: dict[str, Any] = {"ids": list(prefixes[0].ids), "start": start, "row": row}
            told["found"] = [asdict(each) for each in found]
            with suppress(StorageError):
                write_json(self.path, told)
            self._worked = 0.0

    def remove(self) -> None:
        """Forget it."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def recovered(engine: Engine, kept: Unfinished | None = None, told: Told | None = None) -> Outcome:
    """Return the texts that give the states of an engine.

    Where a text begins is found out: rows that are of no text stand before it where it was padded on the left, and the state of
    what stands before every text (BOS) is the same in all, whether it is among the rows or not.

    Args:
        engine: see there.
        kept: where an interrupted recovery goes on.
        told: called with how many rows are recovered.
    """
    front = engine.model.vocabulary.front
    begun = None if kept is None else kept.read()
    if begun is not None:
        prefixes, start, row = [begun[0]], *begun[1:]
    else:
        start, row, prefixes = _beginning(engine, front)
    more = False
    while True:
        if len(prefixes) == 1:
            before, prefixes = len(prefixes[0].ids), [engine.ahead(prefixes[0], row)]
            row += len(prefixes[0].ids) - before
            if told is not None:
                told(row)
            if row < len(engine.states) and len(prefixes[0].ids) > before and engine.all_fitted:
                continue
        if row == len(engine.states):
            break
        found = engine.step(prefixes, row)
        if isinstance(found, Miss):
            again = _begins(engine, front, row) if row > start else None
            if again is None:
                return Outcome(tuple(prefixes), start, found, more)
            start, found = row, again
        more |= engine.crowded
        prefixes, row = found, row + 1
        if told is not None:
            told(row)
        if kept is not None:
            kept.write(prefixes, start, row)
    if kept is not None:
        kept.remove()
    return Outcome(tuple(prefixes), start, None, more)


def _beginning(engine: Engine, front: tuple[int, ...]) -> tuple[int, int, list[Prefix]]:
    """Return the row where the text begins, the first that is not known yet, and what may stand before that."""
    if not front:
        return 0, 0, [Prefix((), None)]
    known = engine.model.own(engine.model.activations(torch.tensor([front]), [engine.site])[0, 0].float().cpu(), engine.site)
    for row in reversed(range(len(engine.states) - len(front) + 1)):
        gaps = [float(engine.distances(known[i : i + 1], row + i)) for i in range(len(front))]
        if max(gaps) <= engine.settings.threshold and (row == 0 or engine.site.tap.blocks):
            return row, row + len(front), [engine.begun(front)]
    return 0, 0, [engine.begun(front), Prefix((), None)]


def _begins(engine: Engine, front: tuple[int, ...], row: int) -> list[Prefix] | None:
    """Return the prefixes with which a text begins at a row, whatever stands before it; ``None`` where none does."""
    if not engine.site.tap.blocks:
        return None
    found = engine.step([Prefix((), None), *([engine.begun(front)] if front else [])], row)
    return None if isinstance(found, Miss) else found


def largest(engine: Engine, ids: Sequence[int], rows: Float[Tensor, "pos numbers"]) -> float:
    """Return the largest D of the last states of a text, run once as a whole, from given ones."""
    z = engine.model.own(engine.model.activations(torch.tensor([list(ids)]), [engine.site])[0, 0].float().cpu(), engine.site)
    gap, length = (z[len(z) - len(rows) :] - rows).norm(dim=1), rows.norm(dim=1)
    return float(torch.where(gap == 0, gap, gap / length).max())

"""Activation patching: replace activations of the original run by those of a contrast run, and see the answer change.

LD is logit(original answer) − logit(contrast answer) at the position that predicts the answer. The effect of patching a set of
activations is LD_orig − LD_patched, averaged over the pairs (Huang et al. 2024, section 3 and Figs. 4a, 16, 32).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from inversionview.analyses.patch.result import Direction, Effects, Patching
from inversionview.core.errors import SettingError
from inversionview.core.information import Mean, interval, resampled
from inversionview.core.progress import Progress
from inversionview.corpora.contrasts import Pairs
from inversionview.corpora.positions import Positions
from inversionview.intervene.activations import Activation
from inversionview.intervene.patched_runs import PatchedRuns
from inversionview.model.probed import ProbedModel

Cumulative = Literal["forward", "backward", "both"]


def check_cumulative(name: str) -> Cumulative:
    """Return ``name`` if it is how activations are replaced one after the other.

    Raises:
        SettingError: it is not.
    """
    known: tuple[Cumulative, ...] = get_args(Cumulative)
    for each in known:
        if name == each:
            return each
    raise SettingError(f"There is no direction {name!r}: choose forward, backward or both.")


def steps(count: int, cumulative: Cumulative | None) -> dict[Direction, list[tuple[int, ...]]]:
    """Return the sets of activations that are replaced at each step of each direction.

    Raises:
        SettingError: there is no such direction.
    """
    every = range(count)
    if cumulative is None:
        return {"single": [(i,) for i in every]}
    both: dict[Direction, list[tuple[int, ...]]] = {
        "forward": [tuple(range(i + 1)) for i in every],
        "backward": [tuple(range(count - 1 - i, count)) for i in every],
    }
    check_cumulative(cumulative)
    return {name: sets for name, sets in both.items() if cumulative in (name, "both")}


def patching(
    model: ProbedModel,
    pairs: Pairs,
    activations: Sequence[Activation],
    positions: Positions,
    *,
    cumulative: Cumulative | None = None,
    study: str = "",
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    report: Progress | None = None,
) -> Patching:
    """Patch ``activations`` on the originals of ``pairs``, each alone or cumulatively, and all of them at once.

    Args:
        model: the probed model.
        pairs: originals and contrasts.
        activations: what is replaced, in the order of the steps.
        positions: finds their positions.
        cumulative: ``"forward"``: from the first activation to the last; ``"backward"``: from the last to the first;
            ``"both"``; ``None``: each alone.
        study: name of the study, for the record.
        settings: how the pairs were made, for the record.
        seed: of the bootstrap.
        report: called with the share of the pairs that are done, and a note.

    Raises:
        SettingError: there is no pair, no activation, or no such direction; or positions do not correspond.
        UnknownPositionError: some input lacks a position.
    """
    if not len(pairs) or not activations:
        raise SettingError("There is nothing to patch: give at least one pair and one activation.")
    if seed < 0:
        raise SettingError(f"The seed must not be negative, but is {seed}.")
    directions = steps(len(activations), cumulative)
    columns = list(dict.fromkeys([tuple(range(len(activations))), *(s for sets in directions.values() for s in sets)]))
    found = PatchedRuns(model, pairs, activations, positions).differences(columns, report)
    effect = found.original[:, None].astype(np.float64) - found.patched
    drawn = resampled(np.column_stack([found.original, found.contrast, effect]), seed=seed)
    value = np.concatenate([[found.original.mean(dtype=np.float64), found.contrast.mean(dtype=np.float64)], effect.mean(0)])

    def difference(a: int, b: int | None) -> Mean:
        """The effect of column a, less that of column b."""
        less, less_drawn = (0.0, 0.0) if b is None else (value[2 + b], drawn[:, 2 + b])
        return interval(float(value[2 + a] - less), drawn[:, 2 + a] - less_drawn)

    effects: dict[Direction, Effects] = {}
    for direction, sets in directions.items():
        column = [columns.index(s) for s in sets]
        before = [None, *column[:-1]] if direction != "single" else [None] * len(column)
        order = activations[::-1] if direction == "backward" else activations
        effects[direction] = Effects(tuple(map(str, order)), tuple(difference(a, None) for a in column),
                                     tuple(difference(a, b) for a, b in zip(column, before, strict=True)))  # fmt: skip
    return Patching(
        study, model.name, settings or {}, tuple(map(str, activations)), len(pairs), pairs.left_out, float(found.right.mean()),
        interval(float(value[0]), drawn[:, 0]), interval(float(value[1]), drawn[:, 1]), difference(0, None), effects,
    )  # fmt: skip

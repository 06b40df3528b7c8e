"""Which attention heads matter for indirect objects in this model, and to which group each belongs.

Published numbers of heads hold for GPT-2 small alone; here every head is measured (``head_measures``) and grouped by the
criteria of Wang et al. 2022 (arXiv 2211.00593, section 3); for copy suppression, of McDougall et al. 2023 (arXiv 2310.04625).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from inversionview.analyses.heads.head_measures import (
    KEYS,
    POSITIONS,
    Prompts,
    Values,
    attention,
    copy_scores,
    direct_effects,
    estimated_effects,
    heads_of,
    patched_effects,
    repetition,
)
from inversionview.analyses.heads.result import ATTENDS, COPIES, GROUPS, NONE, REPEATS, SMALL, HeadMeasures, HeadTable
from inversionview.core.errors import InputError
from inversionview.core.information import Mean, mean, means
from inversionview.core.progress import Progress
from inversionview.core.ranges import whole
from inversionview.corpora.contrasts import held_out
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.positions import Positions
from inversionview.model.probed import ProbedModel

Made = TypeVar("Made")
LEAST_ACCURACY = 0.75
"""A model that prefers IO less often does not do the task: by chance it would half of the time."""
CANDIDATES = {"END": 32, "S2": 16, "S1+1": 12}
"""How many heads are patched at each position; a run from S1+1 on takes 15 times as long as one of END alone."""
PAIRS = 100
"""Prompts on which heads are patched and attention is measured; LD's direct effects are cheap and taken on all."""


# -- criteria ---------------------------------------------------------------------------------------------------------


def group_of(
    attention: dict[str, float],
    direct: Mean,
    effect: dict[str, Mean],
    copy: Sequence[float] | None,
    repetition: dict[str, float],
) -> str:
    """Return a head's group by the criteria of Wang et al. 2022, ``NONE`` where it meets none.

    Args:
        attention: mean attention by ``"END→IO"``, ….
        direct: effect on LD.
        effect: of patching, by position.
        copy: share of names that are promoted and suppressed, for heads patched at END.
        repetition: scores on random sequences: ``previous``, ``duplicate``, ``induction``.
    """
    if copy is not None and (group := _at_end(attention, direct, effect["END"], *copy)):
        return group
    if "S2" in effect:
        if attention["S2→S1+1"] >= ATTENDS and repetition["induction"] >= REPEATS:
            return "induction"
        if attention["S2→S1"] >= ATTENDS and repetition["duplicate"] >= REPEATS:
            return "duplicate token"
    if "S1+1" in effect and attention["S1+1→S1"] >= ATTENDS and repetition["previous"] >= REPEATS:
        return "previous token"
    return NONE


def _at_end(attention: dict[str, float], direct: Mean, effect: Mean, copy: float, negative: float) -> str:
    to = {key: attention[f"END→{key}"] for key in ("IO", "S1", "S2")}
    subject, most = to["S1"] + to["S2"], max(to, key=lambda key: to[key])
    if most == "IO" and to["IO"] >= ATTENDS:
        if copy >= COPIES and direct.low > 0:
            return "name mover"
        if negative >= COPIES and direct.high < 0:
            return "negative name mover"
    if most != "IO" and subject >= ATTENDS and negative >= COPIES and direct.low > 0:
        return "copy suppression"
    acts = effect.low > 0 and abs(direct.value) < SMALL * effect.value
    return "S-inhibition" if most == "S2" and to["S2"] >= ATTENDS and acts else ""


# -- finding ----------------------------------------------------------------------------------------------------------

_STAGES = {"direct effects": 0.14, "attention": 0.08, "repetition": 0.05, "estimates": 0.33, "copying": 0.05,
           "END": 0.08, "S2": 0.13, "S1+1": 0.14}  # fmt: skip
"""Share of the work that each takes."""


def find_heads(
    model: ProbedModel,
    inputs: Inputs,
    positions: Positions,
    *,
    study: str,
    prompts: int = 300,
    anyway: bool = False,
    seed: int = 0,
    report: Progress | None = None,
) -> HeadTable:
    """Measure every head on prompts of a study's test split, and group them.

    All heads are ranked by a first-order estimate; those of the largest estimates are patched.

    Args:
        model: the probed model.
        inputs: with positions IO, S1, S1+1, S2 and END, such as those of ``ioi``.
        positions: finds positions.
        study: its name, for the record.
        prompts: how many; heads are patched on the first 100 of them.
        anyway: go on with a model that does not do the task.
        seed: of the choice of prompts, the random sequences and the bootstrap.
        report: called with the share of the work that is done, and a note.

    Raises:
        SettingError: ``prompts`` is below 1.
        InputError: the inputs lack the positions; or the model fails the task.
    """
    whole(prompts, "The number of prompts")
    every, told = Prompts.of(inputs, held_out(inputs, (), prompts, seed)), _Told(report)
    direct = told("direct effects", lambda _: direct_effects(model, every))
    accuracy, first = float((direct.ld > 0).mean()), float(direct.first.mean())
    check_task(model.name, len(every), accuracy, first, anyway)
    some = every.first(PAIRS)
    attended = told("attention", lambda _: attention(model, some))
    repeated = told("repetition", lambda _: repetition(model, seed))
    estimates = told("estimates", lambda advance: estimated_effects(model, some, advance))
    chosen = _candidates(attended, repeated, estimates)
    heads, pairs = heads_of(model), some.pairs(inputs)
    at_end = [heads[i] for i in chosen["END"]]
    scores = told("copying", lambda advance: copy_scores(model, every, at_end, advance))
    patched: dict[str, dict[int, Mean]] = {}
    for at, numbers in chosen.items():
        there = [heads[i] for i in numbers]
        effects, ends = told(at, partial(patched_effects, model, pairs, at, there, positions, seed))
        patched[at] = dict(zip(numbers, effects, strict=True))
    measured = _measures(
        [head.short for head in heads], means(direct.effect, seed=seed), attended, repeated, estimates, patched,
        dict(zip(chosen["END"], scores.tolist(), strict=True)),
    )  # fmt: skip
    return HeadTable(
        study, model.name, model.fingerprint, inputs.fingerprint, len(every), len(pairs), seed, accuracy, first,
        mean(direct.ld, seed=seed), *ends, measured,
    )  # fmt: skip


class _Told:
    """Runs the stages, and says how far all of them are."""

    def __init__(self, report: Progress | None) -> None:
        self.report, self.done = report, 0.0

    def __call__(self, stage: str, work: Callable[[Callable[[float], None]], Made]) -> Made:
        """Return what ``work`` does; it is given a function that says which share of it is done."""

        def advance(share: float) -> None:
            if self.report is not None:
                self.report(self.done + share * _STAGES[stage], f"patching at {stage}" if stage in POSITIONS else stage)

        advance(0.0)
        result = work(advance)
        advance(1.0)
        self.done += _STAGES[stage]
        return result


def check_task(model: str, prompts: int, accuracy: float, first: float, anyway: bool) -> None:
    """Raise ``InputError`` for a model that does not do the task, unless ``anyway``."""
    if accuracy < LEAST_ACCURACY and not anyway:
        raise InputError(
            f"{model} prefers IO to S in {accuracy:.1%} of {prompts} prompts, and IO to all names in {first:.1%}; below "
            f"{LEAST_ACCURACY:.0%} it does not do the task, so no head does: choose another model, or go on --anyway."
        )


def _candidates(attended: Values, repeated: Values, estimates: Values) -> dict[str, list[int]]:
    """Return which heads are patched at each position: those that look like a group, then those of the largest estimates."""
    to = {name: attended[:, *_at(name)] for name in ("S2→S1+1", "S2→S1", "S1+1→S1")}
    previous, duplicate, induction = repeated.T >= REPEATS
    looks = {
        "END": np.zeros(len(estimates), bool),
        "S2": ((to["S2→S1+1"] >= ATTENDS) & induction) | ((to["S2→S1"] >= ATTENDS) & duplicate),
        "S1+1": (to["S1+1→S1"] >= ATTENDS) & previous,
    }
    ranks = {at: np.lexsort((-np.abs(estimates[:, i]), ~looks[at])) for i, at in enumerate(POSITIONS)}
    return {at: sorted(ranks[at][: CANDIDATES[at]].tolist()) for at in CANDIDATES}


def _at(name: str) -> tuple[int, int]:
    """Return where ``"S2→S1"`` stands in what ``attention`` gives."""
    query, key = name.split("→")
    return POSITIONS.index(query), KEYS.index(key)


def _measures(
    sites: Sequence[str],
    direct: Sequence[Mean],
    attended: Values,
    repeated: Values,
    estimates: Values,
    patched: dict[str, dict[int, Mean]],
    copies: dict[int, Sequence[float]],
) -> tuple[HeadMeasures, ...]:
    found = []
    for i, site in enumerate(sites):
        attention = {f"{q}→{k}": float(attended[i, *_at(f"{q}→{k}")]) for q in POSITIONS for k in KEYS}
        effect = {at: effects[i] for at, effects in patched.items() if i in effects}
        copy = copies.get(i)
        scores = dict(zip(("previous", "duplicate", "induction"), repeated[i].tolist(), strict=True))
        group = group_of(attention, direct[i], effect, copy, scores)
        estimate = dict(zip(POSITIONS, estimates[i].tolist(), strict=True))
        size = {at: abs(m.value) for at, m in effect.items()} or {at: abs(each) for at, each in estimate.items()}
        at = GROUPS.get(group) or max(size, key=lambda at: size[at])
        found.append(
            HeadMeasures(site, group, at, direct[i], estimate, effect, attention, *(copy or (None, None)), **scores)
        )  # fmt: skip
    return tuple(found)

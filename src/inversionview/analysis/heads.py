"""Which attention heads matter for indirect objects in this model, and to which group each belongs.

Published numbers of heads hold for GPT-2 small alone; here every head is measured (``head_measures``) and grouped by the
criteria of Wang et al. 2022 (arXiv 2211.00593, section 3); for copy suppression, of McDougall et al. 2023 (arXiv 2310.04625).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from inversionview.analysis.head_measures import (
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
from inversionview.contrasts import held_out
from inversionview.errors import InputError
from inversionview.information import Mean, mean, means
from inversionview.inputs import Inputs
from inversionview.positions import Positions
from inversionview.probed import ProbedModel
from inversionview.progress import Progress
from inversionview.ranges import whole

Result = TypeVar("Result")
GROUPS = {
    "name mover": "END", "negative name mover": "END", "copy suppression": "END", "S-inhibition": "END", "induction": "S2",
    "duplicate token": "S2", "previous token": "S1+1",
}  # fmt: skip
"""The groups, and where a head of each is read. Backup name movers are name movers whose direct effect is small."""
NONE = "none"
"""A head that matters but meets the criteria of no group."""
LEAST_ACCURACY = 0.75
"""A model that prefers IO less often does not do the task: by chance it would half of the time."""
ATTENDS = 0.2
"""A head attends to a token if it gives it this much on average: of some 20 tokens, each would by chance get 0.05."""
REPEATS = 0.1
"""The same on random repeated sequences, where nothing but repetition can draw it: by chance it is 0.03."""
COPIES = 0.5
"""A head copies if it promotes more names than not: Wang et al. report above 0.95 for name movers, below 0.2 on average."""
SMALL = 0.5
"""An S-inhibition head acts through others: less than this share of its effect is direct."""
MATTERS = 0.05
"""A head of no group is found if patching it does this share of what patching everything does (LD_orig − LD_contrast)."""
FOUND = 26
"""So many are found at most: as many heads as the published circuit of GPT-2 small has."""
CANDIDATES = {"END": 32, "S2": 16, "S1+1": 12}
"""How many heads are patched at each position; a run from S1+1 on takes 15 times as long as one of END alone."""
PAIRS = 100
"""Prompts on which heads are patched and attention is measured; LD's direct effects are cheap and taken on all."""


@dataclass(frozen=True)
class NamedHead:
    """A head that matters, its group, and the position where it is read."""

    site: str
    group: str
    position: str
    effect: Mean | None = None
    """What patching it there does to LD; ``None`` where it comes from a publication."""


@dataclass(frozen=True)
class HeadMeasures:
    """All that was measured of one head."""

    site: str
    group: str
    """One of ``GROUPS``, or ``NONE``."""
    position: str
    """The group's; of no group, where patching has the largest effect."""
    direct: Mean
    """What it adds to LD by itself, at END."""
    estimate: dict[str, float]
    """First-order estimate of the effect of patching it, by position."""
    effect: dict[str, Mean]
    """LD_orig − LD_patched, by position; only where it was patched, being among those of the largest estimates."""
    attention: dict[str, float]
    """Mean attention, ``"END→IO"``."""
    copy: float | None
    """Share of names it promotes among the first five; ``None`` where it was not patched at END, nor in what follows."""
    negative_copy: float | None
    previous: float
    """Previous-token score on random sequences."""
    duplicate: float
    induction: float

    @property
    def matter(self) -> Mean | None:
        """The effect of patching it at its position."""
        return self.effect.get(self.position)


@dataclass(frozen=True)
class HeadTable:
    """Every head of a model, measured on the prompts of a study."""

    study: str
    model: str
    fingerprint: str
    """Of the model's weights."""
    inputs: str
    """Fingerprint of the study's inputs."""
    prompts: int
    pairs: int
    seed: int
    accuracy: float
    """Share of prompts with logit(IO) > logit(S)."""
    first: float
    """Share of prompts where IO is the first of all names."""
    ld: Mean
    """logit(IO) − logit(S) of the prompts, in nats."""
    ld_pairs: float
    """LD_orig, the mean over the pairs."""
    ld_contrast: float
    """The same logits of their contrasts: LD_orig − LD_contrast is the effect of patching everything."""
    heads: tuple[HeadMeasures, ...]

    @property
    def total(self) -> float:
        """The effect of patching everything."""
        return self.ld_pairs - self.ld_contrast

    @property
    def found(self) -> list[NamedHead]:
        """The heads that matter, largest effect first.

        Those of a group whose patching effect is told from nothing, and those of none with a large one.
        """
        some = [
            (head, effect)
            for head in self.heads
            if (effect := head.matter) is not None
            and (effect.low > 0 or effect.high < 0)
            and (head.group != NONE or abs(effect.value) >= MATTERS * abs(self.total))
        ]
        some.sort(key=lambda each: -abs(each[1].value))
        return [NamedHead(head.site, head.group, head.position, effect) for head, effect in some[:FOUND]]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        found = [{key: value for key, value in asdict(head).items() if key != "effect"} for head in self.found]
        return _rounded({**asdict(self), "found": found})

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> HeadTable:
        """Read what ``to_json`` gives.

        Raises:
            KeyError, TypeError: it is something else.
        """
        heads = tuple(
            HeadMeasures(**{
                **head, "direct": Mean(**head["direct"]), "effect": {at: Mean(**mean) for at, mean in head["effect"].items()}
            })
            for head in value["heads"]
        )  # fmt: skip
        plain = {key: each for key, each in value.items() if key != "found"}
        return cls(**{**plain, "ld": Mean(**value["ld"]), "heads": heads})

    def records(self) -> list[dict[str, Any]]:
        """Return a flat row for each head, for a data frame."""
        rank = {head.site: number for number, head in enumerate(self.found, 1)}
        rows = []
        for head in self.heads:
            row: dict[str, Any] = {
                "site": head.site,
                "rank": rank.get(head.site),
                "group": head.group,
                "position": head.position,
            }
            row |= _flat("direct", head.direct)
            for at in POSITIONS:
                row[f"estimate {at}"] = head.estimate[at]
                row |= _flat(f"effect {at}", head.effect.get(at))
            scores = ("copy", "negative_copy", "previous", "duplicate", "induction")
            rows.append({**row, **head.attention, **{name: getattr(head, name) for name in scores}})
        return rows

    def __rich__(self) -> Any:
        from inversionview.views.heads import head_table

        return head_table(self)


def _flat(name: str, mean: Mean | None) -> dict[str, float | None]:
    return {f"{name}{end}": None if mean is None else getattr(mean, part)
            for part, end in {"value": "", "low": " low", "high": " high"}.items()}  # fmt: skip


def _rounded(value: Any) -> Any:
    """Return JSON values with five significant digits, more than intervals warrant."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


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

    def __call__(self, stage: str, work: Callable[[Callable[[float], None]], Result]) -> Result:
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

"""Who says what is true: statements by their authors, with means over activations and paired intervals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from inversionview.analyses.judge.result import Judgement
from inversionview.core.information import Mean, mean


@dataclass(frozen=True)
class Line:
    """One author's statements."""

    by: str
    statements: int
    proven: int
    about: int
    """Of the proven, those that are about the activation."""
    accuracy: Mean | None
    """Mean balanced accuracy of those that could be tested, with a 95 % bootstrap interval over activations."""
    gain: Mean | None
    """Likewise, by how much it is above being like the input, statement by statement."""


def leaderboard(made: Iterable[Judgement], seed: int = 0) -> list[Line]:
    """Return a line for each author, the most accurate first."""
    groups: dict[str, list[Judgement]] = {}
    for each in made:
        groups.setdefault(each.claim.by or "–", []).append(each)
    lines = [_line(by, own, seed) for by, own in groups.items()]
    return sorted(lines, key=lambda line: -1.0 if line.accuracy is None else line.accuracy.value, reverse=True)


def _line(by: str, own: list[Judgement], seed: int) -> Line:
    proven = [each for each in own if each.verdict == "proven"]
    told = _by_activation([(each, each.told.balanced_accuracy.value) for each in own if each.told is not None])
    gains = _by_activation([(each, rival.gain.value) for each in own if (rival := each.controls.get("input")) is not None])
    return Line(
        by,
        len(own),
        len(proven),
        sum(each.about is True for each in proven),
        mean(told, seed=seed) if told else None,
        mean(gains, seed=seed) if gains else None,
    )


def _by_activation(values: list[tuple[Judgement, float]]) -> list[float]:
    """Return the mean for each activation: what is drawn again are these, as statements of one share its inputs."""
    groups: dict[tuple[object, ...], list[float]] = {}
    for each, value in values:
        groups.setdefault(each.claim.activation, []).append(value)
    return [sum(group) / len(group) for group in groups.values()]

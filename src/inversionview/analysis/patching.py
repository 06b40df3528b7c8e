"""Activation patching: replace activations of the original run by those of a contrast run, and see the answer change.

LD is logit(original answer) − logit(contrast answer) at the position that predicts the answer. The effect of patching a set of
activations is LD_orig − LD_patched, averaged over the pairs (Huang et al. 2024, section 3 and Figs. 4a, 16, 32).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inversionview.backend import Patch
from inversionview.contrasts import Pairs
from inversionview.errors import SettingError, UnknownPositionError
from inversionview.harvest import tokens_per_pass
from inversionview.information import Mean, interval, resampled
from inversionview.inputs import Ids
from inversionview.positions import Positions, as_number
from inversionview.probed import ProbedModel
from inversionview.progress import Progress
from inversionview.sites import EMBEDDINGS, Site, expand

Direction = Literal["forward", "backward", "single"]
Cumulative = Literal["forward", "backward", "both"]
_SMALL = 2**22
"""A model of more weights than this is patched in several ways at once: reading its weights takes longer than using them."""
EMBED, POS_EMBED = EMBEDDINGS
PRE = Site(0, "pre")


@dataclass(frozen=True)
class Activation:
    """What is replaced: a site at a position, or at every position."""

    site: Site
    at: str | None
    """A named position, a token or an index; ``None`` is every position."""

    def __str__(self) -> str:
        return f"{'*' if self.at is None else self.at}:{self.site.short}"


def parse_activations(texts: Sequence[str], known: Sequence[Site], example: str = "END:a0.0") -> list[Activation]:
    """Return the activations that ``POSITION:SITE`` texts mean, in the order given.

    ``query:a0.0`` is one; a pattern such as ``=:a*.*`` means all that match, in the order of computation; ``*:x0.pre`` is every
    position; ``embed`` and ``pos_embed`` are the token and the position embedding. ``example``: for errors, one that there is.

    Raises:
        SettingError: a text is not of that form, or none is given, or one is given twice.
        UnknownSiteError: the model has no such site.
    """
    found: list[Activation] = []
    for text in texts:
        at, colon, site = text.rpartition(":")
        if not colon or not at or not site:
            raise SettingError(f"{text!r} names no activation: write POSITION:SITE, such as {example!r}.")
        there = known if "*" in site else [*EMBEDDINGS, *known]  # a pattern means sites, of which embeddings are none
        found += [Activation(each, None if at == "*" else at) for each in expand(site, there)]
    if not found:
        raise SettingError(f"No activation is named: write for instance --at {example!r}.")
    if len(set(found)) < len(found):
        twice = next(a for a in found if found.count(a) > 1)
        raise SettingError(f"{twice} is named twice: name every activation once.")
    return found


# -- running ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairPlace:
    """Where one position lies in every pair."""

    original: Ids
    """``[pair, 1]``, or ``[1, pos]`` for every position."""
    contrast: Ids


def place_of(at: str | None, pairs: Pairs, positions: Positions) -> PairPlace | None:
    """Return where a position lies in originals and contrasts; ``None`` for every position.

    Raises:
        UnknownPositionError: some input lacks it.
        SettingError: positions of originals and contrasts do not correspond.
    """
    if (at is None or as_number(at) is not None) and (pairs.read != pairs.contrast_read).any():
        i = int(np.flatnonzero(pairs.read != pairs.contrast_read)[0])
        raise SettingError(
            f"The original of pair {i + 1} is read at position {pairs.read[i]} and its contrast at {pairs.contrast_read[i]}: "
            "their positions do not correspond, so name positions that both have, such as END."
        )
    if at is None:
        return None
    both = positions.many(pairs.original, at), positions.many(pairs.contrast, at)
    lacking = (both[0] < 0) | (both[1] < 0)
    if lacking.any():
        row = pairs.original[np.flatnonzero(lacking)[0]]
        text = positions.vocabulary.decode([i for i in row if i != positions.vocabulary.pad])
        raise UnknownPositionError(
            f"{int(lacking.sum()):,} of {len(pairs):,} pairs have no single position {at!r}, such as {text!r} and its "
            f"contrast: name another position ({', '.join(positions.named(pairs.original))}), or filter the inputs."
        )
    return PairPlace(both[0], both[1])


class PatchedRuns:
    """Runs of the originals of a contrast set with any sets of their activations replaced by the contrasts'.

    What comes before the first replaced position is run once and kept as keys and values; the contrasts run once for all sets.
    """

    def __init__(self, model: ProbedModel, pairs: Pairs, activations: Sequence[Activation], positions: Positions) -> None:
        self.model, self.pairs, self.activations = model, pairs, activations
        self.places = {a.at: place_of(a.at, pairs, positions) for a in activations}
        own = [place.original for place in self.places.values() if place is not None]
        theirs = [place.contrast for place in self.places.values() if place is not None]
        every = np.zeros(len(pairs), np.int64) if None in self.places else pairs.read
        self._first = np.minimum.reduce([pairs.read, every, *own])
        self._last = np.maximum.reduce([pairs.read, *own])
        self._contrast_last = np.maximum.reduce([pairs.contrast_read, *theirs])
        self._large = 12 * len(model.shape.heads) * model.shape.d_model**2 > _SMALL

    def differences(self, sets: Sequence[Sequence[int]], report: Progress | None = None) -> Differences:
        """Return the logit differences of all pairs, with each of ``sets`` (of numbers of activations) replaced."""
        original, contrast = np.empty((2, len(self.pairs)), np.float32)
        patched = np.empty((len(self.pairs), len(sets)), np.float32)
        right = np.empty(len(self.pairs), np.bool_)
        done = 0
        for rows in self._batches():
            run = _Batch(self, rows)
            original[rows], right[rows] = run.original()
            contrast[rows] = run.contrast()
            several = max(1, self._most(rows) // len(rows)) if self._large else 1
            for start in range(0, len(sets), several):
                patched[rows, start : start + several] = run.patched(sets[start : start + several])
            done += len(rows)
            if report is not None:
                report(done / len(self.pairs), f"{done:,} of {len(self.pairs):,} pairs")
        return Differences(original, contrast, patched, right)

    def _batches(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield rows whose inputs are cut alike, so many as fit."""
        keys = np.stack([self._last, self._first, self._contrast_last], axis=1)
        _, kind = np.unique(keys, axis=0, return_inverse=True)
        order = np.argsort(kind, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(kind[order])) + 1):
            size = self._most(rows)
            yield from (rows[start : start + size] for start in range(0, len(rows), size))

    def _most(self, rows: npt.NDArray[np.int64]) -> int:
        """Return how many inputs that are cut as these run at once."""
        shape, sites = self.model.shape, {a.site for a in self.activations}
        length, new = int(self._last[rows[0]]) + 1, int(self._last[rows[0]] - self._first[rows[0]]) + 1
        kept = len(sites) * shape.d_model * (length if None in self.places else len(self.places))
        return max(1, min(4 * tokens_per_pass(self.model.device) // length, 2**26 // kept, 2**26 // (new * shape.vocabulary)))


@dataclass(frozen=True, eq=False)
class Differences:
    """Logit differences, in nats, of every pair."""

    original: Float[np.ndarray, " pair"]
    """LD_orig."""
    contrast: Float[np.ndarray, " pair"]
    """LD of the contrast run, of the same two answers: what patching everything would give."""
    patched: Float[np.ndarray, "pair set"]
    right: npt.NDArray[np.bool_]
    """Whether the original's answer is the model's own, ``[pair]``."""


class _Batch:
    """Some pairs whose inputs are cut alike."""

    def __init__(self, runs: PatchedRuns, rows: npt.NDArray[np.int64]) -> None:
        self.runs, self.model, self.rows = runs, runs.model, rows
        pairs, i = runs.pairs, int(rows[0])
        self.first, last, contrast_last = int(runs._first[i]), int(runs._last[i]), int(runs._contrast_last[i])
        self.own = torch.from_numpy(pairs.original[rows, : last + 1])
        self.theirs = torch.from_numpy(pairs.contrast[rows, : contrast_last + 1])
        self.read, self.contrast_read = torch.from_numpy(pairs.read[rows]), torch.from_numpy(pairs.contrast_read[rows])
        self.answers = torch.from_numpy(pairs.answers[rows]).to(self.model.device)
        self.each = torch.arange(len(rows))
        self.cache = self.model.extend(self.own[:, : self.first], logits=False).cache if self.first else None

    def original(self) -> tuple[Float[np.ndarray, " row"], npt.NDArray[np.bool_]]:
        """Return LD_orig and whether the model's answer is right."""
        logits = self._logits({})
        return self._difference(logits), (logits.argmax(-1) == self.answers[:, 0]).cpu().numpy()

    def contrast(self) -> Float[np.ndarray, " row"]:
        """Return LD of the contrast run."""
        start = int(self.contrast_read.min())  # logits of all positions would take gigabytes
        cache = self.model.extend(self.theirs[:, :start], logits=False).cache if start else None
        logits = self.model.extend(self.theirs[:, start:], cache).logits
        assert logits is not None
        return self._difference(logits[self.each, self.contrast_read - start])

    def patched(self, sets: Sequence[Sequence[int]]) -> Float[np.ndarray, "row set"]:
        """Return LD_patched with each of the sets replaced, all in one run of so many copies of the inputs."""
        patches = [self._patches([self.runs.activations[i] for i in members]) for members in sets]
        differences = self._difference(self._logits(_side_by_side(patches, len(self.rows)), len(sets)), len(sets))
        return differences.reshape(len(sets), -1).T

    def _logits(self, patches: dict[Site, Patch], copies: int = 1) -> Float[Tensor, "copy_row vocabulary"]:
        each, cache = self.each.repeat(copies), self.cache
        if copies > 1 and cache is not None:
            cache = cache.rows(each.to(self.model.device))
        logits = self.model.extend(self.own[each, self.first :], cache, patches=patches).logits
        assert logits is not None
        return logits[torch.arange(len(each)), self.read[each] - self.first]

    def _difference(self, logits: Float[Tensor, "copy_row vocabulary"], copies: int = 1) -> Float[np.ndarray, " copy_row"]:
        chosen = logits.gather(1, self.answers.repeat(copies, 1)).float()
        difference: Float[np.ndarray, " row"] = (chosen[:, 0] - chosen[:, 1]).cpu().numpy()
        return difference

    def _where(self, at: str | None) -> tuple[Int[Tensor, "row k"], Int[Tensor, "row k"]]:
        """Return a position's indices in originals and contrasts."""
        place = self.runs.places[at]
        if place is None:
            every = torch.arange(min(self.own.size(1), self.theirs.size(1))).expand(len(self.rows), -1)
            return every, every
        return torch.from_numpy(place.original[self.rows])[:, None], torch.from_numpy(place.contrast[self.rows])[:, None]

    @cached_property
    def _values(self) -> dict[Activation, Float[Tensor, "row k d_model"]]:
        """The contrasts' activations."""
        wanted = list(dict.fromkeys([PRE if a.site in EMBEDDINGS else a.site for a in self.runs.activations]))
        parts = {at: self._where(at) for at in self.runs.places}
        z = self.model.activations(self.theirs, wanted, torch.cat([theirs for _, theirs in parts.values()], dim=1))
        split = dict(zip(parts, z.split([theirs.size(1) for _, theirs in parts.values()], dim=2), strict=True))
        return {Activation(site, at): part[i] for at, part in split.items() for i, site in enumerate(wanted)}

    def _first_stream(self, members: Sequence[Activation]) -> Float[Tensor, "row pos d_model"]:
        """Return ``x0.pre`` with some token and position embeddings of the contrasts; what is replaced as ``x0.pre`` wins."""
        tokens, every = self.own, torch.arange(self.own.size(1)).expand(len(self.rows), -1)
        for a in members:
            if a.site == EMBED:
                own, theirs = self._where(a.at)
                tokens = tokens.scatter(1, own, self.theirs.gather(1, theirs))
        x = self.model.activations(tokens, [PRE], every)[0]
        for a in sorted((a for a in members if a.site in (POS_EMBED, PRE)), key=lambda a: a.site):
            own, theirs = self._where(a.at)
            if a.site == PRE:
                new = self._values[a]
            else:  # the token, in the place that the contrast has it in
                new = self.model.activations(self.theirs.scatter(1, theirs, tokens.gather(1, own)), [PRE], theirs)[0]
            x[self.each[:, None], own] = new
        return x

    def _patches(self, members: Sequence[Activation]) -> dict[Site, Patch]:
        parts: dict[Site, list[tuple[Int[Tensor, "row k"], Float[Tensor, "row k d_model"]]]] = {}
        embedded = any(a.site in EMBEDDINGS for a in members)
        if embedded:
            new = torch.arange(self.first, self.own.size(1)).expand(len(self.rows), -1)
            parts[PRE] = [(new, self._first_stream(members)[:, self.first :])]
        for a in members:
            if a.site not in EMBEDDINGS and not (embedded and a.site == PRE):
                parts.setdefault(a.site, []).append((self._where(a.at)[0], self._values[a]))
        device = self.model.device
        return {
            site: Patch(torch.cat([at for at, _ in found], 1).to(device), torch.cat([value for _, value in found], 1))
            for site, found in parts.items()
        }


def _side_by_side(patches: Sequence[dict[Site, Patch]], rows: int) -> dict[Site, Patch]:
    """Return patches of copies of the same inputs, each for its own copy, as patches of one batch."""
    if len(patches) == 1:
        return patches[0]
    parts: dict[Site, list[Patch]] = {}
    for copy, each in enumerate(patches):
        for site, patch in each.items():
            k = patch.positions.size(1)
            here = torch.arange(rows, device=patch.positions.device).repeat_interleave(k) + copy * rows
            parts.setdefault(site, []).append(Patch(patch.positions.reshape(-1, 1), patch.values.flatten(0, 1)[:, None], here))
    return {
        site: Patch(*(torch.cat([getattr(p, part) for p in found]) for part in ("positions", "values", "rows")))
        for site, found in parts.items()
    }


# -- results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effects:
    """What patching did, step by step; a step adds one activation to those before, or (``single``) replaces it alone."""

    activations: tuple[str, ...]
    """In the order of the steps."""
    effect: tuple[Mean, ...]
    """LD_orig − LD_patched after each step."""
    increment: tuple[Mean, ...]
    """What each step added to it."""

    def to_json(self, ld_orig: float) -> dict[str, Any]:
        """Return plain lists, one number for each step."""
        return {"activations": list(self.activations), **_lists("effect", self.effect, ""),
                "ld_patched": [ld_orig - m.value for m in self.effect],
                **_lists("increment", self.increment, "increment_")}  # fmt: skip


def _lists(name: str, means: Sequence[Mean], prefix: str) -> dict[str, list[float]]:
    parts = {name: "value", f"{prefix}low": "low", f"{prefix}high": "high"}
    return {key: [getattr(m, part) for m in means] for key, part in parts.items()}


@dataclass(frozen=True)
class Patching:
    """Activation patching over a contrast set; all logit differences are in nats, with 95 % bootstrap intervals over pairs."""

    study: str
    model: str
    settings: dict[str, Any]
    """How the pairs were made: target, changes, filters, seed."""
    activations: tuple[str, ...]
    pairs: int
    left_out: int
    """Inputs without a contrast."""
    accuracy: float
    """Share of the originals whose answer is the model's own."""
    ld_orig: Mean
    ld_contrast: Mean
    """Of the contrast run: LD_orig − LD_contrast is the effect of patching everything."""
    together: Mean
    """The effect of all activations at once."""
    effects: dict[Direction, Effects]

    @property
    def total(self) -> float:
        """The effect of patching everything, LD_orig − LD_contrast."""
        return self.ld_orig.value - self.ld_contrast.value

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``effect`` is cumulative, in the order of the direction's own ``activations``."""
        return {
            "study": self.study, "model": self.model, **self.settings, "activations": list(self.activations),
            "pairs": self.pairs, "left_out": self.left_out, "accuracy": self.accuracy,
            "ld_orig": self.ld_orig.value, "ld_orig_low": self.ld_orig.low, "ld_orig_high": self.ld_orig.high,
            "ld_contrast": self.ld_contrast.value, "together": asdict(self.together),
            **{direction: effects.to_json(self.ld_orig.value) for direction, effects in self.effects.items()},
        }  # fmt: skip

    def records(self) -> list[dict[str, Any]]:
        """Return one flat row for each direction and step, for a data frame."""
        flat = []
        for direction, effects in self.effects.items():
            columns = effects.to_json(self.ld_orig.value)
            names = columns.pop("activations")
            flat += [
                {
                    "direction": direction,
                    "step": i + 1,
                    "activation": name,
                    **{key: column[i] for key, column in columns.items()},
                }
                for i, name in enumerate(names)
            ]
        return flat

    def __rich__(self) -> Any:
        from inversionview.views.interventions import patching_table

        return patching_table(self)


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

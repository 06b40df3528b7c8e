"""What a statement is held against, all of it known without looking at the inputs that it is tested on.

Feature statements are made from the other half of the corpus, as ``interpret`` makes them: the activation's own, that of
another site for the same input, that of a random input at the same site. Being like the input says what the text alone tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from inversionview.analyses.feature_codes import Codes
from inversionview.analyses.interpret.clauses import FeatureStatement
from inversionview.analyses.interpret.sides import Half, Rows, Sides, sides
from inversionview.analyses.interpret.statements import feature_statement
from inversionview.analyses.judge.conditions import Alike, Always, ByFeatures, Condition
from inversionview.analyses.judge.evidence import Evidence, matched, of_input, of_rows
from inversionview.analyses.judge.subjects import Subject, position_named, written
from inversionview.analyses.site_positions import draw_queries
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError
from inversionview.model.sites.site import Site
from inversionview.studies.study import Study

_CORPUS = 2**15
"""Inputs without regard to ε from which a feature statement is made."""
_MADE_FROM = 256
"""Inputs on each side from which it is made, those nearest to ε."""
_SITES = 2
"""So many other sites are tried, until one tells something else."""
_RANDOM = 4
"""So many random inputs are read at a site and position, of which each statement is held against one."""
_SHARED = 256
"""Inputs on each side that tell how many shared values make an input like another."""


class Held(NamedTuple):
    """A control of one activation: what it says in words, and how that is checked."""

    statement: str
    condition: Condition


Controls = dict[str, Held | None]


@dataclass(eq=False)
class Makers:
    """Makes the controls of activations that were searched together."""

    study: Study
    bank: ActivationBank
    codes: Codes
    gap: float
    seed: int
    _pools: dict[tuple[object, ...], list[tuple[Rows, Held]]] = field(default_factory=dict)

    def of(self, subjects: Sequence[Subject], found: Sequence[Sides], wanted: Sequence[str]) -> list[Controls]:
        """Return the controls of those names for each activation of one site, by its sides."""
        own = [self._made(side, subject) for side, subject in zip(found, subjects, strict=True)]
        others = self._other_site(subjects, own) if "site" in wanted else [None] * len(own)
        made = []
        for number, (subject, side) in enumerate(zip(subjects, found, strict=True)):
            seen = matched(self.bank, side.fit, _SHARED) if side.fit.enough else None
            every: Controls = {
                "site": others[number],
                "random": self._random(subject) if "random" in wanted else None,
                "input": self._like_input(subject, seen) if "input" in wanted else None,
                "nearest": self._like_nearest(side.fit, seen) if "nearest" in wanted else None,
                "unconditional": Held("It is an input.", Always()),
                "features": own[number],
            }
            made.append({name: every[name] for name in wanted})
        return made

    def _made(self, side: Sides, subject: Subject | None) -> Held | None:
        """Return the feature statement of an activation; ``None`` where there are too few inputs to make it from."""
        if not side.fit.enough:
            return None
        half = Half(side.fit.inside[:_MADE_FROM], side.fit.outside[:_MADE_FROM])
        statement = feature_statement(self.codes, half, self.bank.half(0, min(len(self.bank), _CORPUS)))
        return Held(statement.said(self.bank.inputs, self._own(subject, half), side.bits), ByFeatures(statement, self.codes))

    def _own(self, subject: Subject | None, half: Half) -> npt.NDArray[np.int32]:
        """Return the codes that are named first: the query's, or of what has no text here those of an input inside."""
        if subject is None or subject.query.textless:
            own: npt.NDArray[np.int32] = self.codes.codes[half.inside[-1]]
            return own
        query = of_input(self.bank, subject.query.ids, subject.query.position)
        return self.codes.encode(query.features)[0]

    # -- of others ----------------------------------------------------------------------------------------------------

    def _other_site(self, subjects: Sequence[Subject], own: Sequence[Held | None]) -> list[Held | None]:
        """Return for each activation what another site tells of the same input, if that names other features."""
        found: list[Held | None] = [None] * len(subjects)
        site, every = subjects[0].query.site, self.bank.sites
        after = [every[(every.index(site) + step) % len(every)] for step in range(1, min(_SITES, len(every) - 1) + 1)]
        for other in after:
            left = [i for i, each in enumerate(found) if each is None and not subjects[i].query.textless]
            for i, held in zip(left, self._read([subjects[i] for i in left], other), strict=True):
                if held is not None and _named(held) != _named(own[i]):
                    found[i] = Held(f"Of {other.short}: {held.statement}", held.condition)
        return found

    def _read(self, subjects: Sequence[Subject], site: Site) -> list[Held | None]:
        """Return feature statements of the subjects' inputs at another site."""
        if not subjects:
            return []
        tokens, at = written(self.bank, [subject.query for subject in subjects])
        z = self.bank.model.own(self.bank.model.harvest(tokens, [site], at[:, None])[0, :, 0], site)
        near = search(self.bank, subjects[0], site, z, [subject.own for subject in subjects], self.gap)
        return [self._made(side, subject) for side, subject in zip(near, subjects, strict=True)]

    def _random(self, subject: Subject) -> Held | None:
        """Return what the same site and position tell of a random other input."""
        name = position_named(self.study, self.bank, subject.query)
        if name is None:
            return None
        key = (*subject.scope, name)
        if key not in self._pools:
            self._pools[key] = self._pool(subject, name)
        pool = [held for rows, held in self._pools[key] if not np.isin(rows, subject.own).any()]
        return pool[sum(subject.query.ids) % len(pool)] if pool else None

    def _pool(self, subject: Subject, name: str) -> list[tuple[Rows, Held]]:
        site = subject.query.site
        try:
            rows, at = draw_queries(self.bank, name, _RANDOM, self.seed)
        except SettingError:  # no input has the position
            return []
        z = self.bank.model.own(self.bank.model.harvest(self.bank.tokens(rows), [site], at[:, None])[0, :, 0], site)
        near = search(self.bank, subject, site, z, [rows[i : i + 1] for i in range(len(rows))], self.gap)
        made = [(rows[i : i + 1], self._made(side, None)) for i, side in enumerate(near)]
        return [(own, held) for own, held in made if held is not None]

    # -- of the text alone --------------------------------------------------------------------------------------------

    def _like_input(self, subject: Subject, seen: Evidence | None) -> Held | None:
        if subject.query.textless or seen is None:
            return None
        return _like(of_input(self.bank, subject.query.ids, subject.query.position), seen, subject.query.text)

    def _like_nearest(self, fit: Half, seen: Evidence | None) -> Held | None:
        if seen is None:
            return None
        text = of_rows(self.bank, fit.inside[-1:], np.ones(1, dtype=bool))
        return _like(text, seen, text.texts[0])


def search(
    bank: ActivationBank, like: Subject, site: Site, z: Float[Tensor, "query d_model"], own: Sequence[Rows], gap: float
) -> list[Sides]:
    """Return the sides of activations of a site, within the ε of a subject."""
    at = None if like.names is None else like.names[0]
    return list(sides(bank, site, z, own, epsilon=like.epsilon, distance=like.distance, at=at, gap=gap))


def _like(text: Evidence, seen: Evidence, said: str) -> Held:
    alike = Alike.to(text, seen)
    return Held(f"It shares {alike.least} or more of {len(alike.values)} features with {said}", alike)


def _named(held: Held | None) -> set[str] | None:
    if held is None or not isinstance(held.condition, ByFeatures):
        return None
    statement: FeatureStatement = held.condition.statement
    return set(statement.features)

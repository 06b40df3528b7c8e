"""The second source of preimages: search a bank for every known input inside ε; needs no decoder and no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from inversionview.bank.approximate import ApproximateIndex, load_or_build
from inversionview.bank.hits import Hits
from inversionview.bank.latents.codes import served
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core.errors import SettingError, UnknownPositionError
from inversionview.core.information import bits
from inversionview.core.ranges import check_seed, whole
from inversionview.core.scope import Scope
from inversionview.corpora.naming import ALL
from inversionview.corpora.positions import Positions
from inversionview.corpora.windows import WindowInputs
from inversionview.model.measure import distance_to
from inversionview.preimage.notes import compared, listed
from inversionview.preimage.preimage import INSIDE_SHARE, Preimage, Query, Sample
from inversionview.sources.samples import choose, samples_of
from inversionview.sources.source import Watch
from inversionview.sources.text_hits import TextHits
from inversionview.studies.meaning import stand_in

MOST_DRAWS = 50_000
"""Of more inputs inside ε a random choice of so many is kept as the preimage's ``draws``."""
_FIRST_LOOK = 2**15
"""Inputs of the bank that are searched ahead of all others, where somebody waits."""
Rows = npt.NDArray[np.int64]
Names = str | Sequence[str]
"""One or several named positions of a bank."""


def corpus_preimage(
    bank: ActivationBank,
    query: Query,
    scope: Scope[Names],
    *,
    k: int = 10,
    count: int | None = None,
    approximate: bool = False,
    seed: int = 0,
    keep: int = MOST_DRAWS,
    found: Watch | None = None,
    per_window: int | None = None,
    diverse: bool = False,
) -> Preimage:
    """Return every input of a bank inside the query's ε-preimage, and the ``k`` nearest, with the information in bits.

    Every input that is returned was run through the probed model again. The query itself never counts.

    Args:
        bank: of the query's model.
        query: what to read.
        scope: how inputs are compared, at named positions; by default all of the bank's.
        k: the k nearest inputs are returned, inside ε or not.
        count: how many inputs to return at most, a random choice of those inside and the nearest outside; ``None`` is all
            inside and the ``k`` nearest.
        approximate: let faiss propose what to measure; the result's ``recall`` says how much that finds.
        seed: of that choice.
        keep: how many inputs inside ε become the preimage's ``draws``, at most.
        found: called with a first look: samples among the bank's first inputs, ahead of the search.
        per_window: of natural text, so many occurrences of one window at most are returned, the nearest.
        diverse: of those inside ε choose such as differ in the tokens before their position, not by lot.

    Raises:
        SettingError: ε, ``k`` or ``count`` is out of range.
        UnknownSiteError, UnknownPositionError: the bank does not hold the site or position; without ``at`` the query's, too.
        BankError: the bank is damaged.
    """
    whole(k, "k", 0)
    if per_window is not None:
        whole(per_window, "Occurrences of a window")
    if count is not None:
        whole(count, "The count of inputs")
    check_seed(seed)
    notes = compared(bank, query, scope.at)
    if approximate and served(bank, query.site):
        raise SettingError(f"{query.site} is searched exactly, and at once: leave out the approximate index.")
    searched = _Search(bank, query, scope, _proposals(bank, query, scope) if approximate else {})
    if found is not None and count is not None:
        found(searched.first_look(k, count, seed, per_window))
    hits, inside = searched.found(k, count)
    shown, times = searched.shown(hits, per_window)
    samples = searched.samples(shown if count is None else searched.chosen(shown, count, seed, diverse), times)
    lot = np.random.default_rng((seed, 17)).permutation(inside)[:keep]
    made = searched.told(hits.within(scope.epsilon), hits.rows[lot])
    per_window = None if searched.text is None else per_window
    return replace(made, seed=seed, samples=samples, per_window=per_window, notes=tuple(notes))


def held_names(bank: ActivationBank, positions: Positions, query: Query, fixed: str | int | Sequence[str | int]) -> list[str]:
    """Return the bank's names of positions that are named so, or are indices or tokens of the query.

    Raises:
        UnknownPositionError: the bank does not hold one.
    """
    held, names = bank.manifest.positions, {} if query.textless else positions.names(query.ids)
    found: list[str] = []
    for at in [fixed] if isinstance(fixed, str | int) else fixed:
        if isinstance(at, str) and (at in held or at in names):
            found.append(at)  # of a name that it does not hold the bank says so
            continue
        if query.textless:
            raise UnknownPositionError(f"A vector has no text in which {at!r} is a place: name one of {listed(held)}.")
        index = positions.one(query.ids, at)
        name = next((name for name in held if names.get(name) == index), None)
        if name is None:
            raise UnknownPositionError(
                f"The bank holds {listed(held)} alone, and {query.tokens[index]!r} at #{index} is none of these: compare at "
                "one of them, or walk."
            )
        found.append(name)
    return found


def _proposals(bank: ActivationBank, query: Query, scope: Scope[Names]) -> Mapping[int, ApproximateIndex]:
    """Return for each position that is compared what proposes inputs to measure."""
    numbers = bank.position_numbers(scope.at)
    return {number: load_or_build(bank, query.site, number, epsilon=scope.epsilon) for number in numbers}


@dataclass(frozen=True, eq=False)
class _Search:
    """One query, searched for in a bank."""

    bank: ActivationBank
    query: Query
    scope: Scope[Names]
    proposals: Mapping[int, ApproximateIndex]
    """Where the search is approximate, for each position what proposes inputs to measure; else none."""

    @cached_property
    def own(self) -> npt.NDArray[np.int64]:
        """The query's own rows, which never count; of natural text all that have its prefix."""
        return self.bank.rows_of(self.query.ids, self.query.position)

    @property
    def size(self) -> int:
        """How many inputs, or occurrences, are searched, the query's own left out."""
        places = self.bank.places
        if not places.merged:
            return len(self.bank) - len(self.own)
        return int(places.inputs_of(np.array([len(self.bank) - 1]))[0]) + 1 - min(1, len(self.own))

    @cached_property
    def text(self) -> TextHits | None:
        """What is told of hits in natural text; ``None`` where inputs are searched."""
        inputs = self.bank.inputs
        return TextHits(self.bank, inputs, self.own) if isinstance(inputs, WindowInputs) else None

    def nearest(self, k: int, first: int | None = None) -> Hits:
        """Return what lies inside ε and the ``k`` nearest; with ``first`` a look at so many rows, as they are stored."""
        wanted = k + len(self.own)
        while True:
            hits = self._hits(wanted, first)
            places = self.bank.places
            if not places.merged:
                return hits
            _, nearest = np.unique(places.inputs_of(hits.rows), return_index=True)
            if len(nearest) >= min(k, self.size) or len(hits) >= len(self.bank) - len(self.own) or first is not None:
                return hits.part(np.sort(nearest))
            wanted *= 4

    def _hits(self, k: int, first: int | None) -> Hits:
        hits = next(
            search(
                self.bank,
                self.query.site,
                self.query.z[None],
                epsilon=self.scope.epsilon,
                distance=self.scope.distance,
                at=self.scope.at,
                k=k,
                verify=first is None,
                first=first,
                proposals=self.proposals if first is None else None,
            )
        )
        return hits.part(~np.isin(hits.rows, self.own))

    def first_look(self, k: int, count: int, seed: int, per_window: int | None) -> tuple[Sample, ...]:
        """Return samples among the bank's first inputs."""
        hits, times = self.shown(self.nearest(k, first=_FIRST_LOOK), per_window)
        return self.samples(self.chosen(hits, count, seed), times)

    def told(self, inside: Hits, draws: Rows) -> Preimage:
        """Return a preimage without its samples: what lies inside ε, of which some rows are its draws, and what that means."""
        bank, scope, text = self.bank, self.scope, self.text
        tokens, places = bank.located(draws, bank.manifest.positions)
        names = bank.manifest.positions if scope.at is None else [scope.at] if isinstance(scope.at, str) else list(scope.at)
        return Preimage(
            self.query,
            scope.distance,
            scope.epsilon,
            0,
            (),
            self.size,
            source="corpus",
            bits=bits(len(inside), self.size) if text is None else text.bits(inside),
            recall=min((index.settings.recall for index in self.proposals.values()), default=None),
            draws=tokens,
            places=None if text is None else places[:, 0],
            inside_count=len(inside),
            distinct=len(inside) if text is None else text.distinct(inside),
            compared="all" if names == [ALL] else names,
            corpus=None if text is None else text.extent,
            stand_in=None if text is None else stand_in(bank, self.query, inside),
        )

    def found(self, k: int, count: int | None) -> tuple[Hits, int]:
        """Return what lies inside ε, the ``k`` nearest and, of ``count``, those just outside; and how many are inside."""
        hits = self.nearest(k)
        inside = len(hits.within(self.scope.epsilon))
        beyond = 0 if count is None else count - min(inside, round(INSIDE_SHARE * count))
        if inside + beyond > len(hits):
            hits = self.nearest(inside + beyond)
        return hits.part(slice(max(inside + beyond, k))), inside

    def shown(self, hits: Hits, per_window: int | None) -> tuple[Hits, Mapping[int, int] | None]:
        """Return which of the hits may be shown, and of natural text by their rows for how many occurrences each stands."""
        return (hits, None) if self.text is None else self.text.shown(hits, per_window)

    def chosen(self, hits: Hits, count: int, seed: int, diverse: bool = False) -> Hits:
        """Return at most ``count`` of the hits."""
        if count >= len(hits):
            return hits
        if diverse and self.text is not None:
            return self.text.diverse(hits, self.scope.epsilon, count)
        generator = torch.Generator().manual_seed(seed)
        return hits.part(choose(torch.from_numpy(hits.distances), self.scope.epsilon, count, generator).numpy())

    def samples(self, hits: Hits, times: Mapping[int, int] | None = None) -> tuple[Sample, ...]:
        """Run hits through the model again and return them, nearest first; ``times`` as ``shown`` has them."""
        if not len(hits):
            return ()
        bank, query = self.bank, self.query
        tokens, at_names = bank.located(hits.rows, [bank.manifest.positions[p] for p in bank.position_numbers(self.scope.at)])
        z = query.z.expand(len(tokens), -1)
        run = torch.from_numpy(tokens)
        if self.text is not None:  # nothing behind an occurrence changes it
            run = run.where(torch.arange(run.size(1)) <= torch.from_numpy(at_names), bank.inputs.pad)
        per_token, _, _ = distance_to(bank.model, run, z, query.site, self.scope.distance)
        places = torch.from_numpy(at_names)
        reached = per_token.gather(1, places.clamp(min=0)).masked_fill(places < 0, torch.inf)
        nearest, which = reached.min(1)
        position = places.gather(1, which[:, None])[:, 0]
        order = torch.argsort(nearest, stable=True)
        return samples_of(
            bank.model,
            torch.from_numpy(tokens)[order],
            nearest[order],
            position[order],
            per_token[order],
            epsilon=self.scope.epsilon,
            source="corpus",
            times=None if times is None else torch.tensor([times[row] for row in hits.rows.tolist()])[order],
        )

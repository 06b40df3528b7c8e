"""Readings of queries at sites and positions: both sides of each preimage, its feature statement, and the score of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.analyses.feature_codes import Codes
from inversionview.analyses.interpret.clauses import FeatureStatement
from inversionview.analyses.interpret.prompts import Shown
from inversionview.analyses.interpret.scoring import Verdict
from inversionview.analyses.interpret.sides import Half, Rows, Sides, sides
from inversionview.analyses.interpret.statements import feature_statement
from inversionview.analyses.site_positions import draw_queries
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError, UnknownPositionError
from inversionview.core.scope import OWN, Distance, Own, Scope
from inversionview.corpora.naming import ALL
from inversionview.model.measure import distance_to
from inversionview.model.sites.site import Site


@dataclass(frozen=True, eq=False)
class ReadCell:
    """A site at a named position with its queries; all sites at a position have the same."""

    bank: ActivationBank
    codes: Codes
    scope: Scope[Own]
    site: Site
    position: str
    tokens: Ids
    """Of the queries, ``[query, pos]``."""
    at: Ids
    """Index of the position in each, ``[query]``."""
    z: Float[Tensor, "query d_model"]
    own: npt.NDArray[np.int32]
    """Codes of the queries, ``[query, feature]``."""
    sides: tuple[Sides, ...]
    statements: tuple[FeatureStatement | None, ...] = field(default=())
    """``None`` where there are not inputs enough on both sides."""

    @property
    def place(self) -> str:
        """Where the activations were read, in words."""
        return f"at site {self.site.short}, position {self.position}"

    def shown(self, query: int) -> Shown:
        """Return a query with its position marked."""
        return shown(self.bank, self.tokens[query], int(self.at[query]))

    def verified(self, query: int, rows: Rows, inside: bool) -> list[tuple[Shown, float]]:
        """Run rows of the bank through the model again; return those that lie on the side that they should, with D.

        The position where D is reached is marked.
        """
        if not len(rows):
            return []
        names = [self.position] if self.scope.at == OWN else self.bank.manifest.positions
        every, nearest = measured(self.bank, rows, self.z[query], self.site, self.scope.distance, names)
        return [
            (each, float(near))
            for each, near in zip(every, nearest.tolist(), strict=True)
            if (near <= self.scope.epsilon) == inside
        ]

    def told(self, query: int, statement: FeatureStatement, line: bool = False) -> Verdict | None:
        """Score a statement on a query's unseen inputs; with ``line`` on those next to ε. ``None``: there are too few."""
        half = self.sides[query].line if line else self.sides[query].test
        if not half.enough:
            return None
        rows, inside = labelled(half)
        return Verdict.of(inside, statement.holds(rows), statement.agreement(rows))


def labelled(half: Half, most: int | None = None) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Return as many rows inside as outside, at matched ranks, and which are inside."""
    inside, outside = half.matched(most)
    return np.concatenate([inside, outside]), np.arange(2 * len(inside)) < len(inside)


def shown(bank: ActivationBank, ids: npt.NDArray[np.int64], position: int = -1) -> Shown:
    """Return an input as it is shown, without BOS, EOS and padding; −1 marks no position."""
    vocabulary = bank.model.vocabulary
    kept = [i for i, token in enumerate(ids.tolist()) if token not in (bank.inputs.bos, bank.inputs.eos, bank.inputs.pad)]
    strings = tuple(vocabulary.strings([int(ids[i]) for i in kept]))
    return Shown(strings, kept.index(position) if position in kept else None)


def measured(
    bank: ActivationBank, rows: Rows, z: Float[Tensor, " d_model"], site: Site, distance: Distance, names: Sequence[str]
) -> tuple[list[Shown], npt.NDArray[np.float32]]:
    """Run rows of a bank through the model again; return each with the position marked where D is reached, and D.

    Args:
        bank: the corpus.
        rows: of the bank, at least one.
        z: the query activation.
        site: its site.
        distance: which distance.
        names: of the positions that are compared.
    """
    tokens, places = bank.located(rows, names)
    each, _, _ = distance_to(bank.model, torch.from_numpy(tokens), z.expand(len(tokens), -1), site, distance)
    reached = each.gather(1, torch.from_numpy(places.clip(min=0))).numpy()
    reached = np.where(places >= 0, reached, np.inf)
    nearest, which = reached.min(1), reached.argmin(1)
    return [shown(bank, tokens[i], int(places[i, which[i]])) for i in range(len(rows))], nearest


@dataclass(frozen=True)
class Queries:
    """Which inputs are read: so many random ones of the bank, or given ones."""

    count: int
    seed: int
    ids: tuple[tuple[int, ...], ...] | None = None
    places: tuple[int, ...] | None = None
    """Of natural text, where each of the given ones is read."""

    def at(self, bank: ActivationBank, position: str) -> tuple[Ids, Ids, list[Rows]]:
        """Return their tokens, the index of a position in each, and which rows of the bank they are.

        Raises:
            SettingError: ``count`` is below 1, or no input of the bank has the position.
            UnknownPositionError: none of the given inputs has it.
            InputError: a given input is longer than all of the study's.
        """
        if self.ids is None:
            rows, at = draw_queries(bank, position, self.count, self.seed)
            return bank.tokens(rows), at, [rows[i : i + 1] for i in range(len(rows))]
        longest = bank.inputs.max_length if self.places is None else max(map(len, self.ids))
        tokens = np.full((len(self.ids), longest), bank.inputs.pad)
        for i, ids in enumerate(self.ids):
            if len(ids) > longest:
                raise InputError(f"An input of {len(ids)} tokens is longer than all of the study's: shorten it.")
            tokens[i, : len(ids)] = ids
        at = bank.inputs.named_positions(tokens)[position] if self.places is None else np.array(self.places)
        there = np.flatnonzero((at >= 0) & (at < (tokens != bank.inputs.pad).sum(1)))
        if not len(there):
            raise UnknownPositionError(f"None of the inputs has a position {position}.")
        return tokens[there], at[there], [bank.rows_of(self.ids[i], int(at[i])) for i in there]


def read_cells(
    bank: ActivationBank,
    codes: Codes,
    sites: Sequence[Site],
    position: str,
    queries: Queries,
    scope: Scope[Own],
    gap: float,
    after: Callable[[], None],
) -> list[ReadCell]:
    """Return the cells of some sites at one position, with their feature statements.

    Args:
        bank: the corpus; its even rows make statements, its odd ones test them.
        codes: its features.
        sites: of the bank.
        position: a named one.
        queries: which inputs.
        scope: how preimages are compared.
        gap: outside begins at ``gap`` · ε.
        after: called after each cell.
    """
    tokens, at, rows = queries.at(bank, position)
    z = bank.model.harvest(tokens, list(sites), at[:, None])[:, :, 0]
    text = bank.places.names == (ALL,)
    own = codes.encode(bank.inputs.features_at(tokens, at) if text else bank.inputs.features(tokens))
    every, cells = bank.half(0), []
    for site, query in zip(sites, z, strict=True):
        near = sides(
            bank,
            site,
            bank.model.own(query, site),
            rows,
            epsilon=scope.epsilon,
            distance=scope.distance,
            at=position if scope.at == OWN else None,
            gap=gap,
        )
        found = tuple(near)
        made = tuple(feature_statement(codes, each.fit, every) if each.usable else None for each in found)
        cells.append(ReadCell(bank, codes, scope, site, position, tokens, at, query, own, found, made))
        after()
    return cells


def rival(cells: Sequence[ReadCell], number: int, query: int) -> FeatureStatement | None:
    """Return the feature statement that one of these cells is compared with: of another site, for the same query.

    It is that of the next site whose statement names other features; where all name the same, the site's own of another query.
    ``None`` where there is neither.
    """
    own = cells[number].statements[query]
    named = None if own is None else set(own.features)
    for step in range(1, len(cells)):
        other = cells[(number + step) % len(cells)].statements[query]
        if other is not None and set(other.features) != named:
            return other
    for step in range(1, len(cells[number].statements)):
        other = cells[number].statements[(query + step) % len(cells[number].statements)]
        if other is not None:
            return other
    return None

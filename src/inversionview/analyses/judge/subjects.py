"""The activations that statements speak of: statements of one activation share its search and its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.analyses.interpret.sides import Rows
from inversionview.analyses.judge.claims import Claim
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.errors import InversionViewError, SettingError
from inversionview.core.scope import Distance
from inversionview.corpora.naming import ALL
from inversionview.model.sites.patterns import find_site
from inversionview.model.sites.site import Site
from inversionview.preimage.preimage import Query
from inversionview.sources.searched import held_names
from inversionview.studies.study import Study


@dataclass(frozen=True, eq=False)
class Subject:
    """One activation with what is said of it."""

    query: Query
    claims: tuple[Claim, ...]
    epsilon: float = 0.0
    distance: Distance = "euclidean"
    names: tuple[str, ...] | None = None
    """Positions that are compared; ``None`` is all of the bank's."""
    own: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Rows of the bank that are the query itself."""

    @property
    def scope(self) -> tuple[object, ...]:
        """What subjects share that are searched together."""
        return self.query.site, self.epsilon, self.distance, self.names


def subjects_of(study: Study, claims: Sequence[Claim]) -> list[Subject]:
    """Return the activations of statements, in the order in which these name them.

    Raises:
        InversionViewError: a text cannot be encoded, or there is no such site or position; the line of the statement is named.
    """
    groups: dict[tuple[object, ...], list[Claim]] = {}
    for claim in claims:
        groups.setdefault(claim.activation, []).append(claim)
    found: dict[tuple[object, ...], list[Claim]] = {}
    queries: dict[tuple[object, ...], Query] = {}
    for group in groups.values():
        query = _query(study, group[0])
        key = (query.ids, query.position, query.site, tuple(query.z.tolist()) if query.textless else None)
        queries[key] = query  # one activation may be named in several ways
        found.setdefault(key, []).extend(group)
    return [Subject(queries[key], tuple(group)) for key, group in found.items()]


def sites_of(study: Study, claims: Sequence[Claim]) -> list[Site]:
    """Return the sites that statements name, each once.

    Raises:
        UnknownSiteError: there is no such site; the line of the statement is named.
    """
    found: dict[Site, None] = {}
    for claim in claims:
        try:
            found[find_site(claim.site or study.spec.site, study.model.sites)] = None
        except InversionViewError as error:
            raise told_at(claim, error) from error
    return list(found)


def _query(study: Study, claim: Claim) -> Query:
    vector = torch.tensor(claim.vector) if isinstance(claim.vector, tuple) else claim.vector
    try:
        return study.query(claim.text, claim.at, claim.site, vector=vector)
    except InversionViewError as error:
        raise told_at(claim, error) from error


def told_at(claim: Claim, error: InversionViewError) -> InversionViewError:
    """Return an error with where the statement stands that it is about."""
    return type(error)(f"{claim.place}: {error}" if claim.place else str(error))


def position_named(study: Study, bank: ActivationBank, query: Query) -> str | None:
    """Return the bank's name of the position where a query was read; ``None`` where it has none there."""
    if bank.places.names == (ALL,):
        return ALL
    if query.textless:
        return None
    named = study.positions.names(query.ids)
    return next((name for name in bank.manifest.positions if named.get(name) == query.position), None)


def fixed_names(study: Study, bank: ActivationBank, query: Query) -> tuple[str, ...]:
    """Return the position of a query as the bank names it, to compare it alone.

    Raises:
        SettingError: it is a vector's, which has none.
        UnknownPositionError: the bank does not hold it.
    """
    if query.textless:
        raise SettingError("A vector has no position to compare alone: leave --fixed out.")
    return tuple(held_names(bank, study.positions, query, query.position))


def together(subjects: Sequence[Subject], most: int) -> Iterator[list[int]]:
    """Yield numbers of subjects that are searched together, at most so many at once."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, subject in enumerate(subjects):
        groups.setdefault(subject.scope, []).append(number)
    for group in groups.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


def written(bank: ActivationBank, queries: Sequence[Query]) -> tuple[Ids, Ids]:
    """Return the tokens of queries, padded, and where each was read."""
    tokens = np.full((len(queries), max(len(query.ids) for query in queries)), bank.inputs.pad)
    for row, query in zip(tokens, queries, strict=True):
        row[: len(query.ids)] = query.ids
    return tokens, np.array([query.position for query in queries])


def vectors(queries: Sequence[Query]) -> Float[Tensor, "query d_model"]:
    """Return the activations of queries of one site."""
    return torch.stack([query.z for query in queries])

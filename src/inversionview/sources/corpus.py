"""The corpus as a source: every input of a bank inside ε, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inversionview.bank.store import ActivationBank
from inversionview.core.scope import Distance, Scope
from inversionview.preimage.preimage import Preimage, Query
from inversionview.sources.noted import noted
from inversionview.sources.searched import corpus_preimage, held_names
from inversionview.studies.study import Study


def search(
    study: Study,
    query: Query,
    *,
    epsilon: float | None = None,
    distance: Distance | None = None,
    k: int = 10,
    fixed: str | int | Sequence[str | int] | None = None,
    count: int | None = None,
    bank: ActivationBank | str | Path | None = None,
    approximate: bool = False,
    seed: int = 0,
    **options: Any,
) -> Preimage:
    """Return every input of a bank inside the query's ε-preimage and the k nearest, exactly, with the bits they mean.

    The first search without a bank builds one in the user's cache, of 200,000 inputs (of a language model 20,000).

    Args:
        query: from ``query``.
        epsilon: threshold; by default the study's.
        distance: ``"euclidean"`` or ``"cosine"``; by default the study's.
        k: how many of the nearest inputs to return at least, inside ε or not.
        fixed: compare at these positions only, in place of the minimum over all of the bank's: names, or as in ``query``.
        count: how many inputs to return at most; ``None`` is all inside ε.
        bank: to search, or its folder.
        approximate: let a faiss index propose what to measure, for banks of tens of millions; its recall is reported.
        seed: of the choice where ``count`` makes one.
        options: ``keep`` and ``found`` of ``corpus_preimage``.

    Raises:
        SettingError: a setting is out of range.
        UnknownSiteError, UnknownPositionError: the bank does not hold the site or position.
        BankError, MismatchError: the bank is damaged or another model's.
    """
    searched = study.bank(bank)
    made = corpus_preimage(
        searched,
        query,
        Scope(
            study.epsilon_at(query.site, distance) if epsilon is None else epsilon,
            distance or study.spec.distance,
            None if fixed is None else held_names(searched, study.positions, query, fixed),
        ),
        k=k,
        count=count,
        approximate=approximate,
        seed=seed,
        **options,
    )
    return noted(study, made)

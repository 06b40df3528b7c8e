"""The corpus as a source: every input of a bank inside ε, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inversionview.sources.source import Source, Watch, keywords
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import resolved

if TYPE_CHECKING:
    from inversionview.bank.store import ActivationBank
    from inversionview.core.progress import Progress
    from inversionview.core.scope import Distance, Epsilon, Scope
    from inversionview.preimage.preimage import Preimage, Query
    from inversionview.studies.study import Study


@accepting
def search(
    study: Study,
    query: Query,
    *,
    epsilon: Epsilon | None = None,
    within: float | None = None,
    distance: Distance | None = None,
    k: int = 10,
    fixed: str | int | Sequence[str | int] | None = None,
    count: int | None = None,
    bank: ActivationBank | str | Path | None = None,
    seed: int = 0,
    report: Progress | None = None,
    **options: Any,
) -> Preimage:
    """Return every input of a bank inside the query's ε-preimage and the k nearest, exactly, with the bits they mean.

    The first search without a bank builds one in the user's cache: of 200,000 inputs, for a language model's study of 20,000;
    of natural text of as many tokens as are harvested in 40 seconds, at the query's site.

    Args:
        study: from ``load``.
        query: from ``query``.
        epsilon: threshold, a number, ``"1/1000"``, ``"10bits"`` or ``"0.1nat"``; by default the study's.
        within: in place of ε, of a neuron, a latent or a coordinate: δ of p_q ± δ, in the number's own units.
        distance: one of ``core.scope.DISTANCES``; by default the study's.
        k: how many of the nearest inputs to return at least, inside ε or not.
        fixed: compare at these positions only, in place of the minimum over all of the bank's: names, or as in ``query``.
        count: how many inputs to return at most; ``None`` is all inside ε.
        bank: to search, or its folder.
        seed: of the choice where ``count`` makes one.
        report: called with the share of a bank that is built, where there is none.
        options: ``approximate=True`` lets a faiss index propose what to measure, for banks of tens of millions; its recall is
            reported. Others are ``per_window``, ``diverse``, ``keep`` and ``found`` of ``corpus_preimage``.

    Raises:
        SettingError: a setting is out of range.
        UnknownSiteError, UnknownPositionError: the bank does not hold the site or position.
        BankError, MismatchError: the bank is damaged or another model's.
    """
    from inversionview.bank.latents.codes import is_latent, served
    from inversionview.core.errors import UnknownSiteError
    from inversionview.sources.bank_cost import lacks_site
    from inversionview.sources.noted import noted
    from inversionview.sources.searched import corpus_preimage, held_names
    from inversionview.studies.latents import searchable
    from inversionview.terminal.options import check

    if is_latent(query.site):  # its codes tell the spread by which they are compared
        check([epsilon], distance)
        bank = searchable(study, bank, query.site, report)
    near: dict[str, Any] = {"epsilon": epsilon, "within": within, "distance": distance}
    scope = resolved(study, query.site, **near, query=query, bank=bank, report=report)
    searched = study.bank(bank, report=report, site=query.site)
    if study.inputs.every_token and query.site not in searched.sites and not served(searched, query.site):
        raise UnknownSiteError(lacks_site(study, searched, query.site))
    names = None if fixed is None else held_names(searched, study.positions, query, fixed)
    compared = replace(scope, at=names)
    made = corpus_preimage(searched, query, compared, k=k, count=count, seed=seed, **options)
    return noted(study, made)


class CorpusSource(Source):
    """Search a bank of the study's inputs."""

    name = "corpus"
    used = "the corpus is searched"
    exact = True
    needs_bank = True
    compares_several = True
    options = ("k", "bank", "approximate", "per_window", "diverse")

    def available(self, study: Study) -> bool:
        """See ``Source.available``: a model alone has no inputs."""
        return not study.bare

    def lacking(self, study: Study) -> str | None:
        """See ``Source.lacking``: a bank that takes long to build."""
        from inversionview.sources.bank_cost import lacking

        return lacking(study)

    def reads(self, study: Study, query: Query, fixed: Any = None) -> bool:
        """See ``Source.reads``: the bank, or the one that would be built, holds the query's site and position."""
        from inversionview.sources.bank_cost import holds

        return self.lacking(study) is None and holds(study, query, fixed)

    def read(
        self,
        study: Study,
        query: Query,
        scope: Scope[Any],
        *,
        count: int | None = None,
        seed: int = 0,
        report: Progress | None = None,
        watch: Watch | None = None,
        **options: Any,
    ) -> Preimage:
        """See ``Source.read`` and ``search``."""
        told = options if watch is None else {**options, "found": watch}
        return search(study, query, count=count, seed=seed, report=report, **keywords(scope), **told)


CORPUS = CorpusSource()

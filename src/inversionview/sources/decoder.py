"""The decoder as a source: samples of the preimage, each verified in the probed model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from inversionview.core.errors import MismatchError, SettingError, WeightsError
from inversionview.core.ranges import whole
from inversionview.sources.settings import Setting
from inversionview.sources.source import SHOWN, Source, Watch, keywords
from inversionview.studies.scope import resolved

if TYPE_CHECKING:
    from inversionview.core.progress import Progress
    from inversionview.core.scope import Distance, Epsilon, Scope
    from inversionview.preimage.preimage import Preimage, Query
    from inversionview.studies.study import Study

WEIGHED = 2048
"""Draws that bits and shares are told by."""


def sample(
    study: Study,
    query: Query,
    *,
    epsilon: Epsilon | None = None,
    distance: Distance | None = None,
    count: int = SHOWN,
    settings: Sequence[Setting] | Literal["auto"] = "auto",
    each: int = 64,
    weighed: int = WEIGHED,
    fixed: str | int | None = None,
    seed: int = 0,
    report: Progress | None = None,
    found: Watch | None = None,
) -> Preimage:
    """Sample the query's preimage with the decoder; every sample is verified in the probed model.

    Where the study knows how likely its inputs are, ``weighed`` more draws tell the bits and what is common, by importance.

    Args:
        query: from ``query``.
        epsilon: threshold, a number, ``"1/1000"``, ``"10bits"`` or ``"0.1nat"``; by default the study's.
        distance: one of ``core.scope.DISTANCES``; by default the study's.
        count: how many distinct samples to show at most.
        settings: temperatures and noise to draw under, or ``"auto"`` for the paper's pool: of ``facts`` another than else.
        each: candidates of each setting.
        weighed: draws that bits and shares are told by; 0: neither is.
        fixed: compare this position only, in place of the minimum over positions or, where the decoder was trained on natural
            text and writes what precedes, of the last token.
        seed: the same seed gives the same preimage.
        report: called with the share of the work that is done, and a note.
        found: called with a first look, drawn and measured ahead; see ``sampled_preimage``.

    Raises:
        SettingError: a setting is out of range.
        UnknownSiteError: the decoder was not trained on the query's site.
        UnknownPositionError: ``fixed`` is no named position, and none of the query; or no candidate has it.
        MismatchError: the decoder belongs to another probed model.
    """
    from inversionview.sources.noted import noted
    from inversionview.sources.sampled import sampled_preimage

    if weighed:
        whole(weighed, "The number of draws that bits are told by")
    scope = resolved(study, query.site, epsilon=epsilon, distance=distance, query=query, report=report)
    within, fixed = _compared(study, query, scope, fixed)
    made = sampled_preimage(
        study.decoder,
        study.model,
        query,
        within,
        count=count,
        settings=study.definition.pool if settings == "auto" else settings,
        each=each,
        seed=seed,
        report=report,
        found=found,
    )
    return noted(study, _told(study, made, within, weighed, seed), fixed)


def _compared(study: Study, query: Query, scope: Scope[Any], fixed: str | int | None) -> tuple[Scope[Any], str | int | None]:
    """Return how samples are compared, and at which position: what precedes was written to where it is read, so at its end."""
    from inversionview.corpora.positions import last_of

    if fixed is None and study.decoder.config.prefix:
        return replace(scope, at=partial(last_of, vocabulary=study.model.vocabulary)), "END"
    if fixed is not None and str(fixed) not in study.position_names:
        study.locate(query.ids, fixed)
    return replace(scope, at=None if fixed is None else study.positions.finder(query.ids, fixed)), fixed


def _told(study: Study, made: Preimage, scope: Scope[Any], count: int, seed: int) -> Preimage:
    """Return a preimage with its bits, and the draws that tell them, where the study knows how likely its inputs are."""
    from inversionview.sources.sampled import trained_site
    from inversionview.sources.weighed import weighed

    if not count or study.inputs.log_total is None:
        return made
    number = trained_site(study.decoder, made.query.site)
    found = weighed(study.decoder, study.model, study.inputs, made.query, number, scope, count=count, seed=seed)
    return made if found is None else replace(made, weighed=found, bits=found.bits, notes=(*made.notes, *found.doubts))


class DecoderSource(Source):
    """Sample the study's decoder."""

    name = "decoder"
    used = "the decoder is sampled"
    options = ("temperature", "noise", "candidates", "settings", "each", "weighed")
    asked_by = ("temperature", "noise", "candidates")

    def available(self, study: Study) -> bool:
        """See ``Source.available``: one was trained, for this model."""
        if study.bare:
            return False
        try:
            study.decoder  # noqa: B018
        except (WeightsError, MismatchError):
            return False
        return True

    def reads(self, study: Study, query: Query, fixed: Any = None) -> bool:
        """See ``Source.reads``: it was trained on the query's site."""
        return query.site.short in study.decoder.config.sites

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
        """See ``Source.read`` and ``sample``.

        In place of ``settings`` there may be ``temperature``, several of them, with ``noise`` in units of std(z), and
        ``candidates`` in place of ``each``.
        """
        told = _settings(**options) if watch is None else {**_settings(**options), "found": watch}
        return sample(
            study, query, count=SHOWN if count is None else count, seed=seed, report=report, **keywords(scope), **told
        )


def _settings(
    temperature: Sequence[float] | None = None, noise: float | None = None, candidates: int | None = None, **options: Any
) -> dict[str, Any]:
    """Return options of ``sample``."""
    named: dict[str, Any] = {} if candidates is None else {"each": candidates}
    if temperature or noise:
        named["settings"] = [Setting(each, noise or 0.0) for each in temperature or (1.0,)]
    if twice := sorted(named.keys() & options.keys()):
        raise SettingError(f"{' and '.join(twice)} are given twice: by temperature, noise or candidates, and by their names.")
    return {**options, **named}


DECODER = DecoderSource()

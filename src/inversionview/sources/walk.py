"""A walk as a source: a Markov chain from the query that never leaves ε."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np

from inversionview.core.errors import InputError, SettingError
from inversionview.sources.source import SHOWN, Source, Watch, keywords
from inversionview.studies.accepting import accepting
from inversionview.studies.scope import resolved

if TYPE_CHECKING:
    from inversionview.core.progress import Progress
    from inversionview.core.scope import Distance, Epsilon, Scope
    from inversionview.markov.bigrams import Bigrams
    from inversionview.markov.kernel import Target
    from inversionview.markov.report import Prior
    from inversionview.markov.run import Found
    from inversionview.preimage.preimage import Preimage, Query
    from inversionview.sources.walked import Ground
    from inversionview.sources.written import DecoderWriter
    from inversionview.studies.study import Study


class WalkOptions(TypedDict, total=False):
    """What a walk goes over, and how long and how wide it is; by default 256 chains and exchange for a study's prior, 16
    without it for a model's.
    """

    prior: Prior | None
    """``"study"``; ``"model"``, the model's own p(x)^β, uniform over lengths; ``"uniform"`` over all sequences. By default the
    study's where it has one, else the model's."""
    beta: float
    """How much the model's prior weighs."""
    keep: Sequence[str | int]
    """Positions of the query's tokens that stay, as in ``query`` (priors ``"model"`` and ``"uniform"``)."""
    longer: int
    """A text may grow or shrink by so many tokens, by default 2 (likewise)."""
    nearest: bool
    """Compare the nearest of all positions of a text; else it ends at the position that is read (likewise)."""
    guided: bool
    """Add a move that follows the gradient of D (likewise); worth it where texts are long."""
    chains: int
    """At the wanted ε."""
    seconds: float | None
    """After so many it ends; where nothing else ends it 10, on slow models more, so that it gets beyond its warm-up."""
    steps: int | None
    """After so many it ends; then the seed fixes all that it finds."""
    until_mixed: bool
    """It ends as soon as every feature is mixed."""
    bits_within: float | None
    """It ends as soon as the interval of the bits reaches no further than this to either side."""
    exchange: bool
    """With replicas on a ladder of ε; also gives the bits."""
    population: int
    """Chains on each level while the ladder is made."""
    decoder: bool | None
    """Chains may move to what the decoder writes, too; by default where one was trained on the site and the prior is the
    study's."""
    warm: int
    """Steps in which the mix of moves is learnt."""


_COUNTED = 3_000_000
"""Occurrences of a corpus that are counted, at most."""
_OF_THE_GROUND = ("beta", "keep", "longer", "guided", "decoder")


@accepting
def walk(
    study: Study,
    query: Query,
    *,
    epsilon: Epsilon | None = None,
    within: float | None = None,
    distance: Distance | None = None,
    fixed: str | int | None = None,
    starts: Sequence[Preimage] = (),
    count: int = SHOWN,
    seed: int = 0,
    report: Progress | None = None,
    found: Found | None = None,
    **options: Unpack[WalkOptions],
) -> Preimage:
    """Walk through the query's preimage by a Markov chain: needs neither decoder nor corpus, and every member is verified.

    It draws from π(x) ∝ p(x) · 1[D(z_q, x) ≤ ε] with p the distribution of the study's inputs or of the model. Replicas
    on a ladder of ε exchange states, so that all pieces of the preimage are reached, and tell the bits by splitting,
    however rare it is; for language models only where asked.

    Args:
        study, query: from ``load`` and ``query``.
        epsilon, within: threshold, as in ``read``; by default the study's.
        distance: as in ``read``.
        fixed: this position only, not the least over all or, under other priors, a text's last token.
        starts: preimages of the query from elsewhere, at whose members half of the chains begin.
        count, seed: how many distinct samples to show at most; of all draws (without ``steps``, time decides too).
        report: called with the share of the walk that is done, and a note.
        found: called with new members as they are found: tokens, D and the position where it is reached.
        options: see ``WalkOptions``.

    Raises:
        SettingError: a setting is out of range.
        InputError: the query is no input of the study, or lies outside ε itself, where ``fixed`` is another position.
        UnknownPositionError: the query has no position ``fixed``.
    """
    from inversionview.markov.run import WalkSettings
    from inversionview.sources.noted import noted
    from inversionview.sources.walked import inputs_of, walked_preimage

    told: dict[str, Any] = {"seed": seed, **options}
    prior = _prior(study, told.pop("prior", None))
    near: dict[str, Any] = {"epsilon": epsilon, "within": within, "distance": distance, "at": fixed}
    scope = resolved(study, query.site, **near, query=query, report=report)
    target = _target(study, query, scope, prior, told.pop("nearest", False))
    over = {name: told.pop(name) for name in _OF_THE_GROUND if name in told}
    ground = _ground(study, query, target, prior, inputs_of(starts, study.model.vocabulary.pad, target.ended), **over)
    made = walked_preimage(
        study.model,
        query,
        ground,
        target,
        WalkSettings(**{**ground.settings, **told}),
        prior=prior,
        count=count,
        report=report,
        found=found,
    )
    return noted(study, made, "END" if target.ended else fixed)


def _begun(query: Query, starts: Sequence[Sequence[int]], study: Study) -> Query:
    """Return the query with the input at which a walk begins: its own or, of a vector alone, the first of what was found.

    Raises:
        SettingError: nothing inside ε was found.
    """
    if not query.textless:
        return query
    if not starts:
        raise SettingError(
            "A walk begins inside ε, and of a vector alone no input there is known: give texts (--texts), a bank that holds "
            "some, or a larger ε."
        )
    ids = tuple(starts[0])
    last = len(ids) - 1 - int(ids[-1] == study.model.vocabulary.eos)
    return replace(query, ids=ids, tokens=tuple(study.model.vocabulary.strings(list(ids))), position=last)


def _prior(study: Study, named: Prior | None) -> Prior:
    """Return the prior of that name, by default the study's where it has one.

    Raises:
        SettingError: there is none.
    """
    from inversionview.markov.report import PRIORS

    prior: Prior = named or ("study" if study.definition.moves else "model")
    if prior not in PRIORS:
        raise SettingError(f"There is no prior {prior!r}: choose study, model or uniform.")
    return prior


def _target(study: Study, query: Query, scope: Scope[Any], prior: Prior, nearest: bool) -> Target:
    """Return what a walk compares: the query's activation, within ε by a distance, at one position or the nearest of all.

    Under a language model's priors texts end at the position that was read, and it is their last token that is compared. A
    query that is read at a token that stands in all texts is compared at the nearest of all positions.

    Raises:
        UnknownPositionError: the query has no such position.
        SettingError: the nearest of all is asked for, where it is the rule, or beside a position.
    """
    from inversionview.markov.kernel import Target
    from inversionview.markov.texts import last_of

    if nearest and prior == "study":
        raise SettingError("Under a study's own prior the nearest position is compared anyway: leave nearest out.")
    if nearest and scope.at is not None:
        raise SettingError("Either the nearest of all positions is compared or a fixed one: leave one of them out.")
    given = len(study.model.vocabulary.front) or 1
    if scope.at is not None:
        return Target(query.z, query.site, replace(scope, at=study.positions.finder(query.ids, scope.at)))
    steady = study.model.shape.steady  # in longer texts an activation knows how long the whole is
    if (
        prior == "study"
        or nearest
        or (query.position < given and not query.textless)
        or (steady is not None and len(query.ids) > steady)
    ):
        return Target(query.z, query.site, scope)
    return Target(query.z, query.site, replace(scope, at=partial(last_of, pad=study.model.vocabulary.pad)), True)


def _ground(
    study: Study,
    query: Query,
    target: Target,
    prior: Prior,
    starts: Sequence[Sequence[int]],
    beta: float = 1.0,
    keep: Sequence[str | int] = (),
    longer: int = 2,
    guided: bool = False,
    decoder: bool | None = None,
) -> Ground:
    """Return what is walked over; see ``WalkOptions``."""
    from inversionview.sources.study_ground import study_ground
    from inversionview.sources.walked import language_ground

    query = _begun(query, starts, study)
    if decoder and prior != "study":
        raise SettingError(
            f"A decoder writes inputs of a study's own prior, but here the prior is {prior!r}: leave the decoder out."
        )
    if prior == "study":
        if keep or guided:
            raise SettingError("Kept tokens and guided moves belong to the priors 'model' and 'uniform': name one.")
        if why := study.inputs.why_not(query.ids):
            raise InputError(
                f"{query.text!r} is no input of {study.name}: {why}. So it has probability 0 under the prior (study): mend "
                "it, or name another prior (model or uniform)."
            )
        writer = None if decoder is False else _writer(study, query, bool(decoder))
        return study_ground(study.model, study.inputs, target, query.ids, starts, writer)
    ids = (*query.ids[: query.position + 1], query.ids[-1]) if target.ended else query.ids
    told = {"beta": beta if prior == "model" else 0.0, "keep": [study.locate(query.ids, at) for at in keep], "guided": guided}
    told["ahead"] = _ahead(study)
    return language_ground(study.model, target, ids, longer, starts, **told)


def _writer(study: Study, query: Query, asked: bool) -> DecoderWriter | None:
    """Return what the study's decoder writes for a query; ``None`` where none was trained on its site, unless one is asked for.

    Raises:
        WeightsError: one is asked for where there is none.
        MismatchError: likewise, it belongs to another probed model.
        UnknownSiteError: likewise, it was not trained on the site.
    """
    from inversionview.sources.decoder import DECODER
    from inversionview.sources.sampled import trained_site
    from inversionview.sources.written import DecoderWriter

    if not asked and not (DECODER.available(study) and DECODER.reads(study, query)):
        return None
    number = trained_site(study.decoder, query.site)
    return DecoderWriter(study.decoder, query.z, number, study.inputs.max_length, study.inputs.pad)


def _ahead(study: Study) -> tuple[Bigrams, ...]:
    """Return what follows what in the study's texts, where it has texts."""
    from inversionview.corpora.windows import WindowInputs
    from inversionview.markov.bigrams import Bigrams

    if study.bare or not isinstance(study.inputs, WindowInputs):
        return ()
    rows = study.inputs.corpus(np.arange(study.inputs.windows_of(_COUNTED)))
    text = study.inputs.occurring(rows)
    return tuple(Bigrams(rows, text, study.model.shape.vocabulary, gap) for gap in (1, 2))


class WalkSource(Source):
    """Walk from the query."""

    name = "walk"
    used = "a walk is made"
    bar = "walking"
    begins = True
    options = ("starts", *WalkOptions.__annotations__)

    def available(self, study: Study) -> bool:
        """See ``Source.available``: a walk needs no more than a model."""
        return True

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
        """See ``Source.read`` and ``walk``."""
        from inversionview.sources.walked import Members

        shown, told = SHOWN if count is None else count, options
        if watch is not None:
            prior = _prior(study, options.get("prior"))
            target = _target(study, query, scope, prior, options.get("nearest", False))
            told = {**options, "found": Members(study.model, target, shown, watch).take}
        return walk(study, query, count=shown, seed=seed, report=report, **keywords(scope), **told)


WALK = WalkSource()

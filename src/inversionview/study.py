"""A study binds what reading needs: a probed model, its inputs, sites and positions, a distance, ε, and a decoder.

``load("addition")`` gives a shipped one, ``load("runs/mine")`` one that ``inversionview train`` made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from inversionview.analysis.ablation import Ablation, By, ablation
from inversionview.analysis.agreement import Agreement, agreement
from inversionview.analysis.attribution import Attribution, Cases, RateTable, answer_cases, attribute, rates
from inversionview.analysis.common import Told, told
from inversionview.analysis.features import FeatureTable, codes_of, feature_information
from inversionview.analysis.flow import Flow, flow
from inversionview.analysis.heads import HeadTable, NamedHead, check_task, find_heads
from inversionview.analysis.patching import Cumulative, Patching, parse_activations, patching, steps
from inversionview.analysis.prompts import prompt_cases
from inversionview.analysis.retrieval import kept_known
from inversionview.analysis.truth import SiteTruth, Truth, decoder_against_truth, kept_truth, weights_of
from inversionview.bank import finding
from inversionview.bank.harvest import build_bank
from inversionview.bank.store import ActivationBank
from inversionview.contrasts import Pairs, TextPair, check_target, held_out, read_pairs, study_pairs, text_pairs
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.evaluation import good_ratio
from inversionview.distances import between
from inversionview.errors import (
    BankError,
    InputError,
    MismatchError,
    SettingError,
    UnknownPositionError,
    UnknownStudyError,
    WeightsError,
)
from inversionview.filters import feature_names, parse_filters
from inversionview.inputs import Ids, Inputs
from inversionview.interpret.client import Client
from inversionview.interpret.interpretation import Interpretations
from inversionview.interpret.readings import Queries
from inversionview.interpret.run import Confirm, interpret
from inversionview.interpret.sides import GAP
from inversionview.memory import check_memory
from inversionview.naming import STUDIES
from inversionview.positions import Positions
from inversionview.preimage.completeness import VARIANTS, Completeness, completeness, is_query
from inversionview.preimage.core import Preimage, Query
from inversionview.preimage.corpus import corpus_preimage, held_names
from inversionview.preimage.notes import outside_study, random_share, too_wide, untrained_place
from inversionview.preimage.sampled import Found as Sampled
from inversionview.preimage.sampled import Setting, sampled_preimage
from inversionview.preimage.threshold import Threshold, threshold_study
from inversionview.preimage.walked import Prior, language_ground, study_ground, walked_preimage
from inversionview.probed import PRECISIONS, ProbedModel
from inversionview.progress import Progress
from inversionview.ranges import check_seed, whole
from inversionview.scope import Distance, check_distance, check_epsilon
from inversionview.scopes import OWN, Scope
from inversionview.sites import Site, expand, find_site
from inversionview.spec import StudySpec, check_model, model_files, write_spec
from inversionview.storage import check_writable
from inversionview.studies.decoders import decoder_path, trained_decoder
from inversionview.studies.definition import Definition
from inversionview.studies.facts import FactsInputs
from inversionview.studies.known_heads import heads_cache, keep_heads, published_heads, read_heads, shipped_heads
from inversionview.studies.registry import default_model_called, defined, stated
from inversionview.studies.shipped import check_shipped, shipped_path
from inversionview.texts import begun_before
from inversionview.tokens import Vocabulary
from inversionview.walk.kernel import Target
from inversionview.walk.run import Found, WalkSettings

_QUERY_BYTES = 4096
"""Of a query's tokens and strings."""
BeginBank = Callable[[Path, int], None]
Contrast = str | Path | Iterable[TextPair] | Callable[[str], TextPair | None]


class Study:
    """See the module's text.

    Attributes:
        name: its name or the path of its run.
        spec: its settings.
        model: the probed model.
    """

    def __init__(self, name: str, spec: StudySpec, model: ProbedModel, folder: Path | None = None) -> None:
        self.name, self.spec, self.model, self.folder = name, spec, model, folder
        self.sites: list[Site] = expand(spec.sites, model.sites)
        self._bank: ActivationBank | None = None

    @property
    def definition(self) -> Definition:
        """What the study is: ask it, not for the study's name."""
        return defined(self.spec.inputs)

    @cached_property
    def inputs(self) -> Inputs:
        """The study's inputs; for a run on texts, its Arrow corpus, memory-mapped.

        Raises:
            InputError: it is a model alone.
        """
        self._has_more_than_a_model()
        return self.definition.inputs(self.model, self.spec.options, self.folder)

    @cached_property
    def decoder(self) -> Decoder:
        """The trained decoder.

        Raises:
            WeightsError: there is none yet.
            InputError: it is a model alone.
            MismatchError: it was trained for another probed model.
        """
        self._has_more_than_a_model()
        path = trained_decoder(self.name, self.spec.inputs, self.folder)
        decoder = Decoder.from_pretrained(path).to(self.model.device).eval()
        if decoder.config.unread != (self.model.vocabulary.bos is None):
            trained, run = ("without", "with") if decoder.config.unread else ("with", "without")
            raise MismatchError(
                f"The decoder in {path} was trained on texts {trained} a BOS, but {self.name} runs them {run} one: train one "
                "with `inversionview train`."
            )
        if decoder.config.fingerprint != self.model.fingerprint:
            raise MismatchError(
                f"The decoder in {path} was trained for another probed model ({decoder.config.model}) than {self.model.name}"
                ": train one for this model with `inversionview train`, or leave --model out."
            )
        return decoder

    @cached_property
    def truth(self) -> Truth | None:
        """What was measured of the decoder's bias, as kept beside it; ``None`` where nothing was.

        Raises:
            WeightsError: the file is damaged.
        """
        return None if self.bare else kept_truth(self.decoder_path)

    @property
    def bare(self) -> bool:
        """It is a model alone, without inputs or a decoder."""
        return self.definition.bare

    def _has_more_than_a_model(self) -> None:
        if self.bare:
            raise InputError(
                f"{self.name} is a model without a corpus or a decoder: read it by a walk, or make both with `inversionview "
                "train --model MODEL --texts FILE --out RUN`."
            )

    @property
    def decoder_path(self) -> Path:
        """Where the decoder lies; a run of a shipped study with a bank but no training reads with the shipped one."""
        return decoder_path(self.spec.inputs, self.folder)

    def keep(self, folder: Path) -> None:
        """Write ``study.json`` into a run's folder that has none, so that ``load`` reads it as this study."""
        if not (folder / "study.json").exists():
            path = self.spec.model or ("" if default_model_called(self.model.name) else str(self.model_path.resolve()))
            write_spec(folder, self.spec.model_copy(update={"model": path, "files": model_files(path)}))

    @property
    def model_path(self) -> Path:
        """Where the probed model lies (or its hub name)."""
        default = default_model_called(self.model.name)
        return Path(self.model.name) if default is None else default()

    # -- positions ----------------------------------------------------------------------------------------------------

    @property
    def position_names(self) -> list[str]:
        """The named positions of the study's inputs."""
        if not self.definition.positions:
            return ["END"]
        return list(self.inputs.named_positions(self.inputs.tokens(np.zeros(1, dtype=np.int64))))

    def _named(self, tokens: Ids) -> dict[str, Ids]:
        if self.definition.positions:
            return self.inputs.named_positions(tokens)
        last = (tokens != self.model.vocabulary.pad).sum(1) - 1
        return {"END": last - (tokens[np.arange(len(tokens)), last] == self.model.vocabulary.eos)}

    @cached_property
    def positions(self) -> Positions:
        """What finds positions in inputs."""
        return Positions(self._named, self.model.vocabulary)

    def locate(self, ids: Sequence[int], at: str | int) -> int:
        """Return the index that ``at`` means in an input: a named position, an index (negative too) or a token.

        An int or ``"#8"`` is an index, the first token being 0 and −1 the last of the text, and so is ``"8"`` where no token is
        called so; a token must occur once.

        Raises:
            UnknownPositionError: there is no such position, the token occurs more than once, or index and token could be meant.
        """
        return self.positions.one(ids, at)

    # -- reading ------------------------------------------------------------------------------------------------------

    def epsilon_at(self, site: Site, distance: Distance | None = None) -> float:
        """Return the ε of a reading at a site when none is named: the run's own for its kind, else the study's.

        The run's own are of its own distance.
        """
        own = self.spec.epsilons if distance in (None, self.spec.distance) else {}
        return own.get(site.family, self.spec.epsilon)

    def query(self, text: str, at: str | int | None = None, site: str | Site | None = None) -> Query:
        """Return the query: ``text`` run through the probed model and read at one position and site.

        Args:
            text: an input, without or with BOS and EOS.
            at: a token, a named position (``A1``, ``END``, ``query``) or an index: an int or ``"#8"``, the first token (BOS,
                where texts are run with one) being 0; −1 is the last token of the text, EOS not counted.
            site: any of the three name styles of ``Site``.

        Raises:
            InputError: the text is empty, too long, or cannot be encoded.
            UnknownPositionError, UnknownSiteError: there is no such place.
        """
        ids, position = self._located(text, at)
        return self._read(ids, position, find_site(self.spec.site if site is None else site, self.model.sites))

    def _located(self, text: str, at: str | int | None) -> tuple[list[int], int]:
        """Return a text's ids and the index of ``at``, by default the study's own position."""
        ids = self.model.encode(text)
        return ids, self.locate(ids, self.spec.at if at is None else at)

    def _read(self, ids: list[int], position: int, where: Site) -> Query:
        z = self.model.activations(torch.tensor([ids]), [where], torch.tensor([[position]]))[0, 0, 0].float().cpu()
        strings = tuple(self.model.vocabulary.strings(ids))
        shown = self.model.vocabulary.decode(ids)
        attention = None
        if where.is_head:  # what stands behind the position is never computed
            pattern = self.model.attention(torch.tensor([ids[: position + 1]]), where.layer)[0, where.head, position].tolist()
            attention = (*pattern, *[0.0] * (len(ids) - len(pattern)))
        bos = self.model.vocabulary.bos is not None
        return Query(shown, tuple(ids), strings, position, where, self.model.name, z, attention, bos)

    def preimage(
        self,
        query: Query,
        *,
        epsilon: float | None = None,
        distance: Distance | None = None,
        count: int = 100,
        settings: Sequence[Setting] | Literal["auto"] = "auto",
        each: int = 64,
        fixed: str | int | None = None,
        seed: int = 0,
        report: Progress | None = None,
        found: Sampled | None = None,
    ) -> Preimage:
        """Sample the query's preimage with the decoder; every sample is verified in the probed model.

        Args:
            query: from ``query``.
            epsilon: threshold; by default the study's.
            distance: ``"euclidean"`` or ``"cosine"``; by default the study's.
            count: how many distinct samples to show at most.
            settings: temperatures and noise to draw under, or ``"auto"`` for the paper's pool: of ``facts`` another than else.
            each: candidates of each setting.
            fixed: compare this position only, in place of the minimum over positions.
            seed: the same seed gives the same preimage.
            report: called with the share of the work that is done, and a note.
            found: called with a first look, drawn and measured ahead; see ``sampled_preimage``.

        Raises:
            SettingError: a setting is out of range.
            UnknownSiteError: the decoder was not trained on the query's site.
            UnknownPositionError: ``fixed`` is no named position, and none of the query; or no candidate has it.
            MismatchError: the decoder belongs to another probed model.
        """
        if fixed is not None and str(fixed) not in self.position_names:
            self.locate(query.ids, fixed)
        made = sampled_preimage(
            self.decoder,
            self.model,
            query,
            Scope(
                self.epsilon_at(query.site, distance) if epsilon is None else epsilon,
                distance or self.spec.distance,
                None if fixed is None else self.positions.finder(query.ids, fixed),
            ),
            count=count,
            settings=self.definition.pool if settings == "auto" else settings,
            each=each,
            seed=seed,
            report=report,
            found=found,
        )
        return self._noted(made, fixed)

    def _noted(self, made: Preimage, fixed: str | int | None = None) -> Preimage:
        """Return a preimage with this study and with notes of query and ε; see ``preimage.notes``."""
        notes, share, among = list(made.notes), None, ""
        if not self.bare:
            notes = [*notes, *outside_study(self.inputs, made.query, self.name)]
        if made.bits is not None and made.bits.hits:
            told = made.bits
            share, among = 2.0**-told.value, "the inputs" if made.source == "walk" else f"the {told.inputs:,} inputs searched"
        elif made.source == "decoder":
            notes = [*notes, *untrained_place(self.decoder, self.inputs, made.query)]
            located = None if fixed is None else self.positions.finder(made.query.ids, fixed)
            scope = Scope(made.epsilon, made.distance, located)
            share, among = random_share(self.model, self.inputs, made.query, scope)
        return replace(made, study=self, notes=(*notes, *too_wide(made, share, among)))

    def walk(
        self,
        query: Query,
        *,
        epsilon: float | None = None,
        distance: Distance | None = None,
        fixed: str | int | None = None,
        prior: Prior | None = None,
        beta: float = 1.0,
        keep: Sequence[str | int] = (),
        longer: int = 2,
        guided: bool = False,
        starts: Sequence[Preimage] = (),
        count: int = 100,
        report: Progress | None = None,
        found: Found | None = None,
        **settings: Any,
    ) -> Preimage:
        """Walk through the query's preimage by a Markov chain: needs neither decoder nor corpus, and every member is verified.

        It draws from π(x) ∝ p(x) · 1[D(z_q, x) ≤ ε] with p the distribution of the study's inputs or of the model. Replicas
        on a ladder of ε exchange states, so that all pieces of the preimage are reached, and tell the bits by splitting,
        however rare it is; for language models only where asked, they take long.

        Args:
            query: from ``query``.
            epsilon: threshold; by default the study's.
            distance: ``"euclidean"`` or ``"cosine"``; by default the study's.
            fixed: compare this position only, in place of the minimum over positions.
            prior: ``"study"``; ``"model"``, the model's own p(x)^β, uniform over lengths; ``"uniform"`` over all sequences. By
                default the study's where it has one, else the model's.
            beta: how much the model's prior weighs.
            keep: positions of the query's tokens that stay, as in ``query`` (priors ``"model"`` and ``"uniform"``).
            longer: a text may grow or shrink by so many tokens (likewise).
            guided: add a move that follows the gradient of D (likewise); worth it where texts are long.
            starts: preimages of the query from elsewhere, at whose members half of the chains begin.
            count: how many distinct samples to show at most.
            report: called with the share of the walk that is done, and a note.
            found: called with new members as they are found: tokens, D and the position where it is reached.
            settings: of ``WalkSettings``: ``seconds`` (10 or more if nothing else ends it), ``steps``, ``until_mixed``,
                ``chains``, ``exchange``, ``seed``, …; by default 256 chains and exchange for a study's prior, 32
                without it for a model's.

        Raises:
            SettingError: a setting is out of range.
            InputError: the query is no input of the study, or lies outside ε itself, where ``fixed`` is another position.
            UnknownPositionError: the query has no position ``fixed``.
        """
        chosen = prior or ("study" if self.has_prior else "model")
        target = self.target(query, distance, fixed, epsilon=epsilon)
        if chosen == "study":
            if keep or guided:
                raise SettingError("Kept tokens and guided moves belong to the priors 'model' and 'uniform': name one.")
            if why := self.inputs.why_not(query.ids):
                raise InputError(
                    f"{query.text!r} is no input of {self.name}: {why}. So it has probability 0 under the prior (study): mend "
                    "it, or name another prior (model or uniform)."
                )
            ground = study_ground(self.model, self.inputs, target)
        elif chosen in ("model", "uniform"):
            beta = beta if chosen == "model" else 0.0
            kept = [self.locate(query.ids, at) for at in keep]
            ground = language_ground(self.model, target, query.ids, longer, beta=beta, keep=kept, guided=guided)
        else:
            raise SettingError(f"There is no prior {chosen!r}: choose study, model or uniform.")
        chosen_settings = WalkSettings(**{**ground.settings, **settings})
        made = walked_preimage(
            self.model, query, ground, target, chosen_settings, prior=chosen, count=count, report=report,
            found=found, starts=[row[row != self.model.vocabulary.pad].tolist() for p in starts for row in _distinct(p.draws)],
        )  # fmt: skip
        return self._noted(made)

    @property
    def has_prior(self) -> bool:
        """Its inputs have a distribution of their own, that walks go by, and not the model's."""
        return self.definition.moves

    def target(
        self,
        query: Query,
        distance: Distance | None = None,
        fixed: str | int | None = None,
        *,
        epsilon: float | None = None,
    ) -> Target:
        """Return what a walk compares: the query's activation, within ε by a distance, at one position or the nearest of all.

        Raises:
            SettingError: there is no such distance.
            UnknownPositionError: the query has no position ``fixed``.
        """
        located = None if fixed is None else self.positions.finder(query.ids, fixed)
        within = self.epsilon_at(query.site, distance) if epsilon is None else epsilon
        return Target(query.z, query.site, Scope(within, check_distance(distance or self.spec.distance), located))

    def agree(
        self,
        query: Query,
        *,
        sources: Sequence[str] = ("walk", "corpus", "decoder"),
        epsilon: float | None = None,
        seconds: float = 30,
        bank: ActivationBank | str | Path | None = None,
        seed: int = 0,
        report: Progress | None = None,
    ) -> Agreement:
        """Compare what the sources say of the features inside a query's ε-preimage, at its own named position.

        Args:
            query: from ``query``.
            sources: of ``"walk"``, ``"corpus"``, ``"decoder"`` (samples at temperature 1) and ``"all"``, every input of a study
                that can be listed.
            epsilon: threshold; by default the study's.
            seconds: how long the walk may take; it ends as soon as it is mixed.
            bank: as in ``search``.
            seed: the same seed and a walk that ends by mixing give the same result.
            report: called with the share of the work that is done, and a note.

        Raises:
            SettingError: there is no such source, the inputs cannot be listed, or the position has no name.
        """
        limit = check_epsilon(self.epsilon_at(query.site) if epsilon is None else epsilon)
        tokens = np.array([query.ids])
        name = next((name for name, at in self._named(tokens).items() if at[0] == query.position), None)
        if name is None:
            raise SettingError(
                f"Position {query.position} has no name: sources are compared at " + ", ".join(self._named(tokens)) + "."
            )
        at: dict[str, Any] = {"epsilon": limit, "fixed": name, "seed": seed, "count": 1}
        make: dict[str, Callable[[], Preimage]] = {
            "walk": lambda: self._walked_to_its_end(query, seconds=seconds, until_mixed=True, report=report, **at),
            "corpus": lambda: self.search(query, bank=bank, **at),
            "decoder": lambda: self.preimage(query, settings=[Setting()], each=2000, **at),
        }
        unknown = [source for source in sources if source not in (*make, "all")]
        if unknown or ("all" in sources and self.inputs.corpus_size is None):
            said = f"There is no source {unknown[0]!r}" if unknown else f"The inputs of {self.name} have no end"
            raise SettingError(f"{said}: choose among walk, corpus and decoder and, where inputs can be listed, all.")
        made = {source: make[source]() for source in sources if source in make}
        found = {source: preimage.draws for source, preimage in made.items() if preimage.draws is not None}
        walked = made["walk"].walk if "walk" in made else None
        if walked is not None:  # as many of its draws as they are worth
            lot = np.random.default_rng((seed, 19)).permutation(len(found["walk"]))[: max(1, int(walked.ess))]
            found["walk"] = found["walk"][lot]
        if "all" in sources:
            found["all"] = self._listed(query, name, limit)
        found = {source: tokens[~is_query(tokens, query, self.inputs.pad)] for source, tokens in found.items()}
        mixed = None if walked is None else walked.mixed
        return agreement(self.inputs, query, Scope(limit, self.spec.distance), found, mixed, seed)

    def _walked_to_its_end(self, query: Query, **options: Any) -> Preimage:
        made = self.walk(query, **options)
        if made.walk is not None and made.walk.interrupted:
            raise KeyboardInterrupt  # which a walk takes for its end; a part of it can be compared with nothing
        return made

    def _listed(self, query: Query, name: str, epsilon: float) -> Ids:
        """Return every input of the study inside ε at a named position."""
        tokens = self.inputs.tokens(np.arange(len(self.inputs)))
        at = self._named(tokens)[name]
        tokens, at = tokens[at >= 0], at[at >= 0]
        z = self.model.harvest(tokens, [query.site], at[:, None])[0, :, 0]
        return tokens[(between(self.spec.distance, query.z, z) <= epsilon).numpy()]

    def evaluate(
        self, *, queries: int = 200, samples: int = 8, seed: int = 0, report: Progress | None = None
    ) -> dict[str, Any]:
        """Return the decoder's good ratio, ``{"mean": …, "sites": {"a0.0": …}}``, on held-out queries.

        ``queries`` queries a site, ``samples`` samples each at temperature 1, the study's ε and distance.
        """
        ratios = good_ratio(
            self.decoder, self.model, self.inputs, self.sites, scope=Scope(self.spec.epsilon, self.spec.distance),
            queries=queries, samples=samples, seed=seed, report=report,
        )  # fmt: skip
        by_site = {site.short: ratio for site, ratio in zip(self.sites, ratios, strict=True)}
        return {"mean": sum(ratios) / len(ratios), "sites": by_site}

    # -- interventions ------------------------------------------------------------------------------------------------

    def pairs(
        self,
        contrast: Contrast | None = None,
        *,
        target: str | None = None,
        changes: Sequence[str] | None = None,
        where: Sequence[str] = (),
        limit: int | None = None,
        seed: int = 0,
        report: Progress | None = None,
    ) -> Pairs:
        """Return originals and contrasts for activation patching.

        Args:
            contrast: a JSONL file of pairs, pairs of texts, or a function from a test input's text to a pair (``None`` to leave
                the text out); by default the study's own contrasts of its test set.
            target: for the study's own, as are those below: the answer token that a contrast changes, by default the first.
            changes: what may be changed to that end (``F1``, …), by default all.
            where: filters that original and contrast satisfy, such as ``"A1=1"``.
            limit: a random choice of so many inputs; by default all of the test split. Also for a function.
            seed: of the choice and the changes.
            report: called with the share of the inputs that have their contrast.

        Raises:
            SettingError: there is no such target, change or feature, nothing satisfies the filters, or no contrast is found.
            InputError: the study declares no contrasts; or a pair is not one.
        """
        if contrast is None:
            filters = parse_filters(where, feature_names(self.inputs)) if where else ()
            return study_pairs(
                self.inputs, target, changes=changes, filters=filters, limit=limit, seed=seed, report=report
            )  # fmt: skip
        if target is not None or changes is not None or where:
            raise SettingError(
                "Target, changes and filters belong to a study's own contrasts: leave them out with given pairs."
            )
        names: Sequence[str] = ()
        if callable(contrast):
            tokens, pad = held_out(self.inputs, (), limit, seed), self.model.vocabulary.pad
            texts = (self.model.vocabulary.decode(row[row != pad].tolist()) for row in tokens)
            contrast = [pair for text in texts if (pair := contrast(text)) is not None]
        elif isinstance(contrast, str | Path):
            contrast, names = read_pairs(Path(contrast))
        return text_pairs(contrast, self.model.encode, self.positions, names)

    def patch(
        self,
        activations: Sequence[str] | None = None,
        contrast: Contrast | Pairs | None = None,
        *,
        cumulative: Cumulative | None = None,
        seed: int = 0,
        report: Progress | None = None,
        **options: Any,
    ) -> Patching:
        """Replace activations of originals by those of contrasts, and see how far the logit difference of the answers falls.

        Args:
            activations: as ``POSITION:SITE``, ``"query:a0.0"``, ``"=:a*.*"``, ``"*:x0.pre"``, ``"F1:embed"``, in order; by
                default all heads at the position that predicts the answer.
            contrast: pairs, or how to make them; see ``pairs``.
            cumulative: ``"forward"``, ``"backward"`` or ``"both"``; by default each activation alone.
            seed: of the contrasts and the bootstrap.
            report: called with the share of the work that is done, and a note.
            options: of ``pairs``: ``target``, ``changes``, ``where``, ``limit``.

        Raises:
            SettingError, UnknownPositionError, UnknownSiteError, InputError: something named is not there; see ``pairs``.
        """
        for text in activations or ():  # mistakes are told before the pairs are made, not after
            parse_activations([text], self.model.sites, self._example)
        steps(1, cumulative)
        if isinstance(contrast, Pairs) and options:
            raise SettingError(f"Pairs are given: leave out {', '.join(options)}, which would make others.")
        pairs = contrast if isinstance(contrast, Pairs) else self.pairs(contrast, seed=seed, report=report, **options)
        named = parse_activations(activations or [f"{self._read_name(pairs)}:a*.*"], self.model.sites, self._example)
        settings = {"target": None if contrast is not None else options.get("target") or next(iter(self.inputs.answers), None),
                    "changes": options.get("changes"), "where": _texts(options.get("where", ())), "seed": seed}  # fmt: skip
        return patching(
            self.model, pairs, named, self.positions, cumulative=cumulative, study=self.name, settings=settings, seed=seed,
            report=report,
        )  # fmt: skip

    @property
    def _example(self) -> str:
        """An activation of this study, for errors that say how one is named."""
        return f"{self.spec.at}:{self.spec.site}"

    def _read_name(self, pairs: Pairs) -> str:
        """Return a name of the position where all pairs are read."""
        both = [(self._named(pairs.original), pairs.read), (self._named(pairs.contrast), pairs.contrast_read)]
        for name in both[0][0]:
            if all((named[name] == read).all() for named, read in both):
                return name
        if len({*pairs.read.tolist(), *pairs.contrast_read.tolist()}) == 1:
            return f"#{pairs.read[0]}"
        raise SettingError("The pairs are read at positions of different names: name the activations to patch.")

    def ablate(
        self,
        activations: Sequence[str],
        *,
        by: By = "mean",
        where: Sequence[str] = (),
        limit: int | None = None,
        seed: int = 0,
        report: Progress | None = None,
    ) -> Ablation:
        """Replace activations by their mean, by zero or by another input's, and see what is still predicted of each answer.

        Args:
            activations: as in ``patch``; each alone and, where there are several, all at once.
            by: ``"mean"``, ``"zero"`` or ``"resample"``.
            where: filters that the inputs satisfy.
            limit: a random choice of so many inputs; by default all of the test split.
            seed: of the choice, the resampling and the bootstrap.
            report: called with the share of the inputs that are done, and a note.

        Raises:
            SettingError, UnknownPositionError, UnknownSiteError: something named is not there.
        """
        named = parse_activations(activations, self.model.sites, self._example)
        filters = parse_filters(where, feature_names(self.inputs)) if where else ()
        tokens = held_out(self.inputs, filters, limit, seed)
        if self.inputs.answers:  # sentences that ask for nothing have no answer
            tokens = tokens[np.all([self.inputs.read_at(tokens, name) >= 0 for name in self.inputs.answers], axis=0)]
        reads = {name: self.inputs.read_at(tokens, name) for name in self.inputs.answers}
        answers = {name: self.inputs.answer_of(tokens, name) for name in reads} or None
        reads = reads or {"END": self._named(tokens)["END"]}
        return ablation(
            self.model, tokens, reads, named, self.positions, by=by, answers=answers, study=self.name, where=_texts(where),
            seed=seed, report=report,
        )  # fmt: skip

    def flow(
        self,
        target: str | None = None,
        *,
        bank: ActivationBank | str | Path | None = None,
        where: Sequence[str] = (),
        epsilon: float | None = None,
        distance: Distance | None = None,
        **options: Any,
    ) -> Flow:
        """Return the flow of information to an answer token: which site × position carries which feature, from where, and
        whether patching confirms it.

        Args:
            target: name of the answer token; by default the first.
            bank: as in ``search``.
            where: filters on the inputs, such as ``"A1=1"``.
            epsilon: threshold of the preimages; by default the study's.
            distance: by default the study's.
            options: ``queries``, ``limit``, ``least_attention``, ``least_effect``, ``seed`` and ``report`` of ``flow``.
        """
        check_target(self.inputs, target)
        scope = Scope(
            check_epsilon(self.spec.epsilon if epsilon is None else epsilon),
            check_distance(distance or self.spec.distance),
            OWN,
        )
        return flow(self.bank(bank), self.positions, target, where=where, study=self.name, scope=scope, **options)

    # -- heads ---------------------------------------------------------------------------------------------------------

    def heads(
        self, *, prompts: int = 300, anyway: bool = False, seed: int = 0, again: bool = False, report: Progress | None = None
    ) -> HeadTable:
        """Find the heads that matter for the task in this model, and their groups; see ``find_heads``.

        A result is kept in the run's folder or the user's cache, and read from there (or the package) when asked for again.

        Args:
            prompts: how many prompts of the test split.
            anyway: go on with a model that does not do the task.
            seed: of the choice of prompts.
            again: compute it, whatever is kept.
            report: called with the share of the work that is done, and a note.

        Raises:
            SettingError: ``prompts`` is below 1, ``seed`` below 0.
            InputError: the study's inputs have no IO, S1, S2 and END; or the model does not do the task.
            StorageError: the result could not be kept.
        """
        for known in () if again else self._kept_heads():
            if (known.prompts, known.seed) == (prompts, seed):
                check_task(known.model, prompts, known.accuracy, known.first, anyway)
                return known
        check_writable(self._heads_path)
        table = find_heads(
            self.model, self.inputs, self.positions, study=self.name, prompts=prompts, anyway=anyway, seed=seed, report=report
        )
        keep_heads(table, self._heads_path)
        return table

    @property
    def _heads_path(self) -> Path:
        return heads_cache(self.folder, self.model.fingerprint, self.inputs.fingerprint)

    def known_heads(self) -> HeadTable | None:
        """Return the heads that were found before, or are shipped for this model; ``None`` where neither is. Quick."""
        return next(iter(self._kept_heads()), None)

    def _kept_heads(self) -> list[HeadTable]:
        model, inputs = self.model.fingerprint, self.inputs.fingerprint
        both = read_heads(self._heads_path, model, inputs), shipped_heads(self.spec.inputs, model, inputs)
        return [table for table in both if table is not None]

    @property
    def named_heads(self) -> list[NamedHead]:
        """The heads that matter, as far as is known without computing: found before, shipped, or published; else none."""
        published = self.definition.published
        if published is None:
            return []
        known = self.known_heads()
        return published_heads(published, self.model.shape) if known is None else known.found

    # -- direct logit attribution -------------------------------------------------------------------------------------

    def attribute(
        self,
        query: Query | str,
        what: str | None = None,
        *,
        at: str | int | None = None,
        k: int | None = None,
        folded: bool = True,
    ) -> list[Attribution]:
        """Return the tokens whose logits activations at one position raise and lower most by themselves, one result for each.

        Args:
            query: from ``query``, whose input and position are meant; or a text.
            what: sites, patterns and differences of two states of the residual stream by commas, ``"a1.*,x1.post-x0.post"``;
                by default the query's own site, for a text the study's.
            at: of a text: as in ``query``.
            k: how many tokens either way; by default 30 as in Huang et al. 2024, or a tenth of a smaller vocabulary.
            folded: fold the last norm in, its scale frozen at this input, so that contributions are parts of the logits;
                otherwise the activation times W_U alone (Huang et al. 2024, Table 4).

        Raises:
            InputError: the text is empty, too long, or cannot be encoded.
            UnknownPositionError, UnknownSiteError: there is no such place.
            SettingError: ``at`` comes with a query, ``what`` or ``k`` is none, or the norm cannot be folded.
        """
        if isinstance(query, str):
            ids, position = self._located(query, at)
            return attribute(self.model, ids, position, what or self.spec.site, k=k, folded=folded)
        if at is not None:
            raise SettingError("A query has its position: leave at out, or give the text.")
        return attribute(self.model, query.ids, query.position, what or query.site.short, k=k, folded=folded)

    def rates(
        self,
        what: str | None = None,
        *,
        target: str | None = None,
        prompts: str | Path | None = None,
        among: str | Path | None = None,
        at: str | int | None = None,
        k: int | None = None,
        folded: bool = True,
        limit: int = 1000,
        seed: int = 0,
        report: Progress | None = None,
    ) -> RateTable:
        """Return how often activations promote and suppress the token expected next (Huang et al. 2024, Table 4).

        Args:
            what: as in ``attribute``; by default the study's site.
            target: the answer token that is expected, each input being read before it; by default the first.
            prompts: in place of the study's inputs, a JSONL file of ``{"text": …, "expected": …, "at": …}``.
            among: with prompts, a file of one word a line, the rivals of the expected one; by default all expected words.
            at: where prompts are read that do not say it; by default the study's position.
            k: as in ``attribute``.
            folded: as in ``attribute``.
            limit: so many inputs of the study's test split.
            seed: of their choice.
            report: called with the share of the readings, inputs × activations, that is done, and a note.

        Raises:
            InputError: there is no such target, or a line of a file cannot be used.
            UnknownPositionError, UnknownSiteError: there is no such place.
            SettingError: the study has no answers of its own, options do not belong together, or a setting is out of range.
        """
        if prompts is not None and target is not None:
            raise SettingError("A target belongs to a study's own inputs: leave the target or the prompts out.")
        if prompts is None and (at is not None or among is not None):
            raise SettingError(
                "A study's own inputs are read before the target, among all its answers: leave at and among out."
            )
        cases = self._own_cases(target, limit, seed) if prompts is None else self._prompt_cases(prompts, among, at)
        return rates(self.model, cases, what or self.spec.site, k=k, folded=folded, report=report)

    def _own_cases(self, target: str | None, limit: int, seed: int) -> Cases:
        if self.bare or not self.inputs.answers:
            raise SettingError(f"{self.name} has no answers of its own: attribute one text, or give prompts for rates.")
        return answer_cases(self.inputs, target or self.inputs.answers[0], limit, seed=seed)

    def _prompt_cases(self, prompts: str | Path, among: str | Path | None, at: str | int | None) -> Cases:
        rivals = None if among is None else Path(among)
        return prompt_cases(self.model, Path(prompts), self.locate, at=self.spec.at if at is None else at, among=rivals)

    # -- the corpus ---------------------------------------------------------------------------------------------------

    def build_bank(
        self, folder: str | Path | None = None, *, rows: int, report: Progress | None = None, **options: Any
    ) -> ActivationBank:
        """Harvest a bank of the study's corpus, or what lacks of it; see ``bank.harvest.build_bank`` for the options.

        Args:
            folder: where to; by default the user's cache, where later searches find it.
            rows: how many inputs.
            report: called with the share of the inputs that is done, and a note.
            options: ``sites``, ``positions``, ``precision``, ``rank``, ``world``.
        """
        return build_bank(
            folder or finding.cached(self.model, self.inputs, rows), self.model, self.inputs, rows=rows, report=report,
            **{"sites": self.sites, "distance": self.spec.distance, **options},
        )  # fmt: skip

    def bank(
        self,
        folder: ActivationBank | str | Path | None = None,
        *,
        report: Progress | None = None,
        begin: BeginBank | None = None,
    ) -> ActivationBank:
        """Return the bank to search: in ``folder``, in the run's folder, the largest in the user's cache, or a new one.

        Args:
            folder: a bank, its folder, or a run's folder that holds one.
            report: called with the share of the inputs that is done, and a note, where a bank must be built first.
            begin: called before that, with its folder and size.

        Raises:
            BankError, MismatchError: the bank in ``folder`` is missing, damaged, unfinished or another model's.
        """
        if isinstance(folder, ActivationBank):
            folder.check(self.model, self.inputs)
            return folder
        if folder is not None:
            path = Path(folder)
            return ActivationBank.open(path / "bank" if (path / "bank").is_dir() else path, self.model, self.inputs)
        if self.known_bank() is None:
            rows = min(self.spec.rows, self.inputs.corpus_size or self.spec.rows)
            if begin is not None:
                begin(finding.cached(self.model, self.inputs, rows), rows)
            self._bank = self.build_bank(rows=rows, report=report)
        assert self._bank is not None
        return self._bank

    def check_bank(self, folder: str | Path | None = None, *, report: Progress | None = None) -> ActivationBank:
        """Read a bank whole, in ``folder``, the run's or the user's cache, and return it if it is as it was written.

        Raises:
            BankError, MismatchError: there is none, or it is damaged, unfinished or another model's.
        """
        given = None if folder is None else Path(folder)
        own = given or (self.folder / "bank" if self.folder else Path())
        inner = own / "bank" if given is not None and (own / "bank").is_dir() else own
        kept = [inner] if given is not None or (self.folder and finding.begun(own)) else finding.kept(self.model, self.inputs)
        if not kept:
            raise BankError(f"{self.name} has no bank yet: build one with `inversionview bank`.")
        return finding.check(kept[0], self.model, self.inputs, report)

    def known_bank(self) -> ActivationBank | None:
        """Return the bank that is searched unless another is named, ``None`` where none was built yet.

        Raises:
            BankError, MismatchError: the bank in the run's folder is damaged, unfinished or another model's.
        """
        if self._bank is None:
            self._bank = finding.find(self.model, self.inputs, [self.folder / "bank"] if self.folder else [])
        return self._bank

    def search(
        self,
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
        searched = self.bank(bank)
        made = corpus_preimage(
            searched,
            query,
            Scope(
                self.epsilon_at(query.site, distance) if epsilon is None else epsilon,
                distance or self.spec.distance,
                None if fixed is None else held_names(searched, self.positions, query, fixed),
            ),
            k=k,
            count=count,
            approximate=approximate,
            seed=seed,
            **options,
        )
        return self._noted(made)

    def common(self, preimage: Preimage) -> Told | None:
        """Return what all the inputs inside ε have in common, feature by feature, with intervals; see ``analysis.common``.

        ``None`` for a model alone, and for a preimage merged of several sources.
        """
        if self.bare:
            return None
        query = preimage.query
        names = [name for name, at in self.positions.names(query.ids).items() if at == query.position]
        return told(self.inputs, preimage, self.truth if preimage.source == "decoder" else None, names)

    def inform(
        self,
        *,
        bank: ActivationBank | str | Path | None = None,
        epsilon: float | None = None,
        distance: Distance | None = None,
        fixed: bool = False,
        **options: Any,
    ) -> FeatureTable:
        """Return how many bits every site tells at every position, and about which features.

        Args:
            bank: to search, or its folder; by default as in ``search``.
            epsilon: threshold; by default the study's.
            distance: by default the study's.
            fixed: compare at the query's own position only, in place of the minimum over the bank's positions.
            options: ``queries``, ``sites``, ``positions``, ``features``, ``extra``, ``where``, ``seed`` and
                ``report`` of ``feature_information``.
        """
        within = self.spec.epsilon if epsilon is None else epsilon
        scope = Scope(within, distance or self.spec.distance, OWN if fixed else None)
        return feature_information(self.bank(bank), study=self.name, scope=scope, **options)

    def against_truth(self, *, bank: ActivationBank | str | Path | None = None, **options: Any) -> list[SiteTruth]:
        """Return for each site how the decoder's samples compare with exact preimages: good ratio, recall, KL by feature.

        Args:
            bank: to search, or its folder; by default as in ``search``.
            options: ``queries``, ``samples``, ``seed`` and ``report`` of ``decoder_against_truth``.
        """
        scope = Scope[Any](self.spec.epsilon, self.spec.distance)
        return decoder_against_truth(self.decoder, self.bank(bank), self.sites, scope=scope, **options)

    def keep_truth(self, sites: Sequence[SiteTruth], bank: ActivationBank, *, samples: int = 128, seed: int = 0) -> Path:
        """Keep what ``against_truth`` found beside the decoder, so that readings tell its bias.

        Args:
            sites: what was found.
            bank: against which.
            samples: as they were asked for.
            seed: likewise.

        Raises:
            StorageError: it cannot be written.
        """
        made = Truth(
            decoder=weights_of(self.decoder_path), epsilon=self.spec.epsilon, distance=self.spec.distance,
            positions=tuple(bank.manifest.positions), inputs=len(bank), samples=samples, seed=seed, sites=tuple(sites),
        )  # fmt: skip
        self.__dict__.pop("truth", None)
        return made.keep(self.decoder_path)

    def interpret(
        self,
        queries: int | Sequence[str] = 10,
        site: str | Sequence[str | Site] | None = None,
        at: str | Sequence[str] | None = None,
        *,
        client: Client | None = None,
        bank: ActivationBank | str | Path | None = None,
        epsilon: float | None = None,
        distance: Distance | None = None,
        fixed: bool = False,
        gap: float = GAP,
        seed: int = 0,
        confirm: Confirm | None = None,
        report: Progress | None = None,
    ) -> Interpretations:
        """Say in sentences what sites encode at positions, and score whether it is true.

        Args:
            queries: so many random inputs of the bank at each site and position, or texts.
            site: one, several or patterns over the bank's sites; by default the study's, ``"*"`` is all.
            at: one or several named positions; by default the study's, ``"*"`` is all of the bank's.
            client: a language model that writes the statements; without one they are made from the study's features.
            bank: as in ``search``.
            epsilon: threshold; by default the study's.
            distance: by default the study's.
            fixed: compare at the queries' own position only, in place of the minimum over the bank's positions.
            gap: inputs outside, which a statement is tested on, begin at ``gap`` · ε.
            seed: of the choice of queries and the bootstrap.
            confirm: called with the estimate of what a language model will be asked, before it is.
            report: called with the share of the work that is done, and a note.

        Raises:
            SettingError, UnknownSiteError, UnknownPositionError, InputError: something named is not there, or out of range.
            BudgetError: the estimate exceeds the client's budget.
            EndpointError: the language model cannot be asked at all.
        """
        searched = self.bank(bank)
        sites = expand(self.spec.site if site is None else site, searched.sites)
        names = self.spec.at if at is None else at
        positions = [searched.manifest.positions[p] for p in searched.position_numbers(None if names == "*" else names)]
        texts = None if isinstance(queries, int) else tuple(tuple(self.model.encode(text)) for text in queries)
        scope = Scope(
            check_epsilon(self.spec.epsilon if epsilon is None else epsilon),
            check_distance(distance or self.spec.distance),
            OWN if fixed else None,
        )
        return interpret(
            searched, codes_of(searched), study=self.name, cells=[(each, name) for name in positions for each in sites],
            queries=Queries(queries if isinstance(queries, int) else len(queries), seed, texts), scope=scope, gap=gap,
            client=client, confirm=confirm, report=report,
        )  # fmt: skip

    # -- all inputs ---------------------------------------------------------------------------------------------------

    def random_queries(
        self, count: int, *, at: str | int | None = None, site: str | Site | None = None, seed: int = 0
    ) -> list[Query]:
        """Draw queries from the test split, each at a random site and position that a decoder is trained on.

        ``at`` and ``site`` fix either; inputs that lack the position are passed over.

        Raises:
            SettingError: ``count`` is below 1.
            UnknownSiteError, UnknownPositionError: there is no such place.
        """
        check_seed(seed)
        each = 4 * 8 * 6 * self.inputs.max_length + 4 * self.model.shape.d_model + _QUERY_BYTES
        check_memory(whole(count, "The number of queries"), "queries", each)
        sites = self.sites if site is None else [find_site(site, self.model.sites)]
        rng, found = np.random.default_rng((seed, 7)), []
        tokens = self.inputs.draw(max(100, 4 * count), split="test", seed=(seed, 8))
        for row, allowed in zip(tokens, self.inputs.trained_positions(tokens), strict=True):
            ids = row[row != self.inputs.pad].tolist()
            try:
                position = int(rng.choice(np.flatnonzero(allowed))) if at is None else self.locate(ids, at)
            except UnknownPositionError as error:
                missing = error
                continue
            found.append(self._read(ids, position, sites[rng.integers(len(sites))]))
            if len(found) == count:
                return found
        raise missing

    def complete(
        self,
        queries: Sequence[Query] | int = 8,
        *,
        epsilon: float | None = None,
        distance: Distance | None = None,
        variants: Sequence[Setting] = VARIANTS,
        draws: int = 8,
        quick: bool = False,
        limit: int | None = None,
        seed: int = 0,
        report: Progress | None = None,
    ) -> list[Completeness]:
        """Compare log p(x ∣ z_q) with D(z_q, x) for every input of the study; see ``completeness``.

        ``queries`` may be a number: then so many of ``random_queries``.
        """
        asked = self.random_queries(queries, seed=seed) if isinstance(queries, int) else queries
        return completeness(
            self.decoder, self.model, self.inputs, asked,
            Scope(self.spec.epsilon if epsilon is None else epsilon, distance or self.spec.distance),
            variants=variants, draws=draws, quick=quick, limit=limit, seed=seed, report=report,
        )  # fmt: skip

    def texts(self, result: Completeness, places: Ids) -> list[str]:
        """Return some of a result's inputs as text."""
        pad = self.model.vocabulary.pad
        return [self.model.vocabulary.decode(ids[ids != pad].tolist()) for ids in self.inputs.tokens(result.rows[places])]

    def threshold(
        self,
        query: Query,
        *,
        epsilons: Sequence[float] = (),
        distance: Distance | None = None,
        limit: int | None = None,
        seed: int = 0,
        report: Progress | None = None,
    ) -> Threshold:
        """Show how the reading of a query depends on ε, over every input of the study; see ``threshold_study``."""
        return threshold_study(
            self.model, self.inputs, query, Scope(self.epsilon_at(query.site, distance), distance or self.spec.distance),
            epsilons=epsilons, limit=limit, seed=seed, report=report,
        )  # fmt: skip


def _texts(filters: str | Sequence[str]) -> list[str]:
    return [filters] if isinstance(filters, str) else list(filters)


def _distinct(draws: Ids | None) -> Ids:
    return np.empty((0, 0), dtype=np.int64) if draws is None else np.unique(draws, axis=0)


def load(
    name: str | Path | None = None,
    *,
    model: str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Study:
    """Load a study by its name, a run by its folder, or a model alone, which is read by walks.

    Args:
        name: ``"counting"``, ``"addition"``, ``"ioi"``, ``"facts"`` or the folder of a run; ``None`` for a model alone.
        model: of ``counting`` and ``addition`` another checkpoint of the same vocabulary; of ``ioi`` and ``facts`` any language
            model, by default SmolLM2-135M; alone any causal LM, read with the cosine distance.
        device: where to run.
        dtype: of the weights; by default the run's, else float32.
        options: of a language model's study, for its inputs: ``names`` of ``ioi``; ``facts`` of ``facts``, a
            file of the user's own, of COUNTERFACT, or a folder of BEAR.

    Raises:
        UnknownStudyError: there is neither a study nor a run of that name.
        WeightsError: the model cannot be loaded, or its vocabulary is another.
        InputError: the model's tokenizer, or an option, does not do for the study.
        SettingError: options are given to a study that has none.
    """
    if name is None:
        if model is None:
            raise UnknownStudyError(f"Name a study ({', '.join(STUDIES)}), the folder of a run, or a model.")
        probed = ProbedModel.from_pretrained(model, device=device, dtype=dtype or torch.float32)
        every = [site.short for site in probed.sites]
        return Study(
            str(model), StudySpec(inputs="none", model=str(model), sites=every, site=every[-1], distance="cosine"), probed
        )
    text = str(name)
    spec, run = stated(name)
    if run is not None and not model:
        check_model(spec, run)
    definition = defined(spec.inputs)
    if options and not definition.options:
        raise SettingError(f"The inputs of {text} have no options: leave out {', '.join(options)}.")
    default = not (model or spec.model)
    if definition.ships_model and default:
        check_shipped(f"{definition.name}/model")
    shipped = Vocabulary.from_folder(shipped_path(definition.name, "model")) if definition.ships_model else None
    probed = ProbedModel.from_pretrained(
        definition.default_model() if default else model or spec.model,
        device=device, dtype=dtype or PRECISIONS[spec.dtype], vocabulary=shipped,
    )  # fmt: skip
    if default:
        probed.name = definition.default_name
    if definition.ships_model:
        check_vocabulary(probed, definition)
    spec = spec.model_copy(
        update={"options": {**spec.options, **definition.kept_options(options)}, "site": spec.site or _last(spec, probed)}
    )
    if run is not None and begun_before(run, probed.vocabulary):
        probed.vocabulary.begin(probed.vocabulary.former or 0)
    study = Study(text, spec, probed, run)
    if definition.any_model:
        longest = study.inputs.max_length  # what does not do for this model is told now
        if longest > probed.shape.max_length:
            raise InputError(
                f"The longest input of {text} has {longest} tokens, the model reads {probed.shape.max_length}: leave long ones "
                "out."
            )
        if isinstance(study.inputs, FactsInputs):
            study.inputs.known = kept_known(probed, study.inputs)
    return study


def _last(spec: StudySpec, model: ProbedModel) -> str:
    return expand(spec.sites, model.sites)[-1].short


def check_vocabulary(model: ProbedModel, definition: Definition) -> None:
    """Raise ``WeightsError`` unless the model has the vocabulary of a study that ships one, in its order."""
    wanted = definition.inputs(model, {})
    if model.vocabulary.tokens[: wanted.pad + 1] != wanted.vocabulary or model.shape.max_length < wanted.max_length:
        raise WeightsError(
            f"{model.name} is not a model of the {definition.name} study: its vocabulary must be "
            f"{''.join(wanted.vocabulary)}, in this order, and it must read {wanted.max_length} tokens."
        )

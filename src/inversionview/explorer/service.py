"""What the explorer asks of a study: functions that return models of ``contract``; no web here.

The numbers are those of the library: each function calls the same method of ``Study`` as the command line does. Long work calls
``report`` again and again; what that raises ends the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from inversionview import information
from inversionview.analysis.common import Told, background
from inversionview.analysis.heads import GROUPS, NONE
from inversionview.analysis.patching import PatchedRuns, parse_activations
from inversionview.bank.search import search
from inversionview.contrasts import Pairs, check_target, contrasted
from inversionview.decoder.evaluation import good_shares
from inversionview.errors import InputError, MismatchError, SettingError, WeightsError
from inversionview.explorer import contract
from inversionview.explorer.banks import bank_of, holds, lacking
from inversionview.inputs import Ids, Inputs
from inversionview.preimage.completeness import VARIANTS
from inversionview.preimage.core import Preimage, Query, Sample
from inversionview.preimage.sampled import AUTO, Setting
from inversionview.preimage.walked import measured
from inversionview.progress import Progress
from inversionview.scope import Distance
from inversionview.scopes import Scope
from inversionview.study import Study

Source = Literal["decoder", "corpus", "walk"]
Rows = Callable[[list[contract.Sample], list[list[contract.Value]]], None]
"""Called with samples and the values of their features as they are measured."""
MOST_POINTS = 4000
_VERIFIED = 64
"""Sites of a map, at most, of which what lies near ε is measured again in the model."""
_ORDER = {group: number for number, group in enumerate((*GROUPS, NONE))}
_EXAMPLES = 8
_EACH = 64
"""Candidates of each of the pool's settings; one setting alone has as many as the pool has together."""
_RATIO = {"queries": 25, "samples": 8}
_EXACT = {"corpus": 0, "walk": 1, "decoder": 2}
_BARE_TEXT = "When Mary and John went to the store, John gave a drink to"


def identifier(study: Study) -> str:
    """Return what addresses and readings call a study: its name, of a path the last part."""
    return Path(study.name).name


# -- studies and places -----------------------------------------------------------------------------------------------


def study_info(study: Study, id: str | None = None) -> contract.StudyInfo:
    """Return what can be read of a study, and how."""
    shape, inputs = study.model.shape, None if study.bare else study.inputs
    known = sources(study)
    return contract.StudyInfo(
        id=id or identifier(study),
        name=study.name,
        model=study.model.name,
        layers=len(shape.heads),
        heads=list(shape.heads),
        parallel=shape.parallel,
        sites=[
            contract.SiteInfo(
                short=s.short, latex=s.latex, hook=s.hook, layer=s.layer, kind=s.kind, head=s.head, epsilon=study.epsilon_at(s)
            )
            for s in study.sites
        ],
        positions=study.position_names,
        default=contract.Default(text=_first_text(study), at=study.spec.at, site=study.spec.site),
        distance=study.spec.distance,
        epsilon=study.spec.epsilon,
        sources=known,
        features=[] if inputs is None else list(background(inputs).columns),
        enumerable="decoder" in known,
        targets=[] if inputs is None else list(inputs.answers),
        changes=[] if inputs is None else list(inputs.changes),
        heads_named=[
            contract.HeadNamed(site=head.site, position=head.position, group=head.group)
            for head in sorted(study.named_heads, key=lambda head: _ORDER.get(head.group, 0))
        ],
        lacking=lacking(study),
    )


def sources(study: Study) -> list[Source]:
    """Return what can make a preimage of the study, the exact one first: its corpus, its decoder if it has one, and a walk.

    The corpus comes last while a bank lacks that takes long to build, so that nothing is read from it by default.
    """
    if study.bare:
        return ["walk"]
    try:
        study.decoder  # noqa: B018
        others: list[Source] = ["decoder", "walk"]
    except (WeightsError, MismatchError):
        others = ["walk"]
    return ["corpus", *others] if lacking(study) is None else [*others, "corpus"]


def first_source(study: Study, query: Query, fixed: str | None = None, drawn: bool = False) -> Source:
    """Return what reads a query unless another source is named: the decoder where it is told how to draw, else the first of
    ``sources`` that can.

    The corpus can where its bank holds the site and the named position, or will hold them once it is built, which takes
    seconds; a decoder where it was trained on the site; a walk always.
    """
    if drawn:
        return "decoder"
    for source in sources(study):
        if source == "corpus" and (lacking(study) is not None or not holds(study, query, fixed)):
            continue
        if source == "decoder" and query.site.short not in study.decoder.config.sites:
            continue
        return source
    return "walk"


def _first_text(study: Study) -> str:
    """Return an input to begin with."""
    if study.spec.text:
        return study.spec.text
    vocabulary = study.model.vocabulary
    if not study.bare:
        row = study.inputs.draw(1, split="test", seed=(0, 8))[0]
        return vocabulary.decode(row[row != study.inputs.pad].tolist())
    try:
        study.model.encode(_BARE_TEXT)
    except InputError:  # a vocabulary of its own
        return vocabulary.decode([i for i in range(vocabulary.size) if i not in vocabulary.special][:8])
    return _BARE_TEXT


def place(study: Study, text: str, at: str | int | None = None) -> contract.Place:
    """Return an input's tokens and the position that ``at`` means, by default the study's.

    Raises:
        InputError: the text is empty, too long, or cannot be encoded.
        UnknownPositionError: there is no such position.
    """
    ids = study.model.encode(text)
    return _place(study, ids, study.locate(ids, study.spec.at if at is None else at))


def random_place(study: Study, seed: int = 0) -> contract.Place:
    """Return a random input of the test split, at the study's position.

    Raises:
        InputError: the study is a model alone, without inputs.
    """
    row = study.inputs.draw(1, split="test", seed=(seed, 8))[0]
    ids = row[row != study.inputs.pad].tolist()
    return _place(study, ids, study.locate(ids, study.spec.at))


def _place(study: Study, ids: Sequence[int], position: int) -> contract.Place:
    vocabulary = study.model.vocabulary
    return contract.Place(
        text=vocabulary.decode(ids), tokens=vocabulary.strings(ids), ids=list(ids), position=position,
        names=study.positions.names(ids), bos=vocabulary.bos is not None,
    )  # fmt: skip


def attention(query: Query) -> contract.Attention:
    """Return how much the query's head attends to each token.

    Raises:
        SettingError: the site is no head.
    """
    if query.attention is None:
        raise SettingError(f"{query.site} is no head and attends to nothing: choose a head, such as a0.0.")
    return contract.Attention(site=query.site.short, position=query.position, weights=list(query.attention))


def warm(study: Study) -> None:
    """Do ahead what the first reading would wait for: features of many inputs, opening the bank if there is one."""
    study_info(study)
    information.bits(1, 2)
    if not study.bare and study.known_bank() is not None:
        query = study.query(_first_text(study))
        features(study, query, study.search(query, count=1, keep=0).samples)


# -- readings ----------------------------------------------------------------------------------------------------------


def reading(study: Study | None, preimage: Preimage, id: str | None = None, parts: Sequence[Preimage] = ()) -> contract.Reading:
    """Return a preimage with all that a panel shows beside it; without its study no named positions and no features.

    Of a preimage that was merged, ``parts`` are those of single sources; features are told from the most exact of them.
    """
    exact = min(parts or [preimage], key=lambda part: _EXACT.get(part.source, len(_EXACT)))
    query = preimage.query
    names = {} if study is None else study.positions.names(query.ids)
    tokens, ids = list(query.tokens), list(query.ids)
    place = contract.Place(text=query.text, tokens=tokens, ids=ids, position=query.position, names=names, bos=query.bos)
    return contract.Reading(
        version=1,
        study=id or (query.model if study is None else identifier(study)),
        place=place,
        site=query.site.short,
        preimage=contract.Preimage.model_validate(preimage.to_json()),
        features=None if study is None else features(study, query, preimage.samples, study.common(exact)),
    )


def read(
    study: Study,
    query: Query,
    *,
    source: Source | Literal["all"] | None = None,
    epsilon: float | None = None,
    distance: Distance | None = None,
    count: int = 100,
    seed: int = 0,
    temperature: float | None = None,
    noise: float = 0.0,
    fixed: str | None = None,
    seconds: float = 5.0,
    report: Progress | None = None,
    rows: Rows | None = None,
    id: str | None = None,
) -> contract.Reading:
    """Read an activation.

    Args:
        study: the study.
        query: from ``Study.query``.
        source: ``"decoder"``, ``"corpus"``, ``"walk"``, or ``"all"`` that can be read now, merged; by default the
            first that can read this query, see ``first_source``.
        epsilon: threshold; by default the study's.
        distance: by default the study's.
        count: samples at most; ``"all"`` shares them out evenly.
        seed: the same seed gives the same reading, except where the walk ends by time.
        temperature: of the decoder; by default a pool of several.
        noise: with a decoder: on the activation, in units of std(z).
        fixed: compare this position only.
        seconds: how long the walk goes.
        report: called with the share of the work that is done, and a note.
        rows: called with samples as they are measured; at most ``count`` of each source. What is returned may have others.
        id: what the reading calls the study.

    Raises:
        SettingError: the study has no such source, or a setting is out of range.
        BankError: the corpus' bank lacks, and takes long to build.
        InversionViewError: see ``Study.preimage``, ``Study.search`` and ``Study.walk``.
    """
    known = sources(study)
    now: list[Source] = [each for each in known if each != "corpus" or (lacking(study) is None and holds(study, query, fixed))]
    chosen = now if source == "all" else [source or first_source(study, query, fixed, temperature is not None or noise > 0)]
    if chosen[0] not in known:
        raise SettingError(f"{study.name} has no source {chosen[0]!r}: choose {', '.join(known)}.")
    asked = _Asked(study, query, epsilon, distance, -(-count // len(chosen)), seed, fixed, len(chosen), report, rows)
    made: list[Preimage] = []
    for number, each in enumerate(chosen):
        asked.begin(number, each)
        if each == "decoder":
            made.append(asked.decoder(temperature, noise))
        else:
            made.append(asked.corpus() if each == "corpus" else asked.walk(seconds))
    return reading(study, merged(made, count) if source == "all" else made[0], id, made)


@dataclass
class _Asked:
    """What every source is asked."""

    study: Study
    query: Query
    epsilon: float | None
    distance: Distance | None
    count: int
    seed: int
    fixed: str | None
    sources: int
    told: Progress | None
    rows: Rows | None
    done: int = 0
    source: str = ""

    def begin(self, done: int, source: Source) -> None:
        """Go on to the next source."""
        self.done, self.source = done, source
        if self.told is not None:
            self.told(done / self.sources, source)

    @property
    def report(self) -> Progress | None:
        """Report over all sources."""
        return None if self.told is None else self._tell

    def _tell(self, share: float, note: str) -> None:
        assert self.told is not None
        self.told((self.done + share) / self.sources, f"{self.source}: {note}" if note else self.source)

    @property
    def _where(self) -> dict[str, Any]:
        names = ("epsilon", "distance", "count", "seed", "fixed")
        return {name: getattr(self, name) for name in names}

    def decoder(self, temperature: float | None, noise: float) -> Preimage:
        settings: Sequence[Setting] | Literal["auto"] = "auto"
        each = _EACH
        if temperature is not None or noise:
            settings, each = [Setting(1.0 if temperature is None else temperature, noise)], _EACH * len(AUTO)
        found = None if self.rows is None else self._show
        return self.study.preimage(self.query, settings=settings, each=each, report=self.report, found=found, **self._where)

    def corpus(self) -> Preimage:
        bank = bank_of(self.study, self.report)
        return self.study.search(self.query, bank=bank, found=None if self.rows is None else self._show, **self._where)

    def walk(self, seconds: float) -> Preimage:
        found = None if self.rows is None else _Members(self).take
        return self.study.walk(self.query, seconds=seconds, report=self.report, found=found, **self._where)

    def _show(self, samples: Sequence[Sample]) -> None:
        assert self.rows is not None
        values = features(self.study, self.query, samples)
        shown = [contract.Sample.model_validate(s.to_json()) for s in samples]
        self.rows(shown, [[]] * len(shown) if values is None else values.values)


class _Members:
    """Shows the first members that a walk finds, run through the model again for the distances of all their tokens."""

    def __init__(self, asked: _Asked) -> None:
        self.asked, self.left = asked, asked.count

    def take(self, tokens: Ids, distances: npt.NDArray[np.float64], positions: Ids) -> None:
        some, self.left = tokens[: self.left], self.left - min(self.left, len(tokens))
        if len(some):
            asked = self.asked
            target = asked.study.target(asked.query, asked.distance, asked.fixed, epsilon=asked.epsilon)
            asked._show(measured(asked.study.model, target, some, np.ones(len(some), np.int64)))


def merged(preimages: Sequence[Preimage], count: int) -> Preimage:
    """Return the preimages of several sources as one: every input once, as the first source has it, by distance.

    The bits are those of the first source that tells them, the corpus before the walk.
    """
    samples = {sample.ids: sample for preimage in reversed(preimages) for sample in preimage.samples}
    every = replace(
        preimages[0],
        samples=tuple(sorted(samples.values(), key=lambda sample: sample.distance)),
        candidates=sum(p.candidates for p in preimages),
        source="all",
        bits=next((p.bits for p in preimages if p.bits is not None), None),
        walk=next((p.walk for p in preimages if p.walk is not None), None),
        notes=tuple(dict.fromkeys(note for p in preimages for note in p.notes)),
        draws=None,
        inside_count=None,
        distinct=None,
    )
    return every if len(every) <= count else every.choice(count)


# -- features ---------------------------------------------------------------------------------------------------------


def features(study: Study, query: Query, samples: Sequence[Sample], told: Told | None = None) -> contract.Features | None:
    """Return the features of the query and of samples, and what is told of all inside ε; ``None`` for a model alone.

    ``prior`` and ``entropy`` are over 20,000 random inputs of the study.
    """
    if study.bare:
        return None
    inputs = study.inputs
    tokens = _padded([query.ids, *(sample.ids for sample in samples)], inputs)
    columns = {name: values.tolist() for name, values in inputs.features(tokens).items()}
    known, of_query = background(inputs), {name: values[0] for name, values in columns.items()}
    return contract.Features(
        names=list(columns),
        query=of_query,
        prior={name: float((values == of_query[name]).mean()) for name, values in known.columns.items()},
        entropy=known.entropy,
        values=[list(row) for row in zip(*columns.values(), strict=True)][1:],
        inside=None if told is None else _inside(told),
    )


def _inside(told: Told) -> contract.Inside:
    names = contract.FeatureInside.model_fields
    listed = [contract.FeatureInside(**{name: getattr(one, name) for name in names}) for one in told.features]
    return contract.Inside(**{**vars(told), "features": listed})


def _padded(rows: Sequence[Sequence[int]], inputs: Inputs) -> Ids:
    """Return rows of ids, padded on the right, at least as wide as the longest input."""
    out = np.full((len(rows), max(inputs.max_length, *map(len, rows))), inputs.pad, dtype=np.int64)
    for i, ids in enumerate(rows):
        out[i, : len(ids)] = ids
    return out


# -- the map ----------------------------------------------------------------------------------------------------------


def bits_map(
    study: Study,
    text: str,
    at: str | int | None = None,
    *,
    epsilon: float | None = None,
    distance: Distance | None = None,
    report: Progress | None = None,
) -> contract.Map:
    """Return how many bits each site tells at a position of an input, as ``Study.search`` says them.

    All activations come from one forward pass; a site that the bank lacks is not read, and has no value. Of more than 64 sites,
    the distances that the bank stores are taken as they are, to within the rounding of fp16: see ``search``.

    Raises:
        BankError: the bank lacks, and takes long to build.
    """
    bank, here = bank_of(study, report), place(study, text, at)
    held = [site for site in study.sites if site in bank.sites]
    z = study.model.activations(torch.tensor([here.ids]), held, torch.tensor([[here.position]]))[:, 0].float().cpu()
    within, metric = study.spec.epsilon if epsilon is None else epsilon, distance or study.spec.distance
    own, told = bank.rows_of(here.ids), {}
    for number, site in enumerate(held):
        if report is not None:
            report(number / len(held), site.short)
        hits = next(search(bank, site, z[number], epsilon=within, distance=metric, verify=len(held) <= _VERIFIED))
        told[site] = information.bits(int((~np.isin(hits.rows, own)).sum()), len(bank) - len(own))
    cells = [_cell(site.short, told.get(site)) for site in study.sites]
    return contract.Map(kind="bits", position=here.position, epsilon=within, distance=metric, cells=cells)


def _cell(site: str, bits: information.Bits | None) -> contract.Cell:
    if bits is None:
        return contract.Cell(site=site, value=None, low=None, high=None)
    return contract.Cell(site=site, value=bits.value, low=bits.low, high=bits.high, hits=bits.hits, inputs=bits.inputs)


def ratio_map(study: Study, text: str, at: str | int | None = None, *, report: Progress | None = None) -> contract.Map:
    """Return the decoder's good ratio of each site at the study's ε, with a 95 % interval over 25 held-out queries a site.

    It belongs to the study, not to the input; it is measured once.
    """
    position = place(study, text, at).position
    if study not in _RATIOS:

        def measured(share: float, _: str) -> None:
            if report is not None:
                report(share, "measuring the decoder's good ratio, once")

        measured(0, "")
        shares, _ = good_shares(
            study.decoder, study.model, study.inputs, study.sites, scope=Scope(study.spec.epsilon, study.spec.distance),
            report=measured, **_RATIO,
        )  # fmt: skip
        _RATIOS[study] = information.means(shares.T)
    told = zip(study.sites, _RATIOS[study], strict=True)
    cells = [contract.Cell(site=site.short, value=m.value, low=m.low, high=m.high) for site, m in told]
    where = study.spec
    return contract.Map(kind="ratio", position=position, epsilon=where.epsilon, distance=where.distance, cells=cells)


_RATIOS: WeakKeyDictionary[Study, list[information.Mean]] = WeakKeyDictionary()


# -- what confirms ----------------------------------------------------------------------------------------------------


def default_target(study: Study, query: Query) -> str:
    """Return the first answer that is predicted at the query's position or behind it, else the first.

    Raises:
        InputError: the study declares no answers.
    """
    inputs, own = study.inputs, np.array([query.ids])
    return next((a for a in inputs.answers if inputs.read_at(own, a)[0] >= query.position), check_target(inputs, None))


def query_pairs(study: Study, query: Query, target: str, *, count: int = 64, seed: int = 0) -> Pairs:
    """Return pairs for patching whose originals are all the query's input, with random contrasts of another answer.

    Args:
        study: the study.
        query: from ``Study.query``.
        target: the answer that changes.
        count: how many pairs.
        seed: of the contrasts.

    Raises:
        InputError: the study declares no contrasts, or the query is none of its inputs.
        SettingError: there is no such target, or no contrast is found.
    """
    inputs = study.inputs
    own = _padded([query.ids], inputs)
    check_target(inputs, target)
    if len(query.ids) > inputs.max_length or not np.isfinite(inputs.log_prior(own)[0]):
        why = inputs.why_not(query.ids) or "its prior is 0"
        raise InputError(f"{query.text!r} is no input of {study.name} ({why}), so it has no contrasts: mend it.")
    return contrasted(inputs, np.repeat(own, count, axis=0), target, seed=seed)


def patch(study: Study, query: Query, target: str | None = None, *, count: int = 64, seed: int = 0) -> contract.Patch:
    """Replace the query's activation by those of contrasts, and see how far the logit difference of the answers falls.

    Arguments and errors as in ``query_pairs``; by default the target of ``default_target``.
    """
    target = target or default_target(study, query)
    pairs = query_pairs(study, query, target, count=count, seed=seed)
    names = study.positions.names(query.ids)
    here = [name for name, index in names.items() if index == query.position]
    everywhere = (name for name in here if (study.positions.many(pairs.contrast, name) >= 0).all())
    at = next(everywhere, f"#{query.position}")
    named = [f"{at}:{query.site.short}"]
    result = study.patch(named, pairs, seed=seed)
    few = replace(
        pairs,
        **{name: getattr(pairs, name)[:_EXAMPLES] for name in ("original", "contrast", "read", "contrast_read", "answers")},
    )
    found = PatchedRuns(study.model, few, parse_activations(named, study.model.sites), study.positions).differences([(0,)])
    vocabulary = study.model.vocabulary
    examples = [
        contract.Patched(
            contrast=vocabulary.decode([i for i in row if i != vocabulary.pad]), answer=vocabulary.strings([answer])[0],
            ld_orig=float(found.original[i]), ld_patched=float(found.patched[i, 0]),
        )
        for i, (row, answer) in enumerate(zip(few.contrast.tolist(), few.answers[:, 1].tolist(), strict=True))
    ]  # fmt: skip
    effect, total = result.together, result.total
    return contract.Patch(
        site=query.site.short,
        position=query.position,
        target=target,
        answer=vocabulary.strings(pairs.answers[:1, 0].tolist())[0],
        pairs=result.pairs,
        ld_orig=result.ld_orig.value,
        ld_contrast=result.ld_contrast.value,
        effect=contract.Effect(value=effect.value, low=effect.low, high=effect.high),
        share=effect.value / total if total else None,
        examples=examples,
    )


def interpretation(
    study: Study,
    query: Query,
    *,
    epsilon: float | None = None,
    distance: Distance | None = None,
    report: Progress | None = None,
) -> contract.Interpretation:
    """Say in features what is common to the query's exact preimage, and score it on unseen inputs; see ``Study.interpret``.

    Raises:
        SettingError: the bank does not hold the position.
    """
    bank = bank_of(study, report)
    places = study.positions.names(query.ids)
    at = next((name for name in bank.manifest.positions if places.get(name) == query.position), None)
    if at is None:
        known = ", ".join(name for name in bank.manifest.positions if name in places)
        raise SettingError(f"Position {query.position} is none of the bank's: choose {known}.")
    every = study.interpret([query.text], query.site.short, at, bank=bank, epsilon=epsilon, distance=distance, report=report)
    (made,) = every
    (reading,) = made.queries
    return contract.Interpretation(
        site=query.site.short,
        position=query.position,
        statement=reading.statement or made.statement,
        epsilon=every.epsilon,
        distance=every.distance,
        bits=reading.bits,
        balanced_accuracy=None if reading.told is None else reading.told.balanced_accuracy,
        auroc=None if reading.told is None else reading.told.auroc,
        inputs=0 if reading.told is None else reading.told.inputs,
        gap=every.gap,
        line=None if made.line is None else made.line.balanced_accuracy.value,
    )


def complete(
    study: Study,
    query: Query,
    *,
    epsilon: float | None = None,
    limit: int = 20_000,
    seed: int = 0,
    report: Progress | None = None,
) -> contract.Complete:
    """Return log p(x ∣ z_q) against D for ``limit`` random inputs of the study: at most 4,000 points, half of them inside.

    Recall and percentile are of all that were scored, as ``Study.complete`` says them at temperature 1.
    """
    (result,) = study.complete([query], epsilon=epsilon, variants=VARIANTS[:1], limit=limit, seed=seed, report=report)
    rng, inside = np.random.default_rng((seed, 31)), result.inside
    within, without = (rng.permutation(np.flatnonzero(mask)) for mask in (inside, ~inside))
    least = max(MOST_POINTS // 2, MOST_POINTS - len(without))
    chosen = np.concatenate([within[:least], without[: MOST_POINTS - min(len(within), least)]])
    scores = result.variants[0]
    columns = (result.distance[chosen].tolist(), scores.log_p[chosen].tolist(), inside[chosen].astype(int).tolist())
    return contract.Complete(
        points=[list(row) for row in zip(*columns, study.texts(result, chosen), strict=True)],
        recall=scores.recall,
        percentile=scores.percentile,
        epsilon=result.epsilon,
        distance=result.kind,
    )

"""What can be read of a study, and how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inversionview.analyses.heads.result import GROUPS, NONE
from inversionview.analyses.heads.verb import named_heads
from inversionview.core import information
from inversionview.core.errors import InputError, SettingError
from inversionview.core.scope import DISTANCES
from inversionview.corpora.windows import WindowInputs
from inversionview.explorer.banks import bank_of, default_site, of_texts, text_banks
from inversionview.model.sites.site import REGISTRY, Site
from inversionview.page import contract
from inversionview.preimage.common import background
from inversionview.preimage.preimage import Query
from inversionview.preimage.reading import features, identifier
from inversionview.sources.bank_cost import lacking
from inversionview.sources.corpus import search
from inversionview.sources.decoder import DECODER
from inversionview.sources.registry import sources
from inversionview.studies.scope import resolved
from inversionview.studies.study import Study

_ORDER = {group: number for number, group in enumerate((*GROUPS, NONE))}
_PASSAGE = 40
"""Tokens of a random passage at most."""
_BARE_TEXT = "When Mary and John went to the store, John gave a drink to"


# -- studies and places -----------------------------------------------------------------------------------------------


def study_info(study: Study, id: str | None = None) -> contract.StudyInfo:
    """Return what can be read of a study, and how."""
    shape, inputs = study.model.shape, None if study.bare else study.inputs
    known = [source.name for source in sources(study)]
    texts = Path(inputs.about.source).name if isinstance(inputs, WindowInputs) else None
    return contract.StudyInfo(
        id=id or identifier(study),
        name=study.name if texts is None else f"{identifier(study)} · {texts}",
        model=study.model.name,
        layers=len(shape.heads),
        heads=list(shape.heads),
        parallel=shape.parallel,
        sites=[site_info(study, s) for s in study.sites],
        others=other_kinds(study),
        positions=study.position_names,
        default=contract.Default(text=_first_text(study), at=study.spec.at, site=default_site(study)),
        distance=study.spec.distance,
        distances=list(DISTANCES),
        epsilon=study.spec.epsilon,
        sources=known,
        features=[] if inputs is None else list(background(inputs).columns),
        enumerable=DECODER.name in known and not study.decoder.config.prefix,
        targets=[] if inputs is None else list(inputs.answers),
        changes=[] if inputs is None else list(inputs.changes),
        heads_named=[
            contract.HeadNamed(site=head.site, position=head.position, group=head.group)
            for head in sorted(named_heads(study), key=lambda head: _ORDER.get(head.group, 0))
        ],
        lacking=lacking(study),
        texts=texts,
    )


def site_info(study: Study, site: Site) -> contract.SiteInfo:
    """Return what is known of a site, of whichever kind.

    Raises:
        SettingError: it is a latent that never fires.
    """
    return contract.SiteInfo(
        short=site.short,
        latex=site.latex,
        hook=site.hook,
        layer=site.layer,
        kind=site.kind,
        head=site.head,
        numbers=site.numbers(study.model.shape.widths),
        epsilon=resolved(study, site).epsilon,
    )


def other_kinds(study: Study) -> list[contract.SiteKind]:
    """Return the kinds of sites that the map has not, by which a page completes names."""
    known, widths, found = study.model.sites, study.model.shape.widths, []
    for kind in (each for each in REGISTRY if each.pattern and not each.usual and each.name not in known.withheld):
        some = known.of_kind(kind.name)
        each = sum(site.layer == some[0].layer for site in some) if some[0].head is not None else None
        layers = len({site.layer for site in some})
        numbers = some[0].numbers(widths)
        found.append(contract.SiteKind(short=kind.short, what=kind.plural, layers=layers, each=each, numbers=numbers))
    return found


def _first_text(study: Study) -> str:
    """Return an input to begin with."""
    if study.spec.text:
        return study.spec.text
    vocabulary = study.model.vocabulary
    if not study.bare and not of_texts(study):
        return vocabulary.decode(_random_ids(study, 0))
    try:
        study.model.encode(_BARE_TEXT)
    except InputError:  # a vocabulary of its own
        if not study.bare:
            return vocabulary.decode(_random_ids(study, 0))
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


def place_event(study: Study, query: Query, source: str) -> contract.PlaceEvent:
    """Return what is read, and by which source."""
    return contract.PlaceEvent(
        **_place(study, query.ids, query.position).model_dump(),
        site=query.site.short,
        attention=None if query.attention is None else list(query.attention),
        source=source,
    )


def random_place(study: Study, seed: int = 0) -> contract.Place:
    """Return a random input of the test split, at the study's position.

    Raises:
        InputError: the study is a model alone, without inputs.
    """
    ids = _random_ids(study, seed)
    return _place(study, ids, study.locate(ids, study.spec.at))


def _random_ids(study: Study, seed: int) -> list[int]:
    """Return the ids of a random input; of natural text how a random window begins, so long that it is soon read."""
    row = study.inputs.draw(1, split="test", seed=(seed, 8))[0]
    ids: list[int] = row[row != study.inputs.pad].tolist()
    if not of_texts(study) or len(ids) <= _PASSAGE:
        return ids
    vocabulary = study.model.vocabulary
    words = [i for i in range(_PASSAGE // 2, _PASSAGE) if vocabulary.strings(ids[i : i + 1])[0].startswith(" ")]
    return [*ids[: words[-1] if words else _PASSAGE - 1], ids[-1]]


def _place(study: Study, ids: Sequence[int], position: int) -> contract.Place:
    vocabulary = study.model.vocabulary
    return contract.Place(
        text=vocabulary.decode(ids),
        tokens=vocabulary.strings(ids),
        ids=list(ids),
        position=position,
        names=study.positions.names(ids),
        bos=vocabulary.bos is not None,
    )


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
    if not study.bare and (text_banks(study) if of_texts(study) else study.known_bank() is not None):
        query = study.query(_first_text(study), site=default_site(study))
        bank = bank_of(study, None, query.site)
        features(study, query, search(study, query, count=1, keep=0, bank=bank).samples)

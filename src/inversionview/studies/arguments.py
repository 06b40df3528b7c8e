"""The study that a command was given, with mistakes told before it is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inversionview.core.errors import SettingError
from inversionview.core.interruption import resumable
from inversionview.corpora.naming import ALL
from inversionview.model.sites.site import Site
from inversionview.studies.naming import check_model_name, check_study, is_study
from inversionview.terminal.app import bar, device_named, err, given
from inversionview.terminal.options import InputOptions, ModelOptions, TextsOptions, VectorOptions

if TYPE_CHECKING:
    from inversionview.bank.store import ActivationBank
    from inversionview.corpora.natural import TextSource
    from inversionview.model.chat_template import Messages
    from inversionview.preimage.preimage import Query
    from inversionview.studies.study import Study


def loaded_study(
    study: str | None, on: ModelOptions, sites: Iterable[str | None] = (), texts: TextSource | None = None
) -> Study:
    """Return a shipped study, a run, or a model, with natural text or alone; mistakes in names are told before it is loaded."""
    if study is not None:
        check_study(study)
    if on.model is not None:
        check_model_name(on.model)
    if study is None and on.model is None:
        raise SettingError("Name a study, or give --model and --texts.")
    if texts is not None and (study is not None or on.model is None):
        raise SettingError("--texts are read with a model alone: give --model, and no study.")
    from inversionview.studies.load import load

    check_sites_of(study, on.model, sites)
    if texts is None:
        return load(study, model=on.model, device=device_named(on.device))
    with bar("reading texts", 1000) as advance:
        report = lambda share, note: advance(int(1000 * share), note)  # noqa: E731
        return load(model=on.model, texts=texts, device=device_named(on.device), report=report)


def source_named(given_texts: TextsOptions, default: str | None = None) -> TextSource | None:
    """Return which natural text is meant; ``default`` where none is named, or none at all.

    Raises:
        SettingError: options say how texts are cut, but none are read.
    """
    from inversionview.corpora.natural import TextSource
    from inversionview.records.texts import check_per

    told = {{"window": "context"}.get(name, name): value for name, value in given(**vars(given_texts)).items()}
    if told.get("texts", default) is None:
        if told:
            raise SettingError(f"--{next(iter(told))} says how --texts are read: name some.")
        return None
    if "per" in told:
        check_per(told["per"])
    return TextSource(**{"texts": default, **told})


def study_and_text(
    what: InputOptions, on: ModelOptions, sites: Iterable[str | None] = (), texts: TextSource | None = None
) -> tuple[Study, str | Messages]:
    """Return what to read from ``STUDY TEXT``, ``--model MODEL TEXT`` or ``--model MODEL --chat FILE``, with natural text or
    without.
    """
    if what.chat is not None:
        messages = _chat(what, on)
        return loaded_study(None, on, sites, texts), messages
    if what.text is not None:
        return loaded_study(what.study or "", on, sites, texts), what.text
    if what.study is None or on.model is None or is_study(what.study):
        raise SettingError('Give a study and a text, as in: addition "615+861=1476", or --model and a text.')
    return loaded_study(None, on, sites, texts), what.study


def study_and_query(
    what: InputOptions, activation: VectorOptions, on: ModelOptions, texts: TextSource | None = None
) -> tuple[Study, Query]:
    """Return the study and the query that are named: a text's, see ``study_and_text``, or that of a vector from outside.

    Raises:
        SettingError: there are both.
    """
    if activation.vector is None:
        study, text = study_and_text(what, on, [activation.site], texts)
        return study, study.query(text, at=activation.position, site=activation.site)
    study = study_of_vector(what, on, [activation.site], texts, activation.position is not None)
    return study, study.query(vector=activation.vector, site=activation.site)


def study_of_vector(
    what: InputOptions,
    on: ModelOptions,
    sites: Iterable[str | None] = (),
    texts: TextSource | None = None,
    placed: bool = False,
) -> Study:
    """Return the study that a vector from outside is of.

    Raises:
        SettingError: a text or a position is named, too, or neither a study nor a model.
    """
    texted = what.text is not None or what.chat is not None or (on.model is not None and what.study is not None)
    if texted or placed:
        raise SettingError("A vector comes without a text and a position: leave these out, or --vector.")
    if what.study is None and on.model is None:
        raise SettingError("Say what the vector is of: a study, or --model (and --texts to search).")
    return loaded_study(what.study, on, sites, texts)


def _chat(what: InputOptions, on: ModelOptions) -> Messages:
    """Return the messages of ``--chat``.

    Raises:
        SettingError: a study or a text is given, too, or no model.
        InputError: the file holds no messages.
    """
    from inversionview.model.chats import check_messages
    from inversionview.records.chats import read_messages

    if on.model is None or what.study is not None:
        raise SettingError(
            "--chat is what --model reads, in place of STUDY and TEXT: give it and --model, and neither of these."
        )
    return check_messages(read_messages(what.chat or ""), str(what.chat))


def check_sites_of(study: str | None, model: str | None, sites: Iterable[str | None]) -> None:
    """Raise ``UnknownSiteError`` where the files of the model that will be loaded tell that it has no such site."""
    named = [name for given in sites if given for name in re.split(r",(?![^{]*\})", given)]
    if not named:
        return
    from inversionview.model.header import check_sites
    from inversionview.studies.registry import defined, stated

    spec = None if study is None else stated(study)[0]
    path = model or (spec.model if spec else "")
    if not path and spec is not None and defined(spec.inputs).any_model:
        path = str(defined(spec.inputs).default_model())
    if path:
        check_sites(path, [name.strip() for name in named])


def bank_to_search(study: Study, folder: Path | None, site: Site | Sequence[Site] | str | None = None) -> ActivationBank:
    """Return the bank to search; where there is none yet, build one with a progress bar, and say so.

    Args:
        study: whose.
        folder: where it lies, if that is named.
        site: which it must hold, one or several, or patterns over sites.
    """
    from inversionview.studies.latents import searched_site

    if isinstance(site, str):
        from inversionview.model.sites.patterns import expand

        site = expand(site, study.model.sites)
    held = searched_site(study, site) if isinstance(site, Site) and folder is None else site
    with resumable(), bar("harvesting", 1000) as advance:

        def begin(path: Path, rows: int) -> None:
            err.print(f"No bank yet: building one of {_extent(study, rows, held)}, once, in {path}", soft_wrap=True)

        found = study.bank(folder, report=lambda share, note: advance(int(1000 * share), note), begin=begin, site=held)
    if isinstance(site, Site) and site.through:
        encoded(found, site)
    return found


def encoded(bank: ActivationBank, site: Site) -> None:
    """See to it that the codes of a dictionary on a bank are kept, with a progress bar; say how long that takes."""
    from inversionview.bank.latents.codes import dictionary_of, opened
    from inversionview.core.progress import duration

    if site in bank.sites or site.base not in bank.sites or dictionary_of(site) is None:
        return
    codes = opened(bank, site)
    if codes.there:
        return
    seconds, rows = codes.seconds(), len(bank) * len(bank.manifest.positions)
    err.print(
        f"{site.base} holds no codes of {site.through.lstrip('|')} yet: encoding {rows:,} {bank.manifest.unit}, once, about "
        f"{duration(seconds)} here, in {codes.folder}",
        soft_wrap=True,
    )
    with resumable(), bar("encoding", 1000) as advance:
        codes.encode(lambda share, note: advance(int(1000 * share), note))


def _extent(study: Study, rows: int, site: Site | Sequence[Site] | None) -> str:
    """Return how large a bank will be, and which command builds a larger one of natural text."""
    if not study.inputs.every_token:
        return f"{rows:,} inputs"
    every = study.inputs.placed([ALL]).size
    named = site if site is None or isinstance(site, Site) else ",".join(each.short for each in site)
    source = study.spec.options
    texts = f" --texts {source['texts']}" if "texts" in source else ""
    more = f"inversionview bank --model {study.spec.model}{texts} --sites {named} --tokens {every}"
    return f"{rows:,} of {every:,} tokens at {named} (for more of them: {more})"

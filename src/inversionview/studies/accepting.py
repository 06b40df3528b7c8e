"""Verbs take a model in place of a study, and a text in place of a query: ``iv.read(model, "text", at=…, site=…)``.

What takes long is imported when a verb is called: the command line names verbs before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload
from weakref import WeakKeyDictionary

from inversionview.core.errors import SettingError

if TYPE_CHECKING:
    from torch import nn

    from inversionview.corpora.natural import TextSource
    from inversionview.model.probed import ProbedModel
    from inversionview.studies.study import Study

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
_OF_A_MODEL = ("tokenizer", "texts")
_OF_A_TEXT = ("at", "site")
_WRAPPED: WeakKeyDictionary[Any, tuple[ProbedModel, Any]] = WeakKeyDictionary()
"""Models in memory, with their tokenizers, by the objects that were given: a second reading does not lay them open again."""


class Accepting(Protocol[P, R_co]):
    """A verb whose first argument is a study, or a model; its second may be a text where it takes a query."""

    @overload
    def __call__(self, study: Study, /, *args: P.args, **options: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, study: Study, text: str, /, *args: Any, at: str | int | None = None, **options: Any) -> R_co: ...
    @overload
    def __call__(self, model: nn.Module | ProbedModel, /, *args: Any, **options: Any) -> R_co: ...


def accepting(verb: Callable[Concatenate[Study, P], R]) -> Accepting[P, R]:
    """Let a verb take a model in memory in place of its study, and a text in place of its query.

    With a model come ``tokenizer`` and ``texts``, as ``load`` takes them; with a text, or with a chat's messages in a list,
    ``at`` and ``site``, as ``Study.query`` does. A model that was changed since its last reading is laid open anew.
    """
    return _accepting(verb, None)


def accepting_as(study: str) -> Callable[[Callable[Concatenate[Study, P], R]], Accepting[P, R]]:
    """Return what ``accepting`` is, for verbs of a task: a model in memory is read as ``load(study, model=model)``."""
    return lambda verb: _accepting(verb, study)


def _accepting(verb: Callable[Concatenate[Study, P], R], of: str | None) -> Accepting[P, R]:
    names = list(inspect.signature(verb).parameters)
    of_a_model = [name for name in _OF_A_MODEL if name not in names]
    of_a_text = [name for name in _OF_A_TEXT if name not in names]
    asks = len(names) > 1 and names[1] == "query"

    @wraps(verb)
    def accepted(study: Any, *args: Any, **options: Any) -> R:
        told = {name: options.pop(name) for name in of_a_model if name in options}
        loaded = study_of(study, of=of, **told)
        if (
            asks
            and isinstance(text := args[0] if args else options.get("query"), str | list)
            and len(of_a_text) == len(_OF_A_TEXT)
        ):
            query = loaded.query(text, **{name: options.pop(name) for name in of_a_text if name in options})
            if args:
                args = (query, *args[1:])
            else:
                options["query"] = query
        return verb(loaded, *args, **options)

    return accepted  # type: ignore[return-value]


def study_of(
    model: Any, *, tokenizer: Any = None, texts: str | Path | TextSource | None = None, of: str | None = None
) -> Study:
    """Return a study as it is, or that of a model in memory: ``load(model=model, …)``, kept as long as the model is there.

    Args:
        model: a ``Study``, a ``ProbedModel``, or what ``ProbedModel.wrap`` takes.
        tokenizer: of a model in memory, where it has none beside it.
        texts: natural text, every token of which can be found.
        of: which study the model is read in; by default it is read alone or with the texts.

    Raises:
        SettingError: it is a study, or what is no model at all; or a tokenizer or texts are given to a study.
        WeightsError: see ``ProbedModel.wrap``.
    """
    from inversionview.model.probed import ProbedModel
    from inversionview.studies.load import load
    from inversionview.studies.study import Study

    if isinstance(model, Study):
        if tokenizer is not None or texts is not None:
            raise SettingError(f"{model.name} is a study already: leave out tokenizer and texts, or give the model alone.")
        return model
    if isinstance(model, str | Path):
        raise SettingError(f"A study is wanted, or a model in memory: load it, as in iv.load({str(model)!r}).")
    probed = model if isinstance(model, ProbedModel) else _wrapped(model, tokenizer)
    named = f"{of}:{texts}" if of else str(texts)
    if named not in probed.studies:
        probed.studies[named] = load(of, model=probed, texts=texts)
    return probed.studies[named]


def _wrapped(model: Any, tokenizer: Any) -> ProbedModel:
    """Return a model laid open, as it was before if neither it nor its tokenizer is another now."""
    from inversionview.model.probed import ProbedModel

    try:
        known, given = _WRAPPED.get(model, (None, None))
    except TypeError:  # no object that can be kept track of: told by ``wrap``
        known, given = None, None
    if known is None or known.changed or not (tokenizer is None or tokenizer is given):
        tokenizer = given if tokenizer is None else tokenizer
        known = ProbedModel.wrap(model, tokenizer)
        _WRAPPED[model] = known, tokenizer
    return known

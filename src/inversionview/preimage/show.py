"""Preimages in a terminal: samples sorted by distance, a line at ε, tokens coloured by their effect."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from inversionview.core.information import Bits
from inversionview.drawing.colours import tint
from inversionview.drawing.tokens import marked, short_name, visible
from inversionview.markov.report import WalkReport
from inversionview.preimage.common import Common, Told, common
from inversionview.preimage.contexts import Contexts, inside_note, rows_note
from inversionview.preimage.preimage import Preimage, Query, Sample

if TYPE_CHECKING:
    from inversionview.preimage.widget import View


def effect_legend() -> Text:
    """Return what the colours of tokens mean, as a bar from less likely to likelier."""
    bar = [("■", f"{tint(effect)} not dim") if effect else ("□", "dim") for effect in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    return Text.assemble("less likely ", *bar, " likelier by the activation; ")


def query_line(query: Query) -> Table:
    """Return what names the query: its text with the position marked, and the site; a head's attention below."""
    if query.textless:
        line = Text(f"the vector {query.vector}").append(f"   site {query.site.short}", style="dim")
    else:
        line = marked(query.tokens, query.position, ends=query.ends)
        line.append(f"   site {query.site.short}, position {query.position}", style="dim")
    line.append(_value(query), style="dim")
    table = Table.grid(padding=(0, 1))  # what does not fit goes on below the text, not below the word "query"
    table.add_row(Text("query", style="dim"), line)
    if query.attention is not None:
        table.add_row("", Text(attention_line(query.tokens, query.attention, query.ends), style="dim"))
    return table


def _value(query: Query) -> str:
    """Return the query's number, where it is one."""
    return f", p_q = {float(query.z[0]):.4g}{' (off)' if query.off else ''}" if query.site.single else ""


ATTENDED, LEAST_ATTENDED = 6, 0.05
"""How many tokens are named that a head attends to, and with which weight at least."""


def attention_line(tokens: Sequence[str], attention: Sequence[float], ends: Sequence[str] | None = None) -> str:
    """Return what a head attends to, in order of weight: each token with its index and weight, then the sum of the rest.

    ``ends``, as for ``marked``, are by default the first token and the last.
    """
    order = sorted(range(len(tokens)), key=lambda i: -attention[i])
    named = [i for i in order[:ATTENDED] if attention[i] >= LEAST_ATTENDED]
    parts = [f"'{short_name(tokens, i, ends or tokens) or visible(tokens[i])}' at {i}: {attention[i]:.2f}" for i in named]
    rest = sum(attention) - sum(attention[i] for i in named)
    if not named:
        return f"attends to no token with {LEAST_ATTENDED} or more"
    return "attends to " + ", ".join(parts + ([f"the rest: {rest:.2f}"] if rest >= 0.005 else []))


def at_least(bound: float, digits: int = 2) -> str:
    """Return a lower bound as text, rounded down so that it stays one: ``≥ 15.72``."""
    return f"≥ {floor(bound * 10**digits + 1e-9) / 10**digits:.{digits}f}"


SHOWN = 100
"""Rows of a table at most; of a longer preimage a choice is shown."""


def table(preimage: Preimage) -> Group:
    """Return the whole reading: query, samples inside, a line at ε, samples outside, and what was drawn or searched."""
    shown = preimage.choice(SHOWN) if len(preimage) > SHOWN else preimage
    shared = common(preimage)
    told = [] if shared is None else [Text(), *_common_block(shared)]
    notes = [Text(note, style="yellow") for note in preimage.notes]
    if preimage.corpus is not None:
        return Group(
            *notes,
            *_place_lines(preimage.query),
            Text(meaning_text(preimage), style="bold"),
            Contexts(shown),
            Text(),
            *_text_notes(preimage),
            *told,
            Text(),
            rows_note(shown),
        )
    if preimage.walk is not None:
        legend = _walk_note(preimage, preimage.walk, preimage.bits)
    elif preimage.bits is not None and preimage.bits.method == "corpus":
        legend = _corpus_note(preimage, preimage.bits)
    else:
        legend = _decoder_note(preimage)
    return Group(query_line(preimage.query), Text(), _grid(shown), Text(), *notes, legend, *told, Text(), _shown_note(shown))


def meaning_text(preimage: Preimage) -> str:
    """Return ε with its distance and what it means: ``ε = 0.083 cosine-normed · 9.60 bits · 0.12 nats``.

    Of one number the interval of its own comes first: ``p_q ± 0.31 · ε = 0.083 of its spread · …``.
    """
    parts = [f"ε = {preimage.epsilon:.3g} {preimage.measure}"]
    if preimage.within is not None:
        parts = [preimage.interval, f"ε = {preimage.epsilon:.3g} of its spread"]
    if preimage.bits is not None:
        bits = preimage.bits
        parts.append(f"{at_least(bits.low) if bits.bounded else f'{bits.value:.2f}'} bits")
    if preimage.stand_in is not None:
        parts.append(f"{preimage.stand_in.median:.2g} nats")
    return " · ".join(parts)


def _grid(shown: Preimage) -> Table:
    """Return the rows, the line at ε among them."""
    repeated = any(sample.count > 1 for sample in shown)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("D", justify="right", width=7)
    tried = any(sample.nats is not None for sample in shown)
    if tried:
        grid.add_column("nats", justify="right")
    if repeated:
        grid.add_column("drawn", justify="right", style="dim")
    grid.add_column("sample" if shown.source == "decoder" else "input")
    for sample in shown.inside:
        _row(grid, sample, repeated, tried, shown.query.ends)
    line = Text(f"──────── {shown.border} ────────", style="red")
    told = f"{shown.epsilon:.3f}" if shown.epsilon >= 0.001 else f"{shown.epsilon:g}"
    grid.add_row(Text(told, style="bold red"), *[""] * (repeated + tried), line)
    for sample in shown.outside:
        _row(grid, sample, repeated, tried, shown.query.ends)
    return grid


def _place_lines(query: Query) -> list[Text]:
    """Return where the query, which stands above its contexts, is read; a head's attention below."""
    if query.textless:
        return [Text(f"the vector {query.vector} at site {query.site.short}{_value(query)}", style="dim")]
    where = Text(f"site {query.site.short}, position {query.position}{_value(query)}", style="dim")
    if query.attention is None:
        return [where]
    return [where, Text(attention_line(query.tokens, query.attention, query.ends), style="dim")]


def _text_notes(preimage: Preimage) -> list[Text]:
    """Return what a reading of natural text found, and what a walk did that went on from there."""
    found = []
    if preimage.bits is not None and preimage.corpus is not None:
        found.append(inside_note(preimage.bits, preimage.corpus, _told_bits(preimage.bits)))
    return found if preimage.walk is None else [*found, _walk_note(preimage, preimage.walk, None)]


def _share(inside: int, of: int, what: str) -> Text:
    """Return how many of all that was measured lie inside ε, and as a share."""
    share = 100 * inside / of if of else 0.0
    said = f" ({share:.0f} %)" if share >= 10 else f" ({share:.2g} %)"
    said = said if 0 < inside < of else ""
    return Text(f"{inside:,} of {of:,} {what} lie inside ε{said}", style="bold")


def _shown_note(shown: Preimage) -> Text:
    """Return that the rows are a choice, and what the marks mean."""
    note = Text(f"Shown: {rows_shown(shown)}; each was run through the model.\n", style="dim")
    if any(sample.effect is not None for sample in shown):
        note = Text.assemble(note, effect_legend())
    return note.append("(…) where D is reached.", style="dim")


def rows_shown(preimage: Preimage) -> str:
    """Return which inputs the rows are: all inside ε or some by lot, and the nearest outside."""
    inside, outside = len(preimage.inside), len(preimage.outside)
    every = "this one" if inside == 1 else f"all {inside} of these"
    some = "none" if not inside else every if preimage.distinct == inside else f"{inside} of these by lot"
    return f"{some} and the {outside} nearest outside" if outside else some


def _decoder_note(preimage: Preimage) -> Text:
    if preimage.inside_count is None:
        line = Text(f"{preimage.candidates:,} candidates were measured.", style="dim")
        return line if preimage.bits is None else line.append(f"\n{_weighed_bits(preimage.bits)}", style="not dim")
    line = _share(preimage.inside_count, preimage.candidates, "candidates of the decoder")
    repeats = "" if preimage.distinct == preimage.inside_count else f"; {preimage.distinct:,} of these are distinct"
    line.append(f"{repeats}.", style="not bold")
    return line if preimage.bits is None else line.append(f"\n{_weighed_bits(preimage.bits)}", style="not bold")


def _weighed_bits(bits: Bits) -> str:
    """Return bits with their interval and what they rest on."""
    if bits.method != "importance":
        return f"{_told_bits(bits)}."
    worth = "" if bits.effective is None or bits.bounded else f" (worth {bits.effective:,.0f})"
    return f"{_told_bits(bits)} by importance: {bits.hits:,}{worth} of {bits.inputs:,} weighed draws lie inside ε."


def _corpus_note(preimage: Preimage, bits: Bits) -> Text:
    line = _share(bits.hits, bits.inputs, "inputs of the corpus")
    own = "" if preimage.query.textless else "; the query itself is left out"
    line.append(f": {_told_bits(bits)}{own if bits.hits else '; the nearest are shown'}.")
    if preimage.recall is not None:
        line.append(f"\nApproximate: finds {preimage.recall:.1%} of what lies inside, measured on random queries.")
    return line


def _told_bits(bits: Bits) -> str:
    """Return bits of a corpus with their interval: ``5.42 bits [4.99, 5.89]``."""
    told = at_least(bits.low) if bits.bounded else f"{bits.value:.2f}"
    return f"{told} bits" + ("" if bits.high is None else f" [{bits.low:.2f}, {bits.high:.2f}]")


COMMON = 5
"""Features that are told below a reading, the most telling ones."""


def _common_block(told: Told) -> list[Text | Table]:
    """Return what is common inside ε, with intervals, and what a reader must know of it."""
    parts: list[Text | Table] = []
    if told.features:
        every = "the one" if told.inside == 1 else f"all {told.counted:,}"
        counted = every if told.counted == told.inside else f"{told.counted:,} of them"
        head = {
            "decoder": f"Common inside ε ({told.counted:,} weighed draws):"
            if told.weighed
            else f"Common to these {told.counted:,} samples, which are no draws from the preimage:",
            "walk": f"Common inside ε ({told.counted:,} draws):",
        }
        parts.append(Text(head.get(told.source, f"Common inside ε ({counted}):")))
        grid = Table.grid(padding=(0, 2))
        for one in told.telling[:COMMON]:
            grid.add_row(*_feature(one))
        parts.append(grid)
    return parts + ([Text(told.note, style="yellow")] if told.note else [])


def _feature(one: Common) -> tuple[Text, ...]:
    """Return a feature's value, its share and its bits or, of a decoder, how far its samples are from the preimage."""
    style = "" if one.trusted else "dim"
    bits = _bits(one.bits, one.bits_low, one.bits_high)
    if one.divergence is not None:
        bits = f"KL {one.divergence:.2f} bits (chance {one.chance:.2f})"
    value = Text(f"  {one.feature} = {visible(str(one.value))}", style=style)
    share = interval(one.share, one.low, one.high)
    if not one.trusted:
        share = f"{'?' if one.divergence is None else '≠'} {one.share:.0%}".replace("%", " %")
    return value, Text(share, style=style), Text(bits, style=style)


def _bits(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return ""
    if value <= -0.05:
        return "less common than among all inputs"
    ends = ", ".join("–" if end is None else f"{end:.1f}" for end in (low, high))
    return f"{max(0.0, value):.1f} bits [{ends}]".replace("-", "−")


def interval(share: float, low: float, high: float) -> str:
    """Return a share with its 95 % interval, in whole per cent, in tenths where it is small."""
    digits = 1 if high < 0.0995 else 0
    return f"{100 * share:.{digits}f} % [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"


def _walk_note(preimage: Preimage, walk: WalkReport, bits: Bits | None) -> Text:
    line = Text(f"{walk.members:,} distinct members", style="bold")
    line.append(f" in {walk.seconds:.1f} s ({walk.members_per_second:,.0f}/s), of {walk.measured:,} inputs measured")
    if bits is not None and bits.high is not None:
        way = {"corpus": "by the corpus", "importance": "by the decoder's weighed draws"}.get(bits.method, "by splitting")
        line.append(f"; {bits.value:.2f} bits [{bits.low:.2f}, {bits.high:.2f}] {way}")
    elif bits is not None and bits.hits:
        line.append(f"; about {bits.value:.1f} bits, not known how exactly")
    elif bits is not None:
        line.append(f"; {at_least(bits.low)} bits")
    common = sorted((f for f in walk.features if f.share is not None), key=lambda f: -(f.share or 0))
    if common and (preimage.study is None or preimage.study.bare):  # else they are told with intervals
        told = ", ".join(f"{f.feature} {f.share:.0%}" for f in common[:12])
        line.append(f"\nas in the query{'' if walk.mixed else ', so far'}: {told}", style="not bold")
    if walk.features and walk.mixed:
        forgotten = "" if walk.forgotten is None else f", the query forgotten after {walk.forgotten} steps"
        line.append(
            f"\nThe chains agree on every feature, so these shares can be relied on (mixed: R̂ ≤ {walk.r_hat:.3f}, at least "
            f"{walk.ess:,.0f} effective draws{forgotten}).",
            style="not bold",
        )
    for note in walk.notes:
        line.append(f"\n{note}", style="yellow not bold")
    return line


def _row(table: Table, sample: Sample, repeated: bool, tried: bool, ends: Sequence[str]) -> None:
    nats = ["" if sample.nats is None else f"{sample.nats:.2f}"] if tried else []
    times = [f"{sample.count}×" if sample.count > 1 else ""] if repeated else []
    distance = Text(f"{sample.distance:.3f}", style="" if sample.inside else "dim")
    table.add_row(distance, *nats, *times, marked(sample.tokens, sample.position, sample.effect, ends))


def page(preimage: Preimage) -> str:
    """Return the reading as one HTML page, which works from disk without a network."""
    from inversionview.page.bundle import page as document
    from inversionview.preimage.reading import reading

    return document([reading(preimage.study, preimage).to_json()])


def widget(preimage: Preimage) -> View:
    """Return the reading as a notebook shows it."""
    from inversionview.preimage.widget import show

    return show(preimage)

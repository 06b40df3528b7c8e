"""Heads of a circuit in Markdown: which they are, what their preimages tell, what they write, what patching them does."""

from __future__ import annotations

from collections.abc import Sequence

from inversionview.analyses.attribute.result import RateTable
from inversionview.analyses.heads.result import FEATURES, GROUPS, NONE, CircuitRow, CircuitTable, HeadTable, NamedHead
from inversionview.analyses.heads.show import AGREES, circuit_bits, circuit_rows, evidence, found_rows
from inversionview.analyses.patch.result import Patching
from inversionview.core.information import Mean

WRITE = ("name mover", "negative name mover", "copy suppression", NONE)
"""Groups whose heads write names themselves, or may."""
_ORDER = [*GROUPS, NONE]


def _grid(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _mean(mean: Mean | None) -> str:
    return "–" if mean is None else f"{_number(mean.value)} [{_number(mean.low)}, {_number(mean.high)}]"


def _number(value: float) -> str:
    return f"{value:z.2f}".replace("-", "−")


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:z.0f} %".replace("-", "−")


def heads_markdown(table: HeadTable) -> str:
    """Return the heads that were found, group by group, with what puts them there."""
    rows = [[h.group, h.site, h.position, _mean(h.matter), _number(h.direct.value), evidence(h)] for h in found_rows(table)]
    return _grid(("group", "head", "at", "patching", "direct", "attention, scores"), rows) + (
        f"\n{table.model}: logit(IO) > logit(S) in {table.accuracy:.1%} of {table.prompts} prompts, by {table.ld.value:.2f} "
        f"nats, IO is the first of all names in {table.first:.1%}; {table.pairs} pairs, patching everything does "
        f"{table.total:.2f}; seed {table.seed}.\n"
    )


def contents_markdown(table: CircuitTable) -> str:
    """Return what the preimages of each head tell: Huang et al. 2024, Table 2; bold where it is half of the entropy or more."""
    rows = [
        [row.head.group, row.head.site, row.head.position, circuit_bits(row),
         *(_held(row, name) for name in FEATURES), AGREES[row.agrees]]
        for row in circuit_rows(table)
    ]  # fmt: skip
    return _grid(("group", "head", "at", "bits", *FEATURES, "as expected"), rows) + (
        f"\n{table.inputs:,} prompts, ε = {table.epsilon:g}, {table.distance}, at the head's own position; {table.queries} "
        f"queries a head, seed {table.seed}. bits: what the activation tells in all (≥: some queries have one other prompt or "
        "none inside ε and count as the least that this can mean). Features: share of their entropy; below zero, prompts "
        "inside ε are too few to show it, or leave it out.\n"
    )


def _held(row: CircuitRow, feature: str) -> str:
    share = row.shares.get(feature)
    if share is None:
        return "–"
    said = _percent(min(share, 1.0))
    return f"**{said}**" if share >= 0.5 else said


def moved_markdown(table: CircuitTable) -> str:
    """Return for the name movers what preimages tell of IO where the head moves it."""
    rows = [
        [row.head.group, row.head.site, f"{row.moved.queries} of {row.moved.of}", _percent(row.shares["IO"]),
         *(f"{_percent(share)} of {_percent(most)}" for share, most in (
             (row.moved.share, row.moved.most), (row.moved.among, row.moved.among_most))),
         _percent(row.moved.same), _percent(row.moved.either)]
        for row in circuit_rows(table)
        if row.moved is not None
    ]  # fmt: skip
    return _grid(("group", "head", "moves IO", "H(IO), all", "H(IO), moves IO", "among these", "same IO", "IO or S"), rows) + (
        "\nmoves IO: queries on which IO is the name that the head itself promotes (suppresses) most. H(IO): share that is "
        "told, over all queries, over these, and over these among the prompts in which the head moves IO, as if there were no "
        "others: whether preimage and direct logit attribution agree on the name; *of*: what it would be if all prompts inside "
        "ε had the query's IO, as few can only show so much. Of the prompts inside ε: same IO, and those in which the query's "
        "IO is IO or S.\n"
    )


def rates_markdown(io: RateTable, subject: RateTable, groups: dict[str, str]) -> str:
    """Return how often heads promote and suppress IO and S: Huang et al. 2024, Table 4."""
    rows = [
        [groups[a.site], a.site, *(_percent(each.value) for each in (a.promoted, a.promoted_first, a.suppressed,
         a.suppressed_first, b.promoted, b.suppressed, b.suppressed_first))]
        for a, b in sorted(zip(io.rows, subject.rows, strict=True), key=lambda pair: _ORDER.index(groups[pair[0].site]))
    ]  # fmt: skip
    titles = (
        "group",
        "head",
        "IO promoted",
        "and first",
        "IO suppressed",
        "and first",
        "S promoted",
        "S suppressed",
        "and first",
    )
    return _grid(titles, rows) + (
        f"\n{io.inputs:,} prompts, among {io.candidates} names, k = {io.k} of {io.tokens:,} tokens, the last norm "
        f"{'folded in' if io.folded else 'left out'}.\n"
    )


def patching_markdown(result: Patching, heads: Sequence[NamedHead]) -> str:
    """Return what patching the heads does, one after the other, the largest effect first."""
    steps = result.effects["forward"]
    rows = [
        [str(i), head.group, head.site, head.position, _mean(head.effect), _mean(effect),
         _number(result.ld_orig.value - effect.value), _percent(effect.value / result.total)]
        for i, (head, effect) in enumerate(zip(heads, steps.effect, strict=True), 1)
    ]  # fmt: skip
    return _grid(("", "group", "head", "at", "alone", "with all above", "LD patched", "of everything"), rows) + (
        f"\n{result.pairs} pairs; LD {_number(result.ld_orig.value)}, of the contrasts {_number(result.ld_contrast.value)}.\n"
    )

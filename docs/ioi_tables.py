"""Measure the tables and the figure of docs/language-models.md, and put them there.

    python docs/ioi_tables.py            # those that the document lacks
    python docs/ioi_tables.py contents   # this one anew, or all: heads contents rates patching
    … --bank FOLDER                      # preimages from this bank, not the one in the user's cache

Each goes into the document as soon as it is measured, so an interrupted run is gone on with by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import inversionview as iv
from inversionview.analyses.attribute.measure import promotion_rates
from inversionview.analyses.heads import show_circuit
from inversionview.analyses.heads.circuit import circuit_table, subject_cases
from inversionview.analyses.heads.head_measures import Prompts
from inversionview.analyses.heads.measure import PAIRS
from inversionview.core.scope import OWN, Scope
from inversionview.core.storage import replacing
from inversionview.corpora.contrasts import held_out

DOCUMENT = Path(__file__).with_name("language-models.md")
FIGURE = Path(__file__).parent / "images" / "ioi-heads.png"


def told(share: float, note: str = "") -> None:
    print(f"\r{share:4.0%} {note:40}", end="", file=sys.stderr, flush=True)


def heads(study: iv.Study, bank: str | None) -> str:
    table = iv.heads(study, report=told)
    table.save(FIGURE)
    return show_circuit.heads_markdown(table)


def contents(study: iv.Study, bank: str | None) -> str:
    searched = study.bank(bank, report=lambda share, _: told(share, "bank"))
    table = circuit_table(
        searched, iv.named_heads(study), Scope(study.spec.epsilon, study.spec.distance, OWN),
        report=lambda share, _: told(share, "preimages"),
    )  # fmt: skip
    return (
        f"{show_circuit.contents_markdown(table)}\nWhere a name mover itself moves IO:\n\n{show_circuit.moved_markdown(table)}"
    )


def rated(study: iv.Study, bank: str | None) -> str:
    groups = {head.site: head.group for head in iv.named_heads(study) if head.group in show_circuit.WRITE}
    io = iv.rates(study, ",".join(groups), target="IO")
    return show_circuit.rates_markdown(
        io, promotion_rates(study.model, subject_cases(study.inputs, 1000), ",".join(groups)), groups
    )


def patched(study: iv.Study, bank: str | None) -> str:
    found = iv.named_heads(study)
    prompts = Prompts.of(study.inputs, held_out(study.inputs, (), 3 * PAIRS, 0)).first(PAIRS)
    result = iv.patch(
        study,
        [f"{head.position}:{head.site}" for head in found],
        iv.pairs(prompts, study.inputs),
        cumulative="forward",
        report=told,
    )
    return show_circuit.patching_markdown(result, found)


STEPS: dict[str, Callable[[iv.Study, str | None], str]] = {
    "heads": heads,
    "contents": contents,
    "rates": rated,
    "patching": patched,
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(STEPS))
    parser.add_argument("--bank")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.tables if name not in STEPS]:
        sys.exit(f"There is no table {unknown[0]!r}; there are {', '.join(STEPS)}.")
    if todo := asked.tables or [name for name in STEPS if not _parts(name)[1].strip()]:
        study = iv.load("ioi")
        for name in todo:
            made = STEPS[name](study, asked.bank)
            before, _, after = _parts(name)
            with replacing(DOCUMENT) as temporary:
                temporary.write_text(f"{before}\n{made}{after}", encoding="utf-8")
            print(f"\r{name}: written{'':40}", file=sys.stderr)


def _parts(name: str) -> tuple[str, str, str]:
    """Return the document up to a table, the table, and what follows."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    table, _, after = rest.partition(end)
    return before + begin, table, end + after


if __name__ == "__main__":
    main(sys.argv[1:])

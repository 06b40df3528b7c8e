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
from inversionview.analysis.attribution import rates
from inversionview.analysis.circuit import circuit_table, subject_cases
from inversionview.analysis.head_measures import Prompts
from inversionview.analysis.heads import PAIRS
from inversionview.contrasts import held_out
from inversionview.scopes import OWN, Scope
from inversionview.storage import replacing
from inversionview.views import circuit
from inversionview.views.heads import save_heads

DOCUMENT = Path(__file__).with_name("language-models.md")
FIGURE = Path(__file__).parent / "images" / "ioi-heads.png"


def told(share: float, note: str = "") -> None:
    print(f"\r{share:4.0%} {note:40}", end="", file=sys.stderr, flush=True)


def heads(study: iv.Study, bank: str | None) -> str:
    table = study.heads(report=told)
    save_heads(table, FIGURE)
    return circuit.heads_markdown(table)


def contents(study: iv.Study, bank: str | None) -> str:
    searched = study.bank(bank, report=lambda share, _: told(share, "bank"))
    table = circuit_table(
        searched, study.named_heads, Scope(study.spec.epsilon, study.spec.distance, OWN),
        report=lambda share, _: told(share, "preimages"),
    )  # fmt: skip
    return f"{circuit.contents_markdown(table)}\nWhere a name mover itself moves IO:\n\n{circuit.moved_markdown(table)}"


def rated(study: iv.Study, bank: str | None) -> str:
    groups = {head.site: head.group for head in study.named_heads if head.group in circuit.WRITE}
    io = study.rates(",".join(groups), target="IO")
    return circuit.rates_markdown(io, rates(study.model, subject_cases(study.inputs, 1000), ",".join(groups)), groups)


def patched(study: iv.Study, bank: str | None) -> str:
    found = study.named_heads
    prompts = Prompts.of(study.inputs, held_out(study.inputs, (), 3 * PAIRS, 0)).first(PAIRS)
    result = study.patch(
        [f"{head.position}:{head.site}" for head in found], prompts.pairs(study.inputs), cumulative="forward", report=told
    )
    return circuit.patching_markdown(result, found)


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

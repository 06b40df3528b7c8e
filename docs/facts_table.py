"""Measure the table of docs/facts.md, which heads of SmolLM2-135M retrieve facts and what they carry, and put it there."""

from __future__ import annotations

import sys
from pathlib import Path

import inversionview as iv
from inversionview.analyses.recall.show import markdown
from inversionview.analyses.recall.verb import recall

DOCUMENT = Path(__file__).with_name("facts.md")
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"


def main() -> None:
    study = iv.load("facts")
    table = recall(study, report=lambda share, what: print(f"\r{what} {share:4.0%} ", end="", file=sys.stderr))
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + "\n" + markdown(table) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()

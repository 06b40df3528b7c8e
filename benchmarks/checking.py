"""What checking a bank as it is read costs: ``python benchmarks/checking.py`` (some minutes, more where there is no bank yet).

First searches of a bank that was just opened, with checksums and without, by turns; and later ones. CPU time, which other
programs disturb least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

import inversionview as iv
from inversionview.bank.blocks import Blocks
from inversionview.bank.search import search
from inversionview.bank.shards import Shard
from inversionview.bank.store import ActivationBank

ASKED = {"counting": ("vvzccvczvvvzvcvc|v:8", ":", ("a1.0", "x0.mid")), "addition": ("615+861=1476", "=", ("a0.0", "x1.post"))}


def seconds(work: Callable[[], object]) -> float:
    """CPU time of some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def unchecked(shard: Shard, site: int, position: int, rows: np.ndarray) -> np.ndarray:
    """Some rows of a slice, as they lie."""
    return shard.vectors(site, position)[rows]


def measured(study: iv.Study, query: iv.Query, ask: Callable[[ActivationBank, iv.Query], object], repeats: int) -> list[float]:
    """Milliseconds of a first search with and without checks, and of a later one with and without, the least of each."""
    folder = study.bank().folder
    times: list[list[float]] = [[], [], [], []]
    for _ in range(repeats):
        for number, checked in enumerate((True, False)):
            with ExitStack() as stack:
                if not checked:
                    stack.enter_context(patch.object(Blocks, "_check", lambda *_: None))
                    stack.enter_context(patch.object(Shard, "gathered", unchecked))
                bank = ActivationBank.open(folder, study.model, study.inputs)
                times[number].append(seconds(lambda bank=bank: ask(bank, query)))
                times[2 + number].append(seconds(lambda bank=bank: ask(bank, query)))
    return [1e3 * min(each) for each in times]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--studies", nargs="+", default=list(ASKED))
    asked = parser.parse_args()
    table = Table("what is searched", "first, checked", "unchecked", "costs", "later, checked", "unchecked", box=None)
    for name in asked.studies:
        study, (text, at, sites) = iv.load(name), ASKED[name]
        for site in sites:
            query = study.query(text, at=at, site=site)
            kinds: dict[str, Callable[[ActivationBank, iv.Query], object]] = {
                "30 inputs": lambda bank, q: iv.search(study, q, bank=bank, count=30),  # noqa: B023
                "numbers of rows alone": lambda bank, q: next(search(bank, q.site, q.z[None], epsilon=0.1)),
            }
            for kind, ask in kinds.items():
                first, plain, later, later_plain = measured(study, query, ask, asked.repeats)
                table.add_row(
                    f"{name}, {site}, {kind}", f"{first:.1f} ms", f"{plain:.1f} ms", f"{first / plain - 1:+.1%}",
                    f"{later:.1f} ms", f"{later_plain:.1f} ms",
                )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

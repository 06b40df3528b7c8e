"""The figures of exact search, as a table: ``python benchmarks/corpus.py`` (about ten minutes, 12 GB of disk in --folder).

``--truth`` prints the decoders against exact preimages instead, the table of docs/exact-preimages.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import inversionview as iv
from inversionview.analyses.inform.measure import feature_information
from inversionview.bank.harvest import harvest_bank
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.scope import Distance
from inversionview.corpora.inputs import mix
from inversionview.model.backend import Shape
from inversionview.model.distances.metric import Metric

Row = tuple[str, str, str]


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak() -> float:
    """Peak memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def counting_bank(folder: Path, rows: int) -> list[Row]:
    study = iv.load("counting")
    seconds = timed(lambda: iv.build_bank(study, folder, rows=rows, positions=["query", ":"]))
    return [
        (f"bank of {rows:,} counting inputs, 9 sites × 2 positions", f"{seconds:.0f} s, peak memory {peak():.2f} GB", "120 s")
    ]


def first_bank(folder: Path) -> list[Row]:
    rows = []
    for name in ("counting", "addition"):
        study = iv.load(name)
        seconds = timed(lambda study=study, name=name: iv.build_bank(study, folder / name, rows=200_000))
        rows.append((f"first bank, 200,000 inputs, {name}", f"{seconds:.0f} s", "40 s"))
    return rows


def single(folder: Path) -> list[Row]:
    """Warm searches of one query each, over all positions; every site at both positions of some inputs."""
    study = iv.load("counting")
    bank = ActivationBank.open(folder, study.model, study.inputs)
    tokens = study.inputs.draw(12, split="test", seed=(1,))
    times, brute, hits = [], [], []
    for row in tokens:
        text = study.model.vocabulary.decode([i for i in row if i != study.inputs.pad])
        for site in study.sites:
            query = study.query(text, at=":", site=site)
            for _ in range(2):
                seconds = timed(
                    lambda q=query: hits.append(len(next(search(bank, q.site, q.z[None], epsilon=0.1, verify=False))))
                )
            times.append(seconds)
        query = study.query(text, at=":", site="a1.0")
        start = time.perf_counter()
        next(search(bank, query.site, query.z[None], epsilon=0.005, distance="cosine", verify=False))
        brute.append(time.perf_counter() - start)
    name = f"one query × one site over {len(bank):,} inputs × 2 positions, warm"
    spread = f"{1e3 * np.quantile(times, 0.9):.0f} ms at the 90th percentile, {statistics.median(hits):,.0f} hits"
    return [
        (name, f"{1e3 * statistics.median(times):.1f} ms ({spread})", "20 ms"),
        ("the same without the index", f"{1e3 * statistics.median(brute):.0f} ms", ""),
    ]


def many(folder: Path, queries: int = 1000) -> list[Row]:
    study = iv.load("counting")
    bank = ActivationBank.open(folder, study.model, study.inputs)
    tokens = study.inputs.draw(queries, split="test", seed=(2,))
    named = study.inputs.named_positions(tokens)
    at = np.where(np.arange(queries) % 2, named["query"], named[":"])
    z = study.model.harvest(tokens, study.sites, at[:, None])[:, :, 0]

    def all_sites(verify: bool) -> int:
        each = (search(bank, site, z[i], epsilon=0.1, verify=verify) for i, site in enumerate(study.sites))
        return sum(len(hits) for found in each for hits in found)

    name = f"{queries:,} queries × 9 sites over {len(bank):,} inputs"
    seconds = timed(lambda: all_sites(False))
    exact = timed(lambda: all_sites(True))
    return [
        (name, f"{seconds:.0f} s", "60 s"),
        ("the same, what fp16 leaves open run through the model", f"{exact:.0f} s", "60 s"),
    ]


def table(folder: Path) -> list[Row]:
    study = iv.load("addition")
    positions = ["+", "=", "A1", "A2", "A3"]
    built = timed(lambda: iv.build_bank(study, folder, rows=810_000, positions=positions))
    bank = ActivationBank.open(folder, study.model, study.inputs)
    seconds = timed(lambda: feature_information(bank, study="addition", queries=200))
    return [
        ("feature table of addition, 200 queries, 13 sites × 5 positions, all 810,000 inputs", f"{seconds:.0f} s", "120 s"),
        ("its bank", f"{built:.0f} s", ""),
    ]


class _Numbered(iv.Inputs):
    """Inputs that are nothing but their number, in base 256."""

    pad, bos, eos, max_length = 256, None, None, 4

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def tokens(self, rows: np.ndarray, salt: int = 0) -> Ids:
        return rows[:, None] >> np.array([24, 16, 8, 0]) & 255

    def corpus(self, numbers: np.ndarray) -> Ids:
        return self.tokens(numbers)

    def named_positions(self, tokens: Ids) -> dict[str, Ids]:
        return {"END": np.full(len(tokens), 3)}


class _Random:
    """Stands for a probed model whose activations are random vectors around 1,000 centres, made from the input's number."""

    name = fingerprint = "random"
    sites = (iv.Site(0, "post"),)

    shape = Shape((1,), d_model=64, vocabulary=257, max_length=4)

    def width(self, site: iv.Site) -> int:
        return 64

    def frame(self, site: iv.Site) -> None:
        return None

    statistics = None

    def metric(self, distance: Distance, site: iv.Site) -> Metric:
        return Metric(distance)

    def harvest_compact(self, tokens: Ids, sites: Sequence[iv.Site], positions: np.ndarray) -> list[torch.Tensor]:
        number = (tokens * np.array([1 << 24, 1 << 16, 1 << 8, 1])).sum(1)
        bits = mix(number[:, None].astype(np.uint64) * np.uint64(64) + np.arange(64, dtype=np.uint64))
        centre = mix(
            (mix(number.astype(np.uint64), 3) % np.uint64(1000))[:, None] * np.uint64(64) + np.arange(64, dtype=np.uint64), 5
        )
        spread = (bits >> np.uint64(40)).astype(np.float32) / 2**23 - 1
        return [torch.from_numpy((centre >> np.uint64(40)).astype(np.float32) / 2**23 - 1 + 0.1 * spread)[:, None]]


def _large(folder: Path, rows: int, pipe: multiprocessing.connection.Connection) -> None:
    model, inputs = _Random(), _Numbered(rows)
    bank = ActivationBank.open(folder, model, inputs)  # type: ignore[arg-type]
    before, times, hits = peak(), [], 0
    for number in range(10):
        tokens = inputs.tokens(np.array([number * 1_234_567]))
        z = model.harvest_compact(tokens, [], tokens)[0][:, 0]
        start = time.perf_counter()
        hits += len(next(search(bank, "x0.post", z, epsilon=0.1)))
        times.append(time.perf_counter() - start)
    pipe.send((before, peak(), statistics.median(times), hits))


def large(folder: Path, rows: int = 20_000_000) -> list[Row]:
    seconds = timed(lambda: harvest_bank(folder, _Random(), _Numbered(rows), rows=rows))  # type: ignore[arg-type]
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.get_context("spawn").Process(target=_large, args=(folder, rows, there))
    worker.start()
    before, most, each, hits = here.recv()
    worker.join()
    name = f"search of {rows:,} random vectors of width 64, fp16"
    said = f"peak {most:.2f} GB, {before:.2f} GB before the first search; {1e3 * each:.0f} ms a query, {hits:,} hits in ten"
    return [(name, said, "2 GB"), ("its bank", f"{seconds:.0f} s", "")]


def truth() -> None:
    console = Console(width=160)
    for name, rows, options in (("counting", 1_000_000, {"positions": ["query", ":"]}), ("addition", 810_000, {})):
        study = iv.load(name)
        with tempfile.TemporaryDirectory() as folder:
            bank = iv.build_bank(study, folder, rows=rows, **options)
            console.print(f"{name}, {rows:,} inputs", iv.truth(study, bank=bank, queries=100))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where banks are built; by default a temporary folder")
    parser.add_argument("--truth", action="store_true", help="the decoders against exact preimages")
    parser.add_argument("--only", help="first, bank, table or large")
    arguments = parser.parse_args()
    if arguments.truth:
        truth()
        return
    out = Table(box=None, header_style="dim")
    for title in ("figure", "measured", "target"):
        out.add_column(title)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        parts: dict[str, Callable[[], list[Row]]] = {
            "first": lambda: first_bank(folder / "first"),
            "bank": lambda: [*counting_bank(folder / "c", 1_000_000), *single(folder / "c"), *many(folder / "c")],
            "table": lambda: table(folder / "a"),
            "large": lambda: large(folder / "r"),
        }
        for name, part in parts.items():
            if arguments.only in (None, name):
                for row in part():
                    print(*row, sep=" | ", file=sys.stderr, flush=True)
                    out.add_row(*row)
    Console().print(out)


if __name__ == "__main__":
    main()

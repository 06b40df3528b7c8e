"""How fast a bank of every token is searched: ``python benchmarks/search.py VECTORS.npy …`` (or ``--random ROWS``).

Each ``.npy`` file holds vectors ``[occurrence, width]`` of one site; they are written as a bank, by cosine distance, and random
rows of it are asked for all others within ε. Beside it the same by faiss' flat index on normalised fp32 vectors, on one thread.
``--random 10000000 --width 576`` takes 13 GB of disk in ``--folder`` and deletes them; its search runs in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import inversionview as iv
from inversionview.bank.harvest import harvest_bank
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.scope import Distance
from inversionview.model.backend import Shape
from inversionview.model.distances.metric import Metric

PART = 2**14
"""Random vectors of one seed."""


class Numbered(iv.Inputs):
    """Inputs that are nothing but their number, in base 256: see ``Inputs``."""

    pad, bos, eos, max_length = 256, None, None, 4

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def tokens(self, rows: np.ndarray, salt: int = 0) -> Ids:
        """See ``Inputs``."""
        return rows[:, None] >> np.array([24, 16, 8, 0]) & 255

    def corpus(self, numbers: np.ndarray) -> Ids:
        """See ``Inputs``."""
        return self.tokens(numbers)

    def named_positions(self, tokens: Ids) -> dict[str, Ids]:
        """See ``Inputs``."""
        return {"END": np.full(len(tokens), 3)}


class Stored:
    """Stands for a probed model whose activations are given vectors, by the input's number; or random ones."""

    sites = (iv.Site(0, "post"),)

    def __init__(self, vectors: np.ndarray | None, width: int) -> None:
        self.vectors = vectors
        self.name = self.fingerprint = f"vectors-{width}"
        self.shape = Shape((1,), d_model=width, vocabulary=257, max_length=4)

    def width(self, site: iv.Site) -> int:
        """See ``ProbedModel``."""
        return self.shape.d_model

    def frame(self, site: iv.Site) -> None:
        """See ``ProbedModel``."""
        return None

    statistics = None

    def metric(self, distance: Distance, site: iv.Site) -> Metric:
        """See ``ProbedModel``: vectors are compared as they are."""
        return Metric(distance)

    def harvest_compact(self, tokens: Ids, sites: Sequence[iv.Site], positions: np.ndarray) -> list[torch.Tensor]:
        """See ``ProbedModel``."""
        numbers = (tokens * np.array([1 << 24, 1 << 16, 1 << 8, 1])).sum(1)
        return [self.rows(numbers)[:, None]]

    def rows(self, numbers: np.ndarray) -> torch.Tensor:
        """Return the vectors of some inputs."""
        if self.vectors is not None:
            return torch.from_numpy(self.vectors[numbers]).float()
        out = torch.empty(len(numbers), self.shape.d_model)
        for part in np.unique(numbers // PART):
            own = numbers // PART == part
            made = torch.randn(PART, self.shape.d_model, generator=torch.Generator().manual_seed(int(part)))
            out[torch.from_numpy(own)] = made[torch.from_numpy(numbers[own] % PART)]
        return out


def peak() -> float:
    """Peak memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def timed(bank: ActivationBank, z: torch.Tensor, epsilon: float) -> tuple[list[float], list[int], float]:
    """Return for each query, asked by itself, how many ms it takes and how many hits it has; a few are asked to warm up.

    And the median of what it takes of the processors, in ms: on one thread and an idle machine that is the same.
    """
    times, hits, used = [], [], []
    for query in [*z[:10], *z]:
        start, busy = time.perf_counter(), time.process_time()
        hits.append(len(next(search(bank, "x0.post", query[None], epsilon=epsilon, distance="cosine", verify=False))))
        times.append(1e3 * (time.perf_counter() - start))
        used.append(1e3 * (time.process_time() - busy))
    warm = len(z[:10])
    return times[warm:], hits[warm:], float(np.median(used[warm:]))


def flat(x: np.ndarray, z: torch.Tensor, epsilon: float) -> tuple[list[float], list[int]]:
    """Return the same of faiss' flat index, on one thread."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(x.shape[1])
    for start in range(0, len(x), 2**16):
        index.add(torch.nn.functional.normalize(torch.from_numpy(np.array(x[start : start + 2**16])).float()).numpy())
    unit, times, hits = torch.nn.functional.normalize(z).numpy(), [], []
    for query in unit:
        start = time.perf_counter()
        limits, _, _ = index.range_search(query[None], 1 - epsilon)
        times.append(1e3 * (time.perf_counter() - start))
        hits.append(int(limits[1]))
    return times, hits


def large(folder: Path, rows: int, width: int, epsilon: float, queries: int, pipe: Any) -> None:
    """Search a bank of random vectors for some of its own, slightly moved."""
    model, inputs = Stored(None, width), Numbered(rows)
    bank = ActivationBank.open(folder, model, inputs)  # type: ignore[arg-type]
    z = model.rows(np.random.default_rng(0).integers(rows, size=queries)) + 0.1 * torch.randn(queries, width)
    before = peak()
    times, hits, used = timed(bank, z, epsilon)
    pipe.send((before, peak(), times, hits, used))


def of_file(path: Path, rows: int, arguments: argparse.Namespace, folder: Path) -> list[str]:
    x = np.load(path, mmap_mode="r")[:rows]
    model, inputs = Stored(x, x.shape[1]), Numbered(len(x))
    start = time.perf_counter()
    bank = harvest_bank(folder, model, inputs, rows=len(x), distance="cosine")  # type: ignore[arg-type]
    built = time.perf_counter() - start
    z = model.rows(np.sort(np.random.default_rng(0).choice(len(x), arguments.queries, replace=False)))
    times, hits, used = timed(bank, z, arguments.epsilon)
    row = [f"{path.stem}, {len(x):,} × {x.shape[1]}", f"{np.median(times):.1f}", f"{used:.1f}",
           f"{np.quantile(times, 0.9):.1f}",
           f"{np.median(hits):,.0f}"]  # fmt: skip
    if arguments.flat:
        other, counts = flat(x, z[: arguments.flat], arguments.epsilon)
        agree = "" if np.abs(np.array(counts) - hits[: arguments.flat]).max() <= 2 else " (other hits)"
        row += [f"{np.median(other):.0f}{agree}", f"{np.median(other) / np.median(times):.1f} ×"]
    return [*row, f"{built:.0f}"]


def of_random(rows: int, width: int, arguments: argparse.Namespace, folder: Path) -> list[str]:
    free = shutil.disk_usage(folder.parent).free
    if free < 1.3 * rows * width * 2:
        raise SystemExit(f"{rows:,} vectors take {1.3 * rows * width * 2 / 1e9:.0f} GB, {free / 1e9:.0f} GB are free.")
    start = time.perf_counter()
    harvest_bank(folder, Stored(None, width), Numbered(rows), rows=rows, distance="cosine")  # type: ignore[arg-type]
    built = time.perf_counter() - start
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.get_context("spawn").Process(
        target=large, args=(folder, rows, width, arguments.epsilon, arguments.queries, there)
    )
    worker.start()
    before, most, times, hits, used = here.recv()
    worker.join()
    name = f"random, {rows:,} × {width}; peak {most:.2f} GB, {before:.2f} GB before the first search"
    return [
        name,
        f"{np.median(times):.1f}",
        f"{used:.1f}",
        f"{np.quantile(times, 0.9):.1f}",
        f"{np.median(hits):,.0f}",
        "",
        "",
        f"{built:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vectors", type=Path, nargs="*")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each file, at most")
    parser.add_argument("--random", type=int, default=0, help="random vectors, so many")
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--flat", type=int, default=20, help="queries asked of faiss' flat index; 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where banks are built, each deleted again; by default a temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out = Table(box=None, header_style="dim")
    for title in ("vectors", "median ms", "of CPU", "90 %", "hits", "faiss flat, ms", "times", "built in s"):
        out.add_column(title)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        for path in arguments.vectors:
            out.add_row(*of_file(path, arguments.rows, arguments, Path(temporary) / "bank"))
            shutil.rmtree(Path(temporary) / "bank")
        if arguments.random:
            out.add_row(*of_random(arguments.random, arguments.width, arguments, Path(temporary) / "bank"))
    Console(width=160).print(f"ε = {arguments.epsilon:g}, {arguments.threads} threads", out)


if __name__ == "__main__":
    main()

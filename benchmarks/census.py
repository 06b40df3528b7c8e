"""What a census takes beyond running the model: its counting, on random activations of SmolLM2's shape, beside a plain loop.

python benchmarks/census.py [OCCURRENCES] [QUERIES]

270 heads of 64 numbers and 91 other sites of 576, 14 features. The baseline counts the same with a product, a comparison and a
sum for each site and feature, as one would write it down. Both on one thread; the first block is not timed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from inversionview.analyses.census.tally import HitCounts
from inversionview.model.distances.metric import Metric

WIDTHS = [64] * 270 + [576] * 91
FEATURES, BLOCK, EPSILON = 14, 963, 0.1
INSIDE = 0.05
"""Of the occurrences, about so many lie inside ε of a query."""


def block(rng: np.random.Generator, count: int) -> tuple[list[torch.Tensor], Any, Any]:
    """Random activations around a common direction, marks and codes."""
    z = []
    for width in WIDTHS:
        x = torch.from_numpy(rng.standard_normal((count, width), dtype=np.float32))
        x[:, 0] += 2.6 * width**0.5  # cosine distances of about 0.11, so that ε cuts through them
        z.append(x)
    return z, rng.integers(2**63, size=count, dtype=np.uint64), rng.integers(12, size=(FEATURES, count))


def plain(z: Sequence[torch.Tensor], queries: Sequence[torch.Tensor], codes: Any, own: Any) -> None:
    """Count as one would write it down."""
    agree = torch.from_numpy(own.T[:, :, None] == codes).float()
    for x, q in zip(z, queries, strict=True):
        unit = torch.nn.functional.normalize
        near = (1 - unit(q, dim=1) @ unit(x, dim=1).T <= EPSILON).float()
        (agree * near[:, None]).sum(-1)


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Return how long work takes, and for how long it has a processor."""
    began, before = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - before


def main() -> None:
    """Measure in turn, and say what the whole would take."""
    torch.set_num_threads(1)
    occurrences, count = (int(word) for word in [*sys.argv[1:], "200000", "200"][:2])
    rng = np.random.default_rng(0)
    queries, marks, own = block(rng, count)
    tally = HitCounts(queries, own, marks, EPSILON, [Metric("cosine")] * len(queries))
    times: dict[str, list[tuple[float, float]]] = {"tally": [], "plain": []}
    for number in range(6):
        z, at, codes = block(rng, BLOCK)
        took = seconds(lambda: tally.add(z, at, codes)), seconds(lambda: plain(z, queries, codes, own))  # noqa: B023
        if number:
            for name, each in zip(times, took, strict=True):
                times[name].append(each)
    inside = tally.inside[: len(WIDTHS)].mean() / tally.allowed.mean()
    print(f"{count} queries, {len(WIDTHS)} sites, {FEATURES} features, {inside:.1%} inside, one thread")
    for name, each in times.items():
        wall, busy = np.median(each, axis=0)
        whole = (
            f"{wall * occurrences / BLOCK / 60:.1f} min for {occurrences:,}, {busy * occurrences / BLOCK / 60:.1f} of a core"
        )
        print(f"{name}: {wall:.2f} s for {BLOCK} occurrences; {whole}")


if __name__ == "__main__":
    main()

"""Speed of the completeness check, as a table: ``python benchmarks/completeness.py`` (minutes; ``--inputs 81000`` for less).

Scoring with shared prefixes beside plain teacher forcing on the same inputs in the same run: every input through the decoder by
itself, in batches of the size that is fastest for it. Temperatures 1 and 2 come from one pass of either.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import inversionview as iv
from inversionview.analyses.complete.measure import pilot_floors
from inversionview.decoder.scoring import PrefixTree, log_probs
from inversionview.model.measure import nearest

TEMPERATURES = (1.0, 2.0)
BATCH = 256
PLACES = (("=", "a0.0"), ("A1", "x1.post"), ("S3", "x0.mid"))
"""Queries of the benchmark; how much a floor saves depends on the query."""


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


@torch.no_grad()
def plain(decoder: iv.Decoder, tokens: torch.Tensor, z: torch.Tensor, site: int) -> torch.Tensor:
    """log p of each input by teacher forcing, in batches of one length."""
    out = torch.empty(len(TEMPERATURES), len(tokens))
    lengths = (tokens != decoder.config.pad).sum(1)
    for length in lengths.unique().tolist():
        for rows in (lengths == length).nonzero()[:, 0].split(BATCH):
            ids = tokens[rows, :length]
            logits = decoder(ids[:, :-1], z.expand(len(rows), -1), torch.full((len(rows),), site))
            for i, temperature in enumerate(TEMPERATURES):
                out[i, rows] = (logits / temperature).log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].sum(1)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=810_000, help="the first so many additions")
    count = parser.parse_args().inputs
    study = iv.load("addition")
    tokens = study.inputs.tokens(np.arange(count))
    decoder, pad = study.decoder, study.inputs.pad
    title = f"{count:,} additions, {torch.get_num_threads()} threads, fp32"
    table = Table("what", "s", "inputs/s", "against plain", title=title)

    def row(name: str, seconds: float, base: float | None = None) -> None:
        table.add_row(name, f"{seconds:.1f}", f"{count / seconds:,.0f}", "" if base is None else f"{base / seconds:.1f}×")

    queries = [study.query("615+861=1476", at=at, site=site) for at, site in PLACES]
    asked = [(q.z, q.site) for q in queries]
    seconds, tree = timed(lambda: PrefixTree.of(tokens, pad))
    row("sorting into a tree", seconds)
    row("D, one query", timed(lambda: nearest(study.model, tokens, asked[:1], "euclidean"))[0])
    row("D, three queries at three sites", timed(lambda: nearest(study.model, tokens, asked, "euclidean"))[0])
    site = decoder.config.sites.index(PLACES[0][1])
    base, reference = timed(lambda: plain(decoder, torch.from_numpy(tokens), queries[0].z, site))
    row("log p, τ 1 and 2, plain teacher forcing", base, base)
    for query, (at, name) in zip(queries, PLACES, strict=True):
        site, z = decoder.config.sites.index(name), query.z[None]
        seconds, exact = timed(lambda z=z, site=site: log_probs(decoder, tree, z, site, temperatures=TEMPERATURES))
        row(f"log p, τ 1 and 2, exact, {name} at {at}", seconds, base)
        if query is queries[0]:
            error = float((exact - reference).abs().max())
        floors = pilot_floors(decoder, tokens, pad, z, site, TEMPERATURES, np.random.default_rng(0))
        quick = timed(lambda z=z, site=site, f=floors: log_probs(decoder, tree, z, site, temperatures=TEMPERATURES, floors=f))
        row(f"log p, τ 1 and 2, --quick, {name} at {at}", quick[0], base)
    console = Console(width=120)
    console.print(table)
    console.print(f"largest difference between plain and exact: {error:.1e}")


if __name__ == "__main__":
    main()

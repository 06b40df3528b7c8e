"""Bits by importance against exact bits of addition: ``python benchmarks/importance.py`` (``--run RUN`` for another decoder).

Some queries of the test split at each of the bank's positions and 13 sites. Exact is −log₂ of the share of all 810,000
additions inside ε, the query left out, by the same D as a reading of the decoder has. That takes most of the time, and
``--keep FILE`` keeps it: it depends on the probed model alone.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import inversionview as iv
from inversionview.core.scope import Scope
from inversionview.model.measure import nearest
from inversionview.preimage.preimage import Query
from inversionview.sources.decoder import WEIGHED
from inversionview.sources.weighed import weighed

PLACES = ("=", "A1", "A2", "A3")
TOGETHER = 30_000


def queries(study: iv.Study, each: int, seed: int) -> list[Query]:
    tokens = study.inputs.draw(each * len(PLACES), split="test", seed=(seed,))
    texts = [
        "".join(study.inputs.vocabulary[i] for i in row if i not in (study.inputs.eos, study.inputs.pad))[1:] for row in tokens
    ]
    places = [(text, PLACES[number // each]) for number, text in enumerate(texts)]
    return [study.query(text, at=at, site=site.short) for text, at in places for site in study.sites]


def exact_bits(study: iv.Study, asked: list[Query], keep: Path | None) -> np.ndarray:
    """−log₂ of the share inside; infinite where nothing else lies there."""
    if keep is not None and keep.exists():
        hits = np.load(keep)
    else:
        hits = np.zeros(len(asked), dtype=np.int64)
        for rows in np.split(np.arange(len(study.inputs)), range(TOGETHER, len(study.inputs), TOGETHER)):
            near = nearest(study.model, study.inputs.tokens(rows), [(q.z, q.site) for q in asked], study.spec.distance)
            hits += (near <= study.spec.epsilon).sum(1).numpy()
        if keep is not None:
            np.save(keep, hits)
    if len(hits) != len(asked):
        raise SystemExit(f"{keep} holds {len(hits)} queries, not {len(asked)}: delete it, or ask for as many.")
    with np.errstate(divide="ignore"):
        found: np.ndarray = -np.log2((hits - 1) / (len(study.inputs) - 1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="addition", help="a run of addition, for its decoder; by default the shipped one")
    parser.add_argument("--queries", type=int, default=5, help="at each position, read at all sites")
    parser.add_argument("--draws", type=int, default=WEIGHED)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--keep", type=Path, help="where exact counts are kept")
    told = parser.parse_args()
    study = iv.load(told.run)
    asked = queries(study, told.queries, told.seed)
    exact = exact_bits(study, asked, told.keep)
    scope, rows, start = Scope(study.spec.epsilon, study.spec.distance), [], time.process_time()
    for query, bits in zip(asked, exact, strict=True):
        site = study.decoder.config.sites.index(query.site.short)
        found = weighed(study.decoder, study.model, study.inputs, query, site, scope, told.draws, told.seed)
        assert found is not None
        low, high = found.bits.low, math.inf if found.bits.high is None else found.bits.high
        rows.append((abs(found.bits.value - bits), low <= bits <= high, bool(found.doubts), found.bits.effective))
    seconds = (time.process_time() - start) / len(asked)
    show(study, asked, exact, np.array(rows, dtype=float), seconds, told)


def show(
    study: iv.Study, asked: list[Query], exact: np.ndarray, rows: np.ndarray, seconds: float, told: argparse.Namespace
) -> None:
    """One line for each site, and one for all; queries that nothing else lies near are counted, but not compared."""
    title = f"{told.run}: {told.queries} queries at each of {', '.join(PLACES)}, {told.draws:,} draws"
    names = (
        "site",
        "queries",
        "bits",
        "median error",
        "mean",
        "90 %",
        "in the interval",
        "doubted",
        "median of the rest",
        "worth",
    )
    table = Table(*names, title=title)
    known = np.isfinite(exact)
    for site in [*(site.short for site in study.sites), "all"]:
        mine = known & np.array([site in (q.site.short, "all") for q in asked])
        error, held, doubt, effective = rows[mine].T
        firm = error[doubt == 0]
        rest = f"{np.median(firm):.3f}" if len(firm) else "–"
        errors = [f"{x:.3f}" for x in (np.median(error), error.mean(), np.quantile(error, 0.9))]
        shares = [f"{held.mean():.0%}", f"{doubt.mean():.0%}"]
        table.add_row(
            site, str(mine.sum()), f"{np.median(exact[mine]):.1f}", *errors, *shares, rest, f"{np.median(effective):.0f}"
        )
    Console(width=150).print(table)
    print(f"{seconds:.2f} s of a core for each reading's bits; {int((~known).sum())} queries have nothing else inside ε.")


if __name__ == "__main__":
    main()

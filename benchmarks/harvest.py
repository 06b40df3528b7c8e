"""What reading every head costs: ``python benchmarks/harvest.py [--prompts 704]`` on SmolLM2-135M and prompts of ``ioi``.

In one run, in turn: the bare forward pass of the plain Hugging Face model (with and without logits, which a harvest does not
need), a harvest of the last head alone, and of all 270 heads at three positions, as a bank is made. Prints prompts per second.
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
from transformers import AutoModelForCausalLM

import inversionview as iv
from inversionview.gguf_reading import quick_gguf
from inversionview.probed import tokens_per_pass
from inversionview.studies import default_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=704)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    study, path = iv.load("ioi"), default_model()
    with quick_gguf():
        plain = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    inputs, model = study.inputs, study.model
    tokens = inputs.corpus(np.arange(options.prompts))
    named = inputs.named_positions(tokens)
    positions = np.stack([named[name] for name in inputs.default_positions], axis=1)
    heads = [site for site in model.sites if site.kind == "head"]
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
    }
    seconds: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(options.rounds):
        for name, run in what.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    print(f"{options.prompts} prompts of {lengths.mean():.1f} tokens, {len(inputs.default_positions)} positions, "
          f"{torch.get_num_threads()} threads, {size} prompts a pass; medians of {options.rounds} rounds")  # fmt: skip
    base = statistics.median(seconds["bare forward, with logits"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:32} {options.prompts / median:6.1f} prompts/s   {base / median:5.0%} of the bare forward's rate")


if __name__ == "__main__":
    main()

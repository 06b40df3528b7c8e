"""The figures of docs/benchmarks.md, as a table: ``make bench`` (some minutes), or with ``--ten-minutes`` (25 minutes more).

Speeds are medians of several rounds on this machine, baselines in the same run: TransformerBridge with one pair an input for
the harvest, and the paper's decoder (2 layers, width 256, batch 256 padded to the longest input, AdamW) for training.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

import inversionview as iv
from inversionview.core import optim
from inversionview.decoder.balls.balls import Balls
from inversionview.decoder.batches import Pools, make_pool
from inversionview.decoder.beginning import new_decoder
from inversionview.decoder.pairs import FreshInputs
from inversionview.decoder.recipe import Target
from inversionview.decoder.sampling import sample
from inversionview.decoder.training import make_accelerator, step
from inversionview.model.bridge import BridgeBackend
from inversionview.model.measure import distance_to
from inversionview.runs.train import train_study


def rate(work: Callable[[], int], rounds: int = 5) -> float:
    """Median of (things done / seconds) over some rounds, after one that does not count."""
    work()
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        done = work()
        rates.append(done / (time.perf_counter() - start))
    return statistics.median(rates)


def positions_of(inputs: iv.Inputs, tokens: np.ndarray) -> np.ndarray:
    return np.nonzero(inputs.trained_positions(tokens))[1].reshape(len(tokens), -1)


def harvest(study: iv.Study) -> float:
    """Inputs/s from the generator to the activations of all sites × 2 positions."""
    inputs, seeds = study.inputs, count()

    def work() -> int:
        tokens = inputs.draw(8192, split="train", seed=(next(seeds),), fresh=True)
        study.model.harvest(tokens, study.sites, positions_of(inputs, tokens))
        return len(tokens)

    return rate(work)


def harvest_baseline(study: iv.Study) -> float:
    """Pairs/s with TransformerBridge: one site at one position of each input, inputs padded to the longest."""
    backend, inputs = BridgeBackend(AutoModelForCausalLM.from_pretrained(study.model_path)), study.inputs
    seeds = count()

    def work() -> int:
        seed = next(seeds)
        tokens = inputs.draw(256, split="train", seed=(seed,), fresh=True)
        at = torch.from_numpy(positions_of(inputs, tokens)[:, :1])
        ids = torch.from_numpy(tokens)
        backend.activations(ids, ids != inputs.pad, [study.sites[seed % len(study.sites)]], at)
        return len(tokens)

    return rate(work, rounds=15)


def training(study: iv.Study, target: Target) -> float:
    """Pairs/s of decoder training, all included; pools are made by a thread of their own."""
    inputs, config = study.inputs, iv.TrainConfig(minutes=None, steps=1, target=target)
    source = FreshInputs(study.model, inputs, study.sites)
    decoder = new_decoder(study.model, source)
    optimizers = optim.build(decoder, muon_lr=1e-2, adam_lr=2e-3, weight_decay=0.0)
    accelerator, numbers = make_accelerator("cpu"), count()
    weights = np.ones((len(study.sites), inputs.place_count))
    pools = Pools(source, config, Balls(source, study.model, config) if target == "ball" else None)

    def work() -> int:
        for batch in pools.take(next(numbers), weights).batches():
            step(decoder, batch, optimizers, accelerator, decoder)
        return config.batch * config.pool

    try:
        return rate(work, rounds=3)
    finally:
        pools.close()


def training_baseline(study: iv.Study) -> float:
    """Pairs/s of the paper's decoder and batches."""
    inputs, pools = study.inputs, count()
    config = iv.TrainConfig(minutes=None, steps=1, batch=256, groups=1, pairs_per_input=1, pool=4)
    source = FreshInputs(study.model, inputs, study.sites)
    decoder = new_decoder(
        study.model, source, layers=2, width=256, blocks=6, cells=1, occurrences=0,
        pathway=study.model.shape.d_model, hidden=study.model.shape.d_model,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-4, weight_decay=0.01)
    weights = np.ones((len(study.sites), inputs.place_count))
    accelerator = make_accelerator("cpu")

    def work() -> int:
        for batch in make_pool(source, config, next(pools), weights).batches():
            group = batch.groups[0]
            padded = torch.full((len(group.tokens), inputs.max_length), inputs.pad)
            padded[:, : group.tokens.size(1)] = group.tokens
            step(decoder, batch._replace(groups=[group._replace(tokens=padded)]), [optimizer], accelerator, decoder)
        return config.batch * config.pool

    return rate(work, rounds=3)


def sampling(study: iv.Study) -> tuple[float, float]:
    """Samples/s, drawn and verified in the probed model, of random held-out queries of one site at a time; those inside ε."""
    inputs, seeds = study.inputs, count()
    decoder: iv.Decoder = study.decoder
    inside = []

    def work() -> int:
        seed = next(seeds)
        site = study.sites[seed % len(study.sites)]
        tokens = inputs.draw(64, split="test", seed=(seed,))
        z = study.model.harvest(tokens, [site], positions_of(inputs, tokens)[:, :1])[0, :, 0].repeat_interleave(16, 0)
        drawn = sample(decoder, z, torch.full((len(z),), decoder.config.sites.index(site.short)))
        inside.append((distance_to(study.model, drawn, z, site)[1] <= study.spec.epsilon).float().mean().item())
        return len(z)

    made = rate(work, rounds=9 * len(study.sites))
    return made, made * statistics.mean(inside)


def reading(study: str, text: str, at: str, site: str) -> float:
    """Seconds from process start to the table."""
    command = [sys.executable, "-m", "inversionview.cli", "read", study, text, "--at", at, "--site", site]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ten_minutes(study: str) -> float:
    """Good ratio of a decoder trained from scratch for ten minutes."""
    with tempfile.TemporaryDirectory() as folder:
        made = train_study(study, Path(folder) / "run", iv.TrainConfig(minutes=10.0, target="own"))
        return float(iv.evaluate(made)["mean"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ten-minutes", action="store_true", help="also train both decoders from scratch for ten minutes")
    options = parser.parse_args()
    counting, addition = iv.load("counting"), iv.load("addition")
    table = Table(
        "figure", "measured", "baseline", "ratio", "target", title=f"{os.cpu_count()} cores, torch {torch.__version__}"
    )

    def row(name: str, value: float, target: str, base: float | None = None, digits: int = 0) -> None:
        ratio = "" if base is None else f"{value / base:.1f}×"
        table.add_row(name, f"{value:,.{digits}f}", "" if base is None else f"{base:,.{digits}f}", ratio, target)

    row("harvest, counting, 9 sites × 2 positions, inputs/s", harvest(counting), "10,000")
    row(
        "  the same in activations/s; baseline: bridge, one pair an input",
        18 * harvest(counting),
        "180,000",
        harvest_baseline(counting),
    )
    for study, wanted in ((counting, "1,000"), (addition, "")):
        own = training(study, "own")
        row(f"decoder training, {study.name}, own pairs/s; baseline: the paper's", own, wanted, training_baseline(study))
        row(f"decoder training, {study.name}, pairs of balls/s; baseline: own pairs", training(study, "ball"), "0.85 ×", own)
    drawn, inside = sampling(counting)
    row("samples/s, drawn and verified, counting", drawn, "1,000")
    row("  of them inside ε", inside, "3,000", drawn, digits=0)
    row("read, addition, s", reading("addition", "615+861=1476", "=", "a0.0"), "6", digits=2)
    row("read, counting, s", reading("counting", "vvzccvczvvvzvcvc|v:8", ":", "a1.0"), "6", digits=2)
    row("good ratio, shipped counting decoder", iv.evaluate(counting)["mean"], "0.70", digits=3)
    row("good ratio, shipped addition decoder", iv.evaluate(addition)["mean"], "0.85", digits=3)
    if options.ten_minutes:
        row("good ratio after 10 minutes, counting", ten_minutes("counting"), "0.40", digits=3)
        row("good ratio after 10 minutes, addition", ten_minutes("addition"), "0.72", digits=3)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

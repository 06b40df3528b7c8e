"""Peak memory of training a decoder over a vocabulary of 49,152 tokens, with and without chunked cross entropy.

    python benchmarks/decoder_memory.py

Six trainings, each in a process of its own, whose peak resident memory is measured: from scratch over the whole vocabulary,
and around SmolLM2-135M, frozen and with LoRA. Two steps on 64 random inputs of 17 tokens: a batch of 256 goes through the
decoder in four such groups, one after the other.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from time import perf_counter

import torch
import torch.nn.functional as F

from inversionview.decoder import decoder as decoder_model
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.pairs import Batch, Group
from inversionview.decoder.pretrained import PretrainedDecoder
from inversionview.decoder.recipe import TrainConfig
from inversionview.decoder.scratch import ScratchDecoder
from inversionview.decoder.training import make_accelerator, optimizers_of, step
from inversionview.studies.shipped import default_model

VOCABULARY, LENGTH, PAIRS, SITES, D_MODEL = 49_152, 17, 64, 20, 576


def whole(hidden, weight, target, bias=None):
    """Cross entropy in one piece, every logit in memory."""
    return F.cross_entropy(F.linear(hidden, weight, bias).float(), target, reduction="sum")


def measure(kind: str, loss: str) -> dict[str, float]:
    """Train two batches in this process."""
    torch.manual_seed(0)
    config = DecoderConfig(
        tuple(f"a{i}.0" for i in range(SITES)), D_MODEL, VOCABULARY, LENGTH, bos=1, eos=2, pad=VOCABULARY,
        base="" if kind == "scratch" else str(default_model()), tuning=kind if kind == "lora" else "frozen",
    )  # fmt: skip
    decoder = ScratchDecoder(config) if kind == "scratch" else PretrainedDecoder.on(config)
    if loss == "whole":
        decoder_model.cross_entropy = whole
    optimizers, accelerator = optimizers_of(decoder, TrainConfig()), make_accelerator("cpu")
    tokens = torch.randint(3, VOCABULARY, (PAIRS, LENGTH))
    group = Group(tokens, torch.randn(PAIRS, D_MODEL), torch.randint(0, SITES, (PAIRS,)))
    batch = Batch([group], PAIRS * (LENGTH - 1))
    step(decoder, batch, optimizers, accelerator, decoder)
    start = perf_counter()
    step(decoder, batch, optimizers, accelerator, decoder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"peak GB": round(peak, 2), "s/step": round(perf_counter() - start, 2)}


def main() -> None:
    for kind in ("scratch", "frozen", "lora"):
        for loss in ("whole", "chunked"):
            done = subprocess.run([sys.executable, __file__, kind, loss], capture_output=True, text=True, check=True)
            print(f"{kind:10} {loss:8} {json.loads(done.stdout.splitlines()[-1])}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main()

r"""Train the sparse autoencoders that the package carries, by EleutherAI's sparsify, and say how well they reconstruct.

Run once for each study, with packages that the project itself does not need (without Triton sparsify computes in PyTorch):

    pip install --no-deps eai-sparsify==1.3.3 natsort schedulefree simple-parsing docstring-parser
    python scripts/saes.py addition
    python scripts/saes.py counting

Writes ``studies/files/STUDY/sae-x0.post/h.0`` in sparsify's format: ``h.0`` is what transformers calls the block whose output
x0.post is. README.md beside it says what was measured.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from transformers import GPT2LMHeadModel

import inversionview as iv
from inversionview.corpora.inputs import Inputs
from inversionview.model.dictionaries.loading import load_dictionary
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.site import Site
from inversionview.studies.shipped import FILES, shipped_path

MODULE, SITE = "h.0", "x0.post"
SETTINGS: dict[str, dict[str, int]] = {
    "addition": {"num_latents": 128, "k": 8, "sequences": 600_000},
    "counting": {"num_latents": 256, "k": 8, "sequences": 1_100_000},
}
"""Latents, how many of them fire, and how many inputs of the training split are used, once each."""
BATCH, RATE, SEED, HELD_OUT = 64, 3e-3, 0, 20_000
"""Inputs of a step, learning rate, and inputs of the test split that are measured."""


def train(study: str, inputs: Inputs, rows: np.ndarray, folder: Path) -> None:
    """Train on the activations of a study's inputs, all tokens but BOS, EOS and padding."""
    settings = SETTINGS[study]
    ids = torch.from_numpy(inputs.tokens(rows))
    framing = [token for token in (inputs.pad, inputs.bos, inputs.eos) if token is not None]
    config = TrainConfig(
        SparseCoderConfig(num_latents=settings["num_latents"], k=settings["k"]),
        batch_size=BATCH, optimizer="adam", lr=RATE, lr_warmup_steps=100, auxk_alpha=1 / 32, dead_feature_threshold=100_000,
        hookpoints=[MODULE], init_seeds=[SEED], exclude_tokens=framing, save_every=10**9, log_to_wandb=False,
        save_dir=str(folder), run_name="run",
    )  # fmt: skip
    model = GPT2LMHeadModel.from_pretrained(shipped_path(study, "model")).eval()  # type: ignore[arg-type]
    Trainer(config, Dataset.from_dict({"input_ids": ids}).with_format("torch"), model).fit()


def measured(study: str, inputs: Inputs, rows: np.ndarray, folder: Path) -> dict[str, Any]:
    """Return what the autoencoder in a folder makes of inputs that it was not trained on, read by the package itself."""
    model, dictionary = ProbedModel.from_pretrained(str(shipped_path(study, "model"))), load_dictionary(folder)
    tokens = inputs.tokens(rows)
    taken = {"all tokens": np.isin(tokens, [inputs.pad, inputs.bos, inputs.eos], invert=True)}
    taken |= {name: np.arange(tokens.shape[1]) == at[:, None] for name, at in inputs.named_positions(tokens).items()}
    every = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    z = model.harvest(tokens, [Site.parse(SITE)], np.ascontiguousarray(every))[0]
    told: dict[str, Any] = {}
    for name, mask in taken.items():
        x = z[torch.from_numpy(mask)]
        if len(x):
            codes = dictionary.encode(x)
            unexplained = (x - dictionary.decode(codes)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
            told[name] = {
                "tokens": len(x), "explained": round(1 - float(unexplained), 4),
                "fire": round(float((codes > 0).float().sum(1).mean()), 2), "never": int((codes == 0).all(0).sum()),
            }  # fmt: skip
    return told


def main(study: str) -> None:
    """Train, write and measure."""
    torch.set_num_threads(1)
    inputs = iv.load(study).inputs
    rows, rest = inputs.split("train")[: SETTINGS[study]["sequences"]], inputs.split("test")
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        train(study, inputs, rows, Path(name))
        print(f"{time.perf_counter() - started:.0f} s")
        made, goal = Path(name) / "run", FILES / study / f"sae-{SITE}"
        shutil.rmtree(goal / MODULE, ignore_errors=True)
        for path in sorted((made / MODULE).iterdir()):
            (goal / MODULE).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, goal / MODULE / path.name)  # without permissions: safetensors lets only its owner read
        config = json.loads((made / "config.json").read_text(encoding="utf-8")) | {"model": study, "save_dir": ""}
        (goal / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured(study, inputs, rest[:HELD_OUT], goal / MODULE), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1])

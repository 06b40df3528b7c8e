"""Train the probed model of a shipped study: ``inversionview train-probed counting``.

GPT-2 of the sizes of the paper (Huang et al. 2024, section 3), a modern recipe: batches of four lengths without padding,
Muon and AdamW, linear decay to zero.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inversionview.core import optim
from inversionview.core.arrays import Ids
from inversionview.core.errors import DivergenceError, UnknownStudyError, did_you_mean
from inversionview.core.locks import locked
from inversionview.core.progress import Progress
from inversionview.core.ranges import check_seed, whole
from inversionview.core.storage import replacing
from inversionview.corpora.inputs import Inputs
from inversionview.model.gpt2 import GPT2Backend
from inversionview.model.sites.site import Site
from inversionview.model.tokens import character_tokenizer
from inversionview.studies.registry import shipped_inputs

"""Called with the share of a training that is done, and the loss."""


@dataclass(frozen=True)
class Recipe:
    """Architecture and training of one probed model."""

    layers: int
    heads: int
    width: int
    answer_only: bool
    """Loss on the token after ``:`` only (counting), or on all tokens (addition)."""
    inputs: int
    """How many inputs are seen in training."""
    batch: int = 512
    groups: int = 4
    """Parts of a batch, each of one length: no padding is computed, yet every batch mixes lengths."""
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    weight_decay: float = 0.0
    decay: float = 0.95

    def __post_init__(self) -> None:
        whole(self.inputs, f"The number of inputs, in batches of {self.batch},", self.batch)


def one_length_batches(inputs: Inputs, batch: int, seed: int) -> Iterator[Ids]:
    """Yield batches ``[batch, length]`` in which all rows have one length: no padding is computed.

    Draws of 128 batches are sorted into lengths; rows that do not fill a batch wait for the next draw, so every input is
    as likely as in the corpus.
    """
    waiting: dict[int, list[Ids]] = {}
    for tokens in inputs.stream(128 * batch, split="train", seed=seed):
        lengths = inputs.lengths(tokens)
        ready = []
        for length in np.unique(lengths):
            rows = np.concatenate([*waiting.pop(int(length), []), tokens[lengths == length, :length]])
            full = len(rows) // batch * batch
            ready += list(rows[:full].reshape(-1, batch, length))
            waiting[int(length)] = [rows[full:]]
        yield from (ready[i] for i in np.random.default_rng(len(ready)).permutation(len(ready)))


def train_probed(
    inputs: Inputs, recipe: Recipe, out: Path, *, seed: int = 0, device: str = "cpu", report: Progress | None = None
) -> dict[str, float]:
    """Train a GPT-2 on a study's train split and write a Hugging Face directory.

    Returns:
        ``accuracy`` (share of test inputs whose answer is right), ``minutes``, ``inputs`` seen.

    Raises:
        DivergenceError: the loss is not finite any more; nothing is written.
        StorageError: ``out`` cannot be written.
    """
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    torch.manual_seed(check_seed(seed))
    torch.set_flush_denormal(True)  # moments of idle weights decay into denormals, which halve a CPU's speed
    tokenizer = character_tokenizer(inputs.vocabulary)
    config = GPT2Config(
        vocab_size=len(inputs.vocabulary), n_positions=inputs.max_length, n_embd=recipe.width, n_layer=recipe.layers,
        n_head=recipe.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).to(device)
    # tokens begin far apart: from GPT-2's own 0.02 some letters of counting collapse onto one another and stay so
    torch.nn.init.normal_(model.transformer.wte.weight, std=0.4)
    optimizers = optim.build(model, muon_lr=recipe.muon_lr, adam_lr=recipe.adam_lr, weight_decay=recipe.weight_decay)
    base = optim.rates(optimizers)
    steps, start = recipe.inputs // recipe.batch, time.time()
    batches = one_length_batches(inputs, recipe.batch // recipe.groups, seed)
    for step in range(steps):
        optim.set_rates(optimizers, base, optim.schedule(step / steps, decay=recipe.decay))
        total = 0.0
        for tokens in islice(batches, recipe.groups):
            loss = _loss(model, torch.from_numpy(tokens).to(device), recipe.answer_only) / recipe.groups
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise DivergenceError(f"The training diverged: at step {step} the loss is {total}. Train anew with another --seed.")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if report is not None and (step + 1) % 20 == 0:
            report((step + 1) / steps, f"loss {total:.4f}")
    minutes = (time.time() - start) / 60
    result = {"accuracy": accuracy(model, inputs), "minutes": round(minutes, 2), "inputs": steps * recipe.batch}
    logging.disable_progress_bar()
    with replacing(out) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "training.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _loss(model: Any, tokens: Tensor, answer_only: bool) -> Tensor:
    """Cross entropy of the next token: of the answer alone, or of every token."""
    if answer_only:  # one token before EOS; the last layer is computed only where it is predicted
        backend = GPT2Backend(model.config.to_dict(), model.state_dict(keep_vars=True), tokens.device, torch.float32)
        last = Site(len(backend.blocks) - 1, "post")
        at = torch.full((len(tokens), 1), tokens.size(1) - 3, device=tokens.device)
        x = backend.activations(tokens[:, :-2], None, [last], at)[0, :, 0]
        return torch.nn.functional.cross_entropy(model.lm_head(model.transformer.ln_f(x)), tokens[:, -2])
    logits = model(tokens[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def accuracy(model: Any, inputs: Inputs, limit: int = 40_000) -> float:
    """Return the share of test inputs whose whole answer (all tokens after ``:`` or ``=``, EOS not) is the model's first
    choice at every step; over the test split, or a random ``limit`` of it."""
    from inversionview.studies.addition import corpus as addition
    from inversionview.studies.counting import corpus as counting

    mark = counting.COLON if isinstance(inputs, counting.CountingInputs) else addition.EQUALS
    rows = inputs.split("test")
    tokens = inputs.tokens(np.random.default_rng(1).permutation(rows)[:limit])
    device = next(model.parameters()).device
    right = 0
    for part in np.array_split(tokens, max(1, len(tokens) // 2000)):
        ids = torch.from_numpy(part).to(device)
        best = model(ids, attention_mask=(ids != inputs.pad).long()).logits[:, :-1].argmax(-1)
        answer = (ids == mark).cumsum(1)[:, :-1].bool() & (ids[:, 1:] != inputs.eos) & (ids[:, 1:] != inputs.pad)
        right += int(((best == ids[:, 1:]) | ~answer).all(1).sum())
    return right / len(tokens)


RECIPES = {
    "counting": Recipe(layers=2, heads=1, width=64, answer_only=True, inputs=2_000_000),
    "addition": Recipe(layers=2, heads=4, width=32, answer_only=False, inputs=1_000_000, weight_decay=0.1),
}
"""What the shipped models were trained with."""


def train_shipped(
    study: str,
    out: Path,
    *,
    inputs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    report: Progress | None = None,
) -> dict[str, float]:
    """Train the probed model of a shipped study by its recipe, see ``train_probed``.

    Raises:
        UnknownStudyError: there is no such study.
        LockedError: another process trains into that folder.
        DivergenceError: the loss is not finite any more.
    """
    if study not in RECIPES:
        raise UnknownStudyError(f"There is no study {study!r}; there are {', '.join(RECIPES)}.{did_you_mean(study, RECIPES)}")
    recipe = RECIPES[study] if inputs is None else replace(RECIPES[study], inputs=inputs)
    place = out.resolve()
    with locked(place.with_name(f".{place.name}.lock"), out):  # not within, as the folder is replaced as a whole
        return train_probed(shipped_inputs(study), recipe, out, seed=seed, device=device, report=report)

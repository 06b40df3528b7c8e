"""The figures of activation patching: ``python benchmarks/patching.py [PAIRS]``; by default the test set of addition.

Eight cumulative sets of heads in both directions, three ways: this package; the same backend, but every set a whole run; and
plain Hugging Face with forward hooks. The slower two run on a part of the pairs, side by side. Prints a Markdown table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from transformers import GPT2LMHeadModel

import inversionview as iv
from inversionview.analyses.patch.measure import steps
from inversionview.corpora.contrasts import Pairs
from inversionview.intervene.activations import parse_activations
from inversionview.intervene.patched_runs import PatchedRuns
from inversionview.model.backend import Patch
from inversionview.studies.study import Study

PART = 8000
ROWS = 1000
Sets = Sequence[Sequence[int]]


def whole_runs(study: Study, pairs: Pairs, sets: Sets) -> np.ndarray:
    """Every set by a run of the whole input in the package's own backend."""
    heads = [site for site in study.model.sites if site.kind == "head"]
    out = []
    for start in range(0, len(pairs), ROWS):
        rows = slice(start, start + ROWS)
        own, theirs = (torch.from_numpy(tokens[rows, :9]) for tokens in (pairs.original, pairs.contrast))
        at = torch.full((len(own), 1), 8)
        z = study.model.activations(theirs, heads, at)
        answers = torch.from_numpy(pairs.answers[rows])
        found = []
        for members in sets:
            logits = study.model.logits(own, {heads[i]: Patch(at, z[i]) for i in members})[:, 8].gather(1, answers)
            found.append(logits[:, 0] - logits[:, 1])
        out.append(torch.stack(found, 1))
    return torch.cat(out).numpy()


def keep(kept: list[torch.Tensor], module: object, args: tuple[torch.Tensor]) -> None:
    kept.append(args[0])


@torch.no_grad()
def hooks(study: Study, pairs: Pairs, sets: Sets) -> np.ndarray:
    """Plain Hugging Face: hooks on the input of every W_O, of which a head is a slice."""
    model = GPT2LMHeadModel.from_pretrained(study.model_path).eval()
    size, out = model.config.n_embd // model.config.n_head, []
    for start in range(0, len(pairs), ROWS):
        rows = slice(start, start + ROWS)
        own, theirs = (torch.from_numpy(tokens[rows, :9]) for tokens in (pairs.original, pairs.contrast))
        answers, kept = torch.from_numpy(pairs.answers[rows]), list[torch.Tensor]()
        taken = [b.attn.c_proj.register_forward_pre_hook(partial(keep, kept)) for b in model.transformer.h]
        model(theirs)
        for handle in taken:
            handle.remove()
        found = []
        for members in sets:
            handles = []
            for layer, block in enumerate(model.transformer.h):
                mine = [i % model.config.n_head for i in members if i // model.config.n_head == layer]

                def replace(module: object, args: tuple[torch.Tensor], mine=mine, new=kept[layer]) -> tuple[torch.Tensor]:  # type: ignore[no-untyped-def]
                    z = args[0].clone()
                    for head in mine:
                        z[:, 8, head * size : (head + 1) * size] = new[:, 8, head * size : (head + 1) * size]
                    return (z,)

                handles.append(block.attn.c_proj.register_forward_pre_hook(replace))
            logits = model(own).logits[:, 8].gather(1, answers)
            found.append(logits[:, 0] - logits[:, 1])
            for handle in handles:
                handle.remove()
        out.append(torch.stack(found, 1))
    return torch.cat(out).numpy()


def main() -> None:
    study = iv.load("addition")
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else None
    began = time.perf_counter()
    pairs = iv.pairs(study, target="A1", changes=["F1", "S1"], limit=limit)
    made = time.perf_counter() - began
    activations = parse_activations(["=:a*.*"], study.model.sites)
    sets = [tuple(range(8)), *(s for each in steps(8, "both").values() for s in each)]
    sets = list(dict.fromkeys(sets))
    part = Pairs(
        *(column[:PART] for column in (pairs.original, pairs.contrast, pairs.read, pairs.contrast_read, pairs.answers))
    )

    def ours(pairs: Pairs) -> np.ndarray:
        return PatchedRuns(study.model, pairs, activations, study.positions).differences(sets).patched

    ways: dict[str, Callable[[], np.ndarray]] = {
        "this package": lambda: ours(part),
        "every set a whole run": lambda: whole_runs(study, part, sets),
        "Hugging Face with hooks": lambda: hooks(study, part, sets),
    }
    took, found = {name: float("inf") for name in ways}, {}
    for _ in range(3):
        for name, way in ways.items():
            began = time.perf_counter()
            found[name] = way()
            took[name] = min(took[name], time.perf_counter() - began)
    print(f"| way | s for {len(part):,} pairs × {len(sets)} sets | times slower | largest difference of LD |")
    print("| --- | --- | --- | --- |")
    for name, seconds in took.items():
        apart = float(np.abs(found[name] - found["this package"]).max())
        print(f"| {name} | {seconds:.2f} | {seconds / took['this package']:.1f} | {apart:.1e} |")
    began = time.perf_counter()
    ours(pairs)
    took_all, threads = time.perf_counter() - began, torch.get_num_threads()
    print(f"\n{len(pairs):,} pairs: contrasts {made:.1f} s, patching {took_all:.1f} s; {threads} threads")


if __name__ == "__main__":
    main()

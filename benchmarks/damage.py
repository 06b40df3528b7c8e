"""What a damaged byte does: ``python benchmarks/damage.py`` (300 damages over every file of a run; some minutes).

Makes a small run, then damages one of its files at a time and reads, searches, evaluates and goes on training through the
public door. Right is a sentence that tells the damage, or the very answers of the undamaged run.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import inversionview as iv
from inversionview.core.errors import InversionViewError
from inversionview.decoder.training import TrainConfig
from inversionview.model.tokens import character_tokenizer
from inversionview.runs.train import Reading, Watch, train_texts

TEXT, SITE = "ann has 7 figs", "x1.post"
CONFIG = TrainConfig(minutes=None, steps=4, batch=32, pool=2, groups=2, evaluations=1, queries=2)
SAME, TOLD, OTHER, TRACEBACK = "same answer", "told", "another answer", "traceback"


def make_model(folder: Path) -> None:
    """Write a GPT-2 of two layers with random weights, which reads single characters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = character_tokenizer([*"abcdefghijklmnopqrstuvwxyz 0123456789", "B", "E", "P"])
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(
        vocab_size=40, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=37, eos_token_id=38, pad_token_id=39,
    )).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)


def train(folder: Path, report: Callable[[float, dict[str, Any]], None] | None = None) -> iv.Study:
    """Train the run in ``folder / "run"``, or go on with it."""
    return train_texts(
        str(folder / "model"), str(folder / "texts.txt"), folder / "run", CONFIG, watch=Watch(report),
        reading=Reading(sites="x1.post,a1.0", inputs=300), layers=1, heads=2, width=16, pathway=16, blocks=1, hidden=32,
        rank=4, cells=1,
    )  # fmt: skip


def make_run(folder: Path) -> None:
    """Make a run that is trained to its end, with the checkpoint of its middle: what goes on from there ends in the same."""
    make_model(folder / "model")
    texts = [f"{name} has {n} {food}s" for name, food in (("ann", "fig"), ("bob", "nut"), ("cat", "pie")) for n in range(120)]
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")

    def keep(done: float, row: dict[str, Any]) -> None:
        if row["step"] == 2:
            shutil.copytree(folder / "run" / "checkpoints", folder / "middle")

    train(folder, keep)
    shutil.rmtree(folder / "run" / "checkpoints")
    (folder / "middle").rename(folder / "run" / "checkpoints")
    for lock in folder.rglob(".*lock"):
        lock.unlink()


def _shown(preimage: iv.Preimage) -> list[tuple[str, float, int]]:
    return [(sample.text, sample.distance, sample.position) for sample in preimage]


def questions(folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what is asked of a run, each from its files anew."""

    def study() -> tuple[iv.Study, iv.Query]:
        opened = iv.load(folder / "run")
        return opened, opened.query(TEXT, at="END", site=SITE)

    def read() -> Any:
        opened, query = study()
        return _shown(iv.read(opened, query, each=8, source="decoder"))

    def search() -> Any:
        opened, query = study()
        found = iv.search(opened, query, epsilon=0.3, k=5)
        return _shown(found), found.bits

    def evaluate() -> Any:
        return iv.evaluate(study()[0], queries=2, samples=2)

    def resume() -> Any:
        train(folder)
        decoder = iv.load(folder / "run").decoder
        return {name: tensor.numpy().tobytes() for name, tensor in decoder.state_dict().items()}

    return {"read": read, "search": search, "evaluate": evaluate, "resume": resume}


@dataclass(frozen=True)
class Damage:
    """One damage of one file."""

    file: str
    how: str

    def __str__(self) -> str:
        return f"{self.file}: {self.how}"


def damages(folder: Path, count: int, seed: int = 0) -> Iterator[tuple[Damage, Callable[[Path], None]]]:
    """Yield ``count`` random damages, the files in turn, and what makes each."""
    rng = np.random.default_rng(seed)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != "texts.txt")
    for number in range(count):
        file = files[number % len(files)]
        size = (folder / file).stat().st_size
        at, kind = int(rng.integers(size)), str(rng.choice(["bit", "byte", "cut"], p=[0.6, 0.3, 0.1]))
        bit, byte = int(rng.integers(8)), int(rng.choice(list(b'0123456789-x"} \n')))
        told = {"bit": f"bit {bit} of byte {at} flipped", "byte": f"byte {at} is {chr(byte)!r}", "cut": f"cut after {at} bytes"}
        yield Damage(file.as_posix(), told[kind]), partial(_damage, file, kind, at, bit, byte)


def _damage(file: Path, kind: str, at: int, bit: int, byte: int, root: Path) -> None:
    held = bytearray((root / file).read_bytes())
    if kind == "cut":
        del held[at:]
    else:
        held[at] = held[at] ^ (1 << bit) if kind == "bit" else byte
    (root / file).write_bytes(bytes(held))


def outcome(ask: Callable[[], Any], wanted: Any) -> tuple[str, str]:
    """Return what became of a question, and what was said."""
    try:
        found = ask()
    except InversionViewError as error:
        return (TOLD, str(error)) if "\n" not in str(error) and str(error).endswith((".", "?")) else (TRACEBACK, repr(error))
    except Exception as error:
        return TRACEBACK, repr(error)
    return (SAME, "") if found == wanted else (OTHER, "")


def run(root: Path, count: int, seed: int = 0) -> Iterator[tuple[Damage, str, str, str]]:
    """Yield of each damage × question: the damage, the question, what became of it, and what was said."""
    work, whole = root / "work", root / "whole"
    make_run(work)
    shutil.copytree(work, whole)
    wanted = {name: ask() for name, ask in questions(work).items()}
    for made, damage in damages(whole, count, seed):
        shutil.rmtree(work)
        shutil.copytree(whole, work)
        damage(work)
        for name, ask in questions(work).items():
            yield made, name, *outcome(ask, wanted[name])


def main() -> None:
    """Print how often what became of damages, by file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    kinds, counts, bad = (SAME, TOLD, OTHER, TRACEBACK), dict[str, Counter[str]](), []
    with tempfile.TemporaryDirectory() as folder:
        for damage, name, what, said in run(Path(folder), asked.count, asked.seed):
            counts.setdefault(damage.file, Counter())[what] += 1
            if what in (OTHER, TRACEBACK):
                bad.append(f"{damage}, {name}: {what} {said}")
    table = Table("file", *kinds, box=None)
    for file, found in sorted(counts.items()):
        table.add_row(file, *(str(found[kind]) for kind in kinds))
    table.add_row("all", *(str(sum(found[kind] for found in counts.values())) for kind in kinds), style="bold")
    console = Console(width=160)
    console.print(f"{asked.count} damages, after each: read, search, evaluate, resume")
    console.print(table)
    for line in bad:
        console.print(line, soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()

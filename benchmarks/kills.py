"""Kill -9 what writes, again and again, and go on: ``python benchmarks/kills.py --kills 100``.

A run (bank, training, decoder), a bank, figures and caches are made in processes that are killed: half of them at a random
moment, half right before the n-th call that changes a file's name, removes or flushes one. After every kill the same work is
begun again. Once all of it was done it must be what work that was never killed makes, bit for bit but for times, with no
file more. Processes are forked from one that has imported everything. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not survive a fork
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch

import inversionview as iv
from inversionview.analyses.interpret.cache import AnswerCache
from inversionview.analyses.interpret.prompts import Form, Prompt
from inversionview.bank import manifest
from inversionview.cli import main
from inversionview.core.storage import read_array, write_array
from inversionview.runs.train import Reading, train_study

TIMES = ("seconds", "pairs_per_second", "checksum")
"""Fields that hold a time, or the checksum of one."""
CHANGES = ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"))
"""Calls that change what a folder holds."""


def run(folder: Path) -> None:
    """A run: 600 inputs harvested into three shards, and four pools of two batches."""
    config = iv.TrainConfig(minutes=None, steps=8, batch=16, pool=2, evaluations=2, queries=4)
    reading = Reading(sites="x0.pre,x1.post", inputs=600, stream=False)
    train_study("addition", folder, config, reading=reading, width=16, layers=1, pathway=16, blocks=1, cells=2)


def bank(folder: Path) -> None:
    """A bank of four shards, by the command line."""
    main(["bank", "counting", "--inputs", "1000", "--sites", "a1.0,x1.post", "--out", str(folder)])


def figures(folder: Path) -> None:
    """Figures and tables of the shipped study's bank."""
    main(["bits", "counting", "--queries", "2", "--out", str(folder / "bits.png")])
    main(["inform", "counting", "--queries", "2", "--out", str(folder / "table.csv"), "--out", str(folder / "table.html")])


def caches(folder: Path) -> None:
    """Answers of a language model, an array."""
    cache = AnswerCache(folder / "answers")
    for number in range(20):
        path = cache.path(Prompt("", str(number), Form, 10), "model", "endpoint")
        if cache.read(path) is None:
            cache.write(path, "model", {"answer": number}, number)
    if read_array(folder / "known.npz") is None:
        write_array(folder / "known.npz", np.arange(100) % 3 == 0)


WORK: dict[str, Callable[[Path], None]] = {"run": run, "bank": bank, "figures": figures, "caches": caches}


def begun(work: Callable[[Path], None], folder: Path, nth: int = 0) -> int:
    """Begin work in a process of its own, which kills itself before the ``nth`` change of a file, if one is given."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        counted = iter(range(1, 10**9))
        for module, name in CHANGES if nth else ():
            setattr(module, name, _deadly(getattr(module, name), counted, nth))
        work(folder)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _deadly(real: Callable[..., Any], counted: Any, nth: int) -> Callable[..., Any]:
    def call(*given: Any, **options: Any) -> Any:
        if next(counted) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **options)

    return call


def ended(pid: int) -> int:
    """Wait for a process; return its exit code, −9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, times left out."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_dir():
            continue
        data = path.read_bytes()
        if path.name in ("progress.json", "metrics.jsonl"):
            rows = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
            timeless = [{key: value for key, value in json.loads(row).items() if key not in TIMES} for row in rows]
            data = json.dumps(timeless).encode()
        found[str(path.relative_to(folder))] = data
    return found


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """What lacks, is too much, or differs."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def killed(name: str, wanted: int, place: Path, rng: random.Random) -> tuple[int, int, list[str]]:
    """Kill one kind of work ``wanted`` times; return kills, how often it came to its end, and what was wrong then."""
    whole, folder, work = place / f"{name}-whole", place / name, WORK[name]
    since = time.perf_counter()
    if code := ended(begun(work, whole)):
        return 0, 0, [f"{name}: exit code {code}: {whole.with_suffix('.log').read_text(encoding='utf-8')[-500:]}"]
    took, reference = time.perf_counter() - since, content(whole)
    kills, ends, wrong, last = 0, 0, list[str](), False
    while not last:  # the last time it is not killed: work is always held against the other once at least
        last = kills >= wanted
        aimed = not last and rng.random() < 0.5
        pid = begun(work, folder, nth=int(10 ** rng.uniform(0, 2.2)) if aimed else 0)
        if not (aimed or last):
            time.sleep(rng.random() * took)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        code = ended(pid)
        kills += code == -signal.SIGKILL
        if code not in (0, -signal.SIGKILL):
            said = folder.with_suffix(".log").read_text(encoding="utf-8")
            return kills, ends, [*wrong, f"{name}: exit code {code}: {said[-500:]}"]
        if code == 0:
            ends += 1
            wrong += [
                f"{name}: {each} is not as in work that was never killed" for each in differences(reference, content(folder))
            ]
            shutil.rmtree(folder)
    return kills, ends, wrong


def told(kills: int, seed: int, place: Path) -> int:
    """Share the kills among all kinds of work, print a table, and return how much was wrong."""
    rng, all_wrong = random.Random(seed), []
    shares = Counter(list(WORK)[number % len(WORK)] for number in range(kills))
    print("| work | kills | times it was gone on with to its end | wrong | minutes |\n| --- | --- | --- | --- | --- |")
    for name, wanted in shares.items():
        since = time.perf_counter()
        done, ends, wrong = killed(name, wanted, place, rng)
        all_wrong += wrong
        print(f"| {name} | {done} | {ends} | {len(wrong)} | {(time.perf_counter() - since) / 60:.1f} |", flush=True)
    print(*all_wrong, sep="\n")
    return len(all_wrong)


def warm() -> None:
    """Import and load what all of the work needs, once."""
    for name in ("accelerate", "matplotlib.pyplot", "pandas", "plotly.graph_objects"):
        import_module(name)
    torch.set_num_threads(1)
    manifest.SHARD_ROWS = 256
    manifest.SHARD_BYTES = 2**30
    for name in ("counting", "addition"):
        assert iv.load(name).model.fingerprint


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    asked = arguments()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        place = Path(folder)
        warm()
        bank_of_figures = ended(begun(lambda _: iv.build_bank(iv.load("counting"), rows=512) and None, place / "first"))
        sys.exit(1 if bank_of_figures or told(asked.kills, asked.seed, place) else 0)

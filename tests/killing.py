"""A bank of texts that is killed right before the n-th change of a file and begun again, and how much memory texts take.

Run by ``test_bank_of_texts.py`` in a process of its own: ``python -m tests.killing kill|memory FOLDER``. What is killed is
forked from it, as imports take longer than all the work; that has one thread, for others do not survive a fork.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "ARROW_IO_THREADS": "1"}

from inversionview.bank import manifest
from inversionview.cli import main
from inversionview.corpora import natural

CHANGES = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")
"""Functions of ``os`` that change what a folder holds."""
DRAWN = ("corpus/state.json", "corpus/checksums.json")
ROOM = 2**25
"""Bytes of address space that a command may take beyond what it took of a smaller file; the large one has more."""


def bank(folder: Path, texts: Path, out: str) -> None:
    """Harvest a bank of texts, by the command; its windows are cut anew, too."""
    os.environ["XDG_CACHE_HOME"] = str(folder / f"cache-{out}")
    told = ["--texts", str(texts), "--sites", "x0.post,a1.0", "--tokens", "900", "--context", "24", "--out", str(folder / out)]
    main(["bank", "--model", str(folder / "model"), *told])


def forked(work: Callable[[], None], deadly: int = 0) -> tuple[int, int]:
    """Do work in a fork that kills itself before its ``deadly``-th change; return its exit code, and how many it made."""
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(here)
        counted = iter(range(1, 10**9))
        for name in CHANGES:
            setattr(os, name, _watched(getattr(os, name), counted, deadly, there))
        code = 1
        try:
            work()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        finally:
            os._exit(code)
    os.close(there)
    made = 0
    while part := os.read(here, 2**16):
        made += len(part)
    os.close(here)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), made


def _watched(real: Callable[..., Any], counted: Iterator[int], deadly: int, there: int) -> Callable[..., Any]:
    def call(*given: Any, **options: Any) -> Any:
        if next(counted) == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(there, b".")
        return real(*given, **options)

    return call


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, but those that hold a number which ``datasets`` draws by lot."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in DRAWN}


def kill(folder: Path) -> None:
    """Make a bank in one go; then kill others at places all along the way, go on once, and hold them against the first."""
    manifest.SHARD_ROWS = 256
    texts = folder / "texts.txt"
    code, changes = forked(lambda: bank(folder, texts, "whole"))
    assert code == 0
    assert changes > 20
    whole = content(folder / "whole")
    assert sum(name.endswith("activations.npy") for name in whole) == 4
    places = [changes * part // 5 for part in range(1, 5)] + [changes - 1]
    for number, place in enumerate(places):
        code, _ = forked(lambda out=f"bank{number}": bank(folder, texts, out), place)  # type: ignore[misc]
        assert code == -signal.SIGKILL, (place, code)
        code, _ = forked(lambda out=f"bank{number}": bank(folder, texts, out))  # type: ignore[misc]
        assert code == 0, place
        found = content(folder / f"bank{number}")
        differ = sorted(name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name))
        assert not differ, (place, changes, differ)
    print(f"{len(places)} kills of {changes} changes")


def memory(folder: Path) -> None:
    """Read a file, then one ten times as large with little more memory than that took."""
    natural._LARGE = 2**20  # of a file as large as many of these, texts are taken by lot
    bank(folder, folder / "some.txt", "some")
    page = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    most = int(page) * resource.getpagesize() + ROOM
    assert (folder / "large.txt").stat().st_size > 1.3 * ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    bank(folder, folder / "large.txt", "large")


if __name__ == "__main__":
    {"kill": kill, "memory": memory}[sys.argv[1]](Path(sys.argv[2]))

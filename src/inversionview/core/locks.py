"""Locks on what only one process may write at a time: a run, a model, a shard of a bank. They end with their process."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from inversionview.core.errors import LockedError, StorageError


@contextmanager
def locked(path: Path, what: Path | str) -> Iterator[None]:
    """Hold the lock file ``path`` for as long as the context lasts, within which the same thread may take it again.

    Args:
        path: the file; it is made, and removed at the end. One that a killed process left does not count.
        what: what is locked, for the message.

    Raises:
        LockedError: another process or thread holds it; says which.
        StorageError: the file cannot be written.
    """
    path = path.resolve()
    new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, is_singleton=True)
        lock.acquire(timeout=0.2, poll_interval=0.02)  # who clears up holds it for a moment
    except Timeout:
        raise LockedError(f"{_holder(path)} is at work on {what}: wait until it has ended, or choose another place.") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error}): choose another place.") from error
    first = lock.lock_counter == 1
    try:
        if first:
            now = datetime.now().isoformat(" ", "seconds")
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}), encoding="utf-8")
        yield
    finally:
        if first:
            path.unlink(missing_ok=True)  # while it is held: who opened it before finds that it is gone
        lock.release()
        if new:
            with suppress(OSError):  # unless something was written there
                path.parent.rmdir()


def clear(folder: Path) -> None:
    """Remove the lock files in a folder that killed processes left."""
    for path in folder.glob(".*.lock"):
        with suppress(LockedError, StorageError), locked(path, folder):
            pass


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"Process {int(held['pid'])} on {held['host']}, begun {held['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or has just ended
        return "Another process"

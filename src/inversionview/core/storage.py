"""Writing so that nothing is lost or half-written: a temporary name, fsync, then a rename.

A temporary name says which process writes, ``.NAME.PID-BIRTH-HOST.tmp``; what a folder held until it was replaced lies for a
moment in ``.NAME.PID-BIRTH-HOST.old``. What a killed process left under such names goes with the next write in that folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil

from inversionview.core.errors import StorageError
from inversionview.core.integrity import digest

_LEFT = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)-(?P<birth>[0-9a-f]{8})-(?P<host>[0-9a-f]{8})\.(?P<kind>tmp|old)")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, a file or a folder; on success it takes ``path``'s place.

    Raises:
        StorageError: the disk is full or the place cannot be written; what stood at ``path`` still does.
    """
    temporary = _beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        yield temporary
        _sync(temporary)
        if temporary.is_dir() and path.exists():
            old = _beside(path, "old")
            path.rename(old)
            try:
                temporary.rename(path)
            except BaseException:  # an interrupt, too
                if not path.exists():
                    old.rename(path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # safetensors reports a full disk as its own error, torch as RuntimeError
        raise StorageError(f"{path} could not be written ({error}): what was there before is untouched.") from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError":
            raise StorageError(f"{path} could not be written ({error}): what was there before is untouched.") from error
        raise
    finally:
        _discard(temporary)


def sweep(folder: Path) -> None:
    """Remove what processes of this host that no longer run left half-written in a folder, and bring back what they had
    taken away to replace; what a running process or another host writes stays."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(".")]
    except OSError:
        return
    for name in names:
        left = _LEFT.fullmatch(name)
        if left is None or left["host"] != _host() or left["birth"] == _birth(int(left["pid"])):
            continue
        if left["kind"] == "old" and not (folder / left["name"]).exists():
            with suppress(OSError):
                (folder / name).rename(folder / left["name"])
        else:
            _discard(folder / name)


def _beside(path: Path, kind: Literal["tmp", "old"]) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{_birth(os.getpid())}-{_host()}.{kind}")


def _birth(pid: int) -> str | None:
    """Return a mark of when a process began, which a later one of the same number has not; ``None`` where none runs."""
    boot = psutil.boot_time() if psutil.LINUX else 0.0  # taken off again, as it moves when the clock is set
    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return None if ended else digest(f"{process.create_time() - boot:.2f}".encode())[:8]
    except psutil.NoSuchProcess:
        return None


def _host() -> str:
    """Return a mark of this host, of the container where process numbers are its own."""
    numbers = Path("/proc/self/ns/pid")
    return digest(f"{socket.gethostname()} {os.readlink(numbers) if numbers.exists() else ''}".encode())[:8]


def _discard(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def _sync(path: Path) -> None:
    for each in [path, *(path.rglob("*") if path.is_dir() else [])]:
        each.chmod(0o755 if each.is_dir() else 0o644)  # safetensors leaves files that only their owner can read
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_writable(path: Path) -> Path:
    """Return ``path`` if a file can be written there, which is tried; makes its folder.

    Raises:
        StorageError: it cannot.
    """
    trial = _beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        trial.touch()
        trial.unlink()
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error}): choose another place.") from error
    return path


def recover(path: Path) -> None:
    """Bring back a folder whose replacement was cut short between its two renames."""
    if not path.exists():
        sweep(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Write an array as ``.npz``, atomically; unlike ``.npy`` it holds a checksum."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, values=values)


def read_array(path: Path) -> npt.NDArray[Any] | None:
    """Return what ``write_array`` wrote; ``None`` where there is nothing, or nothing whole."""
    try:
        with np.load(path, allow_pickle=False) as file:
            values: npt.NDArray[Any] = file["values"]
            return values
    except (OSError, ValueError, KeyError, EOFError, TypeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return None

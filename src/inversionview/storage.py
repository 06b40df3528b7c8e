"""Writing so that nothing is lost or half-written: a temporary name, fsync, then a rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from inversionview.errors import StorageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, a file or a folder; on success it takes ``path``'s place.

    Raises:
        StorageError: the disk is full or the place cannot be written; what stood at ``path`` still does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        if temporary.is_dir() and path.exists():
            old = path.with_name(f".{path.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
            try:
                temporary.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
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
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink()


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
    trial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error}): choose another place.") from error
    return path


def recover(path: Path) -> None:
    """Bring back a folder whose replacement was cut short between its two renames."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        old.rename(path)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

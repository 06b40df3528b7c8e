"""How much memory and disk there is, so that what does not fit is refused beforehand, with the largest number that does."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from inversionview.core.errors import SettingError, StorageError

_SHARE = 0.8
"""Of the free memory that one thing may take."""
_CGROUP = Path("/sys/fs/cgroup")
"""Where a container's limit stands, on Linux."""


def available() -> int:
    """Return the bytes that this process can still take: what is free, within the limits of a shell and of a container."""
    free = [int(psutil.virtual_memory().available)]
    if psutil.LINUX:
        process = psutil.Process()
        limit = process.rlimit(psutil.RLIMIT_AS)[0]
        if limit != psutil.RLIM_INFINITY:
            free.append(limit - int(process.memory_info().vms))
        with suppress(OSError, ValueError, KeyError):  # no such limit
            free.append(_left_to_container())
    return max(0, min(free))


def _left_to_container() -> int:
    """Return the bytes up to a container's limit; what files take there, which is given up for others, is free."""
    most, taken, listed = ((_CGROUP / f"memory.{name}").read_text(encoding="utf-8") for name in ("max", "current", "stat"))
    stat = {name: int(value) for name, value in (line.split() for line in listed.strip().split("\n"))}
    return int(most) - int(taken) + stat["file"] - stat["shmem"]


def check_memory(count: int, what: str, each: int, besides: int = 0) -> int:
    """Return ``count`` if so many fit.

    Args:
        count: how many.
        what: of what, in the plural: ``"candidates"``.
        each: bytes that one takes, at the worst moment.
        besides: bytes that are needed whatever the count.

    Raises:
        SettingError: they need more than can be had; it says how many fit.
    """
    room = int(_SHARE * available()) - besides
    if count * each > room:
        most = max(0, room // max(1, each))
        way = f"give at most {rounded(most):,}" if most else "free some memory"
        raise SettingError(
            f"{count:,} {what} need {said(count * each + besides)} of memory, {said(available())} are free: {way}."
        )
    return count


def check_bytes(size: int, what: str) -> None:
    """Refuse what needs more memory than can be had.

    Raises:
        SettingError: it does; ``what`` begins the sentence.
    """
    if size > _SHARE * available():
        raise SettingError(f"{what} needs {said(size)} of memory, {said(available())} are free: choose a smaller one.")


def check_disk(count: int, what: str, each: int, folder: Path) -> int:
    """Return ``count`` if so many, of ``each`` bytes, fit on the disk of a folder, which need not be there yet.

    Raises:
        StorageError: they need more than is free; it says how many fit.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if count * each > free:
        most = rounded(free // each)
        raise StorageError(
            f"{count:,} {what} need {said(count * each)} on the disk of {folder}, {said(free)} are free: "
            + (f"ask for at most {most:,}, or choose another disk." if most else "choose another disk.")
        )
    return count


def out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory could not be had, as Python, NumPy and PyTorch say it."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in ("allocate memory", "out of memory"))


def rounded(number: int) -> int:
    """Return two leading digits of a number, the rest being zeros."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return number // unit * unit


def said(size: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if size < 1000 or unit == "PB":
            return f"{size:,.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"
        size /= 1000
    raise AssertionError

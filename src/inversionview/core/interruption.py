"""Ctrl-C, SIGTERM and the closing of the terminal, from the first imports to the end: one sentence and exit code 130.

This module is imported before all that takes long to import, and imports nothing that does.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""The exit code after such a signal."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_REPEATED = getattr(signal, "SIGHUP", None)
"""A terminal that closes sends it more than once."""
_seen: set[int] = set()
_working = _resumes = False


def sentence() -> str:
    """Return what is said of an interruption, and of what goes on where it stood."""
    kept = ": what was checkpointed stands, and the same command goes on from there"
    return f"Interrupted{kept if _resumes else ''}."


@contextmanager
def importing(name: str) -> Iterator[None]:
    """End the program with its sentence at a signal while its command line is imported, and from then on.

    Where another program imports the command line nothing changes for it.

    Args:
        name: ``__name__`` of what is imported.
    """
    own = name == "__main__" or os.path.basename(sys.argv[0]).startswith("inversionview")
    before = _install() if own or sys.argv[0] == "-c" else {}
    yield
    if not own:
        _restore(before)


@contextmanager
def working() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` at the first signal, whatever error comes of it; at a second of its kind end at once."""
    global _working, _resumes
    _seen.clear()
    before, _working, _resumes = _install(), True, False
    try:
        yield
    except (KeyboardInterrupt, SystemExit, BrokenPipeError):
        raise
    except BaseException as error:
        if not _seen:
            raise
        raise KeyboardInterrupt from error  # a library made something else of it
    finally:
        _working = False
        _restore(before)
        exec("")  # forgets that one passed through an exec of text, after which Python would end by SIGINT, not with 130


@contextmanager
def resumable(so: bool = True) -> Iterator[None]:
    """What is interrupted within goes on where it stood when the same command is given again; unless ``so`` is false."""
    global _resumes
    before, _resumes = _resumes, so
    yield
    _resumes = before  # not where an interruption ends it: that is told yet


def _install() -> dict[int, object]:
    """Handle the signals but those that are ignored, as a shell or nohup sets it; return how they were handled before."""
    before: dict[int, object] = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN:
            try:
                signal.signal(number, _handle)
            except ValueError:  # not in this thread
                break
            before[number] = handler
    return before


def _restore(before: dict[int, object]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]


def _handle(number: int, frame: FrameType | None) -> None:
    if not _working:
        if not _seen and sys.stderr is not None:
            os.write(2, f"{sentence()}\n".encode())
        os._exit(INTERRUPTED)
    if number in _seen:
        if number != _REPEATED:
            os._exit(INTERRUPTED)
        return
    _seen.add(number)
    if len(_seen) == 1:  # on Ctrl-C a launcher of several processes sends them SIGTERM as well
        raise KeyboardInterrupt

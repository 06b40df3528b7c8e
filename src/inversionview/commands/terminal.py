"""The terminal and the pipe: nothing that a file or an argument holds steers the one, and the other may close or be full."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from inversionview.printable import one_line, shown

CLOSED = 141
"""Exit code where the reader of the output has gone, as of a program that SIGPIPE ended: 128 + 13."""


class SafeConsole(Console):
    """A console whose text is ``shown``: only what rich itself writes can move the cursor or change colours."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See ``Console.render``; what has no control codes of rich's own is plain text, and is filtered."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        """See ``Console.print``; what cannot be written is forgotten, else it would stand before what is printed next."""
        try:
            super().print(*objects, **options)
        except BaseException:
            self.begin_capture()
            self.end_capture()
            raise

    def on_broken_pipe(self) -> None:
        """Let the error go on to where the program ends, in place of rich's own end."""
        raise BrokenPipeError


def prepare() -> None:
    """Let what no encoding of the output can hold be written as an escape, and an output that is not there take anything."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def fail(sentence: str, code: int = 2) -> NoReturn:
    """Say in one line on stderr what was wrong, and end the program."""
    try:
        sys.stdout.flush()
    except OSError:
        drop(sys.stdout)
    try:
        sys.stderr.write(one_line(sentence) + "\n")
        sys.stderr.flush()
    except OSError:
        drop(sys.stderr)
    sys.exit(code)


def closed() -> NoReturn:
    """End the program, whose reader has gone: nothing is said."""
    drop(sys.stdout)
    drop(sys.stderr)
    sys.exit(CLOSED)


def drop(stream: Any) -> None:
    """Let what a stream still holds, and what comes after, go nowhere: the interpreter flushes it at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

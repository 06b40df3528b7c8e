"""The terminal and the pipe: nothing that a file or an argument holds steers the one, and the other may close or be full."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from inversionview.core.printable import one_line, shown

CLOSED = 141
"""Exit code where the reader of the output has gone, as of a program that SIGPIPE ended: 128 + 13."""
_PLAIN = {
    "ε": "eps", "β": "beta", "η": "eta", "θ": "theta", "λ": "lambda", "π": "pi", "τ": "tau", "φ": "phi", "Δ": "Delta",
    "Σ": "sum", "−": "-", "–": "-", "—": "-", "…": "...", "×": "x", "·": ".", "→": "->", "↔": "<->", "↦": "->", "∣": "|",
    "‖": "||", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "±": "+-", "∞": "inf", "½": "1/2", "√": "sqrt", "∝": "~",
    "∈": " in ", "₁": "1", "₂": "2", "ₙ": "n", "²": "^2", "³": "^3", "⁵": "^5", "⁶": "^6", "’": "'", "─": "-", "█": "#",
    "⟨": "<", "⟩": ">", "⟦": "[", "⟧": "]", "␣": "_", "⏎": "\\n", "⇥": "\\t", "⊙": "*", "′": "'",
    "■": "#", "□": "o", "\u0302": "hat", "ẑ": "zhat", "∂": "d", "▾": "v", "△": "^",
}  # fmt: skip
"""What stands for signs of the program's own in an encoding without them."""


class SafeConsole(Console):
    """A console whose text is ``shown``: only what rich itself writes can move the cursor or change colours."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.width < 1:  # COLUMNS=0: it would print nothing
            self.width = 80

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


def substituted(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that an encoding lacks: plain signs, else escapes such as ``\\u0647``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = (_PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in lacking)
    return "".join(plain), error.end


def begin_in_utf8() -> None:
    """Begin the program again where Python takes arguments and names of files for ASCII, as in the locale C: they are UTF-8.

    The output keeps the encoding that it has.
    """
    if sys.getfilesystemencoding() == "ascii":
        os.environ.setdefault("PYTHONIOENCODING", getattr(sys.stdout, "encoding", None) or "ascii")
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def prepare() -> None:
    """Let what the encoding of the output lacks be ``substituted``, and an output that is not there take anything."""
    codecs.register_error("substituted", substituted)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="substituted")


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

"""From a file to its lines: packed or not, UTF-8 or UTF-16, without its mark; what is damaged is named by line and byte.

A line ends at \\n or \\r\\n alone: U+2028, \\x0c, \\x85 and whatever else ``str.splitlines`` cuts at are characters of a text.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from inversionview.core.errors import InputError

BLOCK = 1 << 18
"""So many bytes are read at once."""
PACKINGS = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_PACKED: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x1f\x8b\x08"), "gzip"),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
    (re.compile(rb"\x04\x22\x4d\x18"), "lz4"),
)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LATER_MARKS = re.compile("(?<=\n)\ufeff+")
_DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


class Stream:
    """A file that is being read, unpacked on the way."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self._file = path, file
        packing = next((name for magic, name in _PACKED if magic.match(file.peek(16))), None)
        self.packed = packing is not None
        """Whether the file is compressed."""
        self._bytes = _unpacked(file, packing)
        self._size = os.fstat(file.fileno()).st_size
        self.head = self._read()
        """The first bytes, unpacked: at most ``BLOCK``."""
        if self.head.startswith(b"PK\x03\x04") or self.head[257:262] == b"ustar":
            raise InputError(f"{path} is an archive of files: unpack it first, and give one of them.")

    @property
    def share(self) -> float:
        """How much of the file has been read, from 0 to 1."""
        return min(1.0, self._file.tell() / self._size) if self._size else 0.0

    def _read(self) -> bytes:
        try:
            return bytes(self._bytes.read(BLOCK))
        except _DAMAGED as error:
            raise InputError(
                f"{self.path} cannot be read ({error or type(error).__name__}): it is damaged or cut short."
            ) from error

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes, once, from the beginning."""
        block = self.head
        while block:
            yield block
            block = self._read()

    def characters(self) -> Iterator[str]:
        """Yield the text piece by piece, without its mark, nor that of another file at the head of a line, joined to the first.

        Raises:
            InputError: a byte is not of the encoding, or NUL, which no text holds.
        """
        mark, encoding = next((pair for pair in _MARKS if self.head.startswith(pair[0])), (b"", "utf-8"))
        decoder = codecs.getincrementaldecoder(encoding)()
        line, taken, at_head = 1, len(mark), True
        for block in chain([self.head[len(mark) :]], islice(self.blocks(), 1, None), [None]):
            try:
                text = decoder.decode(block or b"", final=block is None)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].decode(encoding, errors="ignore").count("\n")
                offset = taken - (len(error.object) - len(block or b"")) + error.start
                name = encoding.removesuffix("-le").removesuffix("-be").upper()
                raise InputError(
                    f"{self.path} cannot be read: line {line} is not {name} "
                    f"(byte 0x{error.object[error.start]:02x}, at {offset} of the file): save it as UTF-8, for instance by "
                    "iconv -f latin1 -t utf-8."
                ) from error
            if "\0" in text:
                raise InputError(
                    f"{self.path} cannot be read: line {line + text[: text.index(chr(0))].count(chr(10))} holds a NUL byte, so "
                    "it is no text, or UTF-16 without its mark: save it as UTF-8."
                )
            taken += len(block or b"")
            line += text.count("\n")
            text = _LATER_MARKS.sub("", text.lstrip("\ufeff") if at_head else text)
            at_head = text.endswith("\n") if text else at_head
            yield text

    def whole_lines(self) -> Iterator[str]:
        """Yield the lines with their ends."""
        begun: list[str] = []
        for text in self.characters():
            *lines, rest = text.split("\n")
            for line in lines:
                yield "".join([*begun, line, "\n"])
                begun = []
            begun.append(rest)
        if last := "".join(begun):
            yield last

    def lines(self) -> Iterator[str]:
        """Yield the lines without their ends."""
        for line in self.whole_lines():
            yield line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")


@contextmanager
def opened(path: Path) -> Iterator[Stream]:
    """Open a file to read.

    Raises:
        InputError: there is none, it cannot be read, or is an archive.
    """
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        why = "there is no file of that name" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", error)
        raise InputError(f"{path} cannot be read: {why}.") from error
    with file:
        yield Stream(path, file)


def _unpacked(file: BinaryIO, packing: str | None) -> Any:
    match packing:
        case None:
            return file
        case "gzip":
            return gzip.GzipFile(fileobj=file)
        case "bzip2":
            return bz2.BZ2File(file)
        case "xz":
            return lzma.LZMAFile(file)
        case _:
            import pyarrow as pa

            return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), packing)

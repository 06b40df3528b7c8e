"""Checksums, by which a file that was damaged after it was written is told from a sound one; none is a guard against forgery.

JSON files carry their own, under ``"checksum"``; of arrays and weights it stands in the JSON file that describes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
from pydantic import ValidationError

_AT_ONCE = 2**22
"""Bytes of a file that are read at once."""
CHECKSUMS = "checksums.json"
"""The file in a folder that holds the checksums of the others."""
KEY = "checksum"
"""Of a JSON file's own checksum; a file without one is not checked."""


def digest(data: bytes | memoryview) -> str:
    """Return the checksum of bytes, of a contiguous array ``a`` by ``a.data``: XXH3, 128 bits, in hexadecimal."""
    return str(xxhash.xxh3_128_hexdigest(data))


def file_digest(path: Path) -> str:
    """Return the checksum of a file.

    Raises:
        OSError: it cannot be read.
    """
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while part := file.read(_AT_ONCE):
            state.update(part)
    return str(state.hexdigest())


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of a JSON file with its checksum."""
    rest = {key: each for key, each in value.items() if key != KEY}
    return {**rest, KEY: digest(_canonical(rest))}


def unsealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object of a JSON file without its checksum, which is checked where there is one.

    Raises:
        ValueError: it is not that of the rest.
    """
    rest = dict(value)
    stated = rest.pop(KEY, None)
    if stated is not None and stated != digest(_canonical(rest)):
        raise ValueError(f'its checksum is another; if you changed it yourself, delete the line "{KEY}"')
    return rest


def read_sealed(path: Path) -> dict[str, Any]:
    """Read the object of a JSON file, without its checksum, which is checked where there is one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, no object, holds a number that is none, or its checksum is another.
    """

    def none(name: str) -> float:
        raise ValueError(f"{name} is no number")

    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=none)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return unsealed(value)


def reason(error: Exception) -> str:
    """Return in some words what an error of reading a file says; of pydantic's the first of what it lists."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def digests(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Return the checksum of every file of a folder whose name ends in one of ``suffixes``, by name.

    Raises:
        OSError: one cannot be read.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in suffixes)
    return {path.name: file_digest(path) for path in files}


def changed(folder: Path, stated: Mapping[str, str]) -> list[str]:
    """Return which files of a folder are missing or have another checksum than is stated."""

    def same(name: str) -> bool:
        try:
            return file_digest(folder / name) == stated[name]
        except OSError:
            return False

    return [name for name in stated if not same(name)]


def seal_folder(folder: Path, suffixes: Sequence[str]) -> None:
    """Write the checksums of a folder's files beside them, for ``check_folder``.

    Raises:
        OSError: a file cannot be read, or there is no room.
    """
    content = sealed({"files": {name: each for name, each in digests(folder, suffixes).items() if name != CHECKSUMS}})
    (folder / CHECKSUMS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_folder(folder: Path) -> None:
    """Hold a folder's files against their checksums; a folder that states none is not checked.

    Raises:
        ValueError: one is missing or damaged.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    stated = read_sealed(path).get("files")
    if not isinstance(stated, dict):
        raise ValueError(f"{CHECKSUMS} names no files")
    if wrong := changed(folder, stated):
        raise ValueError(f"{', '.join(wrong)} not as written")


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

"""Checksums, by which a file that was damaged after it was written is told from a sound one; none is a guard against forgery.

JSON files carry their own, under ``"checksum"``; of arrays and weights it stands in the JSON file that describes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

_AT_ONCE = 2**22
"""Bytes of a file that are read at once."""
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


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

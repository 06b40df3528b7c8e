"""How many layers and heads a language model has, read from its ``config.json`` or GGUF header: its weights take seconds.

What cannot be read so is found out when the model is loaded; nothing here is trusted for more than an early sentence.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from inversionview.core.errors import UnknownSiteError
from inversionview.model.sites.kind import Counts
from inversionview.model.sites.patterns import expand
from inversionview.model.sites.site import EMBEDDINGS, Site, all_sites
from inversionview.model.sites.through import split

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of GGUF's types of numbers."""
_STRING, _ARRAY = 8, 9
_WHOLE = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_EMBEDDINGS = tuple(name for site in EMBEDDINGS for name in (site.short, site.hook, site.latex))
_MOST = 10_000
"""No model has more layers, or heads in one."""
_MOST_FIELDS, _MOST_BYTES = 4096, 2**26


def sites_of(model: str | Path) -> list[Site] | None:
    """Return the sites that a model on disk seems to have (parallel ones have no x.mid); ``None`` where that cannot be read."""
    path = Path(model).expanduser()
    try:
        found = _of_gguf(path) if path.suffix == ".gguf" else _of_config(path / "config.json")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error):
        return None
    if found is None or not all(isinstance(number, int) and 0 < number <= _MOST for number in found):
        return None
    layers, heads = found
    return all_sites(Counts((heads,) * layers))


def check_sites(model: str | Path, patterns: Sequence[str]) -> None:
    """Raise ``UnknownSiteError`` where a pattern over sites can be none of the model's, as far as its files tell."""
    bare = [split(pattern)[0] for pattern in patterns]  # what it is read through is opened when the model is there
    named = [pattern for pattern in bare if pattern not in _EMBEDDINGS and _usual(pattern)]
    known = sites_of(model) if named else None
    for pattern in named if known else ():
        expand(pattern, known or ())


def _usual(pattern: str) -> bool:
    """Return whether a pattern may mean sites of a usual kind, of which these numbers tell how many there are."""
    try:
        return Site.parse(pattern.replace("*", "0")).readout.usual
    except UnknownSiteError:
        return True


def _of_config(path: Path) -> tuple[Any, Any] | None:
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        return None
    config = config.get("text_config") or config
    found = [next((config[name] for name in names if name in config), None) for names in (_LAYERS, _HEADS)]
    return None if None in found else (found[0], found[1])


def _of_gguf(path: Path) -> tuple[Any, Any] | None:
    """Read the key-value pairs of a GGUF file until both numbers are known."""
    values: dict[str, Any] = {}
    with path.open("rb") as file:
        magic, _, _, count = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF":
            return None
        for _ in range(min(count, _MOST_FIELDS)):
            name = _string(file)
            values[name] = _value(file, *struct.unpack("<I", file.read(4)))
            kind = values.get("general.architecture")
            wanted = [values.get(f"{kind}.{what}") for what in ("block_count", "attention.head_count")]
            if None not in wanted:
                return wanted[0], wanted[1]
    return None


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _MOST_BYTES:
        raise ValueError("the string is longer than any is")
    return file.read(length).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    """Return a string or whole number; others are passed over."""
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in _SIZES:
            file.seek(count * _SIZES[inner], 1)
        else:
            for _ in range(min(count, _MOST_BYTES)):
                _value(file, inner)
        return None
    data = file.read(_SIZES[kind])
    return struct.unpack(_WHOLE[kind], data)[0] if kind in _WHOLE else None

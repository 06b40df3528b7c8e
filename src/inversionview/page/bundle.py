"""One self-contained HTML file that shows readings: opens from disk, needs no network, runs nothing but what its hash names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inversionview.core.storage import check_writable, replacing

STATIC = Path(__file__).parent / "static"
MOST = 4
"""Readings side by side, at most."""
_IMPORT = re.compile(r'^import [^;]*? from "\./(?P<name>\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?(function|class|const)\b)", re.MULTILINE)
_DIGITS = {"token_distances": 4, "effect": 3}
"""What is only shown by a shade or on hover is written with so many decimals; distances stay as they were measured."""


def to_html(readings: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Write readings, up to four of them side by side, as one HTML file.

    Args:
        readings: each as the API, the widget and ``preimage.reading`` give it.
        path: of the file, which is written whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    path = check_writable(Path(path))
    with replacing(path) as temporary:
        temporary.write_text(page(readings), encoding="utf-8")
    return path


def page(readings: Sequence[Mapping[str, Any]]) -> str:
    """Return the document. Its policy lets run one script and one style, by their hashes, and fetch nothing."""
    script, style = bundle("page.js"), (STATIC / "explorer.css").read_text(encoding="utf-8")
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src blob: data:; base-uri 'none'"
    sites = ", ".join(str(reading["site"]) for reading in readings)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<title>What does {sites} encode?</title><link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body>"
        f'<script type="application/json" id="readings">{embedded([lighter(reading) for reading in readings])}</script>'
        f'<script type="module">{script}</script></body></html>\n'
    )


def bundle(entry: str) -> str:
    """Return a module and all it imports as one script: in order of dependence, without the lines that import and export.

    That needs names at the top of modules to differ, and imports to be of names as they are; a test sees to both.
    """
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for found in _IMPORT.finditer(_source(name)):
                visit(found["name"])
            order.append(name)

    visit(entry)
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", _source(name))) for name in order)


def _source(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded(value: Any) -> str:
    """Return JSON that may stand in a script element: no end of it, line separator or lone surrogate is left as it is."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<\u2028\u2029\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def lighter(reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reading with what is only shaded rounded."""
    samples = [{**sample, **_rounded(sample)} for sample in reading["preimage"]["samples"]]
    return {**reading, "preimage": {**reading["preimage"], "samples": samples}}


def _rounded(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if sample[name] is None else [None if v is None else round(v, digits) for v in sample[name]]
        for name, digits in _DIGITS.items()
    }

"""One self-contained HTML file that shows readings: opens from disk, needs no network, runs nothing but what its hash names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inversionview.information import entropy
from inversionview.preimage.core import Preimage
from inversionview.storage import check_writable, replacing

if TYPE_CHECKING:
    from inversionview.study import Study

STATIC = Path(__file__).parent / "static"
_IMPORT = re.compile(r'^import [^;]*? from "\./(?P<name>\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?(function|class|const)\b)", re.MULTILINE)
_DIGITS = {"token_distances": 4, "effect": 3}
"""What is only shown by a shade or on hover is written with so many decimals; distances stay as they were measured."""


def to_html(readings: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Write readings, up to four of them side by side, as one HTML file.

    Args:
        readings: each as the API, the widget and ``reading`` give it.
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


def reading(preimage: Preimage, study: Study | None = None) -> dict[str, Any]:
    """Return what one panel shows: the preimage, where it was read and, of a study with inputs, the features of every row."""
    query = preimage.query
    place = {"text": query.text, "tokens": list(query.tokens), "ids": list(query.ids), "position": query.position}
    names = {} if study is None else _names(study, query.ids)
    return {
        "version": 1,
        "study": query.model if study is None else study.name,
        "place": {**place, "names": names},
        "site": query.site.short,
        "preimage": preimage.to_json(),
        "features": None if study is None or study.bare else _features(preimage, study),
    }


def _names(study: Study, ids: Sequence[int]) -> dict[str, int]:
    return {name: int(at[0]) for name, at in study._named(np.array([ids])).items() if at[0] >= 0}


_PRIOR_INPUTS = 100_000


def _features(preimage: Preimage, study: Study) -> dict[str, Any]:
    """Return the features of query and rows, and how the study's inputs take them: P(φ = φ(x_q)) and the entropy of φ."""
    inputs = study.inputs
    asked = inputs.features(_padded([preimage.query.ids], inputs.max_length, inputs.pad))
    known = {token: number for number, token in enumerate(study.model.vocabulary.tokens)}
    rows = [[known[token] for token in sample.tokens] for sample in preimage]
    values = inputs.features(_padded(rows, inputs.max_length, inputs.pad)) if rows else {}
    corpus = inputs.features(inputs.corpus(np.arange(min(len(inputs), _PRIOR_INPUTS))))
    shares = {name: np.unique(column, return_counts=True)[1] / len(column) for name, column in corpus.items()}
    return {
        "names": list(asked),
        "query": {name: column[0].item() for name, column in asked.items()},
        "prior": {name: float((column == asked[name][0]).mean()) for name, column in corpus.items()},
        "entropy": {name: entropy(share) for name, share in shares.items()},
        "values": [list(row) for row in zip(*(np.asarray(column).tolist() for column in values.values()), strict=True)],
    }


def _padded(rows: Sequence[Sequence[int]], width: int, pad: int) -> Any:
    return np.array([[*row, *[pad] * (width - len(row))] for row in rows], dtype=np.int64)

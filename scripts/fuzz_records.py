"""Damage valid files of every form at random and read them: whatever comes, it is records or one sentence, never a traceback.

    python scripts/fuzz_records.py --inputs 100000

Each input is a small valid file in which bytes were changed, taken out, put in, doubled or cut off, sometimes inside what is
then packed; it is read as what it was: texts, pairs, words or facts. Prints how many were read and refused; exits with 1 where
anything else came.
"""

from __future__ import annotations

import argparse
import bz2
import collections
import csv
import gzip
import io
import json
import lzma
import random
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from inversionview.core.errors import InversionViewError, LeftOut
from inversionview.corpora.contrasts import read_pairs
from inversionview.records.texts import read_texts, read_words
from inversionview.studies.facts.statements import read_statements

Rows = list[dict[str, Any]]
TEXTS: Rows = [
    {"text": "The cat – sat"},
    {"text": "naïve\u2028 \U0001f600", "n": 1},
    {"text": None},
    {"text": 'a "b", c', "n": 2.5},
]
PAIRS: Rows = [
    {"original": "a", "contrast": "b", "answer": " c", "contrast_answer": " d", "at": at} for at in ("END", "2", None, "é")
]
OWN: Rows = [{"prompt": "{} is in", "subject": name, "relation": "in", "object": "Oslo"} for name in ("Aba", "Çelik", "东京")]
KNOWN: Rows = [{"known_id": 1, "subject": "Aba", "attribute": "Oslo", "template": "{} is in", "relation_id": "P1"}]
KINDS: tuple[tuple[Rows, Callable[[Path], Any]], ...] = (
    (TEXTS, read_texts), (TEXTS, lambda path: read_words(path, "text")), (PAIRS, read_pairs), (OWN, read_statements),
    (KNOWN, read_statements), (OWN, lambda path: read_texts(path, "subject")),
)  # fmt: skip
PIECES = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xe9", b"\0", b"\n", b"\r", b"\r\n", b'"', b"{", b"}", b"[", b"]", b",",
          b"\\ud83d", b"\\", b"NaN", b"null", b"1e999", b"-", b'"text"', b"\xed\xa0\x80", b"\t", b";",
          b"\x1f\x8b\x08", b"PK\x03\x04", b"PAR1\x15")  # fmt: skip


def forms(rows: Rows) -> dict[str, bytes]:
    """Return a valid file of these records in each form."""
    fields = list(dict.fromkeys(name for row in rows for name in row))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    table = pa.Table.from_pylist([{name: row.get(name) for name in fields} for row in rows])
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fields)
    writer.writeheader()
    writer.writerows(rows)
    return {
        "t.txt": "".join(f"{next(iter(row.values()))}\r\n" for row in rows).encode(), "t.jsonl": lines.encode(),
        "a.json": json.dumps(rows, indent=1).encode(), "w.json": json.dumps({"data": rows}).encode(),
        "t.csv": file.getvalue().encode(), "t.tsv": file.getvalue().replace(",", "\t").encode(),
        "u.jsonl": lines.encode("utf-16"), "t.parquet": written(table, lambda sink: pq.ParquetWriter(sink, table.schema)),
        "f.arrow": written(table, lambda sink: pa.ipc.new_file(sink, table.schema)),
        "s.arrow": written(table, lambda sink: pa.ipc.new_stream(sink, table.schema)),
    }  # fmt: skip


def written(table: Any, make: Callable[[Any], Any]) -> bytes:
    """Return a table as a file that a writer makes."""
    sink = pa.BufferOutputStream()
    with make(sink) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def zstd(content: bytes) -> bytes:
    """Return bytes packed."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content, ".gz": lambda content: gzip.compress(content, 1), ".bz2": bz2.compress,
    ".xz": lambda content: lzma.compress(content, preset=0), ".zst": zstd,
}  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with one or two things wrong with them."""
    out = bytearray(content)
    for _ in range(rng.randint(1, 2)):
        at = rng.randint(0, len(out))
        to = min(len(out), at + rng.randint(1, 4))
        match rng.randrange(20):
            case 0 | 1 | 2:
                del out[at:to]
            case 3 | 4 | 5 | 6:
                out[at:at] = rng.choice(PIECES)
            case 7 | 8:
                out[at:to] = rng.randbytes(to - at)
            case 9 | 10 | 11 | 12 | 13:
                out[at:to] = bytes(rng.choices(range(32, 127), k=to - at))
            case 14 | 15 | 16:
                out[at:at] = out[at : at + rng.randint(0, 60)]
            case 17:
                del out[at:]
            case _ if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def main() -> None:
    """Damage and read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, counts = random.Random(options.seed), collections.Counter[str]()
    kinds = [(reader, list(forms(rows).items())) for rows, reader in KINDS]
    warnings.simplefilter("ignore", LeftOut)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.inputs):
            reader, valid = kinds[number % len(kinds)]
            name, content = rng.choice(valid)
            ending = rng.choice(list(PACKINGS)) if rng.random() < 0.3 else ""
            inner, outer = rng.choice(((True, False), (False, True), (True, True)))
            content = PACKINGS[ending](damaged(content, rng) if inner else content)
            path = Path(folder) / f"{name}{ending}"
            path.write_bytes(content := damaged(content, rng) if outer else content)
            try:
                list(reader(path))
                counts["read"] += 1
            except InversionViewError as error:
                counts["refused" if str(error).count("\n") == 0 and path.name in str(error) else "badly said"] += 1
            except Exception:
                counts["failed"] += 1
                print(f"{path.name}, kind {number % len(kinds)}: {content!r}\n{traceback.format_exc()}", file=sys.stderr)
    print(", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())))
    sys.exit(int(counts["failed"] + counts["badly said"] > 0))


if __name__ == "__main__":
    main()

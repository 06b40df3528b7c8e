"""Users' files: each form gives the same records, lines end where they should, and what is wrong is told by file and line.

Files are written by the libraries of their forms (json, csv, pyarrow, datasets), so what must be read is what was written.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import inversionview as iv
from inversionview import cli
from inversionview.analyses.attribute.prompts import prompt_cases
from inversionview.core.errors import InputError, InversionViewError, LeftOut
from inversionview.corpora.contrasts import TextPair, read_pairs
from inversionview.corpora.texts import TextInputs
from inversionview.model.tokens import Vocabulary
from inversionview.records.reading import read
from inversionview.records.streams import BLOCK
from inversionview.records.texts import read_texts, read_words
from inversionview.records.values import values
from inversionview.studies.facts.statements import read_statements
from inversionview.studies.study import Study

TEXTS = [
    f"The {animal} sat on the {place}, number {n}." for n, (animal, place) in enumerate(20 * [("cat", "mat"), ("dog", "log")])
]
ROWS = [{"text": text, "label": n} for n, text in enumerate(TEXTS)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def table() -> pa.Table:
    return pa.table({"text": TEXTS, "label": list(range(len(TEXTS)))})


def comma_separated(delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return file.getvalue().encode()


def through(write: Callable[[Any], object]) -> bytes:
    sink = pa.BufferOutputStream()
    write(sink)
    return bytes(sink.getvalue())


def arrow(make: Callable[..., Any]) -> bytes:
    def write(sink: Any) -> None:
        with make(sink, table().schema) as writer:
            writer.write_table(table())

    return through(write)


def packed(content: bytes, codec: str) -> bytes:
    def write(sink: Any) -> None:
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(content)

    return through(write)


PARQUET = through(lambda sink: pq.write_table(table(), sink))
FORMS: dict[str, bytes] = {
    "plain.txt": "\n".join(TEXTS).encode(),
    "windows.txt": "".join(f"{text}\r\n" for text in TEXTS).encode(),
    "no_name_of_a_form": "\n".join(TEXTS).encode(),
    "lines.jsonl": LINES.encode(),
    "upper.JSONL": LINES.encode(),
    "lines.ndjson": LINES.replace("\n", "\r\n").encode(),
    "lines.json": LINES.encode(),
    "array.json": json.dumps(ROWS).encode(),
    "indented.json": json.dumps(ROWS, indent=2).encode(),
    "array.jsonl": json.dumps(ROWS, indent=1).encode(),
    "strings.json": json.dumps(TEXTS).encode(),
    "around.json": json.dumps({"version": 1, "tags": [], "data": ROWS}).encode(),
    "around_strings.json": json.dumps({"texts": TEXTS}).encode(),
    "commas.csv": comma_separated(),
    "semicolons.csv": comma_separated(";").replace(b",", b""),
    "tabs.tsv": comma_separated("\t"),
    "rows.parquet": PARQUET,
    "called.txt": PARQUET,
    "file.arrow": arrow(pa.ipc.new_file),
    "stream.arrow": arrow(pa.ipc.new_stream),
    "rows.feather": through(lambda sink: pyarrow.feather.write_feather(table(), sink)),
    "lines.jsonl.gz": gzip.compress(LINES.encode()),
    "two.jsonl.gz": gzip.compress(LINES[:500].encode()) + gzip.compress(LINES[500:].encode()),
    "plain.txt.GZ": gzip.compress("\n".join(TEXTS).encode()),
    "commas.csv.bz2": bz2.compress(comma_separated()),
    "array.json.xz": lzma.compress(json.dumps(ROWS).encode()),
    "lines.jsonl.zst": packed(LINES.encode(), "zstd"),
    "tabs.tsv.lz4": packed(comma_separated("\t"), "lz4"),
    "rows.parquet.gz": gzip.compress(PARQUET),
    "not_packed.jsonl.gz": LINES.encode(),
    "mark.txt": b"\xef\xbb\xbf" + "\n".join(TEXTS).encode(),
    "mark.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "mark.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "mark.csv": b"\xef\xbb\xbf" + comma_separated(),
    "two_bytes.txt": "\n".join(TEXTS).encode("utf-16"),
    "two_bytes.jsonl": LINES.encode("utf-16"),
    "other_end.csv": b"\xfe\xff" + comma_separated().decode().encode("utf-16-be"),
    "four_bytes.txt": "\n".join(TEXTS).encode("utf-32"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_texts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name])
    wanted = [text.replace(",", "") for text in TEXTS] if name == "semicolons.csv" else TEXTS
    assert list(read_texts(tmp_path / name)) == wanted


def test_datasets_that_were_saved(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    every, some = datasets.Dataset(table()), datasets.Dataset(table().slice(0, 3))
    every.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": some, "train": every}).save_to_disk(tmp_path / "two")
    datasets.DatasetDict({"odd": some}).save_to_disk(tmp_path / "single")
    datasets.DatasetDict({"odd": some, "even": some}).save_to_disk(tmp_path / "none")
    assert list(read_texts(tmp_path / "one")) == TEXTS
    assert list(read_texts(tmp_path / "two")) == TEXTS
    assert list(read_texts(tmp_path / "two" / "test")) == TEXTS[:3]
    assert list(read_texts(tmp_path / "single")) == TEXTS[:3]
    with pytest.raises(InputError, match=r"the splits odd, even: give one of them, as in .*none/odd"):
        list(read_texts(tmp_path / "none"))
    holed = datasets.Dataset.from_dict({"text": ["a", None, "b"]})
    holed.save_to_disk(tmp_path / "holed")
    with pytest.warns(LeftOut, match="1 of 3 records of .*holed has no text: left out"):
        assert list(read_texts(tmp_path / "holed")) == ["a", "b"]


def test_every_file_of_a_folder_is_read_as_it_is_alone(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    wanted = []
    for name in sorted(FORMS):
        (folder / name).write_bytes(FORMS[name])
        wanted += list(read_texts(folder / name))
    found = list(read_texts(folder))
    assert found == wanted
    assert len(found) == len(FORMS) * len(TEXTS)
    assert str(found[0].place) == f"{folder / min(FORMS)}, record 1"
    for name in ("train.txt", "test.txt", "extra/valid.txt"):
        (tmp_path / "splits" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "splits" / name).write_text(f"\ufeff{name} a\u2028b\n", encoding="utf-8")
    datasets.Dataset(table().slice(0, 2)).save_to_disk(tmp_path / "splits" / "saved")
    told: list[float] = []
    texts = list(read_texts(tmp_path / "splits", report=lambda share, _: told.append(share)))
    assert texts == ["extra/valid.txt a\u2028b", *TEXTS[:2], "test.txt a\u2028b", "train.txt a\u2028b"]
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_what_is_passed_over_in_a_folder_is_said(tmp_path: Path) -> None:
    for name in ("README.md", "LICENSE", "dataset_infos.json", ".a.txt", "in/.b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match="holds no file with texts"):
        list(read_texts(tmp_path))
    (tmp_path / "b.csv").write_text("text,n\nNone,1\nNA,2\n,3\n")
    with pytest.warns(LeftOut) as said:
        assert list(read_texts(tmp_path)) == ["None", "NA"]
    assert [str(warning.message) for warning in said] == [
        f"5 of the files in {tmp_path} are not read as texts: .a.txt, LICENSE, README.md, dataset_infos.json, in/.b.txt.",
        f"1 of 3 records of {tmp_path} has an empty text: left out.",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"body": "x"}\n', r"Line 1 of .*z\.jsonl has no field 'text': fields are body: give --field body"),
        (b'{"text": "x"}\n{"text": 3}\n', r"'text' of line 2 of .*z\.jsonl is a number"),
        (b'{"text": "x"}\n{"text": "\xe9"}\n', r"z\.jsonl cannot be read: line 2 is not UTF-8"),
    ],
)
def test_what_is_wrong_in_a_folder_is_told_by_file_and_line(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "z.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=says):
        list(read_texts(tmp_path))
    (tmp_path / "z.jsonl").rename(tmp_path / "z.txt")
    if content.isascii():
        with pytest.raises(InputError, match=r"z\.txt holds JSON, not text"):
            list(read_texts(tmp_path))


def test_another_field(tmp_path: Path) -> None:
    rows = [{"label": 1, "sentence": text} for text in TEXTS]
    forms: dict[str, Callable[[Path], object]] = {
        "t.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in rows)),
        "t.json": lambda path: path.write_text(json.dumps({"rows": rows})),
        "t.csv": lambda path: path.write_text("label,sentence\n" + "".join(f'1,"{text}"\n' for text in TEXTS)),
        "t.parquet": lambda path: pq.write_table(pa.Table.from_pylist(rows), path),
        "t": lambda path: datasets.Dataset.from_list(rows).save_to_disk(path),
    }
    for name, write in forms.items():
        write(tmp_path / name)
        assert list(read_texts(tmp_path / name, "sentence")) == TEXTS
        with pytest.raises(InputError, match=rf"{name} has no field 'text': fields are label, sentence: give --field sentence"):
            list(read_texts(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", LINES),
        ("b.txt", LINES.splitlines()[0]),
        ("c.txt", json.dumps(ROWS)),
        ("d.txt", json.dumps(ROWS, indent=2)),
        ("e.txt", json.dumps({"data": ROWS}, indent=4)),
        ("f", "\n" + LINES),
        ("g.txt", json.dumps(30_000 * [ROWS[0]])),  # longer than what is looked at
        ("h.txt", json.dumps(30_000 * [ROWS[0]], indent=1)),
        ("i.txt", json.dumps({"text": 2_000_000 * "a"})),
        ("j.txt.gz", LINES),
        ("k.txt", "{}\n" + LINES),
        ("l.txt", '# a comment\n{"text": "a"}\n{"text": "b"}\n'),
        ("m.txt", "// a comment\n" + LINES),
        ("n.txt", LINES + '{"text": "c'),
        ("o.txt", LINES[9:]),
        ("p.txt", '{"text": "a"}\n{"text": "c\n{"text": "b"}\n'),
        ("q.txt", '"The cat"\n"sat on"\n'),
        ("r.txt", "".join(json.dumps(text) + "\n" for text in TEXTS) + '"cut'),
        ("s.md", '["a", "b"]\n["c"]\n'),
    ],
)
def test_json_is_never_taken_for_text(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    with pytest.raises(InputError, match="holds JSON, not text"):
        list(read_texts(tmp_path / name))


def test_text_with_brackets_is_text(tmp_path: Path) -> None:
    lines = ["[1] Smith et al.", '{"a": 1} is an object.', "{", '"Hello."', "[chorus]", "[]"]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    assert list(read_texts(tmp_path / "t.txt")) == lines
    for lines in (
        ["[1, 2, 3]", "[2, 1]", "[]"],
        ["12", "13"],
        ['"Hello," he said.', '"No."', "And so on."],
        ["# a", "[]", "b"],
    ):
        (tmp_path / "t.txt").write_text("\n".join(lines))
        assert list(read_texts(tmp_path / "t.txt")) == lines


def test_a_table_is_never_taken_for_text(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    for mark, name in ((",", "csv"), (";", "csv"), ("\t", "tsv")):
        for content in (f"text{mark}label\nhello{mark}2\nfoo{mark}1\n", f'n{mark}Text\r\n1{mark}"a{mark}\nb"\r\n'):
            path.write_text(content)
            with pytest.raises(InputError, match=rf"t\.txt holds a table with the column 'text', not text: name it \.{name}\."):
                list(read_texts(path))
    path.write_text("n,name\n1,Mary\n")
    with pytest.raises(InputError, match="with the column 'name'"):
        read_words(path, "name")
    (tmp_path / "t.TAB").write_text("text\tn\nhello, you\t2\n")
    assert list(read_texts(tmp_path / "t.TAB")) == ["hello, you"]


def test_texts_with_commas_are_texts(tmp_path: Path) -> None:
    for lines in (["text, and more", "The cat, the dog, and I"], ["Hello, world", "Yes, sir"], ["text", "a, b"]):
        (tmp_path / "t.txt").write_text("\n".join(lines))
        assert list(read_texts(tmp_path / "t.txt")) == lines


def test_names_are_one_a_line(tmp_path: Path) -> None:
    for rows in ("Mary,F,7065\nAnna,F,2604\n", "Mary, John, Anna\n", "Mary\t3\nJohn\t2\n", "Mary;F\n"):
        (tmp_path / "yob.txt").write_text(rows)
        with pytest.raises(
            InputError, match=r"yob\.txt holds rows of a table, such as 'Mary.*, not one name a line: write one"
        ):
            read_words(tmp_path / "yob.txt", "name")
    (tmp_path / "q.txt").write_text('"Mary"\n"John"\n')
    with pytest.raises(InputError, match=r"q\.txt holds JSON, not text: give it a name that ends in \.jsonl"):
        read_words(tmp_path / "q.txt", "name")
    for words in ([",", ";"], ["Mary", "John, Anna"]):
        (tmp_path / "w.txt").write_text("\n".join(words))
        assert read_words(tmp_path / "w.txt", "word") == words


ANSWERS = {
    "record of tokens": {"doc_id": 1, "tokens": ["tok0", "tok1"], "body": "The cat sat."},
    "tokens alone": {"tokens": ["tok0", "tok1"]},
    "pandas, split": {"columns": ["text"], "index": [0, 1], "data": [["The cat"], ["The dog"]]},
    "labels": {"labels": ["pos", "neg"], "data": {"a": "The cat"}},
    "errors": {"errors": ["x failed"], "data": [], "n": 3},
    "data of a record": {"body": "The cat sat.", "data": ["tok0", "tok1"]},
    "entities of a record": {"body": "Paris is big.", "entities": [{"text": "Paris"}]},
    "items of a record": {"body": "Paris is big.", "items": [{"text": "Paris"}]},
    "two lists": {"texts": ["The cat"], "notes": ["none"]},
    "two lists of objects": {"train": [{"text": "a"}], "test": [{"text": "b"}]},
    "lists in an object": {"version": 1, "data": {"train": [{"text": "a"}]}},
}


@pytest.mark.parametrize("value", ANSWERS.values(), ids=ANSWERS)
def test_a_list_in_a_record_is_not_taken_for_the_texts(tmp_path: Path, value: dict[str, Any]) -> None:
    for name, content in (("t.json", json.dumps(value, indent=1)), ("t.jsonl", json.dumps(value) + "\n")):
        (tmp_path / name).write_text(content)
        for reader, field in ((read_texts, "text"), (read_words, "name")):
            fields = ", ".join(value)
            with pytest.raises(InputError, match=rf"Line 1 of .*{name} has no field '{field}', .*: fields are {fields}: write"):
                list(reader(tmp_path / name, field))


@pytest.mark.parametrize("around", [{}, {"version": "1.0", "n": 2}, {"license": "CC0", "tags": [], "note": None}])
def test_a_list_that_is_called_so_is_the_texts(tmp_path: Path, around: dict[str, Any]) -> None:
    path = tmp_path / "t.json"
    for name in ("texts", "data", "records", "sentences"):
        for content in (TEXTS, ROWS):
            path.write_text(json.dumps({**around, name: content}))
            assert list(read_texts(path)) == TEXTS
    for whole in ({"reviews": ROWS, **around}, {"columns": ["text"], "schema": {"a": "b"}, "data": ROWS, "status": "ok"}):
        path.write_text(json.dumps(whole))
        assert list(read_texts(path)) == TEXTS
    path.write_text(json.dumps({**around, "names": ["Mary", "John"]}))
    assert read_words(path, "name") == ["Mary", "John"]
    with pytest.raises(InputError, match="has no field 'text'"):
        list(read_texts(path))


# -- lines, values, rows -----------------------------------------------------------------------------------------------

ENDS = "\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029"
"""What ``str.splitlines`` cuts at, and a line of a file does not end at."""
any_text = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\n\0\ufeff") | st.sampled_from(ENDS), max_size=12
)


@quick
@given(st.lists(any_text, min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_lines_end_at_line_feeds_alone(tmp_path: Path, lines: list[str], end: str, last: bool) -> None:
    lines = ["x", *(line.rstrip("\r") + "." for line in lines)]
    (tmp_path / "t.txt").write_bytes((end.join(lines) + (end if last else "")).encode())
    found = list(read(tmp_path / "t.txt", bare="text"))
    assert [record.value for record in found] == lines
    assert [record.place.number for record in found] == list(range(1, len(lines) + 1))


def test_ends_of_other_lines_stay_in_texts(tmp_path: Path) -> None:
    lines = [f"The cat{end}number {n}" for n, end in enumerate(ENDS)]
    (tmp_path / "t.txt").write_text("\n".join(lines), encoding="utf-8", newline="\n")
    (tmp_path / "t.jsonl").write_text(
        "\n".join(json.dumps({"text": line}, ensure_ascii=False) for line in lines), encoding="utf-8"
    )
    assert list(read_texts(tmp_path / "t.txt")) == lines
    assert list(read_texts(tmp_path / "t.jsonl")) == lines


any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)


@quick
@given(st.lists(any_value, max_size=6), st.integers(1, 9), st.booleans(), st.sampled_from([None, 0, 3]))
def test_values_are_those_of_json_however_the_text_comes(wanted: list[Any], size: int, ascii: bool, indent: int | None) -> None:
    def cut(text: str) -> Iterator[str]:
        return (text[start : start + size] for start in range(0, len(text), size))

    array = json.dumps(wanted, ensure_ascii=ascii, indent=indent)
    assert [value for _, value in values(cut(array), "x")] == wanted
    if wanted and not isinstance(wanted[0], list):
        texts = [json.dumps(value, ensure_ascii=ascii, indent=indent) for value in wanted]
        lines = [1 + sum(text.count("\n") + 1 for text in texts[:n]) for n in range(len(texts))]
        assert list(values(cut("\n".join(texts)), "x")) == list(zip(lines, wanted, strict=True))


@quick
@given(st.lists(st.tuples(any_text, any_text), max_size=6), st.sampled_from([",", ";", "\t"]))
def test_rows_are_those_of_csv(tmp_path: Path, rows: list[tuple[str, str]], delimiter: str) -> None:
    path = tmp_path / ("t.tsv" if delimiter == "\t" else "t.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("a", "b"), *rows])
    with path.open(encoding="utf-8", newline="") as file:
        wanted = list(csv.DictReader(file, delimiter=delimiter))
    assert [record.value for record in read(path)] == wanted == [{"a": a, "b": b} for a, b in rows]


@quick
@given(st.lists(st.lists(any_text, min_size=1, max_size=3), min_size=1, max_size=4), st.sampled_from(["utf-8", "utf-16-le"]))
def test_marks_of_files_that_were_joined_are_no_characters(tmp_path: Path, files: list[list[str]], encoding: str) -> None:
    joined = "".join("\ufeff" + "".join(f"{line}.\n" for line in lines) for lines in files)
    (tmp_path / "t.txt").write_bytes(joined.encode(encoding))
    assert [record.value for record in read(tmp_path / "t.txt", bare="text")] == [f"{x}." for lines in files for x in lines]
    joined = "".join("\ufeff" + "".join(json.dumps({"text": line}) + "\r\n" for line in lines) for lines in files)
    (tmp_path / "t.jsonl").write_bytes(joined.encode(encoding))
    assert [record.value for record in read(tmp_path / "t.jsonl")] == [{"text": x} for lines in files for x in lines]


def test_a_mark_where_the_file_is_read_in_two_pieces(tmp_path: Path) -> None:
    for size in range(BLOCK - 4, BLOCK + 2):
        (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbf" + (size - 1) * b"a" + "\n\ufeff\ufeffdef\ufeffg\n".encode())
        assert list(read_texts(tmp_path / "t.txt")) == [(size - 1) * "a", "def\ufeffg"]


@pytest.mark.parametrize(
    ("content", "field", "wanted"),
    [
        ("id, text\n1, hello\n2, you\n", "text", ["hello", "you"]),
        ('id, text\n1, "hello, you"\n', "text", ["hello, you"]),
        ("id,text\n1, hello\n", "text", [" hello"]),
        ("sep=;\ntext;l\nhello, you;2\n", "text", ["hello, you"]),
        ('\ufeffsep=;\r\ntext\r\n"a; b"\r\n', "text", ["a; b"]),
        ("sep=\t\ntext\tl\nhello, you\t2\n", "text", ["hello, you"]),
        ("sep=|\ntext|l\nhello, you|2\n", "text", ["hello, you"]),
        ('id;"text, full";l\n1;"a, b";2\n', "text, full", ["a, b"]),
        ("id;text;note, more\n1;hello;2\n", "text", ["hello"]),
        ("id;text;note, more\n1;hello;c, d\n", "text", ["hello"]),
        ('text,"x;y;z"\na,"p;q;r"\n', "text", ["a"]),
        ('text,n\n"a; b",1\n"c; d",2\n', "text", ["a; b", "c; d"]),
        ("text,n;m\na;b;c,1\nd,2\n", "text", ["a;b;c", "d"]),
        ("\n\ntext;n\na, b;1\n", "text", ["a, b"]),
        ('text\n"Hello, world"\nfoo; bar\n', "text", ["Hello, world", "foo; bar"]),
        ("text\tn\nhello, you\t2\n", "text", ["hello, you"]),
    ],
)
def test_what_separates_the_cells_of_a_csv(tmp_path: Path, content: str, field: str, wanted: list[str]) -> None:
    (tmp_path / "t.csv").write_bytes(content.encode())
    assert list(read_texts(tmp_path / "t.csv", field)) == wanted


def test_lines_of_a_csv_are_counted_from_its_first(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('sep=;\n\ntext;n\n"a\nb";1\nc;2;3\n')
    with pytest.raises(InputError, match=r"line 6 has 3 of the first row's 2 fields: quote those that hold ';'"):
        list(read_texts(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (['He said "hi" there\t1', '"Hi", he said\t2'], ['He said "hi" there', '"Hi", he said']),
        (['"Hi he said\t2', "foo\t3"], ['"Hi he said', "foo"]),
        (['"Hi" he said\t"x"', '"foo"\t3'], ['"Hi" he said', "foo"]),
        (['"a\nb"\t1', '"c\n\n""d""\t"\t2', 'e"\t3'], ["a\nb", 'c\n\n"d"\t', 'e"']),
        (['"\t1', "x\t2", '"" y\t3'], ['"', "x", '"" y']),
        (['"I\t1', *20_000 * ["x\t2"], '"y z\t3'], ['"I', *20_000 * ["x"], '"y z']),
    ],
)
def test_quotation_marks_at_the_head_of_a_cell_with_tabs(tmp_path: Path, rows: list[str], wanted: list[str]) -> None:
    for end in ("\n", "\r\n"):
        (tmp_path / "t.tsv").write_bytes(end.join(["text\tn", *rows]).encode())
        assert list(read_texts(tmp_path / "t.tsv")) == wanted
    (tmp_path / "t.tsv").write_text("text\tn\n" + "\n".join([*rows, "one", ""]))
    with pytest.raises(InputError, match=rf"line {2 + sum(row.count(chr(10)) + 1 for row in rows)} has 1 of the first"):
        list(read_texts(tmp_path / "t.tsv"))


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, "a number"),
        (1.5, "a number"),
        (["a"], "a list"),
        ({"a": 1}, "an object"),
        (True, "true or false"),
        (float("nan"), "NaN"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path: Path, value: Any, kind: str) -> None:
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, [*ROWS[:5], {"text": value}, *ROWS[5:]])))
    with pytest.raises(InputError, match=rf"'text' of line 6 of .*t\.jsonl is {kind}, not a text"):
        list(read_texts(tmp_path / "t.jsonl"))
    (tmp_path / "t.json").write_text(json.dumps([value]))
    if not isinstance(value, dict):
        with pytest.raises(InputError, match=rf"Line 1 of .*t\.json is {kind}, not a text"):
            list(read_texts(tmp_path / "t.json"))


def test_which_value_of_a_line_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for content, where in (
        (["a", None, 3], r"Line 1 \(value 3\) of .*t\.json is a number"),
        ([*ROWS, {"text": 3}], r"'text' of line 1 \(value 41\) of .*t\.json is a number"),
        ([*ROWS, {"body": "a"}], r"Line 1 \(value 41\) of .*t\.json has no field 'text'"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=where):
            list(read_texts(path))
    path.write_text(json.dumps([PAIRS[0], {}]))
    with pytest.raises(InputError, match=r"t\.json, line 1 \(value 2\) is no pair: .*it lacks 'original'"):
        read_pairs(path)


def test_numbers_and_bytes_of_a_table_are_refused(tmp_path: Path) -> None:
    for column, kind in ([1.0, float("nan")], "a number"), ([b"a"], "bytes"), ([["a"]], "a list"):
        pq.write_table(pa.table({"text": column}), tmp_path / "t.parquet")
        with pytest.raises(InputError, match=rf"'text' of record 1 of .*t\.parquet is {kind}"):
            list(read_texts(tmp_path / "t.parquet"))


def test_nulls_and_empty_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": None}, {"text": ""}, {"text": " \u2028"}, {"text": None}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(LeftOut) as said:
        assert list(read_texts(tmp_path / "t.jsonl")) == TEXTS
    wanted = [f"2 of 44 records of {tmp_path / 't.jsonl'} have {what}: left out." for what in ("no text", "an empty text")]
    assert [str(warning.message) for warning in said] == wanted


LONG = (b"a fine line " * 1000 + b"\n") * 200
"""Longer than what is read at once."""


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.txt", b"ok\nab\ncaf\xe9\n", r"line 3 is not UTF-8 \(byte 0xe9, at 9 of the file\): save it as UTF-8"),
        ("t.txt", b"\xef\xbb\xbfok\ncaf\xe9", r"line 2 is not UTF-8 \(byte 0xe9, at 9 of"),
        ("t.txt", LONG + b"\xff", r"line 201 is not UTF-8 \(byte 0xff, at 2400200 of"),
        ("t.txt", b"ab\xe2\x82", r"line 1 is not UTF-8 \(byte 0xe2, at 2 of"),
        ("t.jsonl", b'{"text": "a"}\n{"text": "\xe9"}', "line 2 is not UTF-8"),
        ("t.txt", b"\xff\xfea\0\n\0b", r"line 2 is not UTF-16 \(byte 0x62, at 6"),
        ("t.txt", b"ok\nab\0c", "line 2 holds a NUL byte"),
        ("t.txt", "ab\nc".encode("utf-16-le"), "line 1 holds a NUL byte"),
        ("t.jsonl", b'{"text": "a"}\n\n{"text": "b"', "line 3 is not JSON"),
        ("t.jsonl", b'{"text": "a"}\n{"text": "b\n"}', "line 2 is not JSON .*control character"),
        ("t.jsonl", b"plain text", "line 1 is not JSON"),
        ("t.json", b'[{"text": "a"}, {"text": "b"}', "line 1 is not JSON .*array does not end"),
        ("t.json", b'[{"text": "a"},\n{"text": "b"},\n]', "line 3 is not JSON"),
        ("t.json", b'[{"text": "a"}\n{"text": "b"}]', "line 2 is not JSON .*comma"),
        ("t.json", b'["a"]\n["b"]', "line 2 is not JSON .*follows the array"),
        ("t.json", 200_000 * b"[", "line 1 is not JSON .*recursion"),
        ("t.json", b"[" + 5000 * b"1" + b"]", "line 1 is not JSON"),
        ("t.json", b'{"train": [{"text": "a"}], "test": [{"text": "b"}]}', "fields are train, test"),
        ("t.csv", b"text,n\na,1\nb\n", r"line 3 has 1 of the first row's 2 fields"),
        ("t.csv", b'text,n\n"a\nb",1\nc,1,2\n', r"line 4 has 3 of"),
        ("t.csv", b'text,n\na,1\n"b,2\n', "line 3 is not CSV"),
        ("t.csv", b"text\ra\rb", "carriage return"),
        ("t.csv", b"text,text\na,b\n", "names the column 'text' twice"),
        ("t.csv", b"sentence,n\na,1\n", "fields are sentence, n: give --field sentence"),
        ("t.parquet", b"no table", "is neither"),
        ("t.parquet", PARQUET[:-20], "damaged"),
        ("t.arrow", arrow(pa.ipc.new_file)[:300], "damaged"),
        ("t.jsonl.gz", gzip.compress(LINES.encode())[:-30], "damaged or cut short"),
        ("t.jsonl.gz", gzip.compress(LINES.encode())[:40] + 300 * b"x", "damaged"),
        ("t.jsonl.bz2", bz2.compress(LINES.encode())[:-30], "damaged"),
        ("t.jsonl.xz", lzma.compress(LINES.encode())[:-30], "damaged"),
        ("t.jsonl.zst", packed(LINES.encode(), "zstd")[:-30], "damaged"),
        ("t.zip", b"PK\x03\x04 and so on", "is an archive"),
        ("t.tar", 257 * b"\0" + b"ustar", "is an archive"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}.*{says}") as raised:
        list(read_texts(tmp_path / name))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("source", ["nowhere.txt", "./nowhere", "nowhere.parquet", "~nobody-of-that-name/x.jsonl", "a\0b.txt"])
def test_a_file_that_is_not_there(source: str) -> None:
    with pytest.raises(InputError, match="no file"):
        list(read_texts(source))


SAMPLES = ("plain.txt", "array.json", "lines.jsonl", "commas.csv", "lines.jsonl.gz", "lines.jsonl.zst")


def complaint(reader: Callable[[Path], Any], path: Path) -> str:
    """Return the project's error of a reader, nothing where it reads; any other error is not caught."""
    try:
        list(reader(path))
    except InversionViewError as error:
        return str(error)
    return path.name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=5)), min_size=1, max_size=4),
)
def test_damage_is_told_by_an_error_of_the_project(tmp_path: Path, name: str, changes: list[tuple[float, int, bytes]]) -> None:
    content = FORMS[name]
    for where, lost, put in changes:
        at = int(where * len(content))
        content = content[:at] + put + content[at + lost :]
    (tmp_path / name).write_bytes(content)
    for reader in (read_texts, read_pairs, read_statements, lambda path: read_words(path, "text")):
        said = complaint(reader, tmp_path / name)
        assert name in said
        assert "\n" not in said


@pytest.mark.filterwarnings("ignore::inversionview.core.errors.LeftOut")
def test_sources_without_records_are_told_as_such(tmp_path: Path) -> None:
    """No reader but gives nothing, or says in a sentence that there is nothing."""
    nothing = pa.table({"text": pa.array([], pa.string())})
    for name in ("t.txt", "t.json", "t.jsonl", "t.csv", "t.tsv", "t.parquet", "t.arrow", "t.feather", "t.txt.gz", "bare"):
        (tmp_path / name).write_bytes(b"")
    for name, content in (("a.json", b"[]"), ("h.csv", b"text\n"), ("b.txt", b"\n \n"), ("b.jsonl", b"\n\n")):
        (tmp_path / name).write_bytes(content)
    pq.write_table(nothing, tmp_path / "rows.parquet")
    pyarrow.feather.write_feather(nothing, tmp_path / "rows.feather")
    datasets.Dataset(nothing).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": datasets.Dataset(nothing)}).save_to_disk(tmp_path / "splits")
    some = datasets.DatasetDict({"train": datasets.Dataset(table()), "test": datasets.Dataset(nothing)})
    some.save_to_disk(tmp_path.parent / f"{tmp_path.name}_some")
    assert list(read_texts(tmp_path.parent / f"{tmp_path.name}_some")) == TEXTS
    for path in sorted(tmp_path.iterdir()):
        assert list(read_texts(path)) == []
        assert read_words(path, "name") == []
        with pytest.raises(InputError, match=rf"{path.name} holds no statement"):
            read_statements(path)
        assert read_pairs(path) == ([], [])


# -- texts become a corpus ---------------------------------------------------------------------------------------------


def word_tokenizer(unknown: str | None = "<unk>") -> Tokenizer:
    words = ["<s>", "</s>", "<unk>", "<pad>", "a", "b", *(str(n) for n in range(100))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token=unknown or "none"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def test_unknown_words_are_read_where_padding_is_the_token_for_them() -> None:
    texts = [f"a {n} strange words" for n in range(60)]
    shared = Vocabulary(word_tokenizer(), "<s>", "</s>", "<unk>")
    own = Vocabulary(word_tokenizer(), "<s>", "</s>", "<pad>")
    assert (shared.pad, own.pad, shared.size) == (106, 3, 106)
    assert Vocabulary(word_tokenizer(None), "<s>", "</s>", "<unk>", "<unk>").pad == 106
    assert shared.encode(texts[7]) == own.encode(texts[7]) == [0, 4, 13, 2, 2, 1]
    inputs = TextInputs.tokenize(texts, shared)
    assert len(inputs) == 60
    assert inputs.lengths(inputs.tokens(np.arange(60))).tolist() == 60 * [6]


def test_texts_that_cannot_be_encoded_are_left_out_and_the_first_is_named(tmp_path: Path) -> None:
    tokenizer = Vocabulary(word_tokenizer(None), "<s>", "</s>", "<pad>")
    rows = [{"text": f"a {n}"} for n in range(60)]
    lines = [json.dumps(row) for row in (*rows[:30], {"text": "a strange"}, {"text": "<pad> a"}, *rows[30:])]
    (tmp_path / "t.jsonl").write_text("\n".join([*lines, '{"text": "a \\ud83d"}']))
    with pytest.warns(LeftOut, match=r"3 texts are left out, .*; the first is .*t\.jsonl, line 31: .* cannot encode"):
        inputs = TextInputs.tokenize(read_texts(tmp_path / "t.jsonl"), tokenizer, folder=tmp_path / "corpus", leave_out=True)
    assert inputs.tokens(np.arange(60)).tolist() == [[0, 4, 6 + n, 1] for n in range(60)]
    with pytest.raises(InputError, match=r"t\.jsonl, line 31: The tokenizer cannot encode"):
        TextInputs.tokenize(read_texts(tmp_path / "t.jsonl"), tokenizer)
    (tmp_path / "half.jsonl").write_text('{"text": "a \\ud83d"}')
    with pytest.raises(InputError, match=r"half\.jsonl, line 1: .* half of a character"):
        TextInputs.tokenize(read_texts(tmp_path / "half.jsonl"), tokenizer, leave_out=True)


def test_texts_are_not_held_in_memory(tmp_path: Path) -> None:
    """What has been taken from the source and not yet been tokenized never exceeds a batch, and rows come out as they go in."""
    taken: list[int] = [0]
    behind: list[int] = []

    class Watched(Vocabulary):
        done = 0

        def encode_many(self, texts: Any, truncate: int | None = None) -> Any:
            behind.append(taken[0] - self.done)
            self.done += len(texts)
            return super().encode_many(texts, truncate)

    def source() -> Iterator[str]:
        for n in range(6000):
            taken[0] += 1
            yield f"a {n % 100} b {n // 100}"

    inputs = TextInputs.tokenize(source(), Watched(word_tokenizer(), "<s>", "</s>", "<pad>"), folder=tmp_path / "corpus")
    assert max(behind) <= 1025
    assert len(behind) >= 6
    wanted = [[0, 4, 6 + n % 100, 5, 6 + n // 100, 1] for n in range(6000)]
    assert inputs.tokens(np.arange(6000)).tolist() == wanted
    old = datasets.Dataset.from_dict({"tokens": wanted}).data.table  # as earlier versions wrote them
    lengths, ids = np.full(6000, 6, dtype=np.int32), np.array(wanted, dtype=np.int64)
    digest = hashlib.sha256(lengths.tobytes() + ids.tobytes()).hexdigest()[:16]
    vocabulary = Vocabulary(word_tokenizer(), "<s>", "</s>", "<pad>")
    assert inputs.fingerprint == TextInputs(old, vocabulary, 6).fingerprint == digest
    assert TextInputs.load(tmp_path / "corpus", vocabulary).max_length == 6


def test_texts_that_come_again_in_another_batch_are_kept_once() -> None:
    texts = [f"a {n % 90}" for n in range(5000)]
    inputs = TextInputs.tokenize(texts, Vocabulary(word_tokenizer(), "<s>", "</s>", "<pad>"))
    assert inputs.tokens(np.arange(len(inputs))).tolist() == [[0, 4, 6 + n, 1] for n in range(90)]


def test_a_book_on_one_line_is_cut_like_a_short_text() -> None:
    book = "a b 7 " * 10_000
    tokenizer = Vocabulary(word_tokenizer(), "<s>", "</s>", "<pad>")
    inputs = TextInputs.tokenize([book, *(f"b {n}" for n in range(60))], tokenizer, max_length=8)
    assert inputs.tokens(np.arange(1)).tolist() == [tokenizer.encode(book, truncate=8)]


def test_progress_is_told_from_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("".join(f"{'a ' * 50}{n}\n" for n in range(20_000)))
    told: list[tuple[float, int]] = []
    texts = read_texts(
        tmp_path / "t.txt", report=lambda share, note: told.append((share, int(note.removesuffix(" texts").replace(",", ""))))
    )
    next(texts)
    assert told[0][1] == 0
    assert sum(1 for _ in texts) == 19_999
    assert told == sorted(told)
    assert told[-1] == (1.0, 20_000)
    assert len({share for share, _ in told}) >= 2


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random GPT-2 with byte-level tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(special_tokens=["<|endoftext|>"], initial_alphabet=alphabet))
    size = tokenizer.get_vocab_size()
    config = GPT2Config(vocab_size=size, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    try:
        cli.main(list(arguments))
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().err


def test_train_reads_a_field_and_says_what_it_leaves_out(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    rows = [{"sentence": text} for text in TEXTS]
    lines = [json.dumps(row) for row in (*rows, {"sentence": None}, {"sentence": ""})]
    path = tmp_path / "t.JSON.gz"
    path.write_bytes(gzip.compress("\n".join([*lines, '{"sentence": "\\ud800"}']).encode()))
    small = [
        "--steps",
        "1",
        "--width",
        "8",
        "--decoder-layers",
        "1",
        "--batch",
        "4",
        "--inputs",
        "8",
        "--sites",
        "x0.post",
        "--device",
        "cpu",
    ]
    common = ("train", "--model", str(model), "--texts", str(path), "--out", str(tmp_path / "run"), *small)
    code, said = run(capsys, *common)
    assert code == 2
    assert said == f"Line 1 of {path} has no field 'text': fields are sentence: give --field sentence.\n"
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
    code, said = run(capsys, *common, "--field", "sentence")
    assert code == 0
    for kind in ("no text", "an empty text"):
        assert said.count(f"1 of 43 records of {path} has {kind}: left out.\n") == 1
    assert said.count(f"1 text is left out, which the tokenizer cannot encode; the first is {path}, line 43: The text ") == 1
    corpus = datasets.load_from_disk(str(tmp_path / "run" / "corpus"))
    vocabulary = Vocabulary.from_folder(model)
    assert corpus["tokens"][:] == [vocabulary.encode(text) for text in TEXTS]
    assert run(capsys, "train", "counting", "--field", "x", "--out", str(tmp_path / "no"))[0] == 2


def test_a_field_of_a_plain_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a\n")
    with pytest.raises(InputError, match="holds texts, not records with a field 'x'"):
        list(read_texts(tmp_path / "t.txt", "x"))


# -- pairs, prompts, names, facts --------------------------------------------------------------------------------------

PAIRS = [{"original": "The cat sat", "contrast": "The dog sat", "answer": " on", "contrast_answer": " off"} for _ in range(2)]


def written(folder: Path, stem: str, rows: list[dict[str, Any]]) -> Iterator[Path]:
    """Yield a file of these records in each form."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    array, around = json.dumps(rows, indent=1), json.dumps({"all": rows})
    contents = {
        ".jsonl": lines.encode(), ".txt": lines.encode(), ".json": array.encode(), "": lines.encode("utf-8-sig"),
        ".jsonl.gz": gzip.compress(lines.encode()), ".u16.jsonl": lines.encode("utf-16"), ".w.json": around.encode(),
    }  # fmt: skip
    for ending, content in contents.items():
        (folder / f"{stem}{ending}").write_bytes(content)
        yield folder / f"{stem}{ending}"
    fields = list(dict.fromkeys(name for row in rows for name in row))
    pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in fields} for row in rows]), folder / f"{stem}.parquet")
    yield folder / f"{stem}.parquet"
    if not any(isinstance(value, dict) for row in rows for value in row.values()):
        with (folder / f"{stem}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(rows)
        yield folder / f"{stem}.csv"


def test_pairs_in_every_form(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [PAIRS[0], {**PAIRS[1], "at": "cat"}]
    for path in written(tmp_path, "pairs", rows):
        pairs, names = read_pairs(path)
        assert pairs == [TextPair(**row) for row in rows]
        assert all(str(path) in name for name in names)


def test_the_position_of_a_pair_is_a_name_or_an_index(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({**PAIRS[0], "at": at}) + "\n" for at in (5, -1, "END", None)))
    assert [pair.at for pair in read_pairs(path)[0]] == [5, -1, "END", "END"]
    for at in (True, 2.5, ["END"]):
        path.write_text(json.dumps({**PAIRS[0], "at": at}))
        with pytest.raises(InputError, match=r"line 1 is no pair: .*the name or the index of a position"):
            read_pairs(path)


def test_the_position_of_a_pair_in_a_table_with_gaps(tmp_path: Path) -> None:
    """pandas writes whole numbers with gaps as fractions, and its index as a column."""
    for at, wanted in (([5.0, float("nan")], [5, "END"]), ([5, None], [5, "END"]), (["cat", ""], ["cat", "END"])):
        columns = {name: [text, text] for name, text in PAIRS[0].items()}
        pq.write_table(pa.table({**columns, "at": at, "__index_level_0__": [3, 4]}), tmp_path / "p.parquet")
        assert read_pairs(tmp_path / "p.parquet")[0] == [TextPair(**PAIRS[0], at=each) for each in wanted]
    (tmp_path / "p.jsonl").write_text(json.dumps({**PAIRS[0], "at": -1.0}))
    assert read_pairs(tmp_path / "p.jsonl")[0][0].at == -1
    rows = [",".join([*PAIRS[0].values(), at]) for at in ("5.0", "", "-1.0")]
    (tmp_path / "p.csv").write_text("\n".join([",".join([*PAIRS[0], "at"]), *rows]))
    assert [pair.at for pair in read_pairs(tmp_path / "p.csv")[0]] == [5, "END", -1]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({**PAIRS[0], "id": 1}, "there is no field 'id'"),
        ({**PAIRS[0], "At": 1}, "there is no field 'At'"),
        ({**PAIRS[0], "answer": 2}, "'answer' is a number, not a text"),
        ({**PAIRS[0], "contrast": None}, "'contrast' is null, not a text"),
        ({"original": "x"}, "it lacks 'contrast'"),
        (["a", "b"], "it is a list, no object"),
        ({**PAIRS[0], "at": 5.5}, "'at' is a number"),
        ({**PAIRS[0], "at": float("inf")}, "'at' is a number"),
    ],
)
def test_what_is_wrong_with_a_pair_is_named(tmp_path: Path, value: Any, says: str) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(PAIRS[0]) + "\n" + json.dumps(value))
    with pytest.raises(InputError, match=rf"p\.jsonl, line 2 is no pair: write .* \({says}\)\."):
        read_pairs(tmp_path / "p.jsonl")


def test_an_index_and_a_token_mean_the_same_position_of_a_pair(tmp_path: Path, addition: Study) -> None:
    pair = {"original": "615+861=", "contrast": "115+261=", "answer": "1", "contrast_answer": "3"}
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({**pair, "at": at}) + "\n" for at in ("=", 8, -1)))
    pairs = iv.pairs(addition, tmp_path / "p.jsonl")
    assert pairs.read.tolist() == pairs.contrast_read.tolist() == [8, 8, 8]  # BOS is 0, EOS is not counted


def test_prompts_and_words_in_every_form(tmp_path: Path, model: Path) -> None:
    from inversionview.model.probed import ProbedModel

    probed = ProbedModel.from_pretrained(model)
    rows = [{"text": "The cat sat", "expected": "on"}, {"text": "The dog sat", "expected": " on", "at": "1"}]
    words = [[{"word": "on"}, {"word": " log"}], ["on", "log"]]
    among = [*written(tmp_path, "words", words[0]), tmp_path / "words.json", tmp_path / "plain"]
    (tmp_path / "words.json").write_text(json.dumps(words[1]))
    (tmp_path / "plain").write_text("\ufeffon\n\nlog\n", encoding="utf-8")
    among = [path for path in among if path.suffix != ".txt" and path.name != "words"]  # plain text by their names
    for path in written(tmp_path, "prompts", rows):
        cases = prompt_cases(probed, path, lambda ids, at: 2 if at == "END" else int(at), among=among.pop() if among else None)
        assert cases.tokens[:, 1:-1].tolist() == [probed.encode(row["text"])[1:-1] for row in rows]
        assert cases.positions.tolist() == [2, 1]
        assert len(cases.words) == (2 if cases.candidates.size == 2 else 1)
    assert not among


def test_names_in_every_form(tmp_path: Path) -> None:
    names = ["Mary", "John", "José"]
    contents = {
        "a.txt": "Mary\n\n John \nJosé", "b.txt": "\ufeffMary\r\nJohn\r\nJosé\r\n", "c.json": json.dumps(names),
        "d.csv": "name\nMary\nJohn\nJosé\n",
        "e.jsonl": "".join(json.dumps({"name": name}) + "\n" for name in names),
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content.encode())
        assert read_words(tmp_path / name, "name") == names
    (tmp_path / "f.csv").write_text("n,who\n1,Mary\n")
    with pytest.raises(InputError, match=r"has no field 'name': fields are n, who: call the one with the words name"):
        read_words(tmp_path / "f.csv", "name")


FACTS = [
    {"prompt": "The home of {} is", "subject": subject, "relation": "home", "object": town}
    for subject, town in (("Aba", "Oslo"), ("Bebe", "Rome"), ("Çelik", "Bonn"))
]


def test_facts_in_every_form_and_of_every_set(tmp_path: Path) -> None:
    wanted = {(f"The home of {row['subject']} is", row["subject"], row["object"]) for row in FACTS}
    counterfact = [
        {"case_id": n, "requested_rewrite": {"prompt": row["prompt"], "subject": row["subject"], "relation_id": "P1",
         "target_new": {"str": "Berlin"}, "target_true": {"str": row["object"]}}, "paraphrase_prompts": ["x", "y"]}
        for n, row in enumerate(FACTS)
    ]  # fmt: skip
    known = [
        {"known_id": n, "subject": row["subject"], "attribute": row["object"], "template": row["prompt"],
         "prediction": f" {row['object']} and", "prompt": row["prompt"].format(row["subject"]), "relation_id": "P1"}
        for n, row in enumerate(FACTS)
    ]  # fmt: skip
    own = [{**FACTS[0], "attributes": {"size": "A"}}, {**FACTS[1], "attributes": {"age": "B"}}, FACTS[2]]
    for path in written(tmp_path, "attributes", own):
        assert [s.attributes for s in read_statements(path)] == [{"size": "A"}, {"age": "B"}, {}]
    for stem, rows in (("own", FACTS), ("counterfact", counterfact), ("known_1000", known)):
        for path in written(tmp_path, stem, rows):
            assert {(s.text, s.subject, s.object) for s in read_statements(path)} == wanted


def test_empty_cells_of_facts_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(
        "prompt,subject,relation,object,attributes\n{} is,Beats,,,\n{} is in,Oslo,country,Norway,\n"
    )
    (tmp_path / "f.jsonl").write_text('{"prompt": "{} is", "subject": "Beats", "relation": "", "object": ""}')
    without = [("Beats is", "–", "")]
    found = [[(s.text, s.relation, s.object) for s in read_statements(tmp_path / name)] for name in ("f.csv", "f.jsonl")]
    assert found == [[*without, ("Oslo is in", "country", "Norway")], without]
    for row, says in (
        ("{} is,Beats,owner,", "both given or both left out"),
        (",Beats,,", "lacks 'prompt'"),
        ("{} is,,,", "lacks"),
    ):
        (tmp_path / "f.csv").write_text(f"prompt,subject,relation,object\n{row}\n")
        with pytest.raises(InputError, match=rf"f\.csv, line 2 is no fact \(.*{says}"):
            read_statements(tmp_path / "f.csv")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({**FACTS[0], "object": 3}, "'object' is a number, not a text"),
        ({**FACTS[0], "id": 3}, "there is no field 'id'"),
        ({**FACTS[0], "attributes": "x"}, "'attributes' is a text, no object"),
        ({**FACTS[0], "attributes": {"a": 3}}, "'a' is a number, not a text"),
        ({**FACTS[0], "prompt": ["{}"]}, "'prompt' is a list, not a text"),
        ({"template": "{} is", "subject": "A", "relation_id": "P1", "attribute": None}, "'attribute' is null, not a text"),
        ({"template": "{} is", "subject": "A", "attribute": "B"}, "it lacks 'relation_id'"),
        ({"requested_rewrite": None}, "'requested_rewrite' is null, no object"),
        ({"requested_rewrite": {"prompt": "{}", "subject": "A", "relation_id": "P", "target_true": "B"}}, "'target_true' is a"),
        ("a", "it is a text, no object"),
        (None, "it is null, no object"),
    ],
)
def test_what_is_wrong_with_a_fact_is_named(tmp_path: Path, value: Any, says: str) -> None:
    (tmp_path / "f.jsonl").write_text(json.dumps(FACTS[0]) + "\n" + json.dumps(value))
    with pytest.raises(InputError, match=rf"f\.jsonl, line 2 is no fact \({says}"):
        read_statements(tmp_path / "f.jsonl")


def test_a_relation_of_bear_whose_file_is_missing_is_named_and_the_others_load(tmp_path: Path) -> None:
    relations = {name: {"templates": [f"{name} of [X] is [Y]."]} for name in ("P1", "P2", "P3", "P4")}
    relations["P5"] = {"templates": ["[Y] is of [X]"]}  # ends in no object, so its file is not asked for
    (tmp_path / "metadata_relations.json").write_text(json.dumps(relations), encoding="utf-8-sig")
    with pytest.raises(InputError, match="holds no statement"):
        read_statements(tmp_path)
    record = json.dumps({"sub_label": "Aba", "obj_label": "Oslo"})
    (tmp_path / "P1.jsonl").write_text(record)
    (tmp_path / "P3.jsonl").write_text(record)
    (tmp_path / "P4.jsonl").write_text("")
    with pytest.warns(LeftOut, match=r"2 of 4 relations left out, whose files .* lacks, or are empty: P2\.jsonl, P4\.jsonl"):
        assert [(s.relation, s.text) for s in read_statements(tmp_path)] == [("P1", "P1 of Aba is"), ("P3", "P3 of Aba is")]


@pytest.mark.parametrize("reader", [read_pairs, read_statements], ids=["pairs", "facts"])
def test_half_a_character_is_told_by_its_line(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    rows: list[dict[str, Any]] = PAIRS if reader is read_pairs else FACTS[:2]
    field = next(iter(rows[1]))
    broken = json.dumps({**rows[1], field: "Aba {}?"}).replace("?", "\\ud83d")
    (tmp_path / "x.jsonl").write_text(json.dumps(rows[0]) + "\n" + broken)
    with pytest.raises(InputError, match=r"x\.jsonl, line 2 holds .ud83d, half of a character"):
        reader(tmp_path / "x.jsonl")

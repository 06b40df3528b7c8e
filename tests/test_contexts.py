"""Readings of natural text as people look at them: each token in its context, one line each, in terminal, page and explorer."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

import inversionview as iv
from inversionview.cli import main
from inversionview.core.errors import SettingError
from inversionview.drawing.contexts import context_line
from tests.language import BEGIN, END, deep_llama

TEXTS = [
    "John gave a drink to Mary at the store",
    "Mary gave a drink to John 🎉 at the 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字 store",
    "שלום John gave a drink to שלום Mary",
    "x" * 200 + " drink " + "y" * 200,
    "cafe\u0301 a\u0300 la\u0302 creme John gave a drink to Mary",
    "one\ttwo\rthree John gave a drink to",
]
QUERY = "Then John gave a drink to the friend"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> iv.Study:
    """A small model with texts that are awkward to show; some words end the others' windows in the middle of an emoji."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "texts.txt").write_text("\n".join(TEXTS * 2), encoding="utf-8")
    model = deep_llama(folder / "model", layers=2)
    return iv.load(model=model, texts=iv.TextSource(str(folder / "texts.txt"), context=24))


@pytest.fixture(scope="module")
def found(study: iv.Study) -> iv.Preimage:
    return iv.search(study, study.query(QUERY, at=" drink", site="x0.post"), epsilon=0.5, count=40)


def printed(preimage: iv.Preimage, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(preimage)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return text.split("\n")


def rows(lines: list[str]) -> list[str]:
    """Lines that show a context: the query's and those of samples."""
    return [line for line in lines if re.match(r"( *query|  \d\.\d{3}) ", line) and "────" not in line]


@pytest.mark.parametrize("width", [40, 80, 140])
def test_each_occurrence_is_one_line_and_its_token_begins_in_the_same_column(found: iv.Preimage, width: int) -> None:
    lines = printed(found, width)
    shown = rows(lines)
    assert len(shown) == len(found) + 1 > 10
    assert all(cell_len(line) <= width for line in lines)
    begins = set()
    for line, sample in zip(shown[1:], found, strict=True):
        token = sample.tokens[sample.position].removeprefix(" ")
        marks = [match.start() for match in re.finditer(r"\(", line)]
        columns = [cell_len(line[:at]) for at in marks if line[at + 1 :].startswith(token[:1])]
        assert columns, (line, token)
        begins.add(min(columns, key=lambda column: abs(column - cell_len(shown[0].split("(")[0]))))
    assert begins == {cell_len(shown[0].split("(")[0])}
    distances = [float(line.split()[0]) for line in shown[1:]]
    assert distances == sorted(distances)
    line = next(i for i, each in enumerate(lines) if "──── ε, cosine" in each)
    above = [each for each in shown[1:] if lines.index(each) < line]
    assert len(above) == len(found.inside)


def test_equal_prefixes_are_one_row_with_their_count_and_the_sentence_counts_occurrences(found: iv.Preimage) -> None:
    assert any(sample.count > 1 for sample in found)  # every text stands twice
    lines = printed(found, 200)
    assert [int(m[1]) if (m := re.search(r"×(\d+)", line)) else 1 for line in rows(lines)[1:]] == [s.count for s in found]
    bits, extent = found.bits, found.corpus
    assert bits is not None
    assert extent is not None
    said = " ".join(lines)
    assert f"{bits.occurrences:,} of {bits.inputs:,} occurrences lie inside ε" in said
    assert f"in {bits.windows:,} of {extent.windows:,} windows: {bits.value:.2f} bits" in said
    assert f"{extent.occurrences:,} tokens of {extent.source}, in {extent.windows:,} windows of at most 24" in said
    assert "equal prefixes are one row" in said
    assert not re.search("inputs of the corpus|drawn", said)


def test_where_few_are_found_it_is_said_how_to_find_more(study: iv.Study) -> None:
    query = study.query(QUERY, at=" drink", site="x0.post")
    none = iv.search(study, query, epsilon=1e-6, k=9, per_window=1)
    assert none.bits is not None
    assert not none.inside
    assert len(none) > 1
    said = " ".join(printed(none, 300))
    assert f"0 of {none.bits.inputs:,} occurrences lie inside ε: ≥ " in said
    assert "look at the nearest (--k 50)" in said
    assert f"none inside and the {len(none)} nearest outside" in said
    assert "at most 1 of a window" in said
    assert none.to_json()["per_window"] == 1


def test_sources_are_not_compared_on_natural_text(study: iv.Study) -> None:
    with pytest.raises(SettingError, match=r"natural text has neither: read the query with --source all"):
        iv.agree(study, study.query(QUERY, at=" drink", site="x0.post"))


def test_rows_of_a_walk_align_with_those_of_the_corpus_and_say_so(found: iv.Preimage) -> None:
    walked = [
        replace(s, tokens=s.tokens[: s.position + 1], ids=s.ids[: s.position + 1], source="walk", count=1)
        for s in found.samples[:6]
    ]
    both = sorted([*found.samples[6:], *walked], key=lambda sample: sample.distance)
    merged = replace(found, samples=tuple(both), source="all", inside_count=None, distinct=None)
    shown = rows(printed(merged, 120))
    assert [line.split()[1] if "×" not in line else line.split()[2] for line in shown[1:]] == [s.source for s in merged]
    walks = [line for line, sample in zip(shown[1:], merged, strict=True) if sample.source == "walk"]
    assert all(line.endswith(")") for line in walks)  # nothing follows
    assert {cell_len(line[: line.rindex("(")]) for line in walks} == {cell_len(shown[0].split("(")[0])}


TOKENS = st.lists(
    st.text(st.characters(codec="utf-8"), max_size=12) | st.just("🎉") | st.just("⟨e7⟩") | st.just("e\u0301"), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(TOKENS, TOKENS, st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), st.integers(3, 60), st.integers(3, 60))
def test_a_line_is_never_wider_than_its_room(left: list[str], right: list[str], token: str, before: int, after: int) -> None:
    tokens = [BEGIN, *left, token, *right, END]
    line = context_line(tokens, 1 + len(left), before, after, (BEGIN, END))
    assert cell_len(line.plain) <= before + after
    assert all(c.isprintable() for c in line.plain)  # a line break is not
    opening = [i for i, c in enumerate(line.plain) if c == "(" and cell_len(line.plain[:i]) == before]
    assert opening


def test_the_command_prints_contexts(
    study: iv.Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = study.spec.options
    command = ["search", "--model", study.spec.model, "--texts", str(source["texts"]), "--context", "24", QUERY]
    monkeypatch.setenv("COLUMNS", "90")
    main([*command, "--at", " drink", "--site", "x0.post", "--epsilon", "0.5"])
    lines = capsys.readouterr().out.split("\n")
    assert all(cell_len(line) <= 90 for line in lines)
    shown = rows(lines)
    assert len(shown) > 3
    assert len({cell_len(line.split("(drink)")[0]) for line in shown if "(drink)" in line}) == 1

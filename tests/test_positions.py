"""Names of positions mean one thing: a token is a token, ``#8`` an index, and what could be both is refused with both named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import inversionview as iv
from inversionview.cli import main
from inversionview.core.errors import UnknownPositionError
from inversionview.corpora.contrasts import TextPair
from inversionview.explorer.answers import info

ADD = "615+861=1476"
SUM = "128+882=1010"
"""Its tokens: B128+882=1010E."""


@pytest.mark.parametrize(
    ("at", "index"),
    [
        ("#8", 8), ("#-2", 11), ("-1", 12), (8, 8), (-1, 12), ("4", 10), ("7", 11), ("=", 8), ("A1", 9), ("9", 9), ("0", 0),
        ("13", 13),
    ],
)  # fmt: skip
def test_a_position_is_what_it_is_called(addition: iv.Study, at: str | int, index: int) -> None:
    """Of B615+861=1476E: 4 and 7 are tokens, but indices, too, so they are refused; 9, 0 and 13 are no tokens."""
    if at in ("4", "7"):
        with pytest.raises(UnknownPositionError, match=f"'#{at}' .* '#{index}'"):
            addition.query(ADD, at=at)
    else:
        assert addition.query(ADD, at=at).position == index


def test_both_readings_are_named(addition: iv.Study) -> None:
    with pytest.raises(UnknownPositionError) as error:
        addition.query(SUM, at="8")
    assert "'#8' for the token at index 8, which is '='" in str(error.value)
    assert "stands at 3, 5, 6: '#3', '#5' or '#6'" in str(error.value)


def test_a_number_that_stands_at_its_own_index_is_no_matter(addition: iv.Study) -> None:
    assert addition.query("123+456=579", at="1").position == 1  # the only 1, and index 1


def test_a_token_that_occurs_more_often_is_named_with_its_places(counting: iv.Study) -> None:
    with pytest.raises(UnknownPositionError, match="occurs at positions 1, 2, 7: write '#1', '#2' or '#7'"):
        counting.query("vvccz|v:2", at="v")


@pytest.mark.parametrize("at", ["#14", "99", "#-15", "#x"])
def test_indices_that_are_not_there(addition: iv.Study, at: str) -> None:
    with pytest.raises(UnknownPositionError, match="#0 to #13"):
        addition.query(ADD, at=at)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="0123456789", min_size=3, max_size=3), st.integers(0, 13))
def test_a_number_is_never_guessed(addition: iv.Study, digits: str, number: int) -> None:
    """By definition: the readings of a number are its index and the places of the token; one alone is taken, else none."""
    text = f"{digits}+861=1476"
    tokens = addition.model.vocabulary.strings(addition.model.encode(text))
    places = [i for i, token in enumerate(tokens) if token == str(number)]
    if set(places) <= {number}:
        assert addition.query(text, at=str(number)).position == number
    else:
        with pytest.raises(UnknownPositionError, match="two positions"):
            addition.query(text, at=str(number))


def test_fixed_means_in_other_inputs_what_it_means_in_the_query(addition: iv.Study) -> None:
    query = addition.query(SUM, at="#8", site="a0.0")
    found = iv.read(addition, query, fixed="#8", count=20, source="decoder")
    assert found.samples
    assert all(sample.position == 8 for sample in found)
    with pytest.raises(UnknownPositionError, match="two positions"):
        iv.read(addition, query, fixed="8", source="decoder")
    with pytest.raises(UnknownPositionError, match="no position 99"):
        iv.read(addition, query, fixed="99", source="decoder")


def test_a_search_compares_at_indices_too(addition: iv.Study) -> None:
    query = addition.query(ADD, at="=", site="a0.0")
    named, numbered = (iv.search(addition, query, fixed=at, count=5) for at in (["="], "#8"))
    assert named.bits == numbered.bits
    with pytest.raises(UnknownPositionError, match="none of these"):
        iv.search(addition, query, fixed="#0")


def test_of_many_inputs_a_number_is_the_index_unless_a_token_too(addition: iv.Study) -> None:
    tokens = addition.inputs.tokens(np.arange(50))
    named = r"'8' is a token of \d+ of these 50 inputs and an index: write '#8' for the index"
    with pytest.raises(UnknownPositionError, match=named):
        addition.positions.many(tokens, "8")
    for at in ("#8", 8, "12"):  # no token is called 12
        assert (addition.positions.many(tokens, at) == int(str(at).strip("#"))).all()


@pytest.mark.parametrize(
    "command",
    [
        ("ablate", "addition", "--at", "8:a0.0", "--limit", "20"), ("patch", "addition", "--at", "8:a0.0", "--limit", "2"),
        ("patch", "addition", "--position", "8", "--limit", "2"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_number_that_could_be_either_is_refused_in_sets_of_inputs(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit):
        main(list(command))
    assert "write '#8'" in capsys.readouterr().err


def test_pairs_of_texts(addition: iv.Study) -> None:
    pairs = [TextPair("615+861=1", "615+361=9", "4", "7", at="#8")]
    assert iv.pairs(addition, pairs).read.tolist() == [8]
    with pytest.raises(UnknownPositionError, match="Pair 1: '8' could mean two positions"):
        iv.pairs(addition, [TextPair("615+861=1", "615+361=9", "4", "7", at="8")])


def test_the_service_says_the_same(addition: iv.Study) -> None:
    assert info.place(addition, ADD, "#8").position == 8
    with pytest.raises(UnknownPositionError, match="two positions"):
        info.place(addition, ADD, "8")


def test_kept_tokens_of_a_walk(own_model: Path) -> None:
    study = iv.load(model=own_model)
    query = study.query("ann has 5 figs", site="x0.post")
    with pytest.raises(UnknownPositionError, match="'5' could mean two positions"):
        iv.walk(study, query, keep=["5"], steps=2)
    made = iv.walk(study, query, keep=["#5", "h"], steps=3, chains=4)
    assert all(sample.tokens[5] == "h" for sample in made)


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--index", "8"], ["--at", "#8"]):
        main(["read", "addition", ADD, *options, "--count", "2", "--json"])
        assert json.loads(capsys.readouterr().out)["query"]["position"] == 8
    for options, says in ((["--at", "8"], "'#8' for the token"), (["--at", "=", "--index", "8"], "give one of them")):
        with pytest.raises(SystemExit, match="2"):
            main(["read", "addition", ADD, *options])
        assert says in capsys.readouterr().err


# -- names of the studies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("61+861=922", {"+": 3, "=": 7, "END": 10}),
        ("615+861=", {"F1": 1, "F2": 2, "F3": 3, "+": 4, "S1": 5, "S2": 6, "S3": 7, "=": 8, "END": 8}),
        ("12", {"END": 2}),
    ],
)
def test_digits_are_named_where_they_are_digits_of_three(addition: iv.Study, text: str, named: dict[str, int]) -> None:
    assert addition.positions.names(addition.model.encode(text)) == named

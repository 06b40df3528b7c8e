"""Filters against conditions written out by hand, row by row; and what is wrong with one, said in a sentence."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import inversionview as iv
from inversionview.core.errors import SettingError
from inversionview.corpora.filters import Filter, parse_filters, satisfying

KNOWN = ["F2", "S2", "F2+S2", "{F1,S1}", "A1", "A4", "count", "letter"]
COMPARISONS = {
    "=": operator.eq, "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("A1=1", ("A1", "=", "1")),
        ("A1==1", ("A1", "=", "1")),
        ("F2+S2!=9", ("F2+S2", "!=", "9")),
        ("F2=3", ("F2", "=", "3")),
        ("{F1,S1} = 68", ("{F1,S1}", "=", "68")),
        ("  count >=  3 ", ("count", ">=", "3")),
        ("count<3", ("count", "<", "3")),
        ("letter=v", ("letter", "=", "v")),
        ("letter!=", ("letter", "!=", "")),
    ],
)
def test_a_filter_is_read(text: str, parts: tuple[str, str, str]) -> None:
    found = Filter.parse(text, KNOWN)
    assert (found.feature, found.comparison, found.value) == parts
    assert Filter.parse(str(found), KNOWN) == found


def test_several_filters_by_commas() -> None:
    names = [["A1=1,{F1,S1}=68", "count>=3"], ["A1=1", "{F1,S1}=68,count>=3"], ["A1=1", "{F1,S1}=68", "count>=3"]]
    every = [parse_filters(texts, KNOWN) for texts in names]
    assert every[0] == every[1] == every[2] == parse_filters("A1=1, {F1,S1}=68, count>=3", KNOWN)
    assert [str(each) for each in every[0]] == ["A1=1", "{F1,S1}=68", "count>=3"]
    assert parse_filters([], KNOWN) == ()


@given(st.lists(st.integers(-20, 20), max_size=30), st.sampled_from(sorted(COMPARISONS)), st.integers(-20, 20))
def test_numbers_compare_by_their_value(values: list[int], comparison: str, value: int) -> None:
    for written in (f"{value}", f"{value}.0"):
        found = Filter.parse(f"count{comparison}{written}", KNOWN).holds({"count": np.array(values, dtype=np.int64)})
        assert found.dtype == bool
        assert found.tolist() == [COMPARISONS[comparison](v, value) for v in values]


@given(st.lists(st.sampled_from("12vwE")), st.sampled_from("12vwx"))
def test_anything_else_compares_as_text(values: list[str], value: str) -> None:
    column = np.array(values, dtype="<U1")
    assert Filter.parse(f"letter={value}", KNOWN).holds({"letter": column}).tolist() == [v == value for v in values]
    assert Filter.parse(f"letter!={value}", KNOWN).holds({"letter": column}).tolist() == [v != value for v in values]
    assert not Filter.parse("count=v", KNOWN).holds({"count": np.arange(5)}).any()


def test_additions_that_satisfy(addition: iv.Study) -> None:
    """615 + 861 = 1476 and its like, found by arithmetic on the numbers themselves."""
    inputs, rows = addition.inputs, np.random.default_rng(0).permutation(810_000)[:20_000]
    tokens, first, second = inputs.tokens(rows), 100 + rows // 900, 100 + rows % 900
    total, known = first + second, list(inputs.features(inputs.tokens(rows[:1])))
    for text, expected in {
        "A1=1": (total // 1000 == 1) | (total // 100 == 1),
        "F2+S2!=9": first // 10 % 10 + second // 10 % 10 != 9,
        "{F1,S1}=68": np.sort([first // 100, second // 100], axis=0).T @ [10, 1] == 68,
        "A4=E,C3=1": (total < 1000) & (first % 10 + second % 10 >= 10),
        "F1>=8,S1<2": (first >= 800) & (second < 200),
        "A1=12": np.zeros(len(rows), dtype=bool),
    }.items():
        assert (satisfying(inputs, tokens, parse_filters([text], known)) == expected).all(), text
    assert satisfying(inputs, tokens, ()).all()
    assert satisfying(inputs, tokens[:0], parse_filters("A1=1", known)).shape == (0,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A9=1", "no feature 'A9'; there are F2, S2.*Did you mean 'A"),
        ("F2+S3=1", r"no feature 'F2\+S3'.*Did you mean 'F2\+S2'"),
        ("A1", "'A1' is not a filter"),
        ("=1", "'=1' is not a filter"),
        ("A1=>1", "'A1=>1' is not a filter"),
        ("A1 9", "'A1 9' is not a filter"),
        ("", "'' is not a filter"),
        (",", "',' is not a filter"),
        ("count>=v", "'v' is not a number"),
        ("count<", "'' is not a number"),
    ],
)
def test_bad_filters(text: str, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        parse_filters([text], KNOWN)


def test_text_has_no_order() -> None:
    with pytest.raises(SettingError, match="'letter>=3' asks for an order"):
        Filter.parse("letter>=3", KNOWN).holds({"letter": np.array(["v", "w"])})

"""Contrast sets against their definitions, written out for one pair after the other; and pairs of the user's own."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

import inversionview as iv
from inversionview.core.errors import InputError, InversionViewError, SettingError, UnknownPositionError
from inversionview.corpora.contrasts import Pairs, TextPair, held_out, study_pairs
from inversionview.corpora.filters import feature_names, parse_filters
from inversionview.corpora.inputs import Inputs
from inversionview.studies.addition.corpus import AdditionInputs
from inversionview.studies.counting.corpus import CountingInputs

COUNTING = [*string.ascii_lowercase, *"123456789|:BEP"]
ADDITION = [*"0123456789B+=EP"]
DIGITS = ("F1", "F2", "F3", "S1", "S2", "S3")


def texts(rows: Any, tokens: list[str]) -> list[str]:
    return ["".join(tokens[i] for i in row) for row in rows]


def same(a: Pairs, b: Pairs) -> bool:
    return a.original.shape == b.original.shape and all(
        (getattr(a, name) == getattr(b, name)).all() for name in ("original", "contrast", "read", "contrast_read", "answers")
    )


# -- counting ----------------------------------------------------------------------------------------------------------


def counted(text: str) -> tuple[str, str, int]:
    """The string, the letter asked for and its count, of what is a right counting input."""
    found = re.fullmatch(r"B([a-z]{3,27})\|([a-z]):([1-9])EP*", text)
    assert found, text
    letters, asked, count = found[1], found[2], int(found[3])
    assert letters.count(asked) == count, text
    assert len(set(letters)) == 3, text
    assert all(1 <= letters.count(c) <= 9 for c in letters), text
    return letters, asked, count


def counting_contrasts(letters: str, asked: str) -> set[str]:
    """Every contrast there is."""
    found = set()
    for i, old in enumerate(letters):
        for new in set(letters) - {old}:
            other = letters[:i] + new + letters[i + 1 :]
            fits = len(set(other)) == 3 and max(Counter(other).values()) <= 9
            if fits and other.count(asked) != letters.count(asked):
                found.add(other)
    return found


def test_counting_contrasts_replace_one_letter(counting: iv.Study) -> None:
    pairs = iv.pairs(counting, limit=3000, seed=5)
    assert len(pairs) + pairs.left_out == 3000
    pairs_of_texts = list(zip(texts(pairs.original, COUNTING), texts(pairs.contrast, COUNTING), strict=True))
    for i, (original, contrast) in enumerate(pairs_of_texts):
        letters, asked, count = counted(original)
        others, asked_too, new_count = counted(contrast)
        assert (asked, len(letters)) == (asked_too, len(others))
        assert sum(a != b for a, b in zip(letters, others, strict=True)) == 1
        assert set(letters) == set(others)
        assert abs(count - new_count) == 1
        assert 3 < len(letters) < 27
        assert original[pairs.read[i]] == contrast[pairs.contrast_read[i]] == ":"
        assert [COUNTING[a] for a in pairs.answers[i]] == [str(count), str(new_count)]
    assert len({*(o for o, _ in pairs_of_texts)}) == len(pairs), "an original occurs twice"


def test_counting_originals_are_of_the_test_split(counting: iv.Study) -> None:
    """All that are given, and with a filter all that there are, up to those without a contrast."""
    rows = counting.inputs.split("test")
    everything = counting.inputs.tokens(rows).astype(np.int8)
    short = everything[(everything == COUNTING.index("|")).argmax(1) == 6]  # five letters
    pairs = iv.pairs(counting, where=["length=5"])
    expected = sorted(text for text in texts(short, COUNTING) if counting_contrasts(*counted(text)[:2]))
    assert sorted(texts(pairs.original, COUNTING)) == expected
    assert pairs.left_out == len(short) - len(expected)


@pytest.mark.parametrize("length", [3, 27])
def test_the_shortest_and_the_longest_strings_have_no_contrast(counting: iv.Study, length: int) -> None:
    with pytest.raises(SettingError, match=f"does not alter count where length={length}: no contrast"):
        iv.pairs(counting, where=[f"length={length}"])


@pytest.mark.parametrize("length", [4, 26])
def test_the_next_ones_have(counting: iv.Study, length: int) -> None:
    pairs = iv.pairs(counting, where=[f"length={length}"], limit=300)
    assert (len(pairs), pairs.left_out) == (300, 0)
    assert all(len(counted(text)[0]) == length for text in texts(pairs.contrast, COUNTING))


def test_counting_filters_hold_on_both(counting: iv.Study) -> None:
    pairs = iv.pairs(counting, where=["count>=4", "count<=6"], limit=400)
    for text in texts(np.concatenate([pairs.original, pairs.contrast]), COUNTING):
        assert 4 <= counted(text)[2] <= 6
    assert {counted(text)[2] for text in texts(pairs.contrast, COUNTING)} == {4, 5, 6}


# -- addition ----------------------------------------------------------------------------------------------------------


def added(text: str) -> tuple[str, str]:
    """Both operands and the sum, of what is a right addition; the sum with E behind it, so that A4 exists."""
    found = re.fullmatch(r"B(\d{3})\+(\d{3})=(\d{3,4})EP*", text)
    assert found, text
    assert str(int(found[1]) + int(found[2])) == found[3], text
    return found[1] + found[2], found[3] + "E"


def check_addition(
    pairs: Pairs, target: int, changes: tuple[str, ...], holds: Callable[[str, str], bool] = lambda d, s: True
) -> None:
    originals = texts(pairs.original, ADDITION)
    for i, (original, contrast) in enumerate(zip(originals, texts(pairs.contrast, ADDITION), strict=True)):
        (digits, total), (others, other_total) = added(original), added(contrast)
        changed = {name for name, a, b in zip(DIGITS, digits, others, strict=True) if a != b}
        assert changed <= set(changes), (original, contrast)
        assert total[target] != other_total[target]
        assert [ADDITION[a] for a in pairs.answers[i]] == [total[target], other_total[target]]
        assert original[pairs.read[i] + 1] == total[target]
        assert contrast[pairs.contrast_read[i] + 1] == other_total[target]
        assert original[: pairs.read[i] + 1].endswith("=" + total[:target])
        assert holds(digits, total), original
        assert holds(others, other_total), contrast
    assert len(set(originals)) == len(originals)


@pytest.mark.parametrize(("target", "name"), enumerate(["A1", "A2", "A3", "A4"]))
def test_addition_contrasts_of_every_target(addition: iv.Study, target: int, name: str) -> None:
    for changes in (DIGITS, ("F2", "S2"), ("S1",)):
        pairs = iv.pairs(addition, target=name, changes=changes, limit=400, seed=1)
        check_addition(pairs, target, changes)
        assert len(pairs) + pairs.left_out == 400
        seen = {
            c
            for o, t in zip(texts(pairs.original, ADDITION), texts(pairs.contrast, ADDITION), strict=True)
            for c, a, b in zip(DIGITS, added(o)[0], added(t)[0], strict=True)
            if a != b
        }
        assert seen == set(changes), "what may change never does"


def test_leading_zeros_and_sums_of_four_digits_occur(addition: iv.Study) -> None:
    pairs = iv.pairs(addition, limit=2000)
    contrasts = texts(pairs.contrast, ADDITION)
    assert {text[1] for text in contrasts} == {text[5] for text in contrasts} == set("0123456789")
    assert not any(text[1] == "0" or text[5] == "0" for text in texts(pairs.original, ADDITION))
    assert {len(added(text)[1]) for text in contrasts} == {4, 5}


def test_addition_filters_hold_on_both(addition: iv.Study) -> None:
    def holds(digits: str, total: str) -> bool:
        return total[0] == "1" and int(digits[1]) + int(digits[4]) != 9

    pairs = iv.pairs(addition, target="A2", changes=["F1", "F2", "S1", "S2"], where=["A1=1", "F2+S2!=9"], limit=500)
    check_addition(pairs, 1, ("F1", "F2", "S1", "S2"), holds)
    again = iv.pairs(addition, target="A2", changes=["F1", "F2", "S1", "S2"], where="A1=1,F2+S2!=9", limit=500)  # type: ignore
    assert same(pairs, again)


def test_the_whole_test_set(addition: iv.Study) -> None:
    pairs = iv.pairs(addition, target="A1", changes=["F1", "S1"])
    rows = (pairs.original[:, 1:4] @ [100, 10, 1] - 100) * 900 + pairs.original[:, 5:8] @ [100, 10, 1] - 100
    test = set(addition.inputs.split("test").tolist())
    assert len(rows) + pairs.left_out == len(test) == 202_500
    assert len(set(rows.tolist())) == len(rows)
    assert set(rows.tolist()) <= test
    assert (pairs.original[:, [2, 3, 6, 7]] == pairs.contrast[:, [2, 3, 6, 7]]).all()
    totals = [t[:, 1:4] @ [100, 10, 1] + t[:, 5:8] @ [100, 10, 1] for t in (pairs.original, pairs.contrast)]
    first = [np.where(t >= 1000, t // 1000, t // 100) for t in totals]
    assert (first[0] != first[1]).all()
    assert (pairs.answers == np.stack(first, axis=1)).all()
    assert min(t.min() for t in totals) >= 100


# -- what is left out, and the distribution ----------------------------------------------------------------------------


def addition_contrasts(digits: str, target: int, changes: tuple[str, ...]) -> list[str]:
    """Every contrast there is: the digits of both operands."""
    total = str(int(digits[:3]) + int(digits[3:])) + "E"
    found = []
    for values in product("0123456789", repeat=len(changes)):
        new = list(digits)
        for name, value in zip(changes, values, strict=True):
            new[DIGITS.index(name)] = value
        amount = int("".join(new[:3])) + int("".join(new[3:]))
        if amount >= 100 and (str(amount) + "E")[target] != total[target]:
            found.append("".join(new))
    return found


@pytest.mark.parametrize(
    ("target", "changes"), [("A1", ("F3", "S3")), ("A1", ("F2",)), ("A2", ("F3", "S3")), ("A4", ("F1",)), ("A4", ("F2", "S2"))]
)
def test_what_is_left_out_has_no_contrast(addition: iv.Study, target: str, changes: tuple[str, ...]) -> None:
    tried = texts(held_out(addition.inputs, (), 400, 3), ADDITION)
    pairs = iv.pairs(addition, target=target, changes=changes, limit=400, seed=3)
    has = {text for text in tried if addition_contrasts(added(text)[0], int(target[1]) - 1, changes)}
    assert set(texts(pairs.original, ADDITION)) == has
    assert pairs.left_out == 400 - len(has)
    assert 0 < pairs.left_out < 400


def test_a_lone_input_is_not_given_up_sooner(addition: iv.Study) -> None:
    """Where 9 draws in a thousand will do, 200 draws find one with probability 0.84, 40 draws with 0.3."""
    found = 0
    for seed in range(30):
        try:
            found += len(
                iv.pairs(addition, target="A2", changes=["F1", "S1", "F2"], where=["F1=3", "S1=4"], limit=1, seed=seed)
            )
        except SettingError:
            continue
    assert 20 <= found < 30


def repeated(base: type[Inputs], text: str, tokens: list[str], count: int) -> Inputs:
    """Inputs that are all the same, ``count`` of them in the test split."""

    class Repeated(base):  # type: ignore[misc, valid-type]
        def __len__(self) -> int:
            return 4 * count

        def tokens(self, rows: Any, salt: int = 0) -> Any:
            ids = [tokens.index(c) for c in f"B{text}E".ljust(self.max_length, "P")]
            return np.tile(np.array(ids), (len(rows), 1))

    return Repeated()


def check_uniform(found: list[str], expected: list[str]) -> None:
    counts = Counter(found)
    assert set(counts) == set(expected)
    assert chisquare([counts[text] for text in expected]).pvalue > 1e-3
    assert len(found) / len(expected) > 20, "too few to tell"


@pytest.mark.parametrize("text", ["aabbbc|b:3", "vvzccvczvvvzvcvc|v:8", "xyxyxyxyxyxyxyxyzxy|x:9", "abca|c:1"])
def test_counting_contrasts_are_uniform(text: str) -> None:
    inputs = repeated(CountingInputs, text, COUNTING, 3000)
    pairs = study_pairs(inputs, seed=2)
    letters, asked = text.split("|")[0], text.split("|")[1][0]
    check_uniform([counted(t)[0] for t in texts(pairs.contrast, COUNTING)], sorted(counting_contrasts(letters, asked)))


@pytest.mark.parametrize(
    ("text", "target", "changes"),
    [
        ("615+861=1476", "A1", ("F1", "S1")),
        ("615+861=1476", "A3", ("F2", "S3")),
        ("100+100=200", "A1", ("F1", "S1")),
        ("123+456=579", "A4", ("F1", "S1")),
    ],
)
def test_addition_contrasts_are_uniform(text: str, target: str, changes: tuple[str, ...]) -> None:
    inputs = repeated(AdditionInputs, text, ADDITION, 6000)
    pairs = study_pairs(inputs, target, changes=changes, seed=4)
    expected = addition_contrasts(text[:3] + text[4:7], int(target[1]) - 1, changes)
    check_uniform([added(t)[0] for t in texts(pairs.contrast, ADDITION)], expected)


def test_filtered_contrasts_are_uniform() -> None:
    inputs = repeated(AdditionInputs, "615+861=1476", ADDITION, 6000)
    filters = parse_filters("A1=1,F1+S1!=12", feature_names(inputs))
    pairs = study_pairs(inputs, "A2", changes=["F1", "S1"], filters=filters)
    every = addition_contrasts("615861", 1, ("F1", "S1"))
    expected = [d for d in every if str(int(d[:3]) + int(d[3:]))[0] == "1" and int(d[0]) + int(d[3]) != 12]
    assert len(expected) < len(every)
    check_uniform([added(t)[0] for t in texts(pairs.contrast, ADDITION)], expected)


# -- seed and limit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["addition", "counting"])
def test_a_seed_fixes_the_pairs(request: pytest.FixtureRequest, name: str) -> None:
    study = request.getfixturevalue(name)
    first = iv.pairs(study, limit=200, seed=7)
    assert same(first, iv.pairs(study, limit=200, seed=7))
    other = iv.pairs(study, limit=200, seed=8)
    tokens = COUNTING if name == "counting" else ADDITION
    assert len(set(texts(first.original, tokens)) & set(texts(other.original, tokens))) < 20


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**31))
def test_a_limit_is_kept(addition: iv.Study, limit: int, seed: int) -> None:
    pairs = iv.pairs(addition, target="A2", limit=limit, seed=seed)
    assert len(pairs) + pairs.left_out == limit
    check_addition(pairs, 1, DIGITS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"limit": 0}, "at least 1"),
        ({"limit": -3}, "at least 1"),
        ({"target": "A5"}, "no target 'A5'; there are A1, A2, A3, A4"),
        ({"target": "count"}, "no target 'count'"),
        ({"changes": ["F1", "G1"]}, "'G1' cannot be changed; there are F1.*Did you mean"),
        ({"changes": []}, "Nothing may be changed"),
        ({"where": ["A1=12"]}, "None of the 202,500 test inputs satisfies A1=12"),
        ({"where": ["Z=1"]}, "no feature 'Z'"),
        ({"changes": ["F3"], "where": ["F2+S2<9"]}, "Changing F3 does not alter A1 where F2.S2<9: no contrast was found"),
        ({"target": "A1", "where": ["A1=1"]}, "does not alter A1 where A1=1"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_what_cannot_be(addition: iv.Study, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        iv.pairs(addition, **{"limit": 50, **options} if "where" not in options else options)


def test_changing_nothing_is_no_contrast(counting: iv.Study) -> None:
    with pytest.raises(SettingError, match="Nothing may be changed: name at least one of string"):
        iv.pairs(counting, changes=[], limit=10)


# -- pairs of the user's own -------------------------------------------------------------------------------------------

GIVEN = [
    TextPair("615+861=", "115+261=", "1", "3"),
    TextPair("615+861=1", "615+161=7", "4", "7"),
    TextPair("61+8=", "615+861=", "6", "1", "="),
]


def check_given(pairs: Pairs) -> None:
    assert texts(pairs.original, ADDITION) == ["B615+861=EP", "B615+861=1E", "B61+8=EPPPP"]
    assert texts(pairs.contrast, ADDITION) == ["B115+261=EP", "B615+161=7E", "B615+861=EP"]
    assert pairs.read.tolist() == [8, 9, 5]
    assert pairs.contrast_read.tolist() == [8, 9, 8]
    assert pairs.answers.tolist() == [[1, 3], [4, 7], [6, 1]]
    assert (len(pairs), pairs.left_out) == (3, 0)


def test_a_list_of_pairs(addition: iv.Study) -> None:
    check_given(iv.pairs(addition, GIVEN))
    check_given(iv.pairs(addition, iter(GIVEN)))


def test_a_file_of_pairs(addition: iv.Study, tmp_path: Path) -> None:
    lines = [json.dumps({k: v for k, v in vars(pair).items() if (k, v) != ("at", "END")}) for pair in GIVEN]
    assert '"at"' not in lines[0]
    assert '"at"' in lines[2]
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"\n{lines[0]}\n\n  \n{lines[1]}\n{lines[2]}")
    check_given(iv.pairs(addition, path))
    path.write_bytes("\r\n".join(lines).encode())
    check_given(iv.pairs(addition, str(path)))


def test_a_function_that_makes_pairs(addition: iv.Study) -> None:
    seen: list[str] = []

    def contrast(text: str) -> TextPair | None:
        seen.append(text)
        start, total = text.split("=")
        if total[0] == "1":
            return None
        new = "9" + start[1:]
        return TextPair(start + "=", new + "=", total[0], str(int(new[:3]) + int(new[4:]))[0])

    def harmless(text: str) -> TextPair | None:
        pair = contrast(text)
        return pair if pair is None or pair.answer != pair.contrast_answer else None

    pairs = iv.pairs(addition, harmless, limit=60, seed=2)
    assert seen == [t.strip("BEP") for t in texts(held_out(addition.inputs, (), 60, 2), ADDITION)]
    kept = [text for text in seen if not text.split("=")[1].startswith("1")]
    assert 0 < len(pairs) <= len(kept) < 60
    for original, contrasting in zip(texts(pairs.original, ADDITION), texts(pairs.contrast, ADDITION), strict=True):
        assert contrasting == original[0] + "9" + original[2:]
    with pytest.raises(InputError, match="no pair"):
        iv.pairs(addition, lambda text: None, limit=5)


@pytest.mark.parametrize(
    ("pair", "error", "says"),
    [
        (TextPair("615+861=", "115+261=", "14", "3"), InputError, "answer '14' is 2 tokens"),
        (TextPair("615+861=", "115+261=", "1", "37"), InputError, "answer '37' is 2 tokens"),
        (TextPair("615+861=", "115+961=", "1", "1"), InputError, "the same answer '1'"),
        (TextPair("615+861=", "115+261=", "", "3"), InputError, "empty"),
        (TextPair("", "115+261=", "1", "3"), InputError, "empty"),
        (TextPair("61x+861=", "115+261=", "1", "3"), InputError, "cannot encode 'x'"),
        (TextPair("615+861=" * 2, "115+261=", "1", "3"), InputError, "shorten"),
        (TextPair("615+861=", "115+261=", "1", "3", "Q"), UnknownPositionError, "no position 'Q'"),
        (TextPair("61+86", "11+26", "1", "3", "="), UnknownPositionError, "no position '='"),
        (TextPair("615+861=", "115+261=", "1", "3", "99"), UnknownPositionError, "no position 99"),
    ],
)
def test_a_bad_pair_is_told_by_its_number(
    addition: iv.Study, tmp_path: Path, pair: TextPair, error: type[InversionViewError], says: str
) -> None:
    with pytest.raises(error, match=f"^Pair 2: .*{says}"):
        iv.pairs(addition, [GIVEN[0], pair])
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(vars(each)) for each in (GIVEN[0], GIVEN[1], pair)).replace("\n", "\n\n", 1))
    with pytest.raises(error, match=f"p.jsonl, line 4: .*{says}"):
        iv.pairs(addition, path)


GOOD_LINE = json.dumps(vars(GIVEN[0]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (GOOD_LINE + "\nnot json", "line 2 is not JSON"),
        (GOOD_LINE + '\n{"original": "615+861="}', 'line 2 is no pair: write {"original"'),
        (GOOD_LINE[:-1] + ', "more": "x"}', "line 1 is no pair"),
        ("[1, 2]", "line 1 is no pair"),
        ("3", "line 1 is no pair"),
        ('{"original": "615+861=", "contrast": "115+261=", "answer": 1, "contrast_answer": 3}', "line 1 is no pair"),
        ("", "There is no pair"),
        ("\n \n", "There is no pair"),
        ('{"original": "61\u2028", "contrast": "11+2=", "answer": "1", "contrast_answer": "3"}', r"line 1: .*cannot encode"),
    ],
)
def test_bad_files_of_pairs(addition: iv.Study, tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        iv.pairs(addition, path)


def test_a_missing_file_and_one_that_is_no_text(addition: iv.Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read"):
        iv.pairs(addition, tmp_path / "none.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="bytes cannot be read"):
        iv.pairs(addition, tmp_path / "bytes")


def test_given_pairs_take_no_settings_of_the_studys(addition: iv.Study) -> None:
    for options in ({"target": "A1"}, {"changes": ["F1"]}, {"where": ["A1=1"]}):
        with pytest.raises(SettingError, match="belong to a study's own contrasts"):
            iv.pairs(addition, GIVEN, **options)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="Pairs are given: leave out target"):
        iv.patch(addition, ["=:a0.0"], iv.pairs(addition, limit=5), target="A2")

"""The studies' inputs against their definitions, by regular expressions and plain arithmetic, and texts of the user's own."""

from __future__ import annotations

import re
import string
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError, InversionViewError
from inversionview.core.mixing import mix
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.texts import TextInputs
from inversionview.model.tokens import character_tokenizer
from inversionview.studies.addition.corpus import AdditionInputs
from inversionview.studies.counting.corpus import BAR, CountingInputs

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

COUNTING = CountingInputs()
ADDITION = AdditionInputs()
COUNTING_VOCABULARY = [*string.ascii_lowercase, *"123456789", "|", ":", "B", "E", "P"]
ADDITION_VOCABULARY = [*"0123456789", "B", "+", "=", "E", "P"]
COUNTING_ROW = re.compile(r"B([a-z]{3,27})\|([a-z]):([1-9])E(P*)")
ADDITION_ROW = re.compile(r"B([1-9]\d\d)\+([1-9]\d\d)=(\d{3,4})E(P?)")
TEXT_TOKENIZER = character_tokenizer([*"abcdefgh ", "B", "E", "P"])


def lines(tokens: Ids, vocabulary: list[str]) -> list[str]:
    symbols = np.array(vocabulary)[tokens]
    return ["".join(row) for row in symbols.tolist()]


# -- counting ----------------------------------------------------------------------------------------------------------


def check_counting(line: str) -> tuple[str, str, tuple[int, ...]]:
    """Assert that a line is a counting input; return its letters, the query, and the letters' counts."""
    found = COUNTING_ROW.fullmatch(line)
    assert found, line
    text, asked, count, padding = found.groups()
    counts = Counter(text)
    assert len(counts) == 3
    assert all(1 <= times <= 9 for times in counts.values())
    assert asked in counts
    assert int(count) == counts[asked]
    assert len(line) - len(padding) <= 33
    letters = "".join(sorted(counts))
    return letters, asked, tuple(counts[letter] for letter in letters)


def test_the_vocabulary_of_counting_is_in_the_published_order() -> None:
    assert COUNTING.vocabulary == COUNTING_VOCABULARY
    assert len(COUNTING_VOCABULARY) == 40
    assert (COUNTING.bos, COUNTING.eos, COUNTING.pad) == (37, 38, 39)
    assert COUNTING.max_length == 33 == len("B" + "x" * 27 + "|x:9E")


def test_counting_has_as_many_inputs_as_the_definition_says() -> None:
    assert len(list(combinations(string.ascii_lowercase, 3))) * 200 * 3 == 1_560_000 == len(COUNTING)


@pytest.mark.parametrize("salt", [0, 1, 99])
def test_counting_rows_parse(salt: int) -> None:
    rows = np.random.default_rng(salt).integers(len(COUNTING), size=4000)
    tokens = COUNTING.tokens(rows, salt)
    assert tokens.shape == (4000, 33)
    for line in lines(tokens, COUNTING_VOCABULARY):
        check_counting(line)


def test_each_triple_has_200_configurations_with_all_three_queries() -> None:
    triples = [0, 1, 1234, 2599]
    seen: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for triple in triples:
        rows = np.arange(triple * 600, triple * 600 + 600)
        cases = Counter(check_counting(line) for line in lines(COUNTING.tokens(rows), COUNTING_VOCABULARY))
        assert len(cases) == 600, "a configuration and query occurs twice"
        assert len({letters for letters, _, _ in cases}) == 1
        for letters, asked, counts in cases:
            assert asked in letters
            seen[letters].add(counts)
    assert len(seen) == len(triples)
    assert all(len(configurations) == 200 for configurations in seen.values())
    assert len({frozenset(configurations) for configurations in seen.values()}) == len(triples), "all triples use the same"


def test_every_triple_of_letters_occurs() -> None:
    lines_ = lines(COUNTING.tokens(np.arange(0, len(COUNTING), 600)), COUNTING_VOCABULARY)
    assert {check_counting(line)[0] for line in lines_} == {"".join(t) for t in combinations(string.ascii_lowercase, 3)}


def test_the_configurations_are_spread_over_all_counts() -> None:
    rows = np.random.default_rng(3).integers(len(COUNTING), size=9000)
    counts = Counter(COUNTING.features(COUNTING.tokens(rows))["count"].tolist())
    assert set(counts) == set(range(1, 10))
    assert all(850 < times < 1150 for times in counts.values())  # 1000 each expected, standard deviation 30


def test_another_salt_changes_the_order_of_the_letters_only() -> None:
    rows = np.random.default_rng(5).integers(len(COUNTING), size=500)
    one, other = (lines(COUNTING.tokens(rows, salt), COUNTING_VOCABULARY) for salt in (0, 7))
    assert [check_counting(line) for line in one] == [check_counting(line) for line in other]
    assert sum(a != b for a, b in zip(one, other, strict=True)) > 450
    assert lines(COUNTING.tokens(rows, 7), COUNTING_VOCABULARY) == other


def test_the_letters_are_shuffled() -> None:
    """In a uniform shuffle of aab… the first letter is as often each letter as that letter occurs."""
    rows = np.full(3000, 600 * 17 + 3)
    drawn = lines(np.concatenate([COUNTING.tokens(rows[:1], salt) for salt in range(600)]), COUNTING_VOCABULARY)
    texts = [line[1 : line.index("|")] for line in drawn]
    for place in (0, -1):
        firsts = Counter(text[place] for text in texts)
        for letter, times in Counter(texts[0]).items():
            assert firsts[letter] / 600 == pytest.approx(times / len(texts[0]), abs=0.08)


def test_named_positions_and_features_of_counting() -> None:
    rows = np.random.default_rng(6).integers(len(COUNTING), size=500)
    tokens = COUNTING.tokens(rows)
    names, features = COUNTING.named_positions(tokens), COUNTING.features(tokens)
    trained = COUNTING.trained_positions(tokens)
    for i, line in enumerate(lines(tokens, COUNTING_VOCABULARY)):
        bar, colon = line.index("|"), line.index(":")
        assert (names["query"][i], names[":"][i], names["END"][i]) == (bar + 1, colon, colon + 1)
        assert np.flatnonzero(trained[i]).tolist() == [bar + 1, colon]
        assert features["letter"][i] == line[bar + 1]
        assert features["count"][i] == int(line[colon + 1]) == line[:bar].count(line[bar + 1])
        assert features["length"][i] == bar - 1
        assert COUNTING.lengths(tokens)[i] == len(line.rstrip("P"))


# -- addition ----------------------------------------------------------------------------------------------------------


def test_the_vocabulary_of_addition_is_in_the_published_order() -> None:
    assert ADDITION.vocabulary == ADDITION_VOCABULARY
    assert (ADDITION.bos, ADDITION.eos, ADDITION.pad) == (10, 13, 14)
    assert len(ADDITION) == 810_000
    assert ADDITION.max_length == 14


def test_addition_rows_are_right_sums() -> None:
    rows = np.concatenate([np.random.default_rng(0).integers(810_000, size=20_000), [0, 899, 900, 809_999]])
    tokens = ADDITION.tokens(rows)
    assert tokens.shape == (len(rows), 14)
    lengths = ADDITION.lengths(tokens)
    for line, length in zip(lines(tokens, ADDITION_VOCABULARY), lengths, strict=True):
        found = ADDITION_ROW.fullmatch(line)
        assert found, line
        first, second, total, padding = found.groups()
        assert int(first) + int(second) == int(total)
        assert str(int(total)) == total
        assert length == 14 - len(padding) == 10 + len(total)


def test_every_pair_of_operands_occurs_once() -> None:
    tokens = ADDITION.tokens(np.arange(810_000))
    first = tokens[:, 1] * 100 + tokens[:, 2] * 10 + tokens[:, 3]
    second = tokens[:, 5] * 100 + tokens[:, 6] * 10 + tokens[:, 7]
    assert (first.min(), first.max(), second.min(), second.max()) == (100, 999, 100, 999)
    assert len(np.unique(first * 1000 + second)) == 810_000


def test_named_positions_of_addition() -> None:
    rows = np.random.default_rng(1).integers(810_000, size=3000)
    tokens = ADDITION.tokens(rows)
    names = ADDITION.named_positions(tokens)
    layout = {"F1": 1, "F2": 2, "F3": 3, "+": 4, "S1": 5, "S2": 6, "S3": 7, "=": 8, "A1": 9, "A2": 10, "A3": 11}
    for i, line in enumerate(lines(tokens, ADDITION_VOCABULARY)):
        assert {name: names[name][i] for name in layout} == layout
        long = "E" in line[13:]
        assert names["A4"][i] == (12 if long else -1)
        assert names["END"][i] == line.index("E") - 1
    assert {int(n) for n in names["A4"]} == {-1, 12}


def test_digits_and_carries_of_addition() -> None:
    rows = np.random.default_rng(2).integers(810_000, size=3000)
    tokens = ADDITION.tokens(rows)
    features = ADDITION.features(tokens)
    for i, line in enumerate(lines(tokens, ADDITION_VOCABULARY)):
        first, second = int(line[1:4]), int(line[5:8])
        assert features["C3"][i] == (first % 10 + second % 10) // 10
        assert features["C2"][i] == (first % 100 + second % 100) // 100
        for name, place in (
            ("F1", 1),
            ("F2", 2),
            ("F3", 3),
            ("S1", 5),
            ("S2", 6),
            ("S3", 7),
            ("A1", 9),
            ("A2", 10),
            ("A3", 11),
        ):
            assert features[name][i] == int(line[place])


def test_a_decoder_for_addition_is_trained_on_digits_plus_and_equals() -> None:
    rows = np.random.default_rng(4).integers(810_000, size=500)
    tokens = ADDITION.tokens(rows)
    for line, trained in zip(lines(tokens, ADDITION_VOCABULARY), ADDITION.trained_positions(tokens), strict=True):
        assert trained.tolist() == [symbol in "0123456789+=" for symbol in line]


def test_places_are_the_first_names_of_positions() -> None:
    """F1 is the first name, hence 1, … A4 the twelfth; BOS, EOS and padding have none. END also names the last digit."""
    tokens = ADDITION.tokens(np.array([0, 900 * 900 - 1]))  # 100 + 100 = 200, 999 + 999 = 1998
    assert ADDITION.places(tokens).tolist() == [[0, *range(1, 12), 0, 0], [0, *range(1, 13), 0]]
    assert ADDITION.place_count == 14
    tokens = COUNTING.draw(50, split="train", seed=(1,))
    for row, places in zip(lines(tokens, COUNTING_VOCABULARY), COUNTING.places(tokens).tolist(), strict=True):
        bar = row.index("|")
        assert {i: n for i, n in enumerate(places) if n} == {bar + 1: 1, bar + 2: 2, bar + 3: 3}  # query, ':', END
    texts = TextInputs.tokenize(some_texts(60), TEXT_TOKENIZER)
    tokens = texts.tokens(np.arange(len(texts)))
    assert texts.place_count == 2
    assert (texts.places(tokens).argmax(1) == texts.lengths(tokens) - 2).all()
    assert (texts.places(tokens).sum(1) == 1).all()


def test_salt_changes_nothing_in_an_addition() -> None:
    rows = np.arange(0, 810_000, 997)
    assert np.array_equal(ADDITION.tokens(rows), ADDITION.tokens(rows, salt=5))


# -- split and draws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "fresh"), [(ADDITION, AdditionInputs()), (COUNTING, CountingInputs())])
def test_the_split_is_disjoint_complete_and_the_same_again(inputs: Inputs, fresh: Inputs) -> None:
    train, test = inputs.split("train"), inputs.split("test")
    assert len(test) == len(inputs) // 4
    together = np.zeros(len(inputs), dtype=np.int64)
    np.add.at(together, train, 1)
    np.add.at(together, test, 1)
    assert (together == 1).all()
    assert np.array_equal(fresh.split("train"), train)
    assert np.array_equal(fresh.split("test"), test)
    assert abs(test.mean() / len(inputs) - 0.5) < 0.01, "the split is not random"


@pytest.mark.parametrize("split", ["train", "test"])
def test_draws_come_from_their_split(split: str) -> None:
    drawn = lines(ADDITION.draw(500, split=split, seed=(1, 2)), ADDITION_VOCABULARY)  # type: ignore[arg-type]
    own = set(ADDITION.split(split).tolist())  # type: ignore[arg-type]
    rows = [(int(line[1:4]) - 100) * 900 + int(line[5:8]) - 100 for line in drawn]
    assert set(rows) <= own
    assert len(set(rows)) > 490


def test_the_same_seed_draws_the_same_and_another_seed_something_else() -> None:
    for fresh in (False, True):
        one = COUNTING.draw(50, split="train", seed=(1, 2), fresh=fresh)
        assert np.array_equal(one, CountingInputs().draw(50, split="train", seed=(1, 2), fresh=fresh))
        assert not np.array_equal(one, COUNTING.draw(50, split="train", seed=(2, 1), fresh=fresh))
    for line in lines(one, COUNTING_VOCABULARY):
        check_counting(line)


def test_the_stream_can_be_entered_anywhere() -> None:
    stream = COUNTING.stream(8, split="train", seed=3)
    first = [next(stream) for _ in range(4)]
    later = COUNTING.stream(8, split="train", seed=3, start=2)
    assert np.array_equal(next(later), first[2])
    assert np.array_equal(next(later), first[3])
    assert len({batch.tobytes() for batch in first}) == 4


def test_mix_is_a_bijection_on_a_sample_and_balanced() -> None:
    """splitmix64 is one-to-one, and half of its bits are ones."""
    values = np.arange(20_000, dtype=np.uint64)
    hashed = mix(values)
    assert len(np.unique(hashed)) == len(values)
    bits = np.unpackbits(hashed.view(np.uint8)).mean()
    assert bits == pytest.approx(0.5, abs=0.005)
    assert int(mix(np.zeros(1, dtype=np.uint64))[0]) == 0xE220A8397B1DCDAF  # first output of splitmix64 from state 0


# -- texts -------------------------------------------------------------------------------------------------------------


def some_texts(count: int) -> list[str]:
    rng = np.random.default_rng(count)
    return ["".join(rng.choice(list("abcdefgh "), size=rng.integers(1, 12))) + "a" for _ in range(count)]


def words(inputs: TextInputs, rows: np.ndarray | None = None) -> list[str]:
    rows = np.arange(len(inputs)) if rows is None else rows
    return lines(inputs.tokens(rows), [*"abcdefgh ", "B", "E", "P"])


def test_texts_become_rows_between_bos_and_eos() -> None:
    texts = list(dict.fromkeys(some_texts(60)))
    inputs = TextInputs.tokenize(texts, TEXT_TOKENIZER)
    longest = max(map(len, texts)) + 2
    assert words(inputs) == [f"B{text}E".ljust(longest, "P") for text in texts]
    assert inputs.max_length == longest
    assert (inputs.bos, inputs.eos, inputs.pad) == (9, 10, 11)
    tokens = inputs.tokens(np.arange(len(inputs)))
    assert inputs.lengths(tokens).tolist() == [len(text) + 2 for text in texts]
    assert inputs.features(tokens)["length"].tolist() == [len(text) + 2 for text in texts]
    assert inputs.named_positions(tokens)["END"].tolist() == [len(text) for text in texts]
    for text, trained in zip(texts, inputs.trained_positions(tokens), strict=True):
        assert np.flatnonzero(trained).tolist() == list(range(1, len(text) + 1))


def test_rows_come_in_the_order_they_are_asked_for() -> None:
    inputs = TextInputs.tokenize(list(dict.fromkeys(some_texts(60))), TEXT_TOKENIZER)
    everything = words(inputs)
    asked = np.array([7, 3, 3, 0, 40])
    assert words(inputs, asked) == [everything[i] for i in asked]
    assert inputs.tokens(np.array([], dtype=np.int64)).shape == (0, inputs.max_length)
    assert words(inputs, asked) == lines(inputs.tokens(asked, salt=9), [*"abcdefgh ", "B", "E", "P"])


@given(st.lists(st.text("abcdefgh ", max_size=10), min_size=60, max_size=90, unique=True), st.integers(3, 12))
@settings(max_examples=10)
def test_long_texts_are_cut_empty_ones_and_repeated_ones_dropped(texts: list[str], limit: int) -> None:
    wanted = list(dict.fromkeys(text[: limit - 2] for text in [*texts, *texts] if text.strip()))
    if len(wanted) < 40:
        return
    inputs = TextInputs.tokenize([*texts, "", "   ", *texts], TEXT_TOKENIZER, max_length=limit)
    assert [row.strip("P")[1:-1] for row in words(inputs)] == wanted
    assert inputs.max_length <= limit


def test_a_corpus_in_a_folder_is_the_same_corpus(tmp_path: Path) -> None:
    texts = some_texts(50)
    inside, kept = TextInputs.tokenize(texts, TEXT_TOKENIZER), TextInputs.tokenize(texts, TEXT_TOKENIZER, folder=tmp_path / "c")
    assert words(inside) == words(kept)
    assert any((tmp_path / "c").glob("*.arrow"))


def test_the_split_of_texts_is_disjoint() -> None:
    inputs = TextInputs.tokenize(list(dict.fromkeys(some_texts(120))), TEXT_TOKENIZER)
    train, test = inputs.split("train").tolist(), inputs.split("test").tolist()
    assert sorted(train + test) == list(range(len(inputs)))
    assert len(test) == round(0.05 * len(inputs))


@pytest.mark.parametrize("texts", [[], [""], ["", "  ", "\n"], ["abc"], ["abc", "abd", "abe"], ["abc"] * 100])
def test_a_corpus_without_enough_texts_is_refused(texts: list[str]) -> None:
    with pytest.raises(InputError):
        TextInputs.tokenize(texts, TEXT_TOKENIZER)


def test_a_text_with_an_unknown_character_is_refused() -> None:
    with pytest.raises(InputError, match="'z'"):
        TextInputs.tokenize([*some_texts(50), "abz"], TEXT_TOKENIZER)


@pytest.mark.parametrize("limit", [2, 1, 0, -3])
def test_a_length_that_leaves_no_room_for_a_token_is_refused(limit: int) -> None:
    with pytest.raises(InversionViewError):
        TextInputs.tokenize(some_texts(60), TEXT_TOKENIZER, max_length=limit)


def test_the_corpus_of_counting_holds_its_configurations_in_any_order_and_no_others() -> None:
    """Against the list of each triple's configurations: rows of the corpus in any order, and draws from all configurations."""
    inputs, rng = CountingInputs(), np.random.default_rng(5)
    rows = rng.integers(len(inputs), size=300)
    assert inputs.in_corpus(inputs.tokens(rows, salt=9)).all()
    listed: dict[tuple[int, ...], set[tuple[int, ...]]] = {}

    def of(row: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        counts = Counter(row[1 : row.index(BAR)])
        return tuple(sorted(counts)), tuple(counts[letter] for letter in sorted(counts))

    for row in inputs.tokens(np.arange(0, 100 * 600, 3)).tolist():  # of the first hundred triples
        letters, counts = of(row)
        listed.setdefault(letters, set()).add(counts)
    fresh = inputs.fresh(20_000, rng)
    fresh = fresh[[of(row)[0] in listed for row in fresh.tolist()]]
    expected = [counts in listed[letters] for letters, counts in map(of, fresh.tolist())]
    assert len(fresh) > 500
    assert inputs.in_corpus(fresh).tolist() == expected
    assert 0.2 < np.mean(expected) < 0.35  # 200 of 729

"""Tokens: the character tokenizer, special tokens resolved, and what cannot be encoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from inversionview.core.errors import InputError, WeightsError
from inversionview.model.tokens import Vocabulary, character_tokenizer

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

ALPHABET = "abcxyz 0123456789.,|:+=-!?"
TOKENS = [*ALPHABET, "B", "E", "P"]
VOCABULARY = Vocabulary.from_transformers(character_tokenizer(TOKENS))
BOS, EOS, PAD = len(TOKENS) - 3, len(TOKENS) - 2, len(TOKENS) - 1
readable = st.text(ALPHABET, min_size=1, max_size=40).filter(lambda text: bool(text.strip()))


def words_tokenizer(fourth: str = "[UNK]", **special: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, as other models have, with the special tokens that are asked for."""
    words = ["the", "cat", "sat", fourth, "<s>", "</s>", "<pad>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE without merges, whose only special token is BOS and EOS, as GPT-2's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate([*alphabet, "<|end|>"])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>")


# -- the character tokenizer -------------------------------------------------------------------------------------------


def test_ids_are_places_in_the_list() -> None:
    assert (VOCABULARY.bos, VOCABULARY.eos, VOCABULARY.pad) == (BOS, EOS, PAD)
    assert VOCABULARY.size == len(TOKENS)
    assert VOCABULARY.tokens == TOKENS
    for place, character in enumerate(ALPHABET):
        if character.strip():
            assert VOCABULARY.encode(character) == [BOS, place, EOS]
    assert VOCABULARY.strings([0, 1, BOS, EOS, PAD]) == ["a", "b", "B", "E", "P"]


@given(readable)
def test_a_text_is_its_characters_between_bos_and_eos(text: str) -> None:
    ids = VOCABULARY.encode(text)
    assert ids == [BOS, *(ALPHABET.index(c) for c in text), EOS]
    assert VOCABULARY.decode(ids) == text
    assert VOCABULARY.decode([*ids, PAD, PAD]) == text


@given(readable, st.sampled_from(["B{}", "{}E", "B{}E"]))
def test_bos_and_eos_of_the_text_itself_are_not_doubled(text: str, frame: str) -> None:
    assert VOCABULARY.encode(frame.format(text)) == VOCABULARY.encode(text)


@given(readable, st.integers(3, 45))
def test_a_text_is_cut_between_bos_and_eos(text: str, limit: int) -> None:
    ids = VOCABULARY.encode(text, truncate=limit)
    assert len(ids) == min(limit, len(text) + 2)
    assert ids == [BOS, *(ALPHABET.index(c) for c in text[: limit - 2]), EOS]


def test_it_is_an_ordinary_tokenizer(tmp_path: Path) -> None:
    tokenizer = character_tokenizer(TOKENS)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.save_pretrained(tmp_path)
    again, folder = AutoTokenizer.from_pretrained(tmp_path), Vocabulary.from_folder(tmp_path)
    for text in ("abc", "12+34=46", "zx|y:3", "a b.c", " a ", "...!"):
        expected = [BOS, *(ALPHABET.index(c) for c in text), EOS]
        assert again(text)["input_ids"] == expected
        assert folder.encode(text) == expected
        assert again.decode(expected, skip_special_tokens=True) == folder.decode(expected) == text
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (BOS, EOS, PAD)
    assert (folder.bos, folder.eos, folder.pad, folder.size) == (BOS, EOS, PAD, len(TOKENS))
    assert Vocabulary.from_transformers(again).tokens == folder.tokens == TOKENS


def test_the_special_characters_may_stand_anywhere_in_the_list(tmp_path: Path) -> None:
    tokenizer = character_tokenizer(["B", "b", "P", "a", "E"])
    tokenizer.save_pretrained(tmp_path)
    for vocabulary in (Vocabulary.from_transformers(tokenizer), Vocabulary.from_folder(tmp_path)):
        assert (vocabulary.bos, vocabulary.eos, vocabulary.pad) == (0, 4, 2)
        assert vocabulary.encode("ab") == [0, 3, 1, 4]
    assert tokenizer("ab")["input_ids"] == [0, 3, 1, 4]


def test_the_tokenizer_that_is_wrapped_stays_as_it_was() -> None:
    tokenizer = character_tokenizer(TOKENS)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=8, pad_id=PAD, pad_token="P")
    assert len(Vocabulary.from_transformers(tokenizer).encode("abcabcabc")) == 11
    assert tokenizer.backend_tokenizer.truncation is not None
    assert tokenizer.backend_tokenizer.padding is not None


# -- what cannot be encoded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\t", "B", "E", "BE"])
def test_a_text_without_content_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        VOCABULARY.encode(text)


@pytest.mark.parametrize(
    ("text", "named"), [("abZ", "'Z'"), ("Zab", "'Z'"), ("é", "'é'"), ("ab\nc", r"'\\n'"), ("a🙂b", "'🙂'")]
)
def test_an_unknown_character_is_named(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        VOCABULARY.encode(text)


@given(st.text(max_size=12))
def test_any_text_is_encoded_or_refused_with_a_typed_error(text: str) -> None:
    try:
        ids = VOCABULARY.encode(text)
    except InputError:
        return
    assert (ids[0], ids[-1]) == (BOS, EOS)
    assert len(ids) > 2


def test_words_are_encoded_without_a_token_for_unknown_ones() -> None:
    vocabulary = Vocabulary.from_transformers(words_tokenizer("mat", bos_token="<s>", eos_token="</s>"))
    assert vocabulary.encode("the cat sat") == [4, 0, 1, 2, 5]
    assert vocabulary.encode("<s> the mat </s>") == [4, 0, 3, 5]
    with pytest.raises(InputError, match="dog"):
        vocabulary.encode("the dog")


def test_a_text_with_a_padding_token_inside_is_refused() -> None:
    """Padding is masked out, so such an input would silently be another one."""
    with pytest.raises(InputError):
        VOCABULARY.encode("abPc")


# -- special tokens of other tokenizers --------------------------------------------------------------------------------


def test_padding_that_is_eos_gets_an_id_beyond_the_vocabulary() -> None:
    vocabulary = Vocabulary.from_transformers(words_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="</s>"))
    assert (vocabulary.bos, vocabulary.eos) == (4, 5)
    assert vocabulary.pad == vocabulary.size == 7
    assert vocabulary.decode([4, 0, 1, 5, vocabulary.pad]) == "the cat"


def test_padding_that_is_missing_gets_an_id_beyond_the_vocabulary() -> None:
    vocabulary = Vocabulary.from_transformers(words_tokenizer(bos_token="<s>", eos_token="</s>"))
    assert vocabulary.pad == vocabulary.size == 7


def test_padding_of_its_own_is_kept() -> None:
    vocabulary = Vocabulary.from_transformers(words_tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>"))
    assert (vocabulary.bos, vocabulary.eos, vocabulary.pad) == (4, 5, 6)
    assert vocabulary.encode("the cat sat") == [4, 0, 1, 2, 5]
    assert vocabulary.encode("the dog") == [4, 0, 3, 5]


def test_where_eos_is_missing_bos_takes_its_part() -> None:
    vocabulary = Vocabulary.from_transformers(words_tokenizer(bos_token="<s>"))
    assert (vocabulary.bos, vocabulary.eos) == (4, 4)
    assert vocabulary.encode("the cat") == [4, 0, 1, 4]
    with pytest.raises(InputError):
        vocabulary.encode("<s> <s>")


@given(st.text(min_size=1, max_size=20).filter(lambda text: bool(text.strip())))
def test_byte_level_tokenizers_take_any_text_and_give_it_back(text: str) -> None:
    vocabulary = BYTES
    ids = vocabulary.encode(text)
    assert (ids[0], ids[-1]) == (256, 256)
    assert len(ids) == len(text.encode()) + 2
    assert vocabulary.decode(ids) == text


BYTES = Vocabulary.from_transformers(bytes_tokenizer())


def test_each_token_has_a_printable_text_of_its_own() -> None:
    assert len(BYTES.tokens) == BYTES.size == 257
    assert all(BYTES.tokens)
    assert BYTES.strings(BYTES.encode("a b")) == ["<|end|>", "a", " ", "b", "<|end|>"]


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    character_tokenizer(TOKENS).save_pretrained(tmp_path)
    return tmp_path


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        Vocabulary.from_folder(tmp_path / "nowhere")


def test_a_missing_file_is_an_error(saved: Path) -> None:
    (saved / "tokenizer.json").unlink()
    with pytest.raises(WeightsError):
        Vocabulary.from_folder(saved)


def test_without_a_configuration_the_tokenizer_is_what_transformers_makes_of_it(saved: Path) -> None:
    (saved / "tokenizer_config.json").unlink()
    assert Vocabulary.from_folder(saved).encode("ab") == AutoTokenizer.from_pretrained(saved)("ab")["input_ids"]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe\x00", b"\x80\x04K\x01."])
def test_a_garbled_file_is_an_error(saved: Path, name: str, content: bytes) -> None:
    (saved / name).write_bytes(content)
    with pytest.raises(WeightsError):
        Vocabulary.from_folder(saved)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_truncated_file_is_an_error(saved: Path, name: str) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError):
        Vocabulary.from_folder(saved)


@pytest.mark.parametrize("special", ["bos_token", "eos_token", "pad_token"])
def test_a_special_token_outside_the_vocabulary_is_added_as_transformers_adds_it(saved: Path, special: str) -> None:
    path = saved / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {special: "<nowhere>"}))
    vocabulary, other = Vocabulary.from_folder(saved), AutoTokenizer.from_pretrained(saved)
    assert (vocabulary.eos, vocabulary.pad) == (other.eos_token_id, other.pad_token_id)
    assert vocabulary.size == len(other) == len(TOKENS) + 1
    assert vocabulary.encode("ab")[:-1] == other("ab")["input_ids"][:-1]


@pytest.mark.parametrize("at", range(3))
def test_a_special_token_outside_the_vocabulary_is_an_error(at: int) -> None:
    names = ["B", "E", "P"]
    names[at] = "<nowhere>"
    with pytest.raises(WeightsError, match="<nowhere>"):
        Vocabulary(character_tokenizer(TOKENS).backend_tokenizer, *names)


def test_special_tokens_may_be_written_with_their_properties(saved: Path) -> None:
    """Many hub checkpoints write {"content": "<s>", "lstrip": false, …} instead of the text."""
    path = saved / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    config |= {name: {"content": config[name], "lstrip": False} for name in ("bos_token", "eos_token", "pad_token")}
    path.write_text(json.dumps(config))
    vocabulary = Vocabulary.from_folder(saved)
    assert (vocabulary.bos, vocabulary.eos, vocabulary.pad) == (BOS, EOS, PAD)


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        bos_token = eos_token = pad_token = "B"

    with pytest.raises(WeightsError, match="Slow"):
        Vocabulary.from_transformers(Slow())

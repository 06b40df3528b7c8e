"""Tokenizers as models have them: labels, texts and the frame, against transformers; each trained here, on a few sentences."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from inversionview.core.errors import InputError, WeightsError
from inversionview.model.gpt2 import GPT2Backend
from inversionview.model.pieces import byte_alphabet, label
from inversionview.model.probed import ProbedModel
from inversionview.model.tokens import Vocabulary, character_tokenizer
from tests.vocabularies import GPT2, LLAMA, QWEN, QWEN_SPECIALS, byte_level, fast, legacy_llama, metaspace, words

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TOKENIZERS: dict[str, PreTrainedTokenizerFast] = {
    "gpt2": fast(byte_level(), **GPT2), "qwen": fast(byte_level(QWEN_SPECIALS), **QWEN), "llama": fast(legacy_llama(), **LLAMA),
    **{scheme: fast(metaspace(scheme), **LLAMA) for scheme in ("first", "always", "never")}, "words": fast(words()),
}  # fmt: skip
VOCABULARIES = {name: Vocabulary.from_transformers(tokenizer) for name, tokenizer in TOKENIZERS.items()}
EXACT = ("gpt2", "qwen", "llama")
"""Tokenizers that lose nothing of a text."""
kinds = pytest.mark.parametrize("kind", TOKENIZERS)
SIGNS = [
    "⟨e7⟩",
    "⟨",
    "⟩",
    "⏎",
    "⇥",
    "\n",
    "\t",
    "\r",
    "\x00",
    "\u200b",
    "\ufffd",
    "▁",
    "Ġ",
    "<0x41>",
    "A",
    "<s>",
    " sat",
    "the#1",
]
texts = st.one_of(st.text(max_size=30), st.lists(st.sampled_from([*SIGNS, "猫", "ال", "🙂", " Mary"]), max_size=8).map("".join))


def symbols(text: str) -> str:
    """A text in the alphabet of byte-level tokenizers, as tokenizers itself writes it."""
    return "".join(part for part, _ in pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text))


# -- what a token is called ------------------------------------------------------------------------------------------------


def test_the_byte_alphabet_is_the_standard_one() -> None:
    alphabet = byte_alphabet()
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))
    seen = set()
    for text in [*map(chr, range(0xD800)), "\U0001f600", "\U000e0100", "\U0010ffff"]:
        written = symbols(text)
        assert bytes(alphabet[c] for c in written) == text.encode()
        seen |= set(text.encode())
    assert len(seen) > 230  # all bytes but those that UTF-8 has not


@kinds
def test_labels_are_printable_and_no_two_are_alike(kind: str) -> None:
    labels = VOCABULARIES[kind].tokens
    assert len(set(labels)) == len(labels) == VOCABULARIES[kind].size
    assert all(one.isprintable() and "\ufffd" not in one for one in labels)


@given(st.one_of(st.binary(max_size=8), texts.map(str.encode)), st.one_of(st.binary(max_size=8), texts.map(str.encode)))
def test_a_label_tells_all_bytes(one: bytes, other: bytes) -> None:
    assert (label(one) == label(other)) == (one == other)
    assert label(one).isprintable()


def test_labels_of_byte_level_tokens() -> None:
    extra = [symbols(text) for text in ("⟨e7⟩", "ال", "猫", " 猫", "⏎", "\n", "\u200b", "é\u00a0")]
    broken = ["ç", "çĮ", "aç", symbols("猫") + "ç"]  # the first byte of 猫, two of them, and after whole characters
    vocabulary = Vocabulary.from_transformers(fast(byte_level(extra=(*extra, *broken)), **GPT2))
    numbers = [vocabulary.tokenizer.token_to_id(token) for token in (*extra, *broken)]
    assert vocabulary.strings(numbers) == [
        "⟨e2 9f a8⟩e7⟩", "ال", "猫", " 猫", "⟨e2 8f 8e⟩", "⏎", "⟨e2 80 8b⟩", "é⟨c2 a0⟩", "⟨e7⟩", "⟨e7 8c⟩", "a⟨e7⟩", "猫⟨e7⟩",
    ]  # fmt: skip
    assert len(set(vocabulary.tokens)) == vocabulary.size
    assert vocabulary.decode([vocabulary.tokenizer.token_to_id(t) for t in ("çĮ", "«", "a")]) == "猫a"


def test_labels_of_sentencepiece_tokens() -> None:
    vocabulary = VOCABULARIES["llama"]
    find = vocabulary.tokenizer.token_to_id
    ids = [find(t) for t in ("▁the", "the", "▁Mary", "▁", "<0xE7>", "<0x41>", "<0x0A>", "<s>")]
    assert vocabulary.strings(ids) == [" the", "the", " Mary", " ", "⟨e7⟩", "⟨41⟩", "⏎", "<s>"]
    assert vocabulary.strings(vocabulary.encode("猫 sat-the")[1:-1]) == [
        " ", "⟨e7⟩", "⟨8c⟩", "⟨ab⟩", " sat", "-", "the",
    ]  # fmt: skip


def test_two_tokens_of_the_same_text_are_told_apart() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken(" sat", normalized=False), AddedToken("猫", normalized=False)])
    vocabulary = Vocabulary.from_transformers(fast(tokenizer, **GPT2))
    later, first = tokenizer.token_to_id(" sat"), tokenizer.token_to_id("Ġsat")
    assert vocabulary.strings([first, later]) == [" sat", f" sat⟨#{later}⟩"]
    assert vocabulary.decode(vocabulary.encode("a 猫 sat")) == "a 猫 sat"  # added tokens are no bytes


def test_ends_of_words_and_pieces_of_words_are_spaces() -> None:
    """GPT-1's "</w>" and BERT's "##": what a token adds to a text."""
    ended = Tokenizer(models.BPE({"the</w>": 0, "the": 1, "[E]": 2}, [], end_of_word_suffix="</w>"))
    ended.decoder = decoders.BPEDecoder("</w>")
    pieces = Tokenizer(models.WordPiece({"the": 0, "##the": 1, "[E]": 2}, unk_token="[E]"))
    pieces.decoder = decoders.WordPiece("##")
    for tokenizer, expected in ((ended, ["the ", "the", "[E]"]), (pieces, [" the", "the", "[E]"])):
        tokenizer.add_special_tokens(["[E]"])
        assert Vocabulary(tokenizer, None, "[E]", None).tokens == expected
    assert VOCABULARIES["words"].tokens == [" [UNK]", " the", " cat", " sat", " mat"]


# -- texts ----------------------------------------------------------------------------------------------------------------


@kinds
@given(text=texts)
def test_any_text_gives_ids_as_transformers_or_one_sentence(kind: str, text: str) -> None:
    vocabulary, other = VOCABULARIES[kind], TOKENIZERS[kind]
    single = vocabulary.single(text)
    try:
        ids = vocabulary.encode(text)
    except InputError:
        return
    begun = len(vocabulary.front)
    plain = other(text, add_special_tokens=False)["input_ids"]
    frames = [(), *([vocabulary.front] if begun else [])]
    assert any([*frame, *ids[begun:-1], *end] == plain for frame in frames for end in ([], [vocabulary.eos]))
    labels = vocabulary.strings(ids)
    assert all(one.isprintable() and "\ufffd" not in one for one in labels)
    decoded = vocabulary.decode(ids)
    spaced = text.replace("▁", " ")  # SentencePiece cannot tell these apart
    if (
        kind in EXACT and plain == ids[begun:-1] and not (kind == "llama" and "<" in text)
    ):  # it puts ▁ after special tokens, too
        assert decoded == (spaced if kind == "llama" else text)
    if kind in (*EXACT, "never") and "<" not in text and decoded.strip():
        assert vocabulary.encode(decoded) == ids
    assert single is None or vocabulary.continued(text) == [single]


@pytest.mark.parametrize("kind", ["gpt2", "qwen", "llama", "first", "always", "never"])
@pytest.mark.parametrize("text", ["Mary sat on the mat", "sat", "The cat sat, Mary"])
def test_a_text_comes_back(kind: str, text: str) -> None:
    vocabulary = VOCABULARIES[kind]
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert vocabulary.encode(vocabulary.decode(ids)) == ids
    prefix = " " if kind in ("llama", "first", "always") else ""
    assert "".join(vocabulary.strings(ids[len(vocabulary.front) : -1])) == prefix + text


@pytest.mark.parametrize("kind", ["gpt2", "llama", "first", "always", "never"])
def test_an_answer_with_a_space_is_another_than_one_without(kind: str) -> None:
    vocabulary = VOCABULARIES[kind]
    both = [one for one in vocabulary.tokens if one.isalpha() and f" {one}" in vocabulary.tokens]
    found = {one: (vocabulary.single(f" {one}"), vocabulary.single(one)) for one in both}
    whole = {word: (spaced, bare) for word, (spaced, bare) in found.items() if spaced is not None and bare is not None}
    assert len(whole) > 2  # a unigram model may write a word in two although it has it in one
    for word, numbers in whole.items():
        assert vocabulary.strings(numbers) == [f" {word}", word]
    assert vocabulary.single(f" {both[0]} {both[0]}") is None


def test_words_without_a_decoder_are_parted_and_characters_are_not() -> None:
    assert VOCABULARIES["words"].decode(VOCABULARIES["words"].encode("the  cat sat")) == "the cat sat"
    plain = Tokenizer(models.WordLevel({c: i for i, c in enumerate("ab ")}, "a"))
    plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    vocabulary = Vocabulary.from_transformers(fast(plain))
    assert vocabulary.decode(vocabulary.encode("ab ba")) == "ab ba"


def test_halves_of_characters_are_joined_in_a_text() -> None:
    for kind in EXACT:
        vocabulary = VOCABULARIES[kind]
        ids = vocabulary.encode("a 猫🙂 ال")
        assert vocabulary.decode(ids) == "a 猫🙂 ال"
        assert any("⟨" in one for one in vocabulary.strings(ids))


# -- the frame ------------------------------------------------------------------------------------------------------------


def saved(folder: Path, tokenizer: Tokenizer, config: dict[str, object]) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    return folder


def ended(tokenizer: Tokenizer, template: str) -> Tokenizer:
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>", "<unk>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


@pytest.mark.parametrize("through", ["folder", "transformers"])
@pytest.mark.parametrize(
    ("tokenizer", "config", "front"),
    [
        (legacy_llama(), LLAMA, ["<s>"]),
        (ended(legacy_llama(), "<s> $A </s>"), LLAMA, ["<s>"]),
        (ended(legacy_llama(), "$A </s>"), LLAMA, []),
        (ended(legacy_llama(), "<s> <unk> $A"), LLAMA, ["<s>", "<unk>"]),
        (legacy_llama(bos=False), {**LLAMA, "add_bos_token": False}, []),
        (byte_level(QWEN_SPECIALS), QWEN, []),
        (byte_level(QWEN_SPECIALS), {**QWEN, "tokenizer_class": "Qwen2Tokenizer"}, []),
        (byte_level(QWEN_SPECIALS), {**QWEN, "bos_token": "<|im_start|>", "add_bos_token": False}, []),
    ],
)
def test_what_is_run_is_what_autotokenizer_gives(
    tmp_path: Path, through: str, tokenizer: Tokenizer, config: dict[str, object], front: list[str]
) -> None:
    folder = saved(tmp_path, tokenizer, config)
    other = AutoTokenizer.from_pretrained(folder)
    vocabulary = Vocabulary.from_folder(folder) if through == "folder" else Vocabulary.from_transformers(other)
    given = other("Mary sat")["input_ids"]
    ids = vocabulary.encode("Mary sat")
    assert ids[-1] == vocabulary.eos
    assert given in (ids, ids[:-1])
    assert [tokenizer.id_to_token(i) for i in vocabulary.front] == front
    assert (vocabulary.run_as is None) == bool(front)
    assert vocabulary.decode(ids) == "Mary sat"
    assert vocabulary.encode("Mary sat", truncate=len(front) + 2) == [*ids[: len(front) + 1], ids[-1]]
    with pytest.raises(InputError, match=f"at least {len(front) + 2} tokens"):
        vocabulary.encode("Mary sat", truncate=len(front) + 1)


@pytest.mark.parametrize("config", [GPT2, {**GPT2, "add_bos_token": False}, {**GPT2, "tokenizer_class": "GPT2Tokenizer"}])
def test_gpt2_keeps_its_bos_although_its_tokenizer_adds_none(tmp_path: Path, config: dict[str, object]) -> None:
    """As TransformerLens: <|endoftext|>, BOS and EOS in one, stood before every document in training."""
    other = AutoTokenizer.from_pretrained(saved(tmp_path, byte_level(), config))
    for vocabulary in (Vocabulary.from_transformers(other), Vocabulary.from_folder(tmp_path)):
        assert vocabulary.encode("Mary sat") == [0, *other("Mary sat")["input_ids"], 0]


# -- tokenizer.json is not all that says what a text's ids are ------------------------------------------------------------


def spaced() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def padded() -> Tokenizer:
    tokenizer = byte_level((*QWEN_SPECIALS, "[PAD]"))
    tokenizer.enable_padding(pad_id=3, pad_token="[PAD]")
    return tokenizer


def lowered() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def unfallen() -> Tokenizer:
    """Llama's, whose tokenizer.json does not say that unknown characters fall into bytes."""
    whole = json.loads(legacy_llama().to_str())
    whole["model"]["byte_fallback"] = False
    return Tokenizer.from_str(json.dumps(whole))


def extra(number: int, special: bool = False) -> dict[str, object]:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {str(number): {"content": "<extra>", "special": special, **flags}}


def added(content: str, **flags: bool) -> dict[str, object]:
    """A named token, as tokenizer_config.json may write it."""
    return {"__type": "AddedToken", "content": content, **flags}


SIZE = byte_level().get_vocab_size()
SAID: dict[str, tuple[Tokenizer, dict[str, object], dict[str, object]]] = {
    "prefix": (byte_level(), {**GPT2, "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, {}),
    "no prefix": (spaced(), {**GPT2, "tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": False}, {}),
    "silent of prefix": (spaced(), {**GPT2, "tokenizer_class": "GPT2Tokenizer"}, {}),
    "prefix, no class": (byte_level(), {**GPT2, "tokenizer_class": None, "add_prefix_space": True}, {}),
    "added": (byte_level(), {**GPT2, "added_tokens_decoder": extra(SIZE)}, {}),
    "added special": (byte_level(), {**GPT2, "added_tokens_decoder": extra(SIZE, True)}, {}),
    "added, its class": (byte_level(), {**GPT2, "tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": extra(SIZE)}, {}),
    "added in its file": (byte_level(), GPT2, {"added_tokens.json": {"<extra>": SIZE}}),
    "in the map": (byte_level(), GPT2, {"special_tokens_map.json": {"additional_special_tokens": ["<extra>"]}}),
    "additional": (byte_level(), {**GPT2, "additional_special_tokens": ["<extra>"]}, {}),
    "a name of its own": (byte_level(), {**GPT2, "image_token": "<extra>"}, {}),
    "padding named alone": (byte_level(), {**GPT2, "pad_token": "[PAD]"}, {}),
    "mask as an object": (byte_level(), {**GPT2, "mask_token": added("<extra>", lstrip=True)}, {}),
    "split": (byte_level(), {**GPT2, "split_special_tokens": True}, {}),
    "padded": (padded(), GPT2, {}),
    "NeoX": (byte_level(), {**GPT2, "tokenizer_class": "GPTNeoXTokenizer"}, {}),
    "NeoX, lower case": (lowered(), {**GPT2, "tokenizer_class": "GPTNeoXTokenizerFast"}, {}),
    "legacy Llama": (legacy_llama(), {**LLAMA, "tokenizer_class": "LlamaTokenizer", "legacy": False}, {}),
    "Llama": (unfallen(), {**LLAMA, "tokenizer_class": "LlamaTokenizerFast"}, {}),
    "as it is": (byte_level(), GPT2, {}),
    "lower case": (lowered(), GPT2, {}),
    "names as objects": (byte_level(), {each: added(name) for each, name in GPT2.items()}, {}),
}  # fmt: skip
HARD = [
    "Mary sat",
    " Mary sat",
    "the <extra> cat",
    "<extra>the",
    "cafe\u0301 猫",
    "A  Mary\nsat",
    "x<|endoftext|>y",
    "the <s> cat",
]


@pytest.mark.parametrize("said", SAID)
def test_a_gpt2_folder_gives_the_ids_of_autotokenizer(tmp_path: Path, said: str) -> None:
    tokenizer, config, beside = SAID[said]
    model = GPT2Config(vocab_size=SIZE + 300, n_embd=8, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(model).save_pretrained(tmp_path)
    saved(tmp_path, tokenizer, config)
    for name, content in beside.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    other, read = AutoTokenizer.from_pretrained(tmp_path), ProbedModel.from_pretrained(tmp_path)
    assert isinstance(read.backend, GPT2Backend)
    vocabulary = read.vocabulary
    for text in HARD:
        ids = vocabulary.encode(text)
        assert ids[len(vocabulary.front) : -1] == other(text, add_special_tokens=False)["input_ids"]
    assert vocabulary.size == len(other)
    assert (vocabulary.eos, vocabulary.front) == (other.eos_token_id, (other.bos_token_id,))
    assert set(other.all_special_ids) - {None} <= vocabulary.special
    assert vocabulary.pad not in {*range(vocabulary.size)} - set(other.all_special_ids)


PLAIN = """
import sys
from pathlib import Path
from inversionview.model.probed import ProbedModel
from inversionview.model.tokens import Vocabulary, character_tokenizer
print(Vocabulary.from_folder(Path(sys.argv[1])).encode("abba"), "transformers" in sys.modules)
"""


@pytest.mark.parametrize(("more", "imported"), [({}, False), ({"add_prefix_space": False}, True)])
def test_a_character_tokenizer_needs_no_transformers(tmp_path: Path, more: dict[str, object], imported: bool) -> None:
    character_tokenizer([*"abc", "B", "E", "P"]).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **more}), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", PLAIN, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"[3, 0, 1, 1, 0, 4] {imported}"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"model": {}}'])
def test_a_folder_without_a_tokenizer_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **GPT2}))
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(WeightsError) as error:
        Vocabulary.from_folder(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("through", ["folder", "transformers", "itself"])
@pytest.mark.parametrize("dropout", [0.5, 1.0])
def test_merges_are_not_left_out_by_chance(tmp_path: Path, through: str, dropout: float) -> None:
    whole = json.loads(byte_level().to_str())
    whole["model"]["dropout"] = dropout
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    text = "When Mary and John went to the store"
    assert len({tuple(tokenizer.encode(text).ids) for _ in range(50)}) > 1 or dropout == 1
    wanted = byte_level().encode(text).ids
    if through == "itself":
        vocabulary = Vocabulary(tokenizer, GPT2["bos_token"], GPT2["eos_token"], None)
    else:
        other = AutoTokenizer.from_pretrained(saved(tmp_path, tokenizer, GPT2))
        vocabulary = Vocabulary.from_folder(tmp_path) if through == "folder" else Vocabulary.from_transformers(other)
    for _ in range(50):
        assert vocabulary.encode(text)[1:-1] == vocabulary.encode_many([text])[0][1:-1] == wanted
        assert vocabulary.continued(text) == wanted


def test_a_tokenizer_that_names_no_end(tmp_path: Path) -> None:
    """Its padding or another special token takes that part; where it has none, an id that no model sees."""
    for specials, named, end in (((), {}, None), (("[PAD]",), {"pad_token": "[PAD]"}, "[PAD]"), (("[X]",), {}, "[X]")):
        tokenizer = words()
        tokenizer.add_special_tokens(list(specials))
        vocabulary = Vocabulary.from_transformers(fast(tokenizer, **named))
        assert vocabulary.bos is None
        assert vocabulary.ended == bool(specials)
        assert vocabulary.eos == (vocabulary.size if end is None else tokenizer.token_to_id(end))
        assert vocabulary.pad > vocabulary.eos or vocabulary.pad == vocabulary.size
        ids = vocabulary.encode("the cat")
        assert ids == [1, 2, vocabulary.eos]
        assert vocabulary.decode([*ids, vocabulary.pad]) == "the cat"
        assert len(set(vocabulary.strings([*ids, vocabulary.pad]))) == 4

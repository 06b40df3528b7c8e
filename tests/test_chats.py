"""Chats: tokens as the tokenizer's own ``apply_chat_template`` gives them, and places that are found by hand from offsets."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import inversionview as iv
from inversionview.cli import main
from inversionview.model.chats import Chat
from inversionview.model.tokens import Vocabulary
from tests.vocabularies import byte_level

MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = (  # as Llama 2's: a BOS, contents without the space around them, roles in turn
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "strict": STRICT}
CHAT = [
    {"role": "user", "content": "the cat sat on the mat"},
    {"role": "assistant", "content": "user"},
    {"role": "user", "content": "  When Mary and John went, Mary sat on the log. "},
]


def tokenizer(template: str | None) -> Any:
    made = PreTrainedTokenizerFast(tokenizer_object=byte_level(MARKS), bos_token=MARKS[0], eos_token=MARKS[0])
    made.chat_template = template
    return made


def model(template: str | None) -> iv.ProbedModel:
    own = tokenizer(template)
    config = transformers.GPT2Config(vocab_size=len(own), n_embd=16, n_layer=1, n_head=2, n_positions=128)
    return iv.ProbedModel.wrap(transformers.GPT2LMHeadModel(config), own)


@pytest.fixture(scope="module", params=TEMPLATES)
def chatty(request: pytest.FixtureRequest) -> iv.ProbedModel:
    return model(TEMPLATES[request.param])


def plain(made: iv.ProbedModel, messages: list[dict[str, str]]) -> tuple[str, list[int]]:
    """Return the text and the tokens that transformers makes of messages."""
    own = tokenizer(next(t for t in TEMPLATES.values() if made.vocabulary.chat and t == made.vocabulary.chat.template))
    told = {"add_generation_prompt": messages[-1]["role"] != "assistant"}
    ids = own.apply_chat_template(messages, tokenize=True, return_dict=False, **told)
    return own.apply_chat_template(messages, tokenize=False, **told), list(ids)


def in_frame(made: iv.ProbedModel, ids: list[int]) -> list[int]:
    """Return ids with a BOS before them, where they have none, and EOS after them."""
    front = list(made.vocabulary.front)
    ids = ids if ids[: len(front)] == front else [*front, *ids]
    return ids if ids[-1] == made.vocabulary.eos else [*ids, made.vocabulary.eos]


def test_tokens_are_those_of_apply_chat_template(chatty: iv.ProbedModel) -> None:
    for messages in (CHAT, CHAT[:1], CHAT[:2]):
        assert Chat(chatty, messages).ids == in_frame(chatty, plain(chatty, messages)[1])


def where(made: iv.ProbedModel, messages: list[dict[str, str]], start: int, stop: int) -> tuple[int, int]:
    """Return the first and the last token that lie in some characters of the rendered chat, by offsets."""
    text, ids = plain(made, messages)
    offsets = made.vocabulary.tokenizer.encode(text, add_special_tokens=False).offsets
    shift = len(in_frame(made, ids)) - len(ids) - (ids[-1] != made.vocabulary.eos)
    inside = [i + shift for i, (a, b) in enumerate(offsets) if a < stop and b > start]
    return inside[0], inside[-1]


def test_places_are_where_the_messages_stand(chatty: iv.ProbedModel) -> None:
    chat, text = Chat(chatty, CHAT), plain(chatty, CHAT)[0]
    begin = text.index("the cat")
    first, last = where(chatty, CHAT, begin, begin + len("the cat sat on the mat"))
    assert (chat.place("user:0:START"), chat.place("user:0/END")) == (first, last)
    assert chat.place("user:-2/START") == first
    assert chat.place("user:0/#1") == first + 1
    # "user" stands for the roles, too: the message that says so is the one after the first end
    begin = text.index("user", text.index("the mat"))
    begin = text.index("user", begin) if "[INST]" in text else text.index("user", text.index("assistant"))
    assert (chat.place("assistant:START"), chat.place("assistant/END")) == where(chatty, CHAT, begin, begin + 4)
    begin = text.index("When Mary and")
    stop = text.index("log.") + 4
    spaces = 0 if "[INST]" in text else 2  # which belong to the message, unless the template drops them
    first, last = where(chatty, CHAT, begin - spaces, stop + min(spaces, 1))
    assert (chat.place("user:START"), chat.place("user:1/END")) == (first, last)
    john, _ = where(chatty, CHAT, text.index("John"), text.index("John") + 1)
    said = chatty.vocabulary.strings([chat.ids[john]])[0]
    assert chat.place(f'user:1/"{said}"') == chat.place(f"user/{said}") == john
    assert chat.place("END") is None  # as in any text


def test_queries_read_the_chat(chatty: iv.ProbedModel) -> None:
    study = iv.load(model=chatty)
    chat = Chat(chatty, CHAT)
    for at in ("user:0/END", "assistant:START", "END", 3):
        query = study.query(CHAT, at=at, site="x0.post")
        assert list(query.ids) == chat.ids
        place = chat.place(at)
        assert query.position == (place if place is not None else study.locate(chat.ids, at))
    found = iv.read(chatty, CHAT, at="user:0/END", site="x0.post", steps=1)
    assert found.query.position == chat.place("user:0/END")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("ab user\n<|>[/]é猫"), min_size=1, max_size=8).filter(str.strip), min_size=1, max_size=4)
)
def test_any_contents_are_found(contents: list[str]) -> None:
    made = SHARED
    messages = [{"role": ("user", "assistant")[i % 2], "content": each} for i, each in enumerate(contents)]
    chat, text = Chat(made, messages), plain(made, messages)[0]
    begin = 0
    for number, each in enumerate(contents):
        begin = text.index(f"{messages[number]['role']}\n", begin) + len(f"{messages[number]['role']}\n")
        assert chat.messages[number][1:] == (lambda a, b: (a, b + 1))(*where(made, messages, begin, begin + len(each)))
        begin += len(each)


SHARED = model(CHATML)


def test_the_template_comes_with_a_folder(tmp_path: Path) -> None:
    tokenizer(CHATML).save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").exists()
    assert Vocabulary.from_folder(tmp_path).chat == SHARED.vocabulary.chat
    (tmp_path / "chat_template.jinja").unlink()
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": STRICT}))
    found = Vocabulary.from_folder(tmp_path).chat
    assert found is not None
    assert found.template == STRICT
    config.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": MARKS[0]}))
    assert Vocabulary.from_folder(tmp_path).chat is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("chatty")
    own = tokenizer(CHATML)
    config = transformers.GPT2Config(
        vocab_size=len(own), n_embd=16, n_layer=1, n_head=2, n_positions=128, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(place)
    own.save_pretrained(place)
    (place / "chat.json").write_text(json.dumps(CHAT))
    (place / "texts.txt").write_text("the cat sat on the mat\nMary sat on the log\n" * 4)
    return place


@pytest.mark.parametrize(
    "command",
    [
        "read --source walk --seconds 0.1 --json",
        "read --texts TEXTS --source corpus --json",
        "search --texts TEXTS --json",
        "threshold --texts TEXTS --json",
    ],
)
def test_commands_read_a_chat(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command.replace("TEXTS", str(folder / "texts.txt")))
    place = ["--model", str(folder), "--chat", str(folder / "chat.json"), "--at", 'user:0/" cat"', "--site", "x0.post"]
    main([*words, *place])
    query = json.loads(capsys.readouterr().out)["query"]
    study = iv.load(model=folder)
    wanted = study.query(CHAT, at='user:0/" cat"', site="x0.post")
    assert (query["tokens"], query["position"]) == (list(wanted.tokens), wanted.position)


def test_a_span_is_exported_token_by_token(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "page.html"
    words = (
        f"export --model {folder} 'the cat sat on the mat' --site x0.post --source walk --seconds 0.1 --count 2 --out {page}"
    )
    main([*shlex.split(words), "--at", "2:4"])
    assert "x0.post at 2, x0.post at 3." in " ".join(capsys.readouterr().out.split())
    study = iv.load(model=folder)
    last = study.query("the cat sat on the mat", at=-1).position
    main([*shlex.split(words), "--at", "-2:"])
    assert f"x0.post at {last - 1}, x0.post at {last}." in " ".join(capsys.readouterr().out.split())
    for at, said in (("9:5", "There is no token in the span"), ("0:400", None)):
        if said is not None:
            with pytest.raises(SystemExit):
                main([*shlex.split(words), "--at", at])
            assert said in capsys.readouterr().err
    with pytest.raises(iv.errors.UnknownPositionError, match="is a span of tokens, and one is read at a time"):
        study.query("the cat sat on the mat", at="2:4")


def bad() -> dict[str, tuple[Callable[[], Any], str]]:
    study = iv.load(model=SHARED)
    return {
        "no template": (lambda: Chat(model(None), CHAT), "no chat template"),
        "refused": (lambda: Chat(model(STRICT), [*CHAT[:1], *CHAT[:1]]), "Roles must alternate"),
        "a broken template": (lambda: Chat(model("{% for %}"), CHAT), "does not take these messages"),
        "no messages": (lambda: Chat(SHARED, []), "no list of messages"),
        "no contents": (lambda: Chat(SHARED, [{"role": "user"}]), "Message 0 of the chat has not a role"),
        "parts": (lambda: Chat(SHARED, [{"role": "user", "content": [{"type": "image"}]}]), "Message 0"),
        "a long one": (lambda: Chat(SHARED, [{"role": "user", "content": "cat " * 400}]), "the model reads 128"),
        "no such message": (lambda: study.query(CHAT, at="user:2/END"), "no message user:2 in this chat, which has 2 of user"),
        "no such role": (lambda: study.query(CHAT, at="system:START"), "no message system"),
        "no such token": (lambda: study.query(CHAT, at="user:0/dog"), "no token 'dog' in the message"),
        "several": (lambda: study.query(CHAT, at="user/Mary"), "'Mary' occurs 2 times in the message: write '#"),
        "no such index": (lambda: study.query(CHAT, at="assistant/#99"), "the message has tokens #0 to"),
        "in a text": (lambda: study.query("the cat", at="user:0/END"), "There is no position"),
    }


@pytest.mark.parametrize("case", bad())
def test_bad_input(case: str) -> None:
    attempt, said = bad()[case]
    with pytest.raises(iv.InversionViewError, match=said) as error:
        attempt()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("{}", "is no list of messages"),
        ("[]", "empty one"),
        ('["a"]', "Message 0"),
        (None, "cannot be read"),
    ],
)
def test_bad_files(text: str | None, said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chat.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["read", "--model", str(folder), "--chat", str(path)])
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_chat_goes_with_a_model_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["counting"], ["--model", str(folder), "the cat"]):
        with pytest.raises(SystemExit):
            main(["read", *words, "--chat", str(folder / "chat.json")])
        assert "--chat is what --model reads" in " ".join(capsys.readouterr().err.split())


def test_a_walk_goes_over_a_chat_whose_marks_are_the_frame() -> None:
    """SmolLM2's BOS and EOS are the marks around every message."""
    own = PreTrainedTokenizerFast(tokenizer_object=byte_level(MARKS), bos_token=MARKS[1], eos_token=MARKS[2])
    own.chat_template = CHATML
    config = transformers.GPT2Config(vocab_size=len(own), n_embd=16, n_layer=1, n_head=2, n_positions=128)
    made = iv.load(model=transformers.GPT2LMHeadModel(config), tokenizer=own)
    found = iv.walk(made, made.query(CHAT, at="user:0/END", site="x0.post"), epsilon=1.5, steps=3)
    assert len(found.samples) > 0

"""Chats: messages put into a text by the template of a model's tokenizer, and where each of them stands in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from inversionview.core.errors import InputError, UnknownPositionError
from inversionview.core.integrity import reason
from inversionview.model.chat_template import ChatTemplate, Messages
from inversionview.model.probed import ProbedModel

_PLACE = re.compile(r"(?P<role>[\w-]+)(?::(?P<number>-?\d+))?(?::(?P<end>START|END)|/(?P<token>.+))", re.DOTALL)
_ROLES = ("system", "user", "assistant", "tool")
_MARK = "\ue000{}\ue001"
"""Stands for the content of a message while it is looked up where that goes."""


class Message(NamedTuple):
    """Where the content of a message stands in a chat."""

    role: str
    start: int
    stop: int
    """Token indices; as many as ``start`` where the template has rewritten it so that it is not found."""


class Chat:
    """Messages in the tokens of a model.

    Attributes:
        ids: in the frame of ``Vocabulary``: what the template gives, a BOS before it where that gives none, EOS after it.
        messages: where each stands, in their order.
    """

    def __init__(self, model: ProbedModel, messages: Messages) -> None:
        """Render and encode messages.

        Raises:
            InputError: the model has no template, the messages are none, or are refused by it; the chat is too long.
        """
        check_messages(messages)
        template = model.vocabulary.chat
        if template is None:
            raise InputError(
                f"The tokenizer of {model.name} has no chat template: give a model that was trained on chats, or the text."
            )
        try:
            text = template.render(messages)
        except Exception as error:  # templates raise what they like
            line = reason(error)
            raise InputError(f"The chat template of {model.name} does not take these messages ({line}): mend them.") from error
        self._vocabulary, self.ids = model.vocabulary, model.encode(text)
        found = model.vocabulary.tokenizer.encode(text, add_special_tokens=False)
        front = len(model.vocabulary.front)
        before = 0 if tuple(found.ids[:front]) == model.vocabulary.front else front
        self.messages: list[Message] = []
        for message, (start, stop) in zip(messages, _spans(template, messages, text), strict=True):
            inside = [i for i, (a, b) in enumerate(found.offsets) if a < stop and b > start]
            first, last = (inside[0] + before, inside[-1] + 1 + before) if inside else (0, 0)
            self.messages.append(Message(message["role"], first, last))

    def place(self, at: str | int) -> int | None:
        """Return the index of the token that ``at`` means in a message; ``None`` where it names none.

        ``"user:0/\\" Paris\\""`` is a token of the user's first message, ``"user/#3"`` the fourth token of the last one,
        ``"assistant:START"`` and ``"user:-1/END"`` are the first and the last token of what a message says.

        Raises:
            UnknownPositionError: there is no such message, or in it no such token, or several.
        """
        named = _PLACE.fullmatch(at) if isinstance(at, str) else None
        roles = [message.role for message in self.messages]
        if named is None or named["role"] not in {*roles, *_ROLES}:
            return None
        mine = [message for message in self.messages if message.role == named["role"]]
        number = int(named["number"] or -1)
        if not -len(mine) <= number < len(mine):
            said = ", ".join(f"{roles.count(role)} of {role}" for role in dict.fromkeys(roles))
            raise UnknownPositionError(f"There is no message {named['role']}:{number} in this chat, which has {said}.")
        message = mine[number]
        if message.start == message.stop:
            raise UnknownPositionError(
                f"The chat template does not show the message {named['role']}:{number} as it is written: name the token by its "
                "index, as '#8'."
            )
        token = named["end"] or named["token"]
        if token in ("START", "END"):
            return message.start if token == "START" else message.stop - 1
        return self._token(message, token, str(at))

    def _token(self, message: Message, token: str, at: str) -> int:
        """Return where in a message a token stands."""
        every = range(message.start, message.stop)
        if re.fullmatch(r"#-?\d+", token):
            if -len(every) <= int(token[1:]) < len(every):
                return every[int(token[1:])]
            raise UnknownPositionError(f"There is no position {at!r}: the message has tokens #0 to #{len(every) - 1}.")
        text = token[1:-1] if len(token) > 1 and token[0] == token[-1] == '"' else token
        found = [i for i in every if text in self._vocabulary.called(self.ids[i])]
        if len(found) == 1:
            return found[0]
        if found:
            places = ", ".join(f"'#{i}'" for i in found)
            raise UnknownPositionError(f"The token {text!r} occurs {len(found)} times in the message: write {places}.")
        tokens = ", ".join(
            dict.fromkeys(repr(each) for each in self._vocabulary.strings(self.ids[message.start : message.stop]))
        )
        raise UnknownPositionError(f"There is no token {text!r} in the message, whose tokens are {tokens[:400]}.")


def found_in(
    model: ProbedModel, text: str | Messages, at: str | int, locate: Callable[[Sequence[int], str | int], int]
) -> tuple[list[int], int]:
    """Return the ids of a text or a chat, and which of them ``at`` means.

    Args:
        model: in whose tokens.
        text: the text, or messages.
        at: a place in a message, or what ``locate`` knows.
        locate: finds all other places.
    """
    if isinstance(text, str):
        ids = model.encode(text)
        return ids, locate(ids, at)
    chat = Chat(model, text)
    place = chat.place(at)
    return chat.ids, locate(chat.ids, at) if place is None else place


def check_messages(messages: Any, where: str = "The chat") -> Messages:
    """Return messages, if they are some.

    Raises:
        InputError: it is no list of messages with a role and a content.
    """
    wanted = 'a list such as [{"role": "user", "content": "Hello"}]'
    if not isinstance(messages, list | tuple) or not messages:
        raise InputError(f"{where} is no list of messages, or an empty one: give {wanted}.")
    for number, message in enumerate(messages):
        told = [message.get(name) for name in ("role", "content")] if isinstance(message, Mapping) else [None]
        if not all(isinstance(each, str) for each in told) or not told[0]:
            raise InputError(
                f"Message {number} of {where[:1].lower() + where[1:]} has not a role and a text as content: {wanted}."
            )
    return messages


def _spans(template: ChatTemplate, messages: Messages, text: str) -> Iterator[tuple[int, int]]:
    """Yield where in a rendered text the content of each message stands, in characters; an empty span where it is not found.

    What stands before it is told by rendering marks in place of the contents.
    """
    marks = [_MARK.format(number) for number in range(len(messages))]
    try:
        marked = template.render([{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)])
    except Exception:  # it takes these messages, but no others
        marked = ""
    here, there = 0, 0  # in the text, and in the one with marks
    for message, mark in zip(messages, marks, strict=True):
        at = marked.find(mark, there)
        between = marked[there:at] if at >= 0 else None
        begin = here + len(between) if between is not None and text.startswith(between, here) else None
        content = next(
            (each for each in _written(message["content"]) if each and begin is not None and text.startswith(each, begin)), ""
        )
        start = -1 if begin is None else begin
        if not content:
            content = message["content"].strip()
            start = text.find(content, here) if content else -1
        if start < 0:
            yield (0, 0)
            continue
        yield (start, start + len(content))
        here, there = start + len(content), at + len(mark) if at >= 0 else there


def _written(content: str) -> tuple[str, ...]:
    """Return what a template may make of a content: itself, or without the space around it."""
    return content, content.rstrip(), content.strip(), content.lstrip()

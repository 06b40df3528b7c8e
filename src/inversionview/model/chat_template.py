"""The template by which a tokenizer makes a text of the messages of a chat, and where it lies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Messages = Sequence[Mapping[str, Any]]
"""Each has a ``role`` and a ``content``, both texts."""


@dataclass(frozen=True)
class ChatTemplate:
    """What makes a text of messages: a template of Jinja, run in a sandbox by transformers."""

    template: str
    special: Mapping[str, str] = field(default_factory=dict)
    """Special tokens by the names that the template calls them: ``bos_token``, …"""

    @classmethod
    def of(cls, tokenizer: Any) -> ChatTemplate | None:
        """Return that of a Hugging Face tokenizer; ``None`` where it has none."""
        stated = getattr(tokenizer, "chat_template", None)
        found = stated.get("default") if isinstance(stated, dict) else stated
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        return cls(found, special) if isinstance(found, str) else None

    @classmethod
    def in_folder(cls, folder: Path, special: Mapping[str, str]) -> ChatTemplate | None:
        """Return that of a Hugging Face directory, from its own file or ``tokenizer_config.json``; ``None``: there is none."""
        try:
            if (own := folder / "chat_template.jinja").is_file():
                return cls(own.read_text(encoding="utf-8"), special)
            stated = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
        except (OSError, ValueError):
            return None
        return cls(stated, special) if isinstance(stated, str) else None

    def render(self, messages: Messages) -> str:
        """Return the text; after a message that is not the model's own, the beginning of its answer follows.

        Raises:
            Exception: whatever a template raises at messages that it does not take.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        asked = messages[-1]["role"] != "assistant"
        (text,), _ = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            chat_template=self.template,
            add_generation_prompt=asked,
            **self.special,
        )
        return str(text)

"""Messages of a chat, from a JSON file of the user's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inversionview.core.errors import InputError
from inversionview.core.integrity import reason

_MOST = 10_000_000
"""Bytes that such a file may have: no model reads so long a chat."""


def read_messages(path: str | Path) -> Any:
    """Return what a file holds.

    Raises:
        InputError: it cannot be read, is too large, or no JSON.
    """
    path = Path(path).expanduser()
    try:
        if path.stat().st_size > _MOST:
            raise InputError(f"{path} is larger than any chat that a model reads: give a list of messages.")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The chat {path} cannot be read ({reason(error)}): give a JSON file of messages.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: give a list of messages, each with a role and a content.") from error

